// Is the database's schema the one that this checkout expects?
import { is } from "drizzle-orm";
import { getTableConfig, PgTable } from "drizzle-orm/pg-core";
import type { Sql } from "postgres";
import { loadSchema } from "../../src/project";
import { quoteIdentifier, quoteLiteral } from "../lib/quote";
import { refusal } from "../lib/report";
import { readMigrations } from "./journal";
import { planMigrations, readRecords } from "./plan";

/**
 * What is missing: the pending migrations where any have been recorded; in a
 * database made by `db:push`, which records none, all of them unless every
 * table of schema.ts is there.
 *
 * @returns tags, in the order of the journal; none where the schema is current.
 */
export async function findPending(sql: Sql): Promise<string[]> {
  const migrations = readMigrations();
  const records = await readRecords(sql);
  if (records.length === 0 && (await hasEveryTable(sql))) return [];
  return planMigrations(migrations, records).pending.map(({ tag }) => tag);
}

/** @throws with exit code 2 where the schema is behind. */
export async function requireCurrentSchema(sql: Sql): Promise<void> {
  const pending = await findPending(sql);
  if (pending.length === 0) return;
  throw refusal(`the schema is behind: ${pending.join(", ")} pending`, {
    code: "SCHEMA_BEHIND",
    hint: "run `bun run db:migrate` first",
  });
}

async function hasEveryTable(sql: Sql): Promise<boolean> {
  const tables = Object.values(await loadSchema()).filter((value) =>
    is(value, PgTable),
  );
  if (tables.length === 0) return false;
  const names = tables.map((table) => {
    const { schema = "public", name } = getTableConfig(table);
    const path = [schema, name].map(quoteIdentifier).join(".");
    return `(${quoteLiteral(path)})`;
  });
  const [row] = await sql.unsafe<{ complete: boolean }[]>(`
    select bool_and(to_regclass(name) is not null) as complete
    from (values ${names.join(", ")}) as expected (name)`);
  return row?.complete === true;
}
