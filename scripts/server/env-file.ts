// Writes .env.local, where nobody has chosen an address yet.
import {
  existsSync,
  linkSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { parse } from "dotenv";
import { type Env, root } from "../../src/env";
import { nameServer } from "../lib/explain-connection";
import { probe } from "../lib/probe";
import { print } from "../lib/report";
import { requireOwnProject } from "./compose";
import { withFileLock } from "./file-lock";
import { chooseEngine, findEngine } from "./server";

/**
 * Runs `work` while no other clone of this user chooses a port: the one that is
 * chosen has to answer before the next clone looks.
 */
export async function withPorts<T>(work: () => Promise<T>): Promise<T> {
  const lock = `bun-drizzle-postgres-${userInfo().uid}.lock`;
  return await withFileLock(join(tmpdir(), lock), work);
}

/**
 * Writes .env.local from .env.example, with the next free port where another
 * server has the usual one, and says so. Leaves alone what is there, and writes
 * nothing that would contradict the process's own variables.
 *
 * @throws with exit code 2 where the Compose project is another checkout's.
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
    ? `\n# Docker Compose's.\nCOMPOSE_PROJECT_NAME=${name}\n`
    : "";
  if (!createWhole(file, text + project)) return;
  print(
    port === database.port
      ? "Wrote: .env.local"
      : `Wrote: .env.local, with port ${port}, for ${nameServer(database)} is taken by something else`,
  );
}

/** True where the file would name this database, with another port at most. */
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

/** What answers may be another clone's, even where it lets us in. */
async function findPort(env: Env, port: number): Promise<number> {
  const database = { ...env.database, port };
  if ((await probe(database)).state === "silent") return port;
  const engine = await findEngine({ ...env, database });
  return engine === "external" ? await findPort(env, port + 1) : port;
}

/** Makes a file that is whole from the start; false where it is there already. */
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
