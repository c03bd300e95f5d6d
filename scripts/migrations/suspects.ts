// Finds rows that pending migrations may refuse. It reads from two catalogs, of before
// and after the migrations, which conditions are new, and asks whole tables of the real
// database for rows that break them. It only reads.
import type { Sql } from "postgres";
import { quoteLiteral } from "../lib/quote";
import { note } from "../lib/report";
import type { Catalog } from "./catalog";

/** How long a query may take. */
export const QUERY_MS = 10_000;
/** How many rows a condition may find; the migration runs on each of them. */
export const SUSPECTS = 5;

/** A condition for the rows that a changed object may refuse. */
export interface Condition {
  /** The object that has the condition, by its key in the catalog. */
  object: string;
  table: string;
  /** A query for rows, or an expression that fails for them. */
  query?: string;
  expression?: string;
}

/** Lists the conditions, with the names before the migrations. */
export function listConditions(
  before: Catalog,
  after: Catalog,
  text: string,
): Condition[] {
  const renamed = listRenamed(text);
  const rename = (part: string) =>
    [...renamed].reduce(
      (named, [name, old]) => named.replace(wordOf(name), () => old),
      part,
    );
  const refusing = new Map(
    [...after].flatMap(([object, { sql }]) => {
      const refuses = refuseValues(sql);
      const isOther = before.get(object)?.sql !== sql;
      return refuses && isOther && !/\brename\s+value\b/i.test(text)
        ? [[object.replace(/^\w+ /, ""), refuses] as const]
        : [];
    }),
  );
  return [...after].flatMap(([object, { sql, parent }]): Condition[] => {
    const [, type = ""] =
      / ADD COLUMN (?:"(?:[^"]|"")+"|\S+) (\S+)/.exec(sql) ?? [];
    const refuses = refusing.get(type);
    if (!parent || (before.get(object)?.sql === sql && !refuses)) return [];
    const was = before.has(parent)
      ? parent
      : (findMoved(before, after, parent, text) ?? rename(parent));
    if (!before.has(was)) return [];
    const table = was.slice("table ".length);
    const isColumn = object.startsWith("column ");
    const name = rename(object.slice(`column ${parent.slice(6)}.`.length));
    const old = before.get(`column ${table}.${name}`)?.sql ?? "";
    if (refuses && old) {
      const query = `select ctid from ${table} where ${refuses(name)} limit ${SUSPECTS}`;
      return [{ object, table, query }];
    }
    const condition = isColumn
      ? suspectColumn(table, object, old, rename(sql), text, rename)
      : suspectRows(table, rename(sql));
    return condition ? [{ object, table, ...condition }] : [];
  });
}

/** Returns the table that a migration has moved to another schema. */
function findMoved(
  before: Catalog,
  after: Catalog,
  table: string,
  text: string,
): string | undefined {
  if (!/\bset\s+schema\b/i.test(text)) return undefined;
  const name = table.slice(table.indexOf("."));
  return [...before.keys()].find(
    (object) =>
      object.startsWith("table ") &&
      object.endsWith(name) &&
      !after.has(object),
  );
}

/** Returns the condition for a value that an enum or a domain refuses. */
function refuseValues(sql: string): ((column: string) => string) | undefined {
  const [, values] = / AS ENUM \((.*)\)/s.exec(sql) ?? [];
  if (values) return (column) => `${column}::text not in (${values})`;
  const [, base, rest] =
    /^CREATE DOMAIN \S+ AS (.*?)((?: DEFAULT .*?)?(?: NOT NULL)?(?: CHECK .*)?)$/s.exec(
      sql,
    ) ?? [];
  const checks = rest?.split(" CHECK ").slice(1) ?? [];
  if (!base || checks.length === 0) return undefined;
  return (column) =>
    `not (${checks.join(" and ")})`.replace(
      /\bVALUE\b/g,
      () => `(${column}::${base})`,
    );
}

/** Returns the old names of renamed tables and columns, by their new names. */
function listRenamed(text: string): Map<string, string> {
  const name = '("(?:[^"]|"")+"|[\\w$]+)';
  const pattern = new RegExp(
    `\\brename\\s+(?:column\\s+)?${name}\\s+to\\s+${name}|\\btable\\s+(?:only\\s+)?(?:"?[\\w$]+"?\\.)?${name}\\s+rename\\s+to\\s+${name}`,
    "gi",
  );
  return new Map(
    [...text.matchAll(pattern)].flatMap(([, from, to, table, next]) => {
      const [old, now] = [from ?? table, to ?? next];
      return old && now
        ? [[now.replaceAll('"', ""), old.replaceAll('"', "")] as const]
        : [];
    }),
  );
}

const wordOf = (name: string) =>
  new RegExp(`(?<![\\w$])${name.replace(/[^\w\s]/g, "\\$&")}(?![\\w$])`, "g");

function suspectRows(
  table: string,
  sql: string,
): Omit<Condition, "table" | "object"> | undefined {
  if (sql.endsWith("NOT VALID")) return undefined;
  const [, check] = / CHECK (\(.*\))$/s.exec(sql) ?? [];
  if (check)
    return {
      query: `select ctid from ${table} where not ${check} limit ${SUSPECTS}`,
    };
  const [, columns, target, targets] =
    / FOREIGN KEY \((.*?)\) REFERENCES (.*?)\((.*?)\)/.exec(sql) ?? [];
  if (columns && target && targets)
    return {
      query: `select ctid from ${table} as child where (${columns}) is not null and not exists (
      select from ${target} as parent where (${prefix("parent", targets)}) = (${prefix("child", columns)})) limit ${SUSPECTS}`,
    };
  const excluding = / EXCLUDE USING \w+ \(/.exec(sql);
  if (excluding) {
    const from = excluding.index + excluding[0].length;
    const list = takeParentheses(sql, from);
    const [, where = "true"] = / WHERE (.*)$/s.exec(sql.slice(from)) ?? [];
    const parts = splitList(list).map((part) => part.split(/ WITH (?=\S+$)/));
    const keys = parts.map(([key], index) => `${key} as key${index}`);
    const clashes = parts.map(
      ([, operator], index) => `one.key${index} ${operator} other.key${index}`,
    );
    return {
      query: `with keys as (select ctid as place, ${keys.join(", ")} from ${table} where ${where})
      select unnest(array[one.place, other.place]) as ctid from keys as one join keys as other
        on one.place < other.place and ${clashes.join(" and ")} limit ${SUSPECTS}`,
    };
  }
  const start =
    /(?: UNIQUE| PRIMARY KEY|^CREATE UNIQUE INDEX .*? USING btree)( NULLS NOT DISTINCT)? \(/s.exec(
      sql,
    );
  if (!start) return undefined;
  const from = start.index + start[0].length;
  const keys = takeParentheses(sql, from);
  const isDistinct = !/ NULLS NOT DISTINCT/.test(sql);
  const [, where = "true"] = / WHERE (.*)$/s.exec(sql.slice(from)) ?? [];
  const some = isDistinct ? ` and row(${keys}) is not null` : "";
  return {
    query: `select unnest((array_agg(ctid))[1:2]) as ctid from ${table}
    where ${where}${some} group by ${keys} having count(*) > 1 limit ${SUSPECTS}`,
  };
}

/** Returns the text from after an opening parenthesis up to the closing one. */
function takeParentheses(text: string, from: number): string {
  let depth = 1;
  let at = from;
  for (; at < text.length && depth > 0; at += 1) {
    if (text[at] === "(") depth += 1;
    if (text[at] === ")") depth -= 1;
  }
  return text.slice(from, at - 1);
}

/** Splits a list at the commas that are not inside parentheses. */
function splitList(text: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let from = 0;
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "(") depth += 1;
    if (text[at] === ")") depth -= 1;
    if (text[at] !== "," || depth > 0) continue;
    parts.push(text.slice(from, at).trim());
    from = at + 1;
  }
  return [...parts, text.slice(from).trim()];
}

function prefix(name: string, columns: string): string {
  return columns
    .split(", ")
    .map((column) => `${name}.${column}`)
    .join(", ");
}

function suspectColumn(
  table: string,
  object: string,
  old: string,
  now: string,
  text: string,
  rename: (part: string) => string,
): Omit<Condition, "table" | "object"> | undefined {
  const [, computed] = / GENERATED ALWAYS AS (\(.*\)) STORED$/s.exec(now) ?? [];
  if (computed) return { expression: computed };
  if (!old) return undefined; // any row of the sample shows it
  const [, column = "", type = ""] =
    / ADD COLUMN ("(?:[^"]|"")+"|\S+) (.*?)(?: COLLATE .*| NOT NULL.*| GENERATED .*)?$/s.exec(
      now,
    ) ?? [];
  const [, before = ""] =
    / ADD COLUMN (?:"(?:[^"]|"")+"|\S+) (.*?)(?: COLLATE .*| NOT NULL.*| GENERATED .*)?$/s.exec(
      old,
    ) ?? [];
  const rows = (condition: string) => ({
    query: `select ctid from ${table} where ${condition} limit ${SUSPECTS}`,
  });
  if (type !== before) {
    const name = object.slice(object.lastIndexOf(".") + 1).replaceAll('"', "");
    const [, clause = ""] =
      new RegExp(
        `alter\\s+(?:column\\s+)?"?${name.replace(/[^\w\s]/g, "\\$&")}"?\\s+(?:set\\s+data\\s+)?type\\s(.*?)(?:;|,\\s*(?:alter|add|drop)\\b|$)`,
        "is",
      ).exec(text) ?? [];
    const [, using] = /\susing\s+(.*)$/is.exec(clause) ?? [];
    const [, length] =
      /^(?:character varying|character|bit)\((\d+)\)$/.exec(type) ?? [];
    if (using) return { expression: rename(using) };
    // An explicit cast would cut what is too long.
    if (length) return rows(`length(${column}::text) > ${length}`);
    return { expression: `${column}::${type}` };
  }
  if (/ NOT NULL\b/.test(now) && !/ NOT NULL\b/.test(old))
    return rows(`${column} is null`);
}

/** An answered condition, and the places (ctid) of rows that break it. */
export interface Suspects {
  object: string;
  table: string;
  rows: string[];
}

/** Asks the real database for rows that break the conditions. A condition that it cannot
 * answer is left out: for example, one on a column that does not exist yet. */
export async function findSuspects(
  real: Sql,
  conditions: Condition[],
): Promise<Suspects[]> {
  const answers: Suspects[] = [];
  for (const { object, table, query, expression } of conditions) {
    const rows = query
      ? await askRows(real, query)
      : await findFailing(real, table, expression ?? "null");
    if (rows) answers.push({ object, table, rows });
  }
  return answers;
}

/** Returns the places (ctid) of the rows; none when the query fails. */
export async function findRows(sql: Sql, query: string): Promise<string[]> {
  return (await askRows(sql, query)) ?? [];
}

/** Returns the places of the rows; undefined when the query is not possible. */
async function askRows(sql: Sql, query: string): Promise<string[] | undefined> {
  await sql.unsafe("savepoint question");
  try {
    const rows = await sql.unsafe<{ ctid: string }[]>(query);
    return rows.map(({ ctid }) => String(ctid));
  } catch (error) {
    await sql.unsafe("rollback to savepoint question");
    const { code } = error as { code?: string };
    if (code === "57014")
      note(`Not answered within ${QUERY_MS / 1000} s: ${query.slice(0, 200)}`);
    return code?.startsWith("42") ? undefined : [];
  }
}

/** Finds a row for which the expression fails, by halving the range of blocks. */
async function findFailing(
  sql: Sql,
  table: string,
  expression: string,
): Promise<string[]> {
  const fails = async (from: number, to: number) => {
    await sql.unsafe("savepoint question");
    try {
      await sql.unsafe(
        `select count((${expression})) from ${table} where ctid >= '(${from},0)' and ctid < '(${to},0)'`,
      );
      return false;
    } catch (error) {
      await sql.unsafe("rollback to savepoint question");
      return /^22|^23/.test((error as { code?: string }).code ?? "");
    }
  };
  const [size] = await sql.unsafe<{ blocks: number }[]>(
    `select (pg_relation_size(${quoteLiteral(table)}) / current_setting('block_size')::int)::int as blocks`,
  );
  let [from, to] = [0, size?.blocks ?? 0];
  if (to === 0 || !(await fails(from, to))) return [];
  while (to - from > 1) {
    const middle = Math.floor((from + to) / 2);
    if (await fails(from, middle)) to = middle;
    else from = middle;
  }
  return await findRows(
    sql,
    `select ctid from ${table} where ctid >= '(${from},0)' and ctid < '(${to},0)'`,
  );
}

/** True when a text has the name as a word. */
export function mentions(text: string, name: string): boolean {
  const word = name.replace(/[^\w\s]/g, "\\$&");
  return new RegExp(`(?<![\\w$])${word}(?![\\w$])`, "i").test(text);
}
