// Replaces a database that is in use with another one, and keeps the old one. Both
// renames are one transaction, from a third database of the server. The first
// rename locks the database: new sessions wait, while a second connection ends the
// old ones. A session that waited gets 3D000, and has to connect again. When
// interrupted at any point, nothing is renamed.
import { createHash } from "node:crypto";
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { openConnection, liftTimeouts } from "../lib/connection";
import { withLock } from "../lib/lock";
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
  toMaintenance,
  databaseExists,
  describeObstacle,
  droppedOf,
  dropLeftover,
  nextOf,
  previousOf,
} from "./databases";
import { clearNext } from "./successor";

const TERMINATE_MS = 50;
/** How long to wait for the commit of a lost session. */
const COMMIT_MS = 10_000;

/**
 * Runs `work` with a connection to another database of the server, while no other
 * command swaps this one.
 *
 * @throws with exit code 2 when this role may not create databases or does not
 * own this one, with 75 when another swap took longer than `waitSeconds`.
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
  await using server = await openConnection(toMaintenance(address), "db:swap");
  await requireDirect(server, toMaintenance(address));
  await server.unsafe(liftTimeouts);
  await requireOwner(server, database);
  const digest = createHash("sha256").update(`swap ${database}`).digest();
  const key = String(digest.readBigInt64BE());
  return await withLock(server, waitSeconds, () => work(server), key);
}

/**
 * Renames the database to `__previous`, and `__next` to the database's name. Drops
 * an older `__previous` once that is committed.
 *
 * @returns true when an older one was dropped.
 * @throws when the swap failed; then every database has its old name.
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
 * @throws when the swap failed; then every database has its old name.
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
  await using second = await openConnection(toMaintenance(address), "db:swap");
  const swap = new AbortController();
  const names = renames.map(([from]) => from);
  let ending: Promise<void> | undefined;
  let before: number | undefined;
  let pid: number | undefined;
  try {
    await second.unsafe(liftTimeouts);
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
    // A lost connection may have lost only the answer: the swap may be committed.
    if (isLost(error) && !(await isSame(address, before, pid))) return;
    const lines = await listSessions(second, names).catch(() => []);
    throw failure(
      `${address.database} was not swapped, and is unchanged: ${describeObstacle(error)}`,
      {
        lines,
        hint: "end the sessions or prepared transactions that use it, and run the command again",
      },
    );
  } finally {
    swap.abort();
    await ending;
  }
}

/** Lists the sessions in these databases, one line each. */
async function listSessions(sql: Sql, databases: string[]): Promise<string[]> {
  const rows = await sql<{ line: string }[]>`
    select format('  pid %s, %s, %s', pid, usename, application_name) as line
    from pg_stat_activity where datname in ${sql(databases)}
    order by pid limit 5`;
  return rows.map(({ line }) => line);
}

/**
 * True when the database still has that oid. Waits first until the lost session
 * has ended: it may have been committing.
 */
async function isSame(
  address: DatabaseAddress,
  oid: number | undefined,
  pid = 0,
): Promise<boolean> {
  const { database } = address;
  const unknownError = (reason: string) =>
    failure(
      `the connection was lost, and it is not known whether ${database} was swapped: ${reason}`,
      {
        hint: "`bun run db:status` shows the database once the server is back",
      },
    );
  await using sql = await openConnection(
    toMaintenance(address),
    "db:swap",
  ).catch(({ message }: Error) => Promise.reject(unknownError(message)));
  const deadline = Date.now() + COMMIT_MS;
  while (await isThere(sql, pid)) {
    if (Date.now() > deadline)
      throw unknownError(`its session ${pid} is still running`);
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

/**
 * Ends the sessions in these databases until aborted. A superuser's session may
 * stay: the rename then fails with an error that says so.
 */
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
    throw refusal(`the role ${row.role} may not create databases`, {
      hint: `let an administrator run \`ALTER ROLE ${quoteIdentifier(row.role)} CREATEDB\``,
    });
  if (row && !row.owner)
    throw refusal(`the role ${row.role} does not own ${database}`, {
      hint: `let an administrator run \`ALTER DATABASE ${quoteIdentifier(database)} OWNER TO ${quoteIdentifier(row.role)}\``,
    });
}
