// Puts another database in the place of one that is in use, and keeps the old
// one: both renames in one transaction, from a third database of the server.
// The first rename locks the database, so that new sessions wait, while a second
// connection ends the old ones; one that waited is told to come again, by 3D000.
// Cut short anywhere, nothing is renamed.
import { createHash } from "node:crypto";
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { openConnection, patient } from "../lib/connection";
import { withMigrationLock } from "../lib/lock";
import { requireDirect } from "../lib/pooler";
import { quoteIdentifier } from "../lib/quote";
import {
  advise,
  failure,
  type FailureFields,
  isLost,
  note,
  refusal,
} from "../lib/report";
import {
  beside,
  databaseExists,
  describeObstacle,
  droppedOf,
  dropLeftover,
  nextOf,
  previousOf,
} from "./neighbours";
import { clearNext } from "./successor";

const TERMINATE_MS = 50;
/** How long a commit is waited for whose session was lost. */
const COMMIT_MS = 10_000;

/**
 * Runs `work` on another database of the server, while no other command swaps
 * this one.
 *
 * @throws with exit code 2 when this role may not make databases or does not
 * own this one, with 75 when another swap was not over in `waitSeconds`.
 */
export async function withSwapLock<T>(
  address: DatabaseAddress,
  waitSeconds: number,
  work: (server: Sql) => Promise<T>,
): Promise<T> {
  const { database } = address;
  if (Buffer.byteLength(previousOf(database)) > 63)
    throw refusal(`${previousOf(database)} is longer than PostgreSQL's names`, {
      hint: "give the database a name of 53 bytes or less",
    });
  await using server = await openConnection(beside(address), "db:swap");
  await requireDirect(server, beside(address));
  await server.unsafe(patient);
  await requireOwner(server, database);
  const digest = createHash("sha256").update(`swap ${database}`).digest();
  const key = String(digest.readBigInt64BE());
  return await withMigrationLock(server, waitSeconds, () => work(server), key);
}

/**
 * Puts `__next` in the place of the database, which becomes `__previous`. An
 * older `__previous` is dropped once that is committed.
 *
 * @returns whether an older one was dropped.
 * @throws when it could not be done; then everything has its old name.
 */
export async function swapIn(
  server: Sql,
  address: DatabaseAddress,
): Promise<boolean> {
  const { database } = address;
  const previous = previousOf(database);
  const dropped = droppedOf(database);
  const next = nextOf(database);
  const renames: [string, string][] = [
    [database, previous],
    [next, database],
  ];
  const hasOlder = await databaseExists(server, previous);
  if (hasOlder) renames.unshift([previous, dropped]);
  try {
    await renameTogether(server, address, renames);
  } catch (error) {
    throw await clearNext(server, address, error as Error);
  }
  try {
    await dropLeftover(server, dropped);
    return hasOlder;
  } catch (error) {
    const { message, hint } = error as FailureFields & Error;
    note(`Warning: ${message}`);
    if (hint) advise(hint);
    return false;
  }
}

/**
 * Swaps the database with its `__previous`, so that doing it again undoes it.
 *
 * @throws when it could not be done; then everything has its old name.
 */
export async function swapBack(
  server: Sql,
  address: DatabaseAddress,
): Promise<void> {
  const { database } = address;
  await dropLeftover(server, nextOf(database));
  await renameTogether(server, address, [
    [database, nextOf(database)],
    [previousOf(database), database],
    [nextOf(database), previousOf(database)],
  ]);
}

async function renameTogether(
  server: Sql,
  address: DatabaseAddress,
  renames: [from: string, to: string][],
): Promise<void> {
  await using second = await openConnection(beside(address), "db:swap");
  const swap = new AbortController();
  const names = renames.map(([from]) => from);
  let ending: Promise<void> | undefined;
  let before: number | undefined;
  let pid: number | undefined;
  try {
    await second.unsafe(patient);
    before = await readOid(second, address.database);
    const [session] = await server<{ pid: number }[]>`
      select pg_backend_pid() as pid`;
    pid = session?.pid;
    ending = endSessions(second, names, swap.signal);
    await server.begin(async (transaction) => {
      for (const [from, to] of renames)
        await transaction.unsafe(
          `alter database ${quoteIdentifier(from)} rename to ${quoteIdentifier(to)}`,
        );
    });
  } catch (error) {
    // The answer may be what was lost, and not the swap.
    if (isLost(error) && !(await isSame(address, before, pid))) return;
    const lines = await listSessions(second, names).catch(() => []);
    throw failure(
      `${address.database} was not swapped, and is as it was: ${describeObstacle(error)}`,
      {
        lines,
        hint: "end the sessions or prepared transactions that are in the way, and run the command again",
      },
    );
  } finally {
    swap.abort();
    await ending;
  }
}

/** Who is in these databases, one line each. */
async function listSessions(sql: Sql, databases: string[]): Promise<string[]> {
  const rows = await sql<{ line: string }[]>`
    select format('  pid %s, %s, %s', pid, usename, application_name) as line
    from pg_stat_activity where datname in ${sql(databases)} limit 5`;
  return rows.map(({ line }) => line);
}

/**
 * Whether the database is still the one with that oid, once the session that was
 * lost is over: it may have been committing.
 */
async function isSame(
  address: DatabaseAddress,
  oid: number | undefined,
  pid = 0,
): Promise<boolean> {
  const { database } = address;
  const unknown = (reason: string) =>
    failure(
      `the server was lost, and whether ${database} was swapped is not known: ${reason}`,
      {
        hint: "`bun run db:status` shows the database once the server is back",
      },
    );
  await using sql = await openConnection(beside(address), "db:swap").catch(
    ({ message }: Error) => Promise.reject(unknown(message)),
  );
  const deadline = Date.now() + COMMIT_MS;
  while (await isThere(sql, pid)) {
    if (Date.now() > deadline)
      throw unknown(`its session ${pid} is still at work`);
    await Bun.sleep(100);
  }
  return (await readOid(sql, database)) === oid;
}

async function isThere(sql: Sql, pid: number): Promise<boolean> {
  const [row] = await sql`select from pg_stat_activity where pid = ${pid}`;
  return row !== undefined;
}

async function readOid(
  sql: Sql,
  database: string,
): Promise<number | undefined> {
  const [row] = await sql<{ oid: number }[]>`
    select oid from pg_database where datname = ${database}`;
  return row?.oid;
}

/** Those of a superuser it may not end; then the rename says what is wrong. */
async function endSessions(
  sql: Sql,
  databases: string[],
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    await sql`
      select pg_terminate_backend(pid) from pg_stat_activity
      where datname in ${sql(databases)} and pid <> pg_backend_pid()
        and (pg_has_role(usesysid, 'MEMBER') or pg_has_role('pg_signal_backend', 'MEMBER')
          and not (select rolsuper from pg_roles where oid = usesysid))`.catch(
      () => {},
    );
    await Bun.sleep(TERMINATE_MS);
  }
}

async function requireOwner(server: Sql, database: string): Promise<void> {
  const [row] = await server<
    { role: string; owner: boolean; createdb: boolean }[]
  >`
    select current_user::text as role,
      pg_has_role(datdba, 'MEMBER') as owner,
      (select rolcreatedb or rolsuper from pg_roles where rolname = current_user) as createdb
    from pg_database where datname = ${database}`;
  if (row && !row.createdb)
    throw refusal(`the role ${row.role} may not make databases`, {
      hint: `let an administrator run \`ALTER ROLE ${quoteIdentifier(row.role)} CREATEDB\``,
    });
  if (row && !row.owner)
    throw refusal(`the role ${row.role} does not own ${database}`, {
      hint: `let an administrator run \`ALTER DATABASE ${quoteIdentifier(database)} OWNER TO ${quoteIdentifier(row.role)}\``,
    });
}
