// The application's client. Nothing connects before the first query.
import { readEnv } from "../../env";
import {
  type Database,
  openDatabase,
  type Transact,
  type Transaction,
} from "./database";
import { closePools, openPools, type Pools } from "./pools";
import { repeat, type RetryConfig, transact } from "./transaction";

// Kept across hot reloads, which run this file anew in the same process.
const global = globalThis as typeof globalThis & { databasePools?: Pools };
global.databasePools ??= openPools(readEnv());

export const { db, transactWithRetry, closeDatabase } = makeClient(
  global.databasePools,
);

/** Returns a client on pools: the application's own above, or one for another database. */
export function makeClient(pools: Pools) {
  const onOneConnection: Transact = (run) =>
    transact(pools.primary, pools.settings, run);
  const $primary = openDatabase(pools.primary.query, onOneConnection);

  /**
   * The database. Reads outside of transactions go to a replica where there is
   * one; `db.$primary` reads what was just written.
   */
  const db: Database & { $primary: Database } = Object.assign(
    openDatabase(pools.query, onOneConnection),
    { $primary },
  );

  /**
   * Runs a transaction, and again after a serialization failure, a deadlock, or
   * a connection that was lost before COMMIT. What `work` does beside `tx` is
   * done again as well.
   *
   * @throws the last attempt's error. With the code COMMIT_UNKNOWN it may be
   * committed, and is not repeated.
   */
  const transactWithRetry = <T>(
    work: (tx: Transaction) => Promise<T>,
    { attempts = 5, ...config }: RetryConfig = {},
  ): Promise<T> => repeat(() => $primary.transaction(work, config), attempts);

  /**
   * Closes the connections. What is under way finishes, further queries of it
   * included, for eight seconds at most; every later query is refused with the
   * code CLOSED.
   */
  const closeDatabase = (): Promise<void> => closePools(pools);

  return { db, transactWithRetry, closeDatabase };
}
