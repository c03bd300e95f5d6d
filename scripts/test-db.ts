// bun run db:test: does the application's own client work? Connects to
// DATABASE_URL as the application does, counts rows, and checks that the schema is
// current. Exits 1 when it cannot connect, 3 when the schema is behind or the client
// does not find its tables.
import type { PgTable } from "drizzle-orm/pg-core";
import { readEnv } from "../src/env";
import { openConnection, reachedAddress } from "./lib/connection";
import { nameServer } from "./lib/explain-connection";
import { jsonFlag, readOptions } from "./lib/options";
import { nameReplication, readReplication } from "./lib/replication";
import { advise, FINDINGS, print, printJson } from "./lib/report";
import { readSchemaState } from "./migrations/schema-state";

const usage = `bun run db:test [--json]

Connects as the application does, counts rows, and checks that the schema is current.`;

readOptions(usage, {
  ...jsonFlag,
});

const { database: address } = readEnv();
// Imported only now: --help needs no drizzle-orm, and the client reads the environment
// too, and would fail in its own way.
const { sql } = await import("drizzle-orm");
const { counted } = await import("../src/infrastructure/database/counted");
const { closeDatabase, db } = await import("../src/infrastructure/database");
// This connection comes first, because it explains a failure. It is closed before
// the client connects: a role may have a limit of one connection.
const { pending, interrupted, isPushed, replication } = await inspect();
await using _client = { [Symbol.asyncDispose]: closeDatabase };
const [server] = await db
  .execute<{ version: string }>(
    sql`select split_part(current_setting('server_version'), ' ', 1) as version`,
  )
  .catch(fail);
const start = performance.now();
await db.execute(sql`select 1`);
const latencyMs = Math.round((performance.now() - start) * 10) / 10;
const counts = await countTables();
const missing = Object.entries(counted)
  .filter(([name, table]) => table && counts[name] === null)
  .map(([name]) => name);

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
    : isPushed
      ? "Compared: the tables are there, and no migration is recorded"
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
} else if (missing.length > 0) {
  print(`Missing: ${missing.join(", ")}: the client does not find the table`);
  advise(
    "`show search_path` in `bun run db:shell` names the schemas that are searched; `bun run db:check` compares the database with schema.ts",
  );
  process.exitCode = FINDINGS;
}

/** Reads the state of the server that the client uses: of several, the primary. */
async function inspect() {
  const wanted = address.otherHosts?.length ? "primary" : "any";
  await using connection = await openConnection(
    address,
    "db:test",
    wanted,
  ).catch(fail);
  // From here on an error is one of the journal, of schema.ts or of a query.
  const state = await readSchemaState(connection).catch((error) =>
    fail(error, true),
  );
  return { ...state, replication: await readReplication(connection) };
}

async function countTables(): Promise<Record<string, number | null>> {
  const counts: Record<string, number | null> = {};
  for (const [name, table] of Object.entries(counted))
    counts[name] = await countRows(table);
  return counts;
}

/** Counts the rows; null when the table does not exist, or is not in schema.ts. */
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

function fail(error: Error, connected = false): never {
  const document = {
    connected,
    latencyMs: null,
    serverVersion: null,
    role: null,
    lagSeconds: null,
    counts: null,
    pending: null,
  };
  throw Object.assign(error, { document });
}
