// Decides whether the database's schema is the one that this checkout expects.
import type { Sql } from "postgres";
import { loadSchema } from "../../src/project";
import { quoteIdentifier, quoteLiteral } from "../lib/quote";
import { refusal } from "../lib/report";
import { readMigrations } from "./journal";
import {
  listPartial,
  planMigrations,
  readPlan,
  readRecords,
  stateOf,
} from "./plan";

/**
 * Returns the migrations that the schema lacks. These are the pending and the
 * interrupted ones. `db:push` records no migrations: without any record, the schema
 * counts as current when every table of schema.ts exists.
 *
 * @returns the tags, in the order of the journal; the interrupted migrations; and
 * whether the tables are there without any record, as after `db:push`.
 */
export async function readSchemaState(sql: Sql) {
  // The application's role may have no right to read the log.
  const plan = await readPlan(sql).catch(async (error: { code?: string }) => {
    if (error.code !== "42501") throw error;
    return planMigrations(readMigrations(), await readRecords(sql));
  });
  const interrupted = listPartial(plan);
  const hasRecords = plan.applied.size + plan.unknown.length > 0;
  const isPushed =
    !hasRecords && interrupted.length === 0 && (await hasEveryTable(sql));
  const behind = plan.migrations.filter((migration) =>
    ["pending", "partial"].includes(stateOf(plan, migration)),
  );
  const pending = isPushed ? [] : behind.map(({ tag }) => tag);
  return { pending, interrupted, isPushed };
}

/** @throws with exit code 2 when the schema is behind. */
export async function requireCurrentSchema(sql: Sql): Promise<void> {
  const { pending, interrupted } = await readSchemaState(sql);
  if (pending.length === 0) return;
  const [first] = interrupted;
  throw refusal(
    first?.message ?? `the schema is behind: ${pending.join(", ")} pending`,
    {
      code: "SCHEMA_BEHIND",
      hint: first?.hint ?? "run `bun run db:migrate` first",
    },
  );
}

async function hasEveryTable(sql: Sql): Promise<boolean> {
  const { is } = await import("drizzle-orm");
  const { getTableConfig, PgTable } = await import("drizzle-orm/pg-core");
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
