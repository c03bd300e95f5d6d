// Every pool of the application, by what it is for: the primary, and replicas
// with connections that look at them.
import type { Env } from "../../env";
import type { Query } from "./database";
import { openPool, type Pool } from "./pool";
import { routeReads } from "./replicas";

/** The pools of one application. */
export interface Pools {
  primary: Pool;
  /** Runs a statement that is no part of a transaction. */
  query: Query;
  all: Pool[];
  settings: Env["client"];
}

/** For connections that look at replicas, where nobody waits longer. In milliseconds. */
const LOOK_LIMIT_MS = 1000;
/** Docker kills ten seconds after SIGTERM. In milliseconds. */
const CLOSE_MS = 8000;
const QUIET_MS = 100;

/** Opens the pools; each connects with its first statement. */
export function openPools({
  database,
  replicas,
  client: settings,
}: Pick<Env, "database" | "replicas" | "client">): Pools {
  const primary = openPool(database, settings, settings.poolSize, "read-write");
  if (replicas.length === 0)
    return { primary, query: primary.query, all: [primary], settings };

  const forLooking = {
    ...settings,
    connectMs: Math.min(settings.connectMs, LOOK_LIMIT_MS),
    acquireMs: LOOK_LIMIT_MS,
    statementMs: LOOK_LIMIT_MS,
  };
  const watch = openPool(database, forLooking, 1, "read-write");
  const watched = replicas.map((address) => ({
    pool: openPool(address, settings, settings.replicaPoolSize),
    watch: openPool(address, forLooking, 1),
  }));
  return {
    primary,
    query: routeReads(primary, watch, watched, settings.replicaMaxLagMs),
    all: [
      primary,
      watch,
      ...watched.flatMap(({ pool, watch }) => [pool, watch]),
    ],
    settings,
  };
}

/**
 * Closes the pools once nothing has been asked of them for a moment, or when
 * their time is up: what is under way may ask more until then.
 */
export async function closePools({ all }: Pools): Promise<void> {
  const calledAt = Date.now();
  const quietAt = () =>
    QUIET_MS + Math.max(calledAt, ...all.map((pool) => pool.usedAt()));
  while (Date.now() < quietAt() && Date.now() < calledAt + CLOSE_MS)
    await new Promise((resolve) => setTimeout(resolve, 10));
  for (const pool of all) pool.close();
}
