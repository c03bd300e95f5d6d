// What data would SQL take away? It is run in a transaction that is rolled back,
// and the server says which columns and rows are gone then; these are counted.
import type { Sql } from "postgres";
import { explainFailure, type PostgresError } from "./migration-failure";
import { classify, type Script } from "./migration-steps";
import { readWords } from "./sql-statements";

/** A column or a table, by numbers that renaming leaves alone. */
interface Part {
  key: string;
  table: string;
  /** Null for the table itself. */
  column: string | null;
}

/** What cannot be tried in a transaction: see migration-steps.ts. */
const UNTRIABLE = ["25001", "2D000", "55P04"];

/**
 * Counts what the scripts, run one after the other, would take away.
 *
 * @returns such as `drops users.bio: 412 values`; empty when it is nothing.
 * @throws for a statement that fails, with its place in the file.
 */
export async function countLosses(
  sql: Sql,
  scripts: Script[],
  lockTimeout: number,
): Promise<string[]> {
  const before = await listParts(sql);
  const found: string[] = [];
  let left: Part[] = [];
  await sql.unsafe(`begin; set local lock_timeout = ${lockTimeout}`);
  try {
    for (const script of scripts) {
      const untried = await tryScript(sql, script);
      if (untried) return [`${script.tag} cannot be tried first: ${untried}`];
    }
    left = await listParts(sql);
    found.push(...(await listChanges(sql)));
  } finally {
    await sql.unsafe("rollback");
  }
  const keys = new Set(left.map(({ key }) => key));
  const gone = before.filter(({ key }) => !keys.has(key));
  const tables = gone.filter(({ column }) => column === null);
  for (const { table } of tables)
    found.push(...(await count(sql, `drops ${table}`, "*", table, "row")));
  for (const { table, column } of gone)
    if (column !== null && !tables.some((part) => part.table === table))
      found.push(
        ...(await count(
          sql,
          `drops ${table}.${column}`,
          column,
          table,
          "value",
        )),
      );
  return [...found, ...listTruncated(scripts)];
}

/** @returns why it cannot be told, or undefined. */
async function tryScript(
  sql: Sql,
  script: Script,
): Promise<string | undefined> {
  for (const [index, statement] of script.statements.entries()) {
    if (classify(statement) !== "plain") continue;
    try {
      await sql.unsafe(statement.text);
    } catch (thrown) {
      const error = thrown as PostgresError;
      if (UNTRIABLE.includes(error.code ?? "")) return error.message;
      throw explainFailure(error, script, index, 0);
    }
  }
}

async function listParts(sql: Sql): Promise<Part[]> {
  return await sql.unsafe<Part[]>(`
    select concat_ws('.', class.oid, attnum) as key,
      class.oid::regclass::text as table, quote_ident(attname) as column
    from pg_class as class
      join pg_namespace on pg_namespace.oid = relnamespace
      cross join lateral (
        select null::int2 as attnum, null::name as attname
        union all
        select attnum, attname from pg_attribute
        where attrelid = class.oid and attnum > 0 and not attisdropped
      ) as part
    where relkind in ('r', 'p') and not relispartition
      and nspname not in ('pg_catalog', 'information_schema', 'drizzle')
      and nspname !~ '^pg_(toast|temp)'`);
}

/** Rows that were deleted or updated, of tables that are left. */
async function listChanges(sql: Sql): Promise<string[]> {
  const rows = await sql.unsafe<{ change: string }[]>(`
    select format('deletes from %s: %s rows', relid::regclass, n_tup_del) as change
    from pg_stat_xact_user_tables where n_tup_del > 0 and schemaname <> 'drizzle'
    union all
    select format('updates %s: %s rows', relid::regclass, n_tup_upd)
    from pg_stat_xact_user_tables where n_tup_upd > 0 and schemaname <> 'drizzle'`);
  return rows.map(({ change }) => change);
}

async function count(
  sql: Sql,
  what: string,
  counted: string,
  table: string,
  unit: string,
): Promise<string[]> {
  const [row] = await sql.unsafe<{ count: string }[]>(
    `select count(${counted}) from ${table}`,
  );
  const found = Number(row?.count);
  return found > 0 ? [`${what}: ${found} ${unit}${found > 1 ? "s" : ""}`] : [];
}

/** The server does not count the rows of these. */
function listTruncated(scripts: Script[]): string[] {
  return scripts.flatMap(({ statements }) =>
    statements
      .filter(({ tokens }) => readWords(tokens, 1)[0] === "TRUNCATE")
      .map(({ text }) => `every row by ${text.replace(/\s+/g, " ")}`),
  );
}
