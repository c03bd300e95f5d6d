// Drops a database, and the sessions in it.
import type { Sql } from "postgres";
import { quoteIdentifier } from "./quote";

/**
 * Drops a database that may not be there.
 *
 * @param sql is connected to another one.
 * @throws when it is a template, has a subscription or a slot in use, or when
 * sessions are in it that this role may not end.
 */
export async function dropDatabase(sql: Sql, database: string): Promise<void> {
  const quoted = quoteIdentifier(database);
  try {
    await sql.unsafe(`drop database if exists ${quoted} with (force)`);
  } catch (error) {
    if ((error as { code?: string }).code !== "42501") throw error;
    // FORCE counts an autovacuum among the sessions that an owner may not end;
    // without it the server ends that by itself.
    await sql`
      select pg_terminate_backend(pid) from pg_stat_activity
      where datname = ${database} and pg_has_role(usesysid, 'MEMBER')`;
    await sql.unsafe(`drop database if exists ${quoted}`);
  }
}
