// The pools of the application: one for the primary and one for each replica, with
// separate connections to check the replicas.
import type { Env } from "../../env";
import type { Query } from "./database";
import { openPool, type Pool } from "./pool";
import { routeReads } from "./replicas";

/** The pools of one application. */
export interface Pools {
  primary: Pool;
  /** Runs a statement outside transactions. */
  query: Query;
  all: Pool[];
  settings: Env["client"];
}

/** The time limits of the connections that check replicas. In milliseconds. */
const CHECK_LIMIT_MS = 1000;
/** How long closing may take: Docker kills ten seconds after SIGTERM. In milliseconds. */
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

  const forChecks = {
    ...settings,
    connectMs: Math.min(settings.connectMs, CHECK_LIMIT_MS),
    acquireMs: CHECK_LIMIT_MS,
    statementMs: CHECK_LIMIT_MS,
  };
  const watch = openPool(database, forChecks, 1, "read-write");
  const watched = replicas.map((address) => ({
    pool: openPool(address, settings, settings.replicaPoolSize),
    watch: openPool(address, forChecks, 1),
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
 * Closes the pools once they have not been used for a moment, or after the time
 * limit: until then, work in progress may send more queries.
 */
export async function closePools({ all }: Pools): Promise<void> {
  const calledAt = Date.now();
  const quietAt = () =>
    QUIET_MS + Math.max(calledAt, ...all.map((pool) => pool.usedAt()));
  while (Date.now() < quietAt() && Date.now() < calledAt + CLOSE_MS)
    await new Promise((resolve) => setTimeout(resolve, 10));
  for (const pool of all) pool.close();
}
