// bun run db:test: is the application's own client able to work? Connects by
// DATABASE_URL as the application does, counts, and looks whether the schema is
// current. Exits 1 when it cannot connect, 3 when the schema is behind.
import { sql } from "drizzle-orm";
import type { PgTable } from "drizzle-orm/pg-core";
import { readEnv } from "../src/env";
import { counted } from "../src/infrastructure/database/counted";
import { openConnection, reachedAddress } from "./lib/connection";
import { nameServer } from "./lib/explain-connection";
import { jsonFlag, readOptions } from "./lib/options";
import { nameReplication, readReplication } from "./lib/replication";
import { advise, FINDINGS, print, printJson } from "./lib/report";
import { readSchemaState } from "./migrations/schema-state";

const usage = `bun run db:test [--json]

Connects as the application does, and looks whether it could work.`;

readOptions(usage, {
  ...jsonFlag,
});

const { database: address } = readEnv();
// Only now: it reads the environment as well, and would fail in its own way.
const { closeDatabase, db } = await import("../src/infrastructure/database");
// Asked first, and closed: it says why it cannot connect, and a role may be
// allowed a single connection.
const { pending, interrupted, replication } =
  await inspect().catch(unreachable);
await using _client = { [Symbol.asyncDispose]: closeDatabase };
const [server] = await db
  .execute<{ version: string }>(
    sql`select split_part(current_setting('server_version'), ' ', 1) as version`,
  )
  .catch(unreachable);
const start = performance.now();
await db.execute(sql`select 1`);
const latencyMs = Math.round((performance.now() - start) * 10) / 10;
const counts = await countTables();

const serverVersion = server?.version ?? null;
print(
  `Connected: ${address.database} on ${nameServer(reachedAddress(address))} (${nameReplication(replication)}), PostgreSQL ${serverVersion}, ${latencyMs} ms a query`,
);
print(
  `Counted: ${Object.entries(counts)
    .map(([name, rows]) => `${name} ${rows ?? "–"}`)
    .join(", ")}`,
);
print(
  pending.length > 0
    ? `Pending: ${pending.join(", ")}`
    : "Compared: no migration is pending",
);
printJson({
  connected: true,
  latencyMs,
  serverVersion,
  ...replication,
  counts,
  pending,
});
if (pending.length > 0) {
  for (const { message } of interrupted) print(`Interrupted: ${message}`);
  advise(interrupted[0]?.hint ?? "run `bun run db:migrate`");
  process.exitCode = FINDINGS;
}

/** On the server that the client takes: of several, the one that takes writes. */
async function inspect() {
  const wanted = address.otherHosts?.length ? "primary" : "any";
  await using connection = await openConnection(address, "db:test", wanted);
  return {
    ...(await readSchemaState(connection)),
    replication: await readReplication(connection),
  };
}

async function countTables(): Promise<Record<string, number | null>> {
  const counts: Record<string, number | null> = {};
  for (const [name, table] of Object.entries(counted))
    counts[name] = await countRows(table);
  return counts;
}

/** The number of rows; null where the table is not there, or not in schema.ts. */
async function countRows(table?: PgTable): Promise<number | null> {
  if (!table) return null;
  try {
    return await db.$count(table);
  } catch (error) {
    const { code } = (error as Error).cause as { code?: string };
    if (code === "42P01") return null;
    throw error;
  }
}

function unreachable(error: Error): never {
  const document = {
    connected: false,
    latencyMs: null,
    serverVersion: null,
    role: null,
    lagSeconds: null,
    counts: null,
    pending: null,
  };
  throw Object.assign(error, { document });
}
