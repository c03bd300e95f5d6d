// bun run db:studio: Drizzle Studio, in the environment of every other command.
// Listens on this machine only, until it is interrupted; exits 1 when it fails.
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { spawn } from "bun";
import { formatDatabaseUrl } from "../src/database-url";
import { readEnv, root } from "../src/env";
import { openConnection, settledAddress } from "./lib/connection";
import { readOptions } from "./lib/options";
import { failure } from "./lib/report";

const usage = `bun run db:studio [flags]

Serves Drizzle Studio on this machine.`;

const { values } = readOptions(usage, {
  port: { type: "string", value: "<port>", default: "4983", help: "where" },
});

await checkServer();
const kit = fileURLToPath(import.meta.resolve("drizzle-kit/package.json"));
// Its own default listens on every interface.
const flags = ["--host", "127.0.0.1", "--port", values.port];
const child = spawn(
  [process.execPath, join(kit, "..", "bin.cjs"), "studio", ...flags],
  {
    cwd: root,
    env: { ...process.env, ...nameServerReached() },
    stdio: ["inherit", "inherit", "inherit"],
  },
);
process.once("exit", () => child.kill()); // where this one is ended alone
if ((await child.exited) !== 0) throw failure("drizzle-kit studio failed");

/** Or drizzle-kit would be the one to say what is missing. */
async function checkServer(): Promise<void> {
  await using _sql = await openConnection(
    readEnv().direct,
    "db:studio",
    "prefer-primary",
  );
}

/** drizzle-kit knows a single host, and not what sslmode=prefer leaves open. */
function nameServerReached() {
  const address = settledAddress(readEnv().direct);
  const url = formatDatabaseUrl(address);
  const { options: PGOPTIONS } = address.parameters;
  return { DATABASE_URL: url, DATABASE_URL_UNPOOLED: url, PGOPTIONS };
}
