// Sends reads to replicas: to one that answers and is not far behind, else to
// the primary. A replica is looked at while it is read from, once a second.
import type { QueryResult } from "pg";
import type { Statement } from "./connection";
import { codeOf } from "./errors";
import type { Lease, Pool } from "./pool";

/** A server that may be read from. */
export interface Replica {
  pool: Pool;
  /** A connection of its own for looking at it: the pool's may all be busy. */
  watch: Pool;
}

/** How old a look may be before the next one is taken. In milliseconds. */
const LOOK_MS = 1000;
/** A look that takes longer has failed. In milliseconds. */
const LOOK_LIMIT_MS = 500;
/** A replica that a read waits for so long is looked at. In milliseconds. */
const SUSPECT_MS = 250;
/** How old a look may be that a read still relies on. In milliseconds. */
const STALE_MS = 5000;

/** After these another server is asked, at last the primary: a read changes nothing. */
const ASK_ANOTHER = [
  "25006", // it writes or locks
  "55000", // "recovery is in progress"
  "40001", // the primary has removed rows that it was reading
  "0A000", // an unlogged table
  "42P01", // a table, a column or a type that a migration has just made
  "42703",
  "42704",
  "CONNECTION_LOST",
];
/** These are no fault of the replica. */
const OWN_LIMITS = ["POOL_BUSY", "CLOSED"];

/** Statements that drizzle writes for a read, and that have to go to the primary. */
const WRITES_OR_LOCKS =
  /\b(insert|update|delete|merge|share|lock|nextval|setval|pg_(try_)?advisory\w*)\b/i;
const QUOTED = /"(?:[^"]|"")*"|'(?:[^']|'')*'/g;

/**
 * Returns what runs the statements that are no part of a transaction.
 *
 * @param watch a connection to the primary, for the position of its log.
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
    looking: undefined as Promise<void> | undefined,
  }));
  type Sight = (typeof sights)[number];

  /** Looks at a replica, once at a time. Never rejects. */
  const look = (sight: Sight): Promise<void> => {
    sight.looking ??= within(LOOK_LIMIT_MS, measureLag(watch, sight.watch))
      .then(
        (lagMs) => (sight.isGood = lagMs <= maxLagMs),
        () => {
          sight.isGood = false;
          sight.pool.drop(); // who waits for it asks another now
        },
      )
      .then(() => {
        sight.seenAt = Date.now();
        sight.looking = undefined;
      });
    return sight.looking;
  };

  /** One read at most waits for a look; the others go elsewhere meanwhile. */
  const isUsable = async (sight: Sight): Promise<boolean> => {
    const age = Date.now() - sight.seenAt;
    const isKnown = age < (sight.isGood ? STALE_MS : Infinity);
    if (!isKnown && sight.looking) return false;
    if (age > LOOK_MS) {
      const looking = look(sight);
      if (!isKnown) await looking;
    }
    return sight.isGood;
  };

  /** Nobody is sent to it before it has answered. */
  const suspect = (sight: Sight): void => {
    sight.isGood = false;
    void look(sight);
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
        const isRefused = !lease && !OWN_LIMITS.includes(code);
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

/** @throws where the promise takes longer. */
async function within<T>(limitMs: number, promise: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const giveUp = () => late.reject(new Error("it takes too long"));
  // Where this process was busy itself, what has arrived is read in between.
  let timer = setTimeout(() => (timer = setTimeout(giveUp, 50)), limitMs);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** True for what drizzle's builders write to read rows; never for `db.execute`. */
function isRead({ text, rowMode, isCount }: Statement): boolean {
  return (
    (rowMode === "array" || isCount === true) &&
    /^\(*(select|with)\b/i.test(text) &&
    !WRITES_OR_LOCKS.test(text.replace(QUOTED, ""))
  );
}

/**
 * Returns how far a replica is behind, in milliseconds: 0 where it has replayed
 * what the primary has written or, where that does not answer, what it has
 * received; Infinity where it receives nothing. A server
 * that is no standby, as in logical replication, counts as 0.
 * https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-RECOVERY-INFO-TABLE
 */
async function measureLag(primary: Pool, replica: Pool): Promise<number> {
  // First the primary: what it writes meanwhile does not count.
  const position = "select pg_current_wal_lsn()::text as position";
  const written = await within(
    LOOK_LIMIT_MS / 2,
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
  return rows[0]?.lag ?? Infinity;
}
