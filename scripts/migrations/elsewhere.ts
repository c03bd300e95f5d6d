// Looks for the records of migrations in a table other than the one that
// drizzle.config.ts names. An existing application may keep its records there, and
// its migrations must not run a second time.
import type { Sql } from "postgres";
import { readProject } from "../../src/project";
import { quoteLiteral } from "../lib/quote";
import { refusal } from "../lib/report";
import { type Plan, readRecords } from "./plan";

/** A table with records of this project's migrations. */
export interface Elsewhere {
  /** What is wrong, and the line that fixes it. */
  message: string;
  hint: string;
}

/**
 * Looks for a table that has the columns of drizzle's table and the hash of a pending
 * migration: in `public` and `drizzle`, and where the config names no table and nothing
 * is recorded, in every schema.
 */
export async function findElsewhere(
  sql: Sql,
  { pending }: Plan,
): Promise<Elsewhere | undefined> {
  if (pending.length === 0) return undefined;
  const { config, records } = readProject();
  // A config that names its table may have others on purpose, as one for each tenant.
  const isAnywhere =
    records.sql === "drizzle.__drizzle_migrations" &&
    (await readRecords(sql)).length === 0;
  const tables = await sql.unsafe<
    { schema: string; table: string; sql: string }[]
  >(`
    select nspname as schema, relname as table, format('%I.%I', nspname, relname) as sql
    from pg_class join pg_namespace on pg_namespace.oid = relnamespace
    where relkind in ('r', 'p') and (nspname in ('public', 'drizzle') or ${isAnywhere})
      and (nspname, relname) <> (${quoteLiteral(records.schema)}, ${quoteLiteral(records.table)})
      and has_schema_privilege(relnamespace, 'usage') and has_table_privilege(pg_class.oid, 'select')
      and 2 = (
        select count(*) from pg_attribute
        where attrelid = pg_class.oid and (attname, atttypid)
          in (('hash', 'text'::regtype), ('created_at', 'bigint'::regtype)))
    order by 1, 2`);
  const hashes = pending.map(({ hash }) => quoteLiteral(hash)).join(", ");
  for (const { schema, table, sql: name } of tables) {
    const [row] = await sql.unsafe<{ count: number }[]>(
      `select count(distinct hash)::int as count from ${name} where hash in (${hashes})`,
    );
    if (row?.count)
      return {
        message: `${name} has records of ${row.count} of these migrations, and ${config} names ${records.sql}`,
        hint: `set \`migrations: { schema: "${schema}", table: "${table}" }\` in \`${config}\``,
      };
  }
}

/** @throws with exit code 2 when another table has the records. */
export async function refuseElsewhere(sql: Sql, plan: Plan): Promise<void> {
  const found = await findElsewhere(sql, plan);
  if (found)
    throw refusal(found.message, {
      code: "RECORDS_ELSEWHERE",
      hint: found.hint,
    });
}
