// The lock that lets one command at a time write to a database: an advisory lock.
// It is polled, because a session that waits inside pg_advisory_lock holds a
// snapshot, and the holder's CREATE INDEX CONCURRENTLY would wait for that one.
import { setTimeout as sleep } from "node:timers/promises";
import type { Sql } from "postgres";
import { BUSY, failure, type FailureFields, isLost, note } from "./report";

/** The word "drizzle" in ASCII. All commands on a database share this lock. */
const KEY = "28273295023041637";
const POLL_MS = 100;
const NOTE_MS = 3000;

/**
 * SQL that takes the lock a second time, so that one unlock in a migration file
 * does not release it; and SQL that takes it until the end of the transaction,
 * which no unlock can release.
 */
export const lockOnceMore = `select pg_advisory_lock(${KEY})`;
export const lockTransaction = `select pg_advisory_xact_lock(${KEY})`;

/** SQL that tries to take the lock for one transaction, also behind a pooler. */
export const tryLockTransaction = `select pg_try_advisory_xact_lock(${KEY}) as locked`;

/**
 * Runs `work` while the session of `sql` holds the migration lock, or the lock
 * with another `key`. The session must not be a transaction pooler's.
 *
 * @param waitSeconds how long to wait for another command to release it.
 * @param key the lock's key: an eight-byte integer.
 * @throws with exit code 75 when it was not released in time.
 */
export async function withLock<T>(
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
        "the session was ended before it got the lock, and nothing was changed",
        { hint: "run it again: the database may just have been replaced" },
      );
    },
  );
  try {
    return await work();
  } finally {
    // A lost session has lost its lock too, and `work` has thrown.
    await sql.unsafe(`select pg_advisory_unlock(${key})`).catch(() => {});
  }
}

/**
 * Takes the migration lock again, in case the session of `sql` released it.
 *
 * @throws with exit code 75 when another command took it in the meantime.
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
 * Polls until `tryLock` returns true, and says every few seconds who holds the
 * lock.
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

/** The session that holds the lock; fields that this user may not see are null. */
export interface LockHolder {
  pid: number;
  application: string | null;
  client: string | null;
  /** When its session or transaction began, in ISO 8601. */
  since: string | null;
}

/** Reads which session holds the lock of this database; null when none does. */
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

/** Returns `pid 123, db:migrate, 127.0.0.1, since 2026-01-01T12:00:00Z`. */
export function nameHolder(holder: LockHolder): string {
  const { pid, application, client, since } = holder;
  return [`pid ${pid}`, application, client, since && `since ${since}`]
    .filter(Boolean)
    .join(", ");
}
