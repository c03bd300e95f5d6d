// Runs the queries of deployed code on the schema to come. Drizzle writes them from
// the tables of the deployed schema.ts, postgres.js sends them, and what comes back
// goes through drizzle's columns, as in the application.
import { and, eq, getTableColumns, is, sql as text } from "drizzle-orm";
import {
  getTableConfig,
  type PgColumn,
  PgDialect,
  PgTable,
} from "drizzle-orm/pg-core";
import { drizzle } from "drizzle-orm/postgres-js";
import type { Sql } from "postgres";
import { quoteIdentifier, quoteLiteral } from "../lib/quote";
import { createValueTest, listTexts } from "../migrations/made-rows";

/** Something that the deployed code does and that fails. */
export interface Break {
  table: string;
  column: string | null;
  what: string;
  /** How to make the change in two deploys. */
  way: string;
}

/** The type of a column in the database. */
interface FoundType {
  type: string;
  /** The values of an enum. */
  labels: string[] | null;
  isArray: boolean;
  /** True when the database refuses a row without a value for it. */
  isRequired: boolean;
}

/** What a type can do, before the migrations. */
interface Ability extends FoundType {
  /** What the driver returns, by the text of the value. */
  values: Map<string, unknown>;
  /** The operators that take two values of it. */
  operators: string[];
}

interface OldColumn {
  /** Its name in the database. */
  name: string;
  key: string;
  column: PgColumn;
  ability?: Ability;
}

interface OldTable {
  table: PgTable;
  schema: string;
  name: string;
  columns: OldColumn[];
}

type Types = Map<string, FoundType>;
type Query = { toSQL(): { sql: string; params: unknown[] } };

/** Those with which numbers, texts, arrays and documents are found and counted. */
const OPERATORS = ["<", "+", "@>"];
/** An offset that is in no use, so that a value which loses its time zone differs. */
const ZONE = "-09:31";

const REPLACE =
  "add what takes its place, and drop it in the deploy after the one that stops using it";
const CONVERT =
  "add a column of the new type, write to both, and drop this one in a later deploy";
const STOP = "stop writing it in one deploy, and change it in the next";
const REQUIRE =
  "give it a default or leave it nullable, and require it in the deploy after the one that writes it";

/**
 * Learns what the columns of the deployed schema.ts hold now.
 *
 * @param sql a connection that is used for nothing else: its time zone changes, and
 * how it parses values.
 * @param exported the exports of the deployed schema.ts.
 * @returns a function that runs the queries, and lists what fails and did not fail
 * before. Call it after the migrations.
 */
export async function prepareQueries(
  sql: Sql,
  exported: Record<string, unknown>,
  casing?: "camelCase" | "snake_case",
): Promise<() => Promise<Break[]>> {
  const dialect = new PgDialect({ casing });
  const tables = Object.values(exported)
    .filter((value): value is PgTable => is(value, PgTable))
    .map((table) => describeTable(table, dialect));
  const db = drizzle(sql, { casing });
  await sql.unsafe(`set time zone interval '${ZONE}' hour to minute`);
  await sql.unsafe(createValueTest);
  const before = await readTypes(sql);
  const abilities = new Map<string, Ability>();
  for (const { schema, name, columns } of tables)
    for (const column of columns) {
      const found = before.get(keyOf(schema, name, column.name));
      if (found && !abilities.has(found.type))
        abilities.set(found.type, await readAbility(sql, found));
      if (found) column.ability = abilities.get(found.type);
    }
  const list = async () => {
    const types = await readTypes(sql);
    const breaks: Break[] = [];
    for (const table of tables)
      breaks.push(...(await tryTable(sql, db, table, types)));
    return breaks;
  };
  const nameBreak = ({ table, column }: Break) => `${table}.${column}`;
  const known = new Set((await list()).map(nameBreak));
  return async () => (await list()).filter((one) => !known.has(nameBreak(one)));
}

const keyOf = (...names: string[]) => names.join("\0");

function describeTable(table: PgTable, dialect: PgDialect): OldTable {
  const { schema = "public", name } = getTableConfig(table);
  const columns = Object.entries(getTableColumns(table)) as [
    string,
    PgColumn,
  ][];
  return {
    table,
    schema,
    name,
    columns: columns.map(([key, column]) => ({
      key,
      column,
      name: nameColumn(column, dialect),
    })),
  };
}

/** Returns the name in the database, which drizzle may derive from the key. */
function nameColumn(column: PgColumn, dialect: PgDialect): string {
  const { sql: query } = dialect.sqlToQuery(text`${column}`);
  const quoted = query.slice(query.lastIndexOf('"."') + 3, -1);
  return quoted.replaceAll('""', '"');
}

async function readTypes(sql: Sql): Promise<Types> {
  const rows = await sql.unsafe<
    (FoundType & { schema: string; table: string; column: string })[]
  >(`
    select nspname as schema, relname as table, attname as column, format_type(atttypid, atttypmod) as type,
      (select json_agg(enumlabel order by enumsortorder) from pg_enum where enumtypid in (pg_type.oid, typelem)) as labels,
      typcategory = 'A' as "isArray", attnotnull and not atthasdef and attidentity = '' as "isRequired"
    from pg_attribute join pg_class on pg_class.oid = attrelid join pg_namespace on pg_namespace.oid = relnamespace
      join pg_type on pg_type.oid = atttypid
    where attnum > 0 and not attisdropped and relkind in ('r', 'p', 'v', 'm', 'f')
      and nspname not in ('pg_catalog', 'information_schema')`);
  return new Map(
    rows.map(({ schema, table, column, ...found }) => [
      keyOf(schema, table, column),
      found,
    ]),
  );
}

async function readAbility(sql: Sql, found: FoundType): Promise<Ability> {
  const { type, isArray } = found;
  const labels = isArray
    ? (found.labels?.map((label) => `{${JSON.stringify(label)}}`) ?? null)
    : found.labels;
  const operators: string[] = [];
  for (const operator of OPERATORS)
    if (!(await findError(sql, relate(type, operator, type))))
      operators.push(operator);
  const texts = listTexts({ labels, checks: null }, 1);
  const rows = await readValues(sql, type, texts);
  const values = new Map(rows.map(({ printed, value }) => [printed, value]));
  return { ...found, values, operators };
}

const relate = (one: string, operator: string, other: string) =>
  `select null::${one} ${operator} null::${other}`;

/** Returns, of the texts that are values of the type, how the server prints them
 * and what the driver gives. */
async function readValues(sql: Sql, type: string, texts: string[]) {
  return await sql.unsafe<{ text: string; printed: string; value: unknown }[]>(`
    select text, text::${type}::text as printed, text::${type} as value
    from json_array_elements_text(${quoteLiteral(JSON.stringify(texts))}) as text
    where pg_temp.is_value(text, ${quoteLiteral(type)})`);
}

type QueryError = Error & { code?: string; column_name?: string };

/** Runs a query and takes back what it did; returns its error. */
async function findError(
  sql: Sql,
  query: string,
  params: unknown[] = [],
): Promise<QueryError | undefined> {
  const isWriting = !query.startsWith("select ");
  if (isWriting) await sql.unsafe("begin");
  try {
    await sql.unsafe(query, params as never[]);
  } catch (error) {
    return error as QueryError;
  } finally {
    if (isWriting) await sql.unsafe("rollback");
  }
}

/** The classes of errors of a query, and not of the values in it. */
const REFUSALS = ["42", "55", "0A"];
const isRefused = (error: QueryError | undefined) =>
  REFUSALS.includes(error?.code?.slice(0, 2) ?? "");

async function tryTable(
  sql: Sql,
  db: ReturnType<typeof drizzle>,
  { table, schema, name, columns }: OldTable,
  types: Types,
): Promise<Break[]> {
  const label = schema === "public" ? name : `${schema}.${name}`;
  const place = `${quoteIdentifier(schema)}.${quoteIdentifier(name)}`;
  const breaks: Break[] = [];
  const add = (column: string | null, what: string, way: string) => {
    if (!breaks.some((one) => one.column === column))
      breaks.push({ table: label, column, what, way });
  };
  if (await findError(sql, `select from ${place} limit 0`)) {
    add(
      null,
      "is gone",
      "stop using it in one deploy, and drop it in the next",
    );
    return breaks;
  }

  const values: Record<string, unknown> = {};
  const known: OldColumn[] = [];
  for (const old of columns) {
    const found = types.get(keyOf(schema, name, old.name));
    if (!found) add(old.name, "is gone", REPLACE);
    if (!found || !old.ability) continue;
    const { type } = old.ability;
    const value = await findValue(sql, old.column, old.ability, found);
    if (value.isOther)
      add(
        old.name,
        found.type === type
          ? `does not take all values of ${type} any more`
          : `is ${found.type}, no longer ${type}`,
        CONVERT,
      );
    if (value.isOther || value.js === undefined) continue;
    values[old.key] = value.js;
    known.push(old);
  }
  // All at once, and one by one only if that fails.
  const listRefused = async (
    list: OldColumn[],
    query: (list: OldColumn[]) => Query,
  ) => {
    const run = async (part: OldColumn[]) => {
      const { sql: written, params } = query(part).toSQL();
      return isRefused(await findError(sql, written, params));
    };
    if (list.length === 0 || !(await run(list))) return [];
    const refused: OldColumn[] = [];
    for (const one of list) if (await run([one])) refused.push(one);
    return refused;
  };
  const writable = known.filter(
    ({ column }) =>
      !column.generated && column.generatedIdentity?.type !== "always",
  );
  const { sql: deleting } = db
    .delete(table)
    .where(text`false`)
    .toSQL();
  if (isRefused(await findError(sql, deleting)))
    add(null, "cannot be written any more", STOP);
  else
    for (const old of await listRefused(writable, (list) =>
      db
        .update(table)
        .set(
          Object.fromEntries(
            list.map(({ key }) => [key, values[key]]),
          ) as never,
        )
        .where(text`false`),
    ))
      add(old.name, "cannot be written any more", STOP);

  // Other columns may be left to the database.
  const required = columns.filter(
    ({ column }) => column.notNull && !column.hasDefault && !column.generated,
  );
  const given = required.filter(({ key }) => values[key] !== undefined);
  const list = given.map(({ name: one }) => text.identifier(one));
  const params = given.map(({ key, column }) =>
    text.param(values[key], column),
  );
  const inserting =
    given.length > 0
      ? text`insert into ${table} (${text.join(list, text`, `)}) values (${text.join(params, text`, `)})`
      : text`insert into ${table} default values`;
  const error = await findError(
    sql,
    ...queryOf(new PgDialect().sqlToQuery(inserting)),
  );
  if (error?.code === "23502")
    for (const [key, { isRequired }] of types) {
      const [at, of, column = ""] = key.split("\0");
      if (at !== schema || of !== name || !isRequired) continue;
      if (!required.some((one) => one.name === column))
        add(column, "has to be written, and is not", REQUIRE);
    }

  for (const { reference } of getTableConfig(table).foreignKeys) {
    const { columns: from, foreignColumns, foreignTable } = reference();
    const isSame = from.map((column, index) =>
      eq(column, foreignColumns[index] ?? column),
    );
    const joining = db
      .select({ one: text`1` })
      .from(table)
      .innerJoin(foreignTable as PgTable, and(...isSame));
    const failed = await findError(sql, ...queryOf(joining.toSQL()));
    const [first] = columns.filter(({ column }) => column === from[0]);
    if (failed?.code === "42883" && first)
      add(
        first.name,
        `does not compare with ${getTableConfig(foreignTable as PgTable).name} any more`,
        CONVERT,
      );
  }
  return breaks;
}

const queryOf = ({ sql, params }: { sql: string; params: unknown[] }) =>
  [sql, params] as const;

/**
 * Returns a value for queries, as the application has it; undefined when none is
 * known. When the type has changed, says whether it still takes and gives what the
 * old one did.
 */
async function findValue(
  sql: Sql,
  column: PgColumn,
  ability: Ability,
  now: FoundType,
): Promise<{ js?: unknown; isOther: boolean }> {
  const { type, labels, values, operators } = ability;
  const [first] = values.values();
  const isSame = now.type === type && Bun.deepEquals(now.labels, labels);
  if (isSame) return { js: readAs(column, first), isOther: false };
  for (const operator of operators)
    if (await findError(sql, relate(now.type, operator, now.type)))
      return { isOther: true };
  // The texts that the code writes are likely to be those of a new enum.
  if (now.labels && !labels) return { js: now.labels[0], isOther: false };
  const rows = await readValues(sql, now.type, [...values.keys()]);
  const after = new Map(rows.map((row) => [row.text, row.value]));
  for (const [printed, value] of values) {
    const js = readAs(column, value);
    const next = readAs(column, after.get(printed));
    const isRead = after.has(printed) && isAlike(js, next, isText(now.type));
    const isLost =
      (await isWritten(sql, column, type, js)) &&
      !(await isWritten(sql, column, now.type, js));
    if (!isRead || isLost) return { isOther: true };
  }
  return { js: readAs(column, first), isOther: false };
}

const isText = (type: string) => /^character/.test(type);

/** True when a value that is written to a column of that type is read again. */
async function isWritten(
  sql: Sql,
  column: PgColumn,
  type: string,
  js: unknown,
): Promise<boolean> {
  try {
    const param = column.mapToDriverValue(js) as never;
    const [row] = await sql.unsafe(`select $1::${type} as value`, [param]);
    return isAlike(js, readAs(column, row?.value), isText(type));
  } catch {
    return false;
  }
}

/** Returns what drizzle makes of a value of the driver. */
function readAs(column: PgColumn, value: unknown): unknown {
  try {
    return value === undefined ? value : column.mapFromDriverValue(value);
  } catch {
    return Symbol("unreadable");
  }
}

/** True for the same value, also when its number or blanks are written otherwise.
 *
 * @param mayBeCut true for a type that may be too short for the sample. */
function isAlike(one: unknown, other: unknown, mayBeCut: boolean): boolean {
  if (typeof one !== "string" || typeof other !== "string")
    return Bun.deepEquals(one, other);
  const isNumber = Number(one) === Number(other);
  const [whole, end] = [one.trimEnd(), other.trimEnd()];
  return isNumber || whole === end || (mayBeCut && whole.startsWith(end));
}
