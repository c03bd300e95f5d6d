// bun run db:studio: runs Drizzle Studio with the database of the other commands.
// Listens on this machine only, until it is interrupted; exits 1 when it fails.
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { spawn } from "bun";
import { formatDatabaseUrl } from "../src/database-url";
import { readEnv, root } from "../src/env";
import { openConnection, settledAddress } from "./lib/connection";
import { readOptions, readWhole } from "./lib/options";
import { failure } from "./lib/report";

const usage = `bun run db:studio [flags]

Serves Drizzle Studio on this machine.`;

const { values } = readOptions(usage, {
  port: {
    type: "string",
    value: "<port>",
    default: "4983",
    help: "where it listens",
  },
});
const port = readWhole(values.port, "--port", 65_535);

await checkServer();
const kit = fileURLToPath(import.meta.resolve("drizzle-kit/package.json"));
// By default it would listen on every interface.
const flags = ["--host", "127.0.0.1", "--port", String(port)];
const child = spawn(
  [process.execPath, join(kit, "..", "bin.cjs"), "studio", ...flags],
  {
    cwd: root,
    env: { ...process.env, ...nameServerReached() },
    stdio: ["inherit", "inherit", "inherit"],
  },
);
process.once("exit", () => child.kill()); // when only this process is ended
if ((await child.exited) !== 0) throw failure("drizzle-kit studio failed");

/** Connects once, so that a server that cannot be reached gets our error and hint. */
async function checkServer(): Promise<void> {
  await using _sql = await openConnection(
    readEnv().direct,
    "db:studio",
    "prefer-primary",
  );
}

/** Names the server and sslmode that were used: drizzle-kit takes one host and no `prefer`. */
function nameServerReached() {
  const address = settledAddress(readEnv().direct);
  const url = formatDatabaseUrl(address);
  const { options: PGOPTIONS } = address.parameters;
  return { DATABASE_URL: url, DATABASE_URL_UNPOOLED: url, PGOPTIONS };
}
