// bun run db:logs: prints the log of the server that this clone runs. Exits 1 when
// there is none, or when the server is not this clone's.
import { existsSync, readFileSync } from "node:fs";
import { spawn } from "bun";
import { readEnv } from "../src/env";
import { readOptions, readWhole } from "./lib/options";
import { failure, print } from "./lib/report";
import { composeCommand, requireOwnProject } from "./server/compose";
import { embeddedLog } from "./server/embedded";
import { readUsedEngine, requireUsable } from "./server/server";

const usage = `bun run db:logs [flags]

Prints the server's log.`;

const { values } = readOptions(usage, {
  follow: { type: "boolean", short: "f", help: "show new lines until Ctrl-C" },
  lines: {
    type: "string",
    short: "n",
    default: "100",
    value: "<n>",
    help: "how many of the last lines",
  },
});
const lines = readWhole(values.lines, "--lines");

const env = readEnv();
const log = embeddedLog(env.dataDir);
requireUsable(env.dataDir);
if (readUsedEngine(env) === "compose") await showComposeLog();
else if (existsSync(log)) await showEmbeddedLog();
else
  throw failure("this clone has not started a server", {
    hint: "start one with `bun run db:start`; another server has its own log",
  });

async function showEmbeddedLog(): Promise<void> {
  if (values.follow) return await run(["tail", "-n", String(lines), "-F", log]);
  const all = readFileSync(log, "utf8").trimEnd().split("\n");
  for (const line of all.slice(-lines || all.length)) print(line);
}

async function showComposeLog(): Promise<void> {
  await requireOwnProject(env);
  const flags = ["--no-log-prefix", "--tail", String(lines)];
  if (values.follow) flags.push("--follow");
  const { command, variables } = composeCommand(env, ["logs", ...flags, "db"]);
  await run(command, variables);
}

async function run(command: string[], variables = process.env): Promise<void> {
  const child = spawn(command, {
    env: variables,
    stdio: ["ignore", "inherit", "inherit"],
  });
  process.once("exit", () => child.kill()); // when only this process is ended
  process.exitCode = await child.exited;
}
