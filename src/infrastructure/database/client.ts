// Connects the application: one pool for the primary and one for each replica.
// postgres.js opens its first connection with the first query.
import { withReplicas } from "drizzle-orm/pg-core";
import { drizzle, type PostgresJsDatabase } from "drizzle-orm/postgres-js";
import postgres, { type Sql } from "postgres";
import { connectionOptions } from "../../database-tls";
import type { DatabaseAddress } from "../../database-url";
import { readEnv } from "../../env";
import * as schema from "./schema";

// Kept across hot reloads, which run this file anew in the same process.
const global = globalThis as typeof globalThis & { databasePools?: Sql[] };

const env = readEnv();
// A second variable for a direct connection means that DATABASE_URL goes
// through a pooler, behind which prepared statements vanish.
const isPooled = env.direct !== env.database;
global.databasePools ??= [env.database, ...env.replicas].map(openPool);

const [primary, ...replicas] = global.databasePools.map((pool) =>
  drizzle(pool, { schema }),
);
if (!primary) throw new Error("there is no pool for the primary database");
const [firstReplica, ...otherReplicas] = replicas;

/**
 * The application's client. Where there are replicas, reads go to one of them,
 * but for those inside a transaction.
 */
export const db: PostgresJsDatabase<typeof schema> = firstReplica
  ? withReplicas(primary, [firstReplica, ...otherReplicas])
  : primary;

/** Closes the pools; queries that are under way have five seconds to end. */
export async function closeDatabase(): Promise<void> {
  const pools = global.databasePools ?? [];
  await Promise.all(pools.map((pool) => pool.end({ timeout: 5 })));
}

function openPool(address: DatabaseAddress): Sql {
  return postgres({
    ...connectionOptions(address),
    connection: { application_name: "app", ...address.parameters },
    prepare: !isPooled,
  });
}
