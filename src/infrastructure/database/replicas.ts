// Sends reads to a replica that answers and is not far behind, else to the primary.
// A replica is checked once a second while it is in use.
import type { QueryResult } from "pg";
import type { Statement } from "./connection";
import { codeOf } from "./errors";
import type { Lease, Pool } from "./pool";

/** A server that may be read from. */
export interface Replica {
  pool: Pool;
  /** A separate connection for checks: the pool's may all be busy. */
  watch: Pool;
}

/** How old a check may be before the next one starts. In milliseconds. */
const CHECK_MS = 1000;
/** A check that takes longer has failed. In milliseconds. */
const CHECK_LIMIT_MS = 500;
/** A read that waits longer starts a check of its replica. In milliseconds. */
const SUSPECT_MS = 250;
/** A read does not rely on a check that is older. In milliseconds. */
const STALE_MS = 5000;

/** After these errors a read is sent to another server, in the end to the primary. */
const ASK_ANOTHER = [
  "25006", // it writes or locks
  "55000", // "recovery is in progress"
  "40001", // the primary has removed rows that it was reading
  "0A000", // an unlogged table
  "42P01", // a table, a column or a type that a migration has just created
  "42703",
  "42704",
  "42883", // a function
  "3F000", // a schema
  "22P02", // a value of an enum
  "CONNECTION_LOST",
];

/** A read that contains one of these words is sent to the primary. */
const WRITES_OR_LOCKS =
  /\b(insert|update|delete|merge|share|lock|nextval|setval|pg_(try_)?advisory\w*)\b/i;
const QUOTED = /"[^"]*"|'[^']*'/g;

/**
 * Returns a function that runs a statement outside transactions.
 *
 * @param watch a connection to the primary, to read its WAL position.
 * @param maxLagMs how far behind a replica may be, in milliseconds.
 */
export function routeReads(
  primary: Pool,
  watch: Pool,
  replicas: Replica[],
  maxLagMs: number,
) {
  const sights = replicas.map((replica) => ({
    ...replica,
    isGood: false,
    seenAt: -Infinity,
    checking: undefined as Promise<void> | undefined,
  }));
  type Sight = (typeof sights)[number];

  /** Checks a replica, one check at a time. Never rejects. */
  const check = (sight: Sight): Promise<void> => {
    sight.checking ??= within(CHECK_LIMIT_MS, measureLag(watch, sight.watch))
      .then(
        (lagMs) => (sight.isGood = lagMs <= maxLagMs),
        () => {
          sight.isGood = false;
          sight.pool.drop(); // reads that wait for it go to another server now
        },
      )
      .then(() => {
        sight.seenAt = Date.now();
        sight.checking = undefined;
      });
    return sight.checking;
  };

  /** At most one read waits for a check; the others go to another server. */
  const isUsable = async (sight: Sight): Promise<boolean> => {
    const age = Date.now() - sight.seenAt;
    const isKnown = age < (sight.isGood ? STALE_MS : Infinity);
    if (!isKnown && sight.checking) return false;
    if (age > CHECK_MS) {
      const checking = check(sight);
      if (!isKnown) await checking;
    }
    return sight.isGood;
  };

  /** Sends no more reads to a replica until it has passed a check. */
  const suspect = (sight: Sight): void => {
    sight.isGood = false;
    void check(sight);
  };

  return async (
    statement: Statement,
    values: unknown[],
  ): Promise<QueryResult> => {
    if (!isRead(statement)) return await primary.query(statement, values);
    const start = Math.floor(Math.random() * sights.length);
    for (const sight of [...sights.slice(start), ...sights.slice(0, start)]) {
      if (!(await isUsable(sight))) continue;
      const timer = setInterval(() => suspect(sight), SUSPECT_MS);
      let lease: Lease | undefined;
      try {
        lease = await sight.pool.acquire();
        return await lease.query(statement, values);
      } catch (error) {
        const code = codeOf(error) ?? "";
        const isRefused = !lease && code !== "POOL_BUSY";
        if (isRefused || lease?.isLost()) suspect(sight);
        if (!isRefused && !ASK_ANOTHER.includes(code)) throw error;
      } finally {
        clearInterval(timer);
        lease?.release();
      }
    }
    return await primary.query(statement, values);
  };
}

/** @throws when the promise takes longer than the limit. */
async function within<T>(limitMs: number, promise: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const giveUp = () => late.reject(new Error("it takes too long"));
  // If this process was busy, an answer may have arrived: 50 ms more to read it.
  let timer = setTimeout(() => (timer = setTimeout(giveUp, 50)), limitMs);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** True for a read from drizzle's builders; never for `db.execute`. */
function isRead({ text, rowMode, isCount }: Statement): boolean {
  return (
    (rowMode === "array" || isCount === true) &&
    /^\(*(select|with)\b/i.test(text) &&
    !WRITES_OR_LOCKS.test(text.replace(QUOTED, ""))
  );
}

/**
 * Returns how far a replica is behind, in milliseconds. 0 when it has replayed all
 * that the primary has written or, if the primary does not answer, all that it has
 * received. Infinity when it receives nothing. A server that is not a standby, as
 * in logical replication, counts as 0.
 * https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-RECOVERY-INFO-TABLE
 */
async function measureLag(primary: Pool, replica: Pool): Promise<number> {
  // The primary first: what it writes after that does not count.
  const position = "select pg_current_wal_lsn()::text as position";
  const written = await within(
    CHECK_LIMIT_MS / 2,
    primary.query({ text: position }, []),
  ).catch(() => undefined);
  const { rows } = await replica.query(
    {
      text: `select case when not pg_is_in_recovery() then 0
        when not exists (select from pg_stat_wal_receiver) then 'Infinity'
        when pg_last_wal_replay_lsn() >= coalesce($1::pg_lsn, pg_last_wal_receive_lsn()) then 0
        else coalesce(extract(epoch from now() - pg_last_xact_replay_timestamp()) * 1000,
          'Infinity') end::float8 as lag`,
    },
    [written?.rows[0]?.position ?? null],
  );
  return rows[0]?.lag;
}
