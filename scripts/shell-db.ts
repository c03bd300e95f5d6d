// bun run db:shell: opens psql on the database, from this machine or from the
// container. Arguments after `--` go to psql. Exits like psql; 1 when the server
// cannot be reached or there is no psql.
import { spawn } from "bun";
import { readEnv } from "../src/env";
import { readOptions } from "./lib/options";
import { findPostgresTools } from "./server/client-programs";

const usage = `bun run db:shell [-- <arguments for psql>]

Opens psql on the database.`;

// `bun run` removes the `--`, so psql's flags arrive here like our own.
readOptions(usage, {}, { strict: false });

const env = readEnv();
const { tools } = await findPostgresTools(["psql"], env, "prefer-primary");

// Ctrl-C is for psql: it cancels the query.
process.removeAllListeners("SIGINT");
process.on("SIGINT", () => {});
const args = process.argv.slice(2).filter((arg) => arg !== "--");
const login = tools.psql.login(env.direct.database);
const child = spawn([...tools.psql.command, ...login, ...args], {
  env: tools.psql.variables,
  stdio: ["inherit", "inherit", "inherit"],
});
process.exitCode = await child.exited;
