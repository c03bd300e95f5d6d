// Tells which databases are protected, and writes and reads the stamp that marks
// a database as production.
import type { Sql } from "postgres";
import { type DatabaseAddress, hostsOf, isLocal } from "../../src/database-url";
import type { Env } from "../../src/env";
import { hasTable } from "./has-table";
import { failure } from "./report";

/** The reasons to protect a database: it is protected when one of them is true. */
export interface Protection {
  /** It has the production stamp. */
  isStamped: boolean;
  /** NODE_ENV is production. */
  isProduction: boolean;
  /** Its host is not this machine. */
  isRemote: boolean;
}

/** Reads whether the database that `sql` is connected to is protected, and why. */
export async function readProtection(
  sql: Sql,
  env: Env,
  address: DatabaseAddress,
): Promise<Protection> {
  return {
    isStamped: await isStamped(sql),
    isProduction: env.isProduction,
    isRemote: !isLocal(address),
  };
}

/** True when the database has a production stamp, and the stamp is its own. */
export async function isStamped(sql: Sql): Promise<boolean> {
  if (!(await hasTable(sql, "drizzle.__environment"))) return false;
  // Both statements in one query are one transaction, also behind a pooler. A
  // stamp that came with a copy or a dump has another oid or cluster.
  const results = await sql
    .unsafe<{ stamped: boolean }[][]>(
      `
    set local lock_timeout = '5s';
    select exists (
      select from drizzle.__environment, pg_catalog.pg_control_system() as cluster
      where name = 'production'
        and database_oid = (
          select oid from pg_catalog.pg_database
          where datname = pg_catalog.current_database())
        and __environment.system_identifier = cluster.system_identifier
    ) as stamped`,
    )
    .catch((error: Error & { code?: string }) => {
      if (error.code !== "55P03") throw error;
      throw failure(
        "cannot tell whether this is production: another session holds a lock on drizzle.__environment",
        { hint: "try again when that session is done" },
      );
    });
  return results[1]?.[0]?.stamped === true;
}

/**
 * Stamps the database as production, unless it is stamped already.
 *
 * @returns true when this call stamped it.
 */
export async function stampProduction(sql: Sql): Promise<boolean> {
  if (await isStamped(sql)) return false;
  await sql.begin("read write", (transaction) => [
    transaction.unsafe("create schema if not exists drizzle"),
    transaction.unsafe(`
      create table if not exists drizzle.__environment (
        name text not null,
        database_oid oid not null,
        system_identifier bigint not null,
        stamped_at timestamptz not null default now()
      )`),
    // A stamp that came with a copy is another database's.
    transaction.unsafe("delete from drizzle.__environment"),
    transaction.unsafe(`
      insert into drizzle.__environment (name, database_oid, system_identifier)
      select 'production', oid, system_identifier
      from pg_catalog.pg_database, pg_catalog.pg_control_system()
      where datname = pg_catalog.current_database()`),
  ]);
  return true;
}

/** True when a command that can lose data needs consent. */
export function isProtected(protection: Protection): boolean {
  return Object.values(protection).includes(true);
}

/** True when the database is stamped, or will be by the next migration. */
export function isProductionDatabase(protection: Protection): boolean {
  return protection.isStamped || protection.isProduction;
}

/** Returns why a database is protected, as the end of a sentence. */
export function nameReason(
  protection: Protection,
  address: DatabaseAddress,
): string {
  if (protection.isStamped) return "it is stamped production";
  if (protection.isProduction) return "NODE_ENV is production";
  const remote = hostsOf(address).find((server) => !isLocal(server));
  return `it is on ${remote?.host}`;
}
