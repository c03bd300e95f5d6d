// bun run db:setup: sets up a working database. Writes .env.local if there is none,
// then starts, migrates, seeds and tests. Safe to run again, and concurrently.
// Exits like the step that failed.
import { join } from "node:path";
import { spawn } from "bun";
import { readEnv, root } from "../src/env";
import { readOptions } from "./lib/options";
import { refusal } from "./lib/report";
import { writeEnvFile } from "./server/env-file";

const usage = `bun run db:setup

Writes .env.local if there is none, starts the server, migrates, seeds, tests.`;

const steps = ["start-db.ts", "migrate.ts", "seed-db.ts", "test-db.ts"];

readOptions(usage, {});

const env = readEnv();
if (env.isProduction)
  throw refusal("db:setup is for development, and NODE_ENV is production", {
    hint: "docs/DATABASE_SETUP.md lists the steps of a first deploy",
  });
// When no address is configured, db:start chooses one.
if (env.database.guard?.isChosen !== false) await writeEnvFile(env);
for (const step of steps) {
  const child = spawn([process.execPath, join(import.meta.dir, step)], {
    cwd: root,
    stdio: ["inherit", "inherit", "inherit"],
  });
  process.once("exit", () => child.kill()); // when only this process is ended
  process.exitCode = await child.exited;
  if (process.exitCode !== 0) break;
}
