// bun run db:start: starts the development server, unless DATABASE_URL already
// answers, and waits until it takes queries. Uses Docker if it is there, else
// PostgreSQL from npm. Writes .env.local when no address is configured. Exits 1
// when the server cannot be started.
import { readEnv } from "../src/env";
import { nameServer } from "./lib/explain-connection";
import { jsonFlag, readOptions } from "./lib/options";
import { print, printJson } from "./lib/report";
import { withPorts, writeEnvFile } from "./server/env-file";
import { startServer } from "./server/server";

const usage = `bun run db:start [--json]

Starts the development server and waits until it takes queries.`;

readOptions(usage, {
  ...jsonFlag,
});

let env = readEnv();
const started =
  env.database.guard?.isChosen === false
    ? await withPorts(claimAndStart)
    : await startServer(env);
const { engine, version, isStarted, isCreated } = started;
const server = `PostgreSQL ${version} on ${nameServer(env.database)} (${engine})`;
print(isStarted ? `Started: ${server}` : `Already running: ${server}`);
if (isCreated) print(`Created: database ${env.database.database}`);
printJson({ engine, version, started: isStarted, created: isCreated });

/** Writes .env.local, then starts: other clones wait until the chosen port answers. */
async function claimAndStart() {
  await writeEnvFile(readEnv());
  env = readEnv();
  return await startServer(env);
}
