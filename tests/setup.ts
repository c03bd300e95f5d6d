// Runs before the test files: finds the server for the tests, and keeps the
// development database out of their reach.
import "./lib/memory";
import { afterAll } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawn } from "bun";
import { openConnection } from "../scripts/lib/connection";
import { startEmbedded } from "../scripts/server/embedded";
import {
  chooseEngine,
  readUsedEngine,
  startServer,
} from "../scripts/server/server";
import type { DatabaseAddress } from "../src/database-url";
import { type Env, readEnv } from "../src/env";
import { clusterAddress, copyCluster, removeCluster } from "./lib/cluster";
import { emptyDataDir, endWorkers, urlOf } from "./lib/command";
import { findFreePort } from "./lib/ports";
import { isWhole, seed } from "./lib/sample";

if (!isWhole)
  console.log(
    `Sampled: interruptions, random migrations and crowds (RANDOM_SEED=${seed}); ALL=1 runs all of them, and compose`,
  );

const env = readEnv();
const { server, stop } = await findServer(env);

/** The server on which the tests make and drop databases of their own. */
export const testServer: DatabaseAddress = server;

/** Whether the server, and what a failed test left on it, outlives the tests. */
export const isServerKept = stop === undefined;

/** How the names of the databases begin that tests copy. */
export const templatePrefix = `test_template_${process.pid}_`;

// Whatever imports the application's client gets this server.
process.env.DATABASE_URL = urlOf(server);
process.env.DATABASE_URL_UNPOOLED = process.env.DATABASE_URL;
process.env.DB_ENGINE = "external";

afterAll(async () => {
  await endWorkers();
  await removeCluster();
  if (isServerKept) await dropTemplates();
  rmSync(emptyDataDir, { recursive: true, force: true });
  await stop?.();
}, 30_000);

async function findServer(
  env: Env,
): Promise<{ server: DatabaseAddress; stop?: () => Promise<void> }> {
  if (env.test) {
    await requireServer(env.test);
    return { server: env.test };
  }
  if ((await chooseEngine(env)) === "compose") {
    try {
      const { engine } = await startServer(env);
      if (engine === "compose") return { server: env.database };
    } catch (error) {
      // A clone that uses it has to hear of it; a new one has another way.
      if (readUsedEngine(env) === "compose") throw error;
    }
  }
  return await startTemporaryServer();
}

/** Says once what is wrong with it, rather than in every test. */
async function requireServer(address: DatabaseAddress): Promise<void> {
  try {
    await (await openConnection(address, "tests")).end({ timeout: 5 });
  } catch (error) {
    console.error(`Error: ${(error as Error).message}`);
    process.exit(1);
  }
}

async function startTemporaryServer() {
  const dataDir = mkdtempSync(join(tmpdir(), "starter-test-"));
  // Ends the server when this process ends, in whatever way.
  const watcher = spawn(
    [process.execPath, join(import.meta.dir, "lib/stop-server.ts"), dataDir],
    { stdin: "pipe", stdout: "ignore", stderr: "inherit" },
  );
  const server = clusterAddress(await findFreePort());
  await copyCluster(dataDir);
  await startEmbedded(dataDir, server);
  const stop = async () => {
    watcher.stdin.end();
    await watcher.exited;
  };
  return { server, stop };
}

async function dropTemplates(): Promise<void> {
  const sql = await openConnection(server, "tests");
  const rows = await sql<{ datname: string }[]>`
    select datname from pg_database where starts_with(datname, ${templatePrefix})`;
  for (const { datname } of rows) await sql.unsafe(`drop database ${datname}`);
  await sql.end();
}
