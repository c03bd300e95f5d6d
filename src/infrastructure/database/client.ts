// The application's client: drizzle on pools of ours, one for the primary and
// one for each replica. Nothing connects before the first query.
import { type Env, readEnv } from "../../env";
import {
  type Database,
  openDatabase,
  type Query,
  type Transaction,
} from "./database";
import { openPool } from "./pool";
import { routeReads } from "./replicas";
import { repeat, type RetryConfig, transact } from "./transaction";

/** A look at a replica that takes longer has failed. In milliseconds. */
const LOOK_LIMIT_MS = 2000;
/** Docker kills ten seconds after SIGTERM. */
const CLOSE_MS = 8000;
const QUIET_MS = 100;

// Kept across hot reloads, which run this file anew in the same process.
const global = globalThis as typeof globalThis & {
  database?: ReturnType<typeof openPools>;
};
global.database ??= openPools(readEnv());
const { primary, all, settings, read } = global.database;

const onPrimary = openDatabase(primary.query, onOneConnection);

/**
 * The application's client. Reads outside of transactions go to a replica where
 * there is one; `db.$primary` reads what was just written.
 */
export const db: Database & { $primary: Database } = Object.assign(
  openDatabase(read, onOneConnection),
  { $primary: onPrimary },
);

/**
 * Runs a transaction, and again after a serialization failure, a deadlock, or a
 * connection that was lost before COMMIT. What `work` does beside `tx` is done
 * again as well.
 *
 * @throws the last attempt's error; the code COMMIT_UNKNOWN means that the
 * transaction may be committed, and is not repeated.
 */
export function transactWithRetry<T>(
  work: (tx: Transaction) => Promise<T>,
  { attempts = 5, ...config }: RetryConfig = {},
): Promise<T> {
  return repeat(() => onPrimary.transaction(work, config), attempts);
}

/**
 * Closes the connections. What is under way may finish and go on with further
 * queries, until nothing has been asked for a moment, for eight seconds at most;
 * after that every query is refused with the code CLOSED.
 */
export async function closeDatabase(): Promise<void> {
  const deadline = Date.now() + CLOSE_MS;
  const isQuiet = () =>
    all.every((pool) => Date.now() - pool.usedAt() >= QUIET_MS);
  while (!isQuiet() && Date.now() < deadline)
    await new Promise((resolve) => setTimeout(resolve, 10));
  for (const pool of all) pool.close();
}

function onOneConnection<T>(run: (query: Query) => Promise<T>): Promise<T> {
  return transact(primary, settings, run);
}

function openPools({ database, replicas: addresses, client: settings }: Env) {
  const primary = openPool(database, settings, settings.poolSize, "read-write");
  if (addresses.length === 0)
    return { settings, primary, all: [primary], read: primary.query };

  const forLooking = {
    ...settings,
    connectMs: Math.min(settings.connectMs, LOOK_LIMIT_MS),
    acquireMs: LOOK_LIMIT_MS,
    statementMs: LOOK_LIMIT_MS / 2,
  };
  const watch = openPool(database, forLooking, 1, "read-write");
  const replicas = addresses.map((address) => ({
    pool: openPool(address, settings, settings.replicaPoolSize),
    watch: openPool(address, forLooking, 1),
  }));
  const all = [
    primary,
    watch,
    ...replicas.flatMap(({ pool, watch }) => [pool, watch]),
  ];
  const read = routeReads(primary, watch, replicas, settings.replicaMaxLagMs);
  return { settings, primary, all, read };
}
