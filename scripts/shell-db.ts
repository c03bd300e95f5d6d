// bun run db:shell: psql on the database, its own or the container's. What
// follows `--` goes to psql, whose exit code is the command's. Exits 1 when the
// server cannot be reached or there is no psql as new as it.
import { spawn } from "bun";
import { readEnv } from "../src/env";
import { readOptions } from "./lib/options";
import { findPostgresTools } from "./server/client-programs";

const usage = `bun run db:shell [-- <arguments for psql>]

Opens psql on the database.`;

// `bun run` swallows the `--`, so that flags arrive here as psql's own.
readOptions(usage, {}, { strict: false });

const env = readEnv();
const { tools } = await findPostgresTools(["psql"], env, "prefer-primary");

// Ctrl-C is psql's: it cancels the query.
process.removeAllListeners("SIGINT");
process.on("SIGINT", () => {});
const args = process.argv.slice(2).filter((arg) => arg !== "--");
const login = tools.psql.login(env.direct.database);
const child = spawn([...tools.psql.command, ...login, ...args], {
  env: tools.psql.variables,
  stdio: ["inherit", "inherit", "inherit"],
});
process.exitCode = await child.exited;
