// Starts and stops the development server, and finds which engine runs it.
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { type DatabaseAddress, isLocal } from "../../src/database-url";
import { type Env, root } from "../../src/env";
import { openConnection } from "../lib/connection";
import { nameServer } from "../lib/explain-connection";
import {
  isAnotherClones,
  isGuarded,
  isOwnServer,
  type OwnServer,
  ownServerFile,
} from "../lib/own-server";
import { type Probe, probe } from "../lib/probe";
import { quoteIdentifier } from "../lib/quote";
import { failure } from "../lib/report";
import {
  isDockerReady,
  readComposePort,
  startCompose,
  stopCompose,
} from "./compose";
import {
  fullDiskError,
  readEmbeddedPort,
  startEmbedded,
  stopEmbedded,
} from "./embedded";
import { withFileLock } from "./file-lock";

const STARTING_SECONDS = 8;
const FOREIGN_SECONDS = 1;

/** What runs the server: this clone, in Docker or embedded, or someone else. */
export type Engine = "compose" | "embedded" | "external";

/**
 * Starts the server, unless DATABASE_URL already answers, and waits until its
 * database takes queries.
 *
 * @returns the engine, the server's version, and what this call has done.
 * @throws why it cannot be started; no data is lost.
 */
export async function startServer(env: Env) {
  const done = { isStarted: false, isCreated: false };
  let found = await waitWhileStarting(env.database);
  if (isLocal(env.database) && mayBeStarted(found))
    found = await withDataDirLock(env, async () => {
      // Another process may have started it in the meantime.
      const server = await probe(env.database);
      if (server.state === "silent") {
        await startEngine(env, server.error);
        done.isStarted = true;
        // Connects to `postgres`: if the database does not exist yet, the server
        // would log an error.
        const started = await waitWhileStarting(toMaintenance(env.database));
        if (started.state !== "ready") return started;
      } else if (server.state === "no-database") {
        await findOwnEngine(env, server);
      } else return server;
      done.isCreated = await createDatabase(env.database);
      return await probe(env.database);
    });
  if (found.state !== "ready") {
    const engine = await findEngine(env);
    // It is of no use, and would keep its port.
    if (done.isStarted) await stopServer(env);
    throw explainObstacle(env, found, engine);
  }
  const engine = await findOwnEngine(env, found);
  if (engine !== "external") recordServer(env, engine, found.identity);
  return { engine, version: found.version, ...done };
}

/** @throws when another clone's server uses this clone's port. */
async function findOwnEngine(env: Env, found: Probe): Promise<Engine> {
  const identity = found.state === "ready" ? found.identity : undefined;
  const engine = await findEngine(env, env.database, identity);
  const isOthers = identity && isAnotherClones(env.database, identity);
  if (engine === "external" && (isOthers || isGuarded(env.database)))
    throw failure(
      `${nameServer(env.database)} is taken by a server that this clone did not start`,
      {
        code: "OTHER_SERVER",
        hint: "stop that one, or set another `POSTGRES_PORT` in `.env.local`; or, if you mean that server, set `DB_ENGINE=external`",
      },
    );
  return engine;
}

/** True when the server may be started. A `foreign` port may be one that is starting. */
function mayBeStarted({ state }: Probe): boolean {
  return ["silent", "no-database", "foreign"].includes(state);
}

/**
 * Stops the server that this clone runs.
 *
 * @returns the engine that ran; undefined when there was nothing to stop.
 */
export async function stopServer(env: Env): Promise<Engine | undefined> {
  return await withDataDirLock(env, async () => {
    if (await stopEmbedded(env.dataDir)) return "embedded";
    if (readUsedEngine(env) === "compose" && (await stopCompose(env)))
      return "compose";
  });
}

/**
 * Finds which engine runs the server at an address. Docker is asked only when the
 * record of this clone does not tell.
 *
 * @param identity the result of `readIdentity` for the server that answers there.
 */
export async function findEngine(
  env: Env,
  address = env.database,
  identity?: string,
): Promise<Engine> {
  if (!isLocal(address) || env.engine === "external") return "external";
  if (readEmbeddedPort(env.dataDir) === address.port) return "embedded";
  if (identity && isOwnServer(address, identity))
    return readUsedEngine(env) ?? "external";
  if ((await readComposePort(env)) === address.port) return "compose";
  return "external";
}

/** Returns the engine that `db:start` uses when nothing answers yet. */
export async function chooseEngine(env: Env): Promise<Engine> {
  const { host, otherHosts = [] } = env.database;
  if (!isLocal(env.database) || host.startsWith("/") || otherHosts.length > 0)
    return "external";
  if (env.engine !== "auto") return env.engine;
  return (
    readUsedEngine(env) ?? ((await isDockerReady()) ? "compose" : "embedded")
  );
}

/** True when the engine's own server runs; false when that is unknown. */
export async function isEngineRunning(
  env: Env,
  engine: Engine,
): Promise<boolean> {
  if (engine === "embedded") return readEmbeddedPort(env.dataDir) !== undefined;
  if (engine === "compose") return (await readComposePort(env)) !== undefined;
  return false;
}

const engineFile = (env: Env) => join(env.dataDir, "engine");

/** Reads the engine that this clone has used; undefined in a new clone. */
export function readUsedEngine(env: Env): Engine | undefined {
  try {
    const engine = readFileSync(engineFile(env), "utf8").trim();
    if (engine === "compose" || engine === "embedded") return engine;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

async function startEngine(env: Env, silence: Error): Promise<void> {
  const engine = await chooseEngine(env);
  if (engine === "external") throw silence;
  try {
    if (engine === "compose") await startCompose(env);
    else await startEmbedded(env.dataDir, env.database);
    writeFileSync(engineFile(env), `${engine}\n`);
  } catch (error) {
    const isFull = (error as NodeJS.ErrnoException).code === "ENOSPC";
    throw isFull ? fullDiskError(env.dataDir) : error;
  }
}

/** Probes an address until its server is up. Docker's proxy looks `foreign` meanwhile. */
async function waitWhileStarting(address: DatabaseAddress): Promise<Probe> {
  const start = Date.now();
  while (true) {
    const found = await probe(address);
    const seconds =
      found.state === "starting"
        ? STARTING_SECONDS
        : found.state === "foreign"
          ? FOREIGN_SECONDS
          : 0;
    if (Date.now() - start >= seconds * 1000) return found;
    await Bun.sleep(100);
  }
}

/** Returns the address of the database `postgres`, which every server has. */
const toMaintenance = (address: DatabaseAddress): DatabaseAddress => ({
  ...address,
  database: "postgres",
  guard: undefined,
});

/** Creates the database. @returns false when it exists. */
async function createDatabase(address: DatabaseAddress): Promise<boolean> {
  const { database } = address;
  await using sql = await openConnection(toMaintenance(address), "db:start");
  try {
    const [found] = await sql`
      select from pg_database where datname = ${database}`;
    if (found) return false;
    await sql.unsafe(`create database ${quoteIdentifier(database)}`);
    return true;
  } catch (error) {
    // Another process may have created it in the meantime.
    const { code = "" } = error as { code?: string };
    if (["42P04", "23505"].includes(code)) return false;
    if (code !== "53100") throw error; // disk_full
    throw failure(
      `the server runs, and the disk is too full for a database ${database}`,
      { hint: "free some space, and run `bun run db:start` again" },
    );
  }
}

/** Writes the record of this clone's own server, for every other command. */
export function recordServer(env: Env, engine: Engine, identity: string): void {
  const { port } = env.database;
  const isRecorded = isOwnServer(env.database, identity);
  if (isRecorded && readUsedEngine(env) === engine) return;
  const own: OwnServer = { folder: root, port, identity };
  const file = ownServerFile(env.dataDir);
  const partial = `${file}.${process.pid}`;
  mkdirSync(env.dataDir, { recursive: true });
  writeFileSync(engineFile(env), `${engine}\n`);
  writeFileSync(partial, `${JSON.stringify(own)}\n`);
  renameSync(partial, file); // so that it is never read half written
}

async function withDataDirLock<T>(env: Env, work: () => Promise<T>) {
  const lock = join(env.dataDir, "lock");
  try {
    mkdirSync(env.dataDir, { recursive: true });
    closeSync(openSync(lock, "a"));
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "ENOSPC") throw fullDiskError(env.dataDir);
    throw explainUnusable(env.dataDir, message);
  }
  requireUsable(env.dataDir);
  return await withFileLock(lock, work);
}

/** @throws when DB_DATA_DIR holds what this user may not use, as after a run with sudo. */
export function requireUsable(dataDir: string): void {
  try {
    for (const name of readdirSync(dataDir))
      accessSync(join(dataDir, name), constants.R_OK | constants.W_OK);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    // Without ENOENT: another command has just removed it.
    if (code !== "ENOENT") throw explainUnusable(dataDir, message);
  }
}

function explainUnusable(dataDir: string, reason: string): Error {
  const other =
    "set `DB_DATA_DIR` in `.env.local` to a folder that this user may write";
  const own = `make it this user's with \`sudo chown -R ${process.getuid?.()} "${dataDir}"\``;
  return failure(`${dataDir} cannot be used: ${reason}`, {
    hint: existsSync(dataDir) ? `${own}; or ${other}` : other,
  });
}

/** Returns the error of a connection, with what this clone knows of its server. */
function explainObstacle(
  env: Env,
  found: Exclude<Probe, { state: "ready" }>,
  engine: Engine,
): Error {
  if (!isLocal(env.database)) return found.error;
  const server = nameServer(env.database);
  const { variable } = env.database;
  if (found.state === "denied" && engine !== "external") {
    const made = engine === "compose" ? "its volume" : env.dataDir;
    return failure(
      `${found.error.message}: ${made} was created with a different password`,
      {
        code: "UNREACHABLE",
        hint: `set the user and password that it was created with in \`${variable}\`: the data is kept`,
      },
    );
  }
  if (found.state === "denied")
    return failure(`${server} is taken: ${found.error.message}`, {
      code: "UNREACHABLE",
      hint: `fix user and password in \`${variable}\`, or set another port there`,
    });
  if (found.state === "foreign")
    return failure(
      `${server} is taken by another program, which does not answer as PostgreSQL`,
      {
        code: "UNREACHABLE",
        hint: "free the port, or set another `POSTGRES_PORT` in `.env.local`",
      },
    );
  return found.error;
}
