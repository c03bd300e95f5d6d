// bun run db:setup: from nothing to a working database. Writes .env.local where
// there is none, then starts, migrates, seeds and tests. Safe to run again, and
// by several at once. Exits like the step that failed.
import { join } from "node:path";
import { spawn } from "bun";
import { readEnv, root } from "../src/env";
import { readOptions } from "./lib/options";
import { refusal } from "./lib/report";
import { writeEnvFile } from "./server/env-file";

const usage = `bun run db:setup

Writes .env.local where there is none, starts the server, migrates, seeds, tests.`;

const steps = ["start-db.ts", "migrate.ts", "seed-db.ts", "test-db.ts"];

readOptions(usage, {});

const env = readEnv();
if (env.isProduction)
  throw refusal("db:setup is for development, and NODE_ENV is production", {
    hint: "docs/DATABASE_SETUP.md says what a first deploy takes",
  });
// Where nobody has chosen an address, db:start chooses one.
if (env.database.guard?.isChosen !== false) await writeEnvFile(env);
for (const step of steps) {
  const child = spawn([process.execPath, join(import.meta.dir, step)], {
    cwd: root,
    stdio: ["inherit", "inherit", "inherit"],
  });
  process.once("exit", () => child.kill()); // where this one is ended alone
  process.exitCode = await child.exited;
  if (process.exitCode !== 0) break;
}
