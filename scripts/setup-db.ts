// bun run db:setup: from nothing to a working database. Writes .env.local where
// there is none, then starts, migrates, seeds and tests. Safe to run again, and
// by several at once. Exits like the step that failed.
import {
  existsSync,
  linkSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { spawn } from "bun";
import { readEnv, root } from "../src/env";
import { nameServer } from "./lib/explain-connection";
import { readOptions } from "./lib/options";
import { probe } from "./lib/probe";
import { print, refusal } from "./lib/report";
import { findEngine } from "./server/server";

const usage = `bun run db:setup

Writes .env.local where there is none, starts the server, migrates, seeds, tests.`;

const steps = ["start-db.ts", "migrate.ts", "seed-db.ts", "test-db.ts"];

readOptions(usage, {});

if (readEnv().isProduction)
  throw refusal("db:setup is for development, and NODE_ENV is production", {
    hint: "docs/DATABASE_SETUP.md says what a first deploy takes",
  });
await writeEnvFile();
for (const step of steps) {
  const child = spawn([process.execPath, join(import.meta.dir, step)], {
    cwd: root,
    stdio: ["inherit", "inherit", "inherit"],
  });
  process.once("exit", () => child.kill()); // where this one is ended alone
  process.exitCode = await child.exited;
  if (process.exitCode !== 0) break;
}

/** Beside an .env that is there, the example's values would win over it. */
async function writeEnvFile(): Promise<void> {
  const file = join(root, ".env.local");
  if (existsSync(file) || existsSync(join(root, ".env"))) return;

  const env = readEnv();
  const { database } = env;
  // What nobody has chosen may be another clone's, even where it lets us in.
  const isChosen = database.variable === "DATABASE_URL";
  const port = await findPort(database.port);
  const example = readFileSync(join(root, ".env.example"), "utf8");
  const text = example.replace(/^POSTGRES_PORT=.*$/m, `POSTGRES_PORT=${port}`);
  if (!createWhole(file, text)) return;
  print(
    port === database.port
      ? "Wrote: .env.local"
      : `Wrote: .env.local, with port ${port}, for ${nameServer(database)} is taken by something else`,
  );

  async function findPort(port: number): Promise<number> {
    const { state } = await probe({ ...database, port });
    if (state === "silent" || isChosen) return port;
    const engine = await findEngine({
      ...env,
      database: { ...database, port },
    });
    return engine === "external" ? await findPort(port + 1) : port;
  }
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
