// The application's client. It connects with the first query.
import { readEnv } from "../../env";
import {
  type Database,
  openDatabase,
  type Transact,
  type Transaction,
} from "./database";
import { closePools, openPools, type Pools } from "./pools";
import { repeat, type RetryConfig, transact } from "./transaction";

// Kept across hot reloads, which run this file again in the same process.
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
   * The database. Reads outside transactions go to a replica, if there is one;
   * `db.$primary` reads what was just written.
   */
  const db: Database & { $primary: Database } = Object.assign(
    openDatabase(pools.query, onOneConnection),
    { $primary },
  );

  /**
   * Runs a transaction, and repeats it after a serialization failure, a deadlock,
   * or a connection that was lost before COMMIT. All of `work` is then run again,
   * also what it does without `tx`.
   *
   * @throws the last attempt's error. With the code COMMIT_UNKNOWN the transaction
   * may be committed, and is not repeated.
   */
  const transactWithRetry = <T>(
    work: (tx: Transaction) => Promise<T>,
    { attempts = 5, ...config }: RetryConfig = {},
  ): Promise<T> => repeat(() => $primary.transaction(work, config), attempts);

  /**
   * Closes the connections. Work in progress may finish, with further queries, for
   * eight seconds at most; every later query is refused with the code CLOSED.
   */
  const closeDatabase = (): Promise<void> => closePools(pools);

  return { db, transactWithRetry, closeDatabase };
}
