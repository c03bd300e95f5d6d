// Makes up rows that satisfy a table's constraints, to try migrations with where
// the rows of the real database must not go. It knows no types: it takes those of
// a few texts that the server accepts as a value of the column.
import type { Sql } from "postgres";
import { quoteIdentifier, quoteLiteral } from "../lib/quote";

/** Creates a function that tells whether a text is a value of a type. */
export const createValueTest = `
  create function pg_temp.is_value(value text, type text) returns boolean language plpgsql as $$
  begin execute format('select %L::%s', value, type); return true; exception when others then return false; end $$`;

const ROWS = 2;
const ATTEMPTS = 200;

interface Column {
  name: string;
  type: string;
  required: boolean;
  /** Whether the server gives it a value, and refuses another one. */
  filled: boolean;
  computed: boolean;
  labels: string[] | null;
  /** The checks that mention it. */
  checks: string | null;
}

interface Constraint {
  name: string;
  columns: string[];
  /** For a foreign key: the table and its columns. */
  target: string | null;
  targets: string[] | null;
}

/**
 * Inserts two rows into each table, after the tables that it refers to. Triggers of
 * the user do not run.
 *
 * @param sql a session in a transaction.
 * @param tables names in SQL.
 * @param variant another number gives other values.
 * @returns the tables that got rows, and the reason for each that got none.
 */
export async function makeRows(
  sql: Sql,
  tables: string[],
  variant: number,
): Promise<{ made: string[]; refused: Map<string, string> }> {
  const made: string[] = [];
  const refused = new Map<string, string>();
  const begun = new Set<string>();
  await sql.unsafe(createValueTest);
  const visit = async (table: string): Promise<void> => {
    if (begun.has(table)) return;
    begun.add(table);
    const constraints = await readConstraints(sql, table);
    for (const { target } of constraints) if (target) await visit(target);
    await sql.unsafe("savepoint made");
    try {
      await sql.unsafe(`alter table ${table} disable trigger user`);
      for (let row = 1; row <= ROWS; row += 1)
        await insertRow(sql, table, constraints, row, variant);
      await sql.unsafe(
        `set constraints all immediate; alter table ${table} enable trigger user`,
      );
      made.push(table);
    } catch (error) {
      await sql.unsafe("rollback to savepoint made");
      refused.set(table, (error as Error).message);
    }
  };
  for (const table of tables) await visit(table);
  await sql.unsafe("drop function pg_temp.is_value(text, text)");
  return { made, refused };
}

/** Tries one value after the other in the columns of the constraint that refuses
 * the row. */
async function insertRow(
  sql: Sql,
  table: string,
  constraints: Constraint[],
  row: number,
  variant: number,
): Promise<void> {
  const columns = (await readColumns(sql, table)).filter(
    (one) => !one.computed,
  );
  const values = new Map<string, string[]>();
  for (const column of columns)
    values.set(
      column.name,
      await listValues(sql, column, constraints, row, variant),
    );
  const chosen = new Map(columns.map(({ name }) => [name, 0]));
  for (let attempt = 1; ; attempt += 1) {
    const list = columns.map(
      ({ name }) => values.get(name)?.[chosen.get(name) ?? 0] ?? "default",
    );
    await sql.unsafe("savepoint attempt");
    try {
      await sql.unsafe(
        columns.length > 0
          ? `insert into ${table} (${columns.map(({ name }) => quoteIdentifier(name)).join(", ")}) values (${list.join(", ")})`
          : `insert into ${table} default values`,
      );
      return;
    } catch (error) {
      await sql.unsafe("rollback to savepoint attempt");
      const { code, constraint_name, column_name } = error as Refusal;
      if (!code?.startsWith("23") || attempt === ATTEMPTS) throw error;
      const names = constraints.find(({ name }) => name === constraint_name)
        ?.columns ?? [column_name ?? ""];
      const known = names.filter((name) => values.has(name));
      // It may also be a domain that refuses, or an index on an expression.
      advance(known.length > 0 ? known : [...values.keys()], chosen, values);
    }
  }
}

interface Refusal {
  code?: string;
  constraint_name?: string;
  column_name?: string;
}

/** Goes on to the next combination; the first column changes fastest. */
function advance(
  names: string[],
  chosen: Map<string, number>,
  values: Map<string, string[]>,
): void {
  for (const name of names) {
    const next = (chosen.get(name) ?? 0) + 1;
    const isLast = next >= (values.get(name)?.length ?? 0);
    chosen.set(name, isLast ? 0 : next);
    if (!isLast) return;
  }
}

/** Returns SQL of the values to try in a column: its default or what it refers to
 * first, then those of its type. */
async function listValues(
  sql: Sql,
  column: Column,
  constraints: Constraint[],
  row: number,
  variant: number,
): Promise<string[]> {
  const { name, type, required, filled } = column;
  // The columns of a key of several columns belong together: it comes first.
  const keys = constraints
    .filter(({ target, columns }) => target && columns.includes(name))
    .sort((one, other) => other.columns.length - one.columns.length);
  const referred = keys.flatMap(({ target, columns, targets }) => {
    const other = quoteIdentifier(targets?.[columns.indexOf(name)] ?? "");
    return [row - 1, row % ROWS].map(
      (place) =>
        `(select ${other} from ${target} order by ctid offset ${place} limit 1)`,
    );
  });
  const rows = await sql.unsafe<{ value: string }[]>(
    `select value from json_array_elements_text(${quoteLiteral(JSON.stringify(listTexts(column, row)))}) as value
      where pg_temp.is_value(value, ${quoteLiteral(type)})`,
  );
  const fitting = rows.map(({ value }) => `${quoteLiteral(value)}::${type}`);
  const start = variant % Math.max(1, fitting.length);
  return [
    ...referred,
    ...(filled ? ["default"] : []),
    ...fitting.slice(start),
    ...fitting.slice(0, start),
    ...(required ? [] : ["null"]),
  ];
}

/** Lists texts of many types: first the labels of an enum, and what a check mentions. */
export function listTexts(
  { labels, checks }: Pick<Column, "labels" | "checks">,
  row: number,
): string[] {
  const mentioned = [
    ...(checks ?? "").matchAll(/'((?:[^']|'')*)'|(?<![\w.])\d+(?:\.\d+)?/g),
  ].flatMap(([whole, text]) => {
    if (text !== undefined) return [text.replaceAll("''", "'")];
    const number = Number(whole);
    const word = "x".repeat(Math.min(number, 1000));
    return [
      String(number + row),
      whole,
      String(number - row),
      word,
      `${word}x`,
    ];
  });
  const own = labels ?? [];
  return [
    ...own.slice(row - 1),
    ...own.slice(0, row - 1),
    ...mentioned,
    String(row),
    `2000-01-0${row}`,
    `00000000-0000-4000-8000-00000000000${row}`,
    `{"a": ${row}}`,
    `{${row}}`,
    "{}",
    "[]",
    `word${String.fromCharCode(96 + row)}`,
    String.fromCharCode(96 + row),
    String.fromCharCode(64 + row),
    `a${row}@example.com`,
    `https://example.com/${row}`,
    `+1555000000${row}`,
    `#00000${row}`,
    `10.0.0.${row}`,
    `08:00:2b:01:02:0${row}`,
    `10:00:0${row}`,
    `(${row},${row})`,
    `((0,0),(${row},${row}))`,
    `{${row},1,1}`,
    `[${row},${row + 1})`,
    `[2000-01-0${row},2000-01-0${row + 1})`,
    row % 2 ? "true" : "false",
    `0.${row}`,
    `-${row}`,
    `${row}000`,
    `2100-01-0${row}`,
    "",
  ];
}

async function readColumns(sql: Sql, table: string): Promise<Column[]> {
  return await sql.unsafe<Column[]>(`
    select attname as name, format_type(atttypid, atttypmod) as type, attnotnull as required,
      atthasdef as filled, attgenerated <> '' or attidentity <> '' as computed,
      (select json_agg(enumlabel order by enumsortorder) from pg_enum where enumtypid = atttypid) as labels,
      (select string_agg(pg_get_constraintdef(pg_constraint.oid), ' ') from pg_constraint
        where contype = 'c' and (conrelid = attrelid and attnum = any (conkey) or contypid = atttypid)) as checks
    from pg_attribute where attrelid = ${quoteLiteral(table)}::regclass and attnum > 0 and not attisdropped
    order by attnum`);
}

const namesOf = (relation: string, numbers: string) =>
  `(select json_agg(attname order by place) from unnest(${numbers}) with ordinality as keys (number, place)
    join pg_attribute on attrelid = ${relation} and attnum = number)`;

async function readConstraints(sql: Sql, table: string): Promise<Constraint[]> {
  const rows = await sql.unsafe<Constraint[]>(`
    select conname as name, ${namesOf("conrelid", "conkey")} as columns,
      case contype when 'f' then format('%I.%I', nspname, relname) end as target, ${namesOf("confrelid", "confkey")} as targets
    from pg_constraint left join pg_class on pg_class.oid = confrelid
      left join pg_namespace on pg_namespace.oid = relnamespace
    where conrelid = ${quoteLiteral(table)}::regclass
    union all
    select relname, ${namesOf("indrelid", "indkey::int2[]")}, null, null
    from pg_index join pg_class on pg_class.oid = indexrelid
    where indrelid = ${quoteLiteral(table)}::regclass and indisunique
    order by 1`);
  return rows.map((row) => ({ ...row, columns: row.columns ?? [] }));
}
