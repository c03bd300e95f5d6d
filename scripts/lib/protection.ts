// Which databases are protected, and the consent that a command needs there.
import type { Sql } from "postgres";
import { type DatabaseAddress, isLocal } from "../../src/database-url";
import type { Env } from "../../src/env";
import { note, refusal } from "./report";

/** What protects a database; it is protected when one of them is true. */
export interface Protection {
  /** It holds the production stamp. */
  isStamped: boolean;
  /** NODE_ENV is production. */
  isProduction: boolean;
  /** Its host is not this machine. */
  isRemote: boolean;
}

/** Reads what protects the database that `sql` is connected to. */
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

/** Whether the production stamp of this very database is there. */
export async function isStamped(sql: Sql): Promise<boolean> {
  const [table] = await sql.unsafe<{ exists: boolean }[]>(
    `select to_regclass('drizzle.__environment') is not null as exists`,
  );
  if (!table?.exists) return false;
  // A copy has another oid, and a restored dump another oid or cluster.
  const [row] = await sql.unsafe<{ stamped: boolean }[]>(`
    select exists (
      select from drizzle.__environment, pg_control_system() as cluster
      where name = 'production'
        and database_oid = (select oid from pg_database where datname = current_database())
        and __environment.system_identifier = cluster.system_identifier
    ) as stamped`);
  return row?.stamped === true;
}

/** Stamps the database as production, unless it is stamped already. */
export async function stampProduction(sql: Sql): Promise<void> {
  if (await isStamped(sql)) return;
  await sql.begin((transaction) => [
    transaction.unsafe("create schema if not exists drizzle"),
    transaction.unsafe(`
      create table if not exists drizzle.__environment (
        name text not null,
        database_oid oid not null,
        system_identifier bigint not null,
        stamped_at timestamptz not null default now()
      )`),
    // A stamp that came along with a copy is another database's.
    transaction.unsafe("delete from drizzle.__environment"),
    transaction.unsafe(`
      insert into drizzle.__environment (name, database_oid, system_identifier)
      select 'production', oid, system_identifier
      from pg_database, pg_control_system() where datname = current_database()`),
  ]);
}

/** Whether a command that can lose data needs consent there. */
export function isProtected(protection: Protection): boolean {
  return Object.values(protection).includes(true);
}

/** Why a database is protected, as the end of a sentence. */
export function nameReason(
  protection: Protection,
  address: DatabaseAddress,
): string {
  if (protection.isStamped) return "it is stamped production";
  if (protection.isProduction) return "NODE_ENV is production";
  return `it is on ${address.host}`;
}

/**
 * For what is of use in development only.
 *
 * @throws with exit code 2 on a database that is stamped, or with
 * NODE_ENV=production, whatever was confirmed; else like `requireConsent`.
 */
export async function requireDevelopment(
  command: string,
  protection: Protection,
  address: DatabaseAddress,
  confirmed: string | undefined,
): Promise<void> {
  if (protection.isStamped || protection.isProduction)
    throw refusal(
      `${command} is for development, and ${address.database} is not: ${nameReason(protection, address)}`,
      { hint: "docs/DATABASE_SETUP.md says what a production database takes" },
    );
  await requireConsent(command, protection, address, confirmed);
}

/**
 * For what can lose data: on a protected database it takes the database's
 * name, from `--confirm` or, on a terminal, from the keyboard.
 *
 * @throws with exit code 2 without it.
 */
export async function requireConsent(
  command: string,
  protection: Protection,
  address: DatabaseAddress,
  confirmed: string | undefined,
): Promise<void> {
  if (!isProtected(protection)) return;
  const reason = `${address.database} is protected: ${nameReason(protection, address)}`;
  await requireName(command, reason, address, confirmed);
}

/**
 * For what would lose data, on any database: it takes the database's name.
 *
 * @param losses what would be lost; nothing is asked where it is empty.
 * @throws with exit code 2 without it.
 */
export async function requireLossConsent(
  command: string,
  losses: string[],
  address: DatabaseAddress,
  confirmed: string | undefined,
): Promise<void> {
  if (losses.length === 0) return;
  await requireName(command, "data would be lost", address, confirmed);
}

/**
 * Wants the database's name, from `--confirm` or, on a terminal, from the
 * keyboard, for a reason that is said.
 *
 * @throws with exit code 2 without it.
 */
export async function requireName(
  command: string,
  reason: string,
  { database }: DatabaseAddress,
  confirmed: string | undefined,
): Promise<void> {
  const typed = confirmed ?? (await askName(command, reason, database));
  if (typed === database) return;
  throw refusal(
    typed
      ? `"${typed}" is not the name of the database`
      : `${command} wants consent: ${reason}`,
    { hint: `if you mean it, add \`--confirm ${database}\`` },
  );
}

/** Undefined without a terminal, and for an empty answer. */
async function askName(
  command: string,
  reason: string,
  database: string,
): Promise<string | undefined> {
  if (!process.stdin.isTTY) return undefined;
  const { createInterface } = await import("node:readline/promises");
  const terminal = createInterface({
    input: process.stdin,
    output: process.stderr,
  });
  terminal.once("SIGINT", () => {
    note(""); // past the question
    process.kill(process.pid, "SIGINT");
  });
  const question = `${command} on ${database}: ${reason}. Type the database's name to go on: `;
  const closed = new Promise<undefined>((resolve) =>
    terminal.once("close", () => resolve(undefined)),
  );
  try {
    const answer = await Promise.race([terminal.question(question), closed]);
    if (answer === undefined) note("");
    return answer?.trim() || undefined;
  } finally {
    terminal.close();
  }
}
