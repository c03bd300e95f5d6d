// Runs before the test files: finds the server for the tests, and keeps the
// development database out of their reach.
import { endWith, isPart, orEnd, runFolder, splitRun } from "./lib/run"; // before all else
import { afterAll } from "bun:test";
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
import { chooseFiles } from "./lib/choose-files";
import { clusterAddress, copyCluster } from "./lib/cluster";
import { endWorkers, urlOf } from "./lib/command";
import { startContainer } from "./lib/container";
import { findFreePort } from "./lib/ports";
import { isWhole, seed } from "./lib/sample";

// Ends what this process leaves when it ends, in whatever way.
const watcher = isPart ? undefined : startWatcher();
const env = orEnd(() => readEnv());
const parts = splitRun();
// Whoever names a server or files wants all of their tests.
const mayChoose = parts && !parts.hasPaths && !env.test && !isWhole;
const choice = mayChoose ? chooseFiles() : undefined;
if (!isPart && !isWhole) console.log(describeSample());

const { server, isKept } = await findServer(env);

/** The server on which the tests make and drop databases of their own. */
export const testServer: DatabaseAddress = server;

/** Whether the server, and what a failed test left on it, outlives the tests. */
export const isServerKept = isKept;

/** How the names of the databases begin that tests copy. */
export const templatePrefix = `test_template_${process.env.TESTS_RUN ?? process.pid}_`;

// Whatever imports the application's client gets this server.
process.env.DATABASE_URL = urlOf(server);
process.env.DATABASE_URL_UNPOOLED = process.env.DATABASE_URL;
process.env.DB_ENGINE = "external";

if (parts) {
  process.exitCode = await runParts([...parts.args, ...(choice?.files ?? [])]);
  await finish();
  process.exit();
}
// A part ends its workers by ending itself: afterAll comes after its first file.
if (!isPart) afterAll(finish, 60_000);

function describeSample(): string {
  const sampled = [
    choice &&
      `${choice.chosen} of ${choice.all} files of tests/tools, ${choice.isSample ? "for what they test is" : "for what the others test is"} as on ${choice.branch}`,
    "interruptions, crowds, and changes of schemas and rows",
  ];
  return `Sampled: ${sampled.filter(Boolean).join("; ")} (RANDOM_SEED=${seed}); ALL=1 runs all of them, and compose`;
}

async function runParts(args: string[]): Promise<number> {
  const child = spawn([process.execPath, ...args], {
    env: {
      ...process.env,
      TESTS_FOLDER: runFolder,
      TESTS_RUN: String(process.pid),
      TESTS_SERVER: isKept ? "kept" : "temporary",
      TEST_DATABASE_URL: urlOf(server),
      TESTS_SAMPLED: choice?.isSample ? "1" : "",
      RANDOM_SEED: String(seed),
    },
    stdio: ["inherit", "inherit", "inherit"],
  });
  return await child.exited;
}

async function finish(): Promise<void> {
  await endWorkers();
  if (isKept) await dropTemplates();
  watcher?.stdin.end();
  await watcher?.exited;
}

function startWatcher() {
  const program = join(import.meta.dir, "lib/stop-server.ts");
  return spawn([process.execPath, program, runFolder], {
    detached: true, // Ctrl-C is for this process
    stdin: "pipe",
    stdout: "ignore",
    stderr: "inherit",
  });
}

async function findServer(
  env: Env,
): Promise<{ server: DatabaseAddress; isKept: boolean }> {
  if (env.test) {
    // Says once what is wrong with it, rather than in every test.
    const found = await openConnection(env.test, "tests").catch(endWith);
    await found.end({ timeout: 5 });
    return {
      server: env.test,
      isKept: process.env.TESTS_SERVER !== "temporary",
    };
  }
  if ((await chooseEngine(env)) === "compose") {
    try {
      if (parts) return await startOwnContainer(env);
      const { engine } = await startServer(env);
      if (engine === "compose") return { server: env.database, isKept: true };
    } catch (error) {
      // A clone that uses it has to hear of it; a new one has another way.
      if (readUsedEngine(env) === "compose") endWith(error as Error);
    }
  }
  return await startTemporaryServer();
}

async function startOwnContainer(env: Env) {
  const server = await startContainer(env, runFolder);
  await warmTemplate(server);
  return { server, isKept: false };
}

async function startTemporaryServer() {
  const dataDir = join(runFolder, "server");
  const server = clusterAddress(await findFreePort());
  await copyCluster(dataDir);
  await startEmbedded(dataDir, server);
  await warmTemplate(server);
  return { server, isKept: false };
}

/** Connects once, so that copies have the cache that a first connection writes. */
async function warmTemplate(address: DatabaseAddress): Promise<void> {
  const template = { ...address, database: "template1" };
  await (await openConnection(template, "tests")).end();
}

async function dropTemplates(): Promise<void> {
  const sql = await openConnection(server, "tests");
  const rows = await sql<{ datname: string }[]>`
    select datname from pg_database where starts_with(datname, ${templatePrefix})`;
  for (const { datname } of rows) await sql.unsafe(`drop database ${datname}`);
  await sql.end();
}
