// bun run db:shell: psql on the database, its own or the container's. What
// follows `--` goes to psql, whose exit code is the command's. Exits 1 when the
// server cannot be reached or there is no psql as new as it.
import { spawn } from "bun";
import { readEnv } from "../src/env";
import { probe } from "./lib/connection";
import { findPostgresTool } from "./lib/postgres-tools";
import { readOptions } from "./lib/report";
import { findEngine } from "./lib/server";

const usage = `bun run db:shell [-- <arguments for psql>]

Opens psql on the database.`;

// `bun run` swallows the `--`, so that flags arrive here as psql's own.
readOptions(usage, { strict: false });

const env = readEnv();
const found = await probe(env.direct);
if (found.state !== "ready") throw found.error;
const engine = await findEngine(env);
const psql = findPostgresTool("psql", env, env.direct, engine, found.version);

// Ctrl-C is psql's: it cancels the query.
process.removeAllListeners("SIGINT");
process.on("SIGINT", () => {});
const args = process.argv.slice(2).filter((arg) => arg !== "--");
const login = psql.login(env.direct.database);
const child = spawn([...psql.command, ...login, ...args], {
  env: psql.variables,
  stdio: ["inherit", "inherit", "inherit"],
});
process.exitCode = await child.exited;
