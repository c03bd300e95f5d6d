// Writes .env.local, when no address is configured yet.
import {
  existsSync,
  linkSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { userInfo } from "node:os";
import { join } from "node:path";
import { parse } from "dotenv";
import { type Env, root } from "../../src/env";
import { nameServer } from "../lib/explain-connection";
import { probe } from "../lib/probe";
import { print } from "../lib/report";
import { findTemporaryFolder } from "../lib/temporary-folder";
import { requireOwnProject } from "./compose";
import { withFileLock } from "./file-lock";
import { chooseEngine, findEngine } from "./server";

/**
 * Runs `work` while no other clone of this user chooses a port: the chosen port
 * must answer before the next clone looks for a free one.
 */
export async function withPorts<T>(work: () => Promise<T>): Promise<T> {
  const lock = `bun-drizzle-postgres-${userInfo().uid}.lock`;
  return await withFileLock(join(findTemporaryFolder(), lock), work);
}

/**
 * Writes .env.local from .env.example, with the next free port when another server
 * uses the default one, and says so. It never overwrites a file, and writes
 * nothing that would contradict the process's own variables.
 *
 * @throws with exit code 2 when the Compose project is another checkout's.
 */
export async function writeEnvFile(env: Env): Promise<void> {
  const file = join(root, ".env.local");
  if (existsSync(file) || existsSync(join(root, ".env"))) return;

  const { database } = env;
  const example = readFileSync(join(root, ".env.example"), "utf8");
  let { port } = database;
  if (database.guard?.isChosen === false) {
    if ((await chooseEngine(env)) === "compose") await requireOwnProject(env);
    port = await findPort(env, port);
  } else if (!isExample(database, parse(example))) return;
  const text = example.replace(/^POSTGRES_PORT=.*$/m, `POSTGRES_PORT=${port}`);
  const name = env.composeProjectName;
  const project = name
    ? `\n# For Docker Compose.\nCOMPOSE_PROJECT_NAME=${name}\n`
    : "";
  if (!createWhole(file, text + project)) return;
  print(
    port === database.port
      ? "Wrote: .env.local"
      : `Wrote: .env.local, with port ${port}, because ${nameServer(database)} is taken by another program`,
  );
}

/** True when .env.example names this database, except for its port. */
function isExample(
  { host, database, user, password }: Env["database"],
  example: Record<string, string>,
): boolean {
  return (
    host === (example.POSTGRES_HOST ?? "localhost") &&
    database === example.POSTGRES_DB &&
    user === example.POSTGRES_USER &&
    password === example.POSTGRES_PASSWORD
  );
}

/** Finds the next port that is free, or where this clone's own server answers. */
async function findPort(env: Env, port: number): Promise<number> {
  const database = { ...env.database, port };
  if ((await probe(database)).state === "silent") return port;
  const engine = await findEngine({ ...env, database });
  return engine === "external" ? await findPort(env, port + 1) : port;
}

/** Creates a file that is never seen incomplete; false when it already exists. */
function createWhole(file: string, text: string): boolean {
  const partial = `${file}.${process.pid}`;
  writeFileSync(partial, text, { mode: 0o600 });
  try {
    linkSync(partial, file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  } finally {
    rmSync(partial);
  }
}
