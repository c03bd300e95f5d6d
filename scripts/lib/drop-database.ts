// Drops a database and ends the sessions in it.
import type { Sql } from "postgres";
import { quoteIdentifier } from "./quote";

/**
 * Drops a database, if it exists.
 *
 * @param sql a connection to another database of the server.
 * @throws when it is a template, has a subscription or an active replication
 * slot, or has sessions that this role may not end.
 */
export async function dropDatabase(sql: Sql, database: string): Promise<void> {
  const quoted = quoteIdentifier(database);
  try {
    await sql.unsafe(`drop database if exists ${quoted} with (force)`);
  } catch (error) {
    if ((error as { code?: string }).code !== "42501") throw error;
    // With FORCE, an autovacuum is a session that an owner may not end; without
    // FORCE the server ends the autovacuum itself.
    await sql`
      select pg_terminate_backend(pid) from pg_stat_activity
      where datname = ${database} and pg_has_role(usesysid, 'MEMBER')`;
    await sql.unsafe(`drop database if exists ${quoted}`);
  }
}
