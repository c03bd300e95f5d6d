// One command at a time may write to a database: an advisory lock, polled,
// because a session that waits inside pg_advisory_lock holds a snapshot that
// CREATE INDEX CONCURRENTLY of the holder would wait for in turn.
import { setTimeout as sleep } from "node:timers/promises";
import type { Sql } from "postgres";
import { BUSY, failure, type FailureFields, isLost, note } from "./report";

/** The word "drizzle" in ASCII. Whoever shares the database shares the lock. */
const KEY = "28273295023041637";
const POLL_MS = 100;
const NOTE_MS = 3000;

/** Counts once more, so that a file's own unlocking leaves it; and the same
 * until the end of a transaction, which no unlocking takes away. */
export const lockOnceMore = `select pg_advisory_lock(${KEY})`;
export const lockTransaction = `select pg_advisory_xact_lock(${KEY})`;

/** The same lock for the length of a transaction, also behind a pooler. */
export const tryLockTransaction = `select pg_try_advisory_xact_lock(${KEY}) as locked`;

/**
 * Runs `work` while the one session of `sql`, which must not be a transaction
 * pooler's, holds the lock of its database.
 *
 * @param waitSeconds how long to wait for another command to release it.
 * @param key of the lock: an eight-byte integer.
 * @throws with exit code 75 when it was not released in time.
 */
export async function withMigrationLock<T>(
  sql: Sql,
  waitSeconds: number,
  work: () => Promise<T>,
  key = KEY,
): Promise<T> {
  const tryLock = async () => {
    const [row] = await sql.unsafe<{ locked: boolean }[]>(
      `select pg_try_advisory_lock(${key}) as locked`,
    );
    return row?.locked === true;
  };
  await pollLock(sql, waitSeconds, tryLock, key).catch(
    (error: FailureFields) => {
      if (error.exitCode !== undefined || !isLost(error)) throw error;
      throw failure(
        "the session was ended before it had the lock, and nothing was changed",
        { hint: "run it again: the database may just have been replaced" },
      );
    },
  );
  try {
    return await work();
  } finally {
    // Where the session was lost, so was its lock, and `work` has thrown.
    await sql.unsafe(`select pg_advisory_unlock(${key})`).catch(() => {});
  }
}

/**
 * Takes the lock again, which the session of `sql` may have let go of.
 *
 * @throws with exit code 75 when another command was quicker.
 */
export async function keepMigrationLock(sql: Sql): Promise<void> {
  const [row] = await sql
    .unsafe<{ locked: boolean }[]>(
      `select pg_try_advisory_lock(${KEY}) as locked`,
    )
    .catch(() => [{ locked: true }]); // a lost session says so at the next query
  if (row?.locked) return;
  throw failure(
    "the file released the migration lock, and another command took it",
    {
      code: "BUSY",
      exitCode: BUSY,
      hint: "take `pg_advisory_unlock_all()` out of the file, or try again when the other is done",
    },
  );
}

/**
 * Polls until `tryLock` answers true, and says every few seconds who is in the
 * way.
 *
 * @throws with exit code 75 after `waitSeconds`.
 */
export async function pollLock(
  sql: Sql,
  waitSeconds: number,
  tryLock: () => Promise<boolean>,
  key = KEY,
): Promise<void> {
  const start = Date.now();
  let noted = start;
  while (!(await tryLock())) {
    const holder = await readLockHolder(sql, key);
    const lock = key === KEY ? "the migration lock" : "the lock for swapping";
    const held = `another command${holder ? ` (${nameHolder(holder)})` : ""} holds ${lock}`;
    if (Date.now() - start >= waitSeconds * 1000)
      throw failure(held, {
        code: "BUSY",
        exitCode: BUSY,
        hint: "try again when it is done, or wait longer with `--wait <seconds>`",
        details: { holder },
      });
    if (Date.now() - noted >= NOTE_MS) {
      note(`Waiting: ${held}`);
      noted = Date.now();
    }
    await sleep(POLL_MS);
  }
}

/** The session that holds the lock; what it hides from this user is null. */
export interface LockHolder {
  pid: number;
  application: string | null;
  client: string | null;
  /** When its session or transaction began, in ISO 8601. */
  since: string | null;
}

/** Who holds the lock of this database; null when nobody does. */
export async function readLockHolder(
  sql: Sql,
  key = KEY,
): Promise<LockHolder | null> {
  const [holder] = await sql.unsafe<LockHolder[]>(`
    select pid, nullif(application_name, '') as application,
      coalesce(host(client_addr), 'local') as client,
      to_char(coalesce(xact_start, backend_start) at time zone 'UTC',
        'YYYY-MM-DD"T"HH24:MI:SS"Z"') as since
    from pg_locks join pg_stat_activity using (pid)
    where locktype = 'advisory' and granted and objsubid = 1
      and database = (select oid from pg_database where datname = current_database())
      and (classid::bigint << 32 | objid::bigint) = ${key}`);
  return holder ?? null;
}

/** `pid 123, db:migrate, 127.0.0.1, since 2026-01-01T12:00:00Z`. */
export function nameHolder(holder: LockHolder): string {
  const { pid, application, client, since } = holder;
  return [`pid ${pid}`, application, client, since && `since ${since}`]
    .filter(Boolean)
    .join(", ");
}
