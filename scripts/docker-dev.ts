// bun run docker:dev: docker-compose.dev.yml, up; docker:dev:down takes it down
// again and keeps its volume. Exits 1 when Docker fails, 2 where there is no
// Docker or the Compose project is another checkout's.
import { spawn } from "bun";
import { readEnv } from "../src/env";
import { readOptions } from "./lib/options";
import { probe } from "./lib/probe";
import { FAILED, refusal } from "./lib/report";
import { composeCommand, isDockerReady, withProject } from "./server/compose";
import { readUsedEngine, recordServer } from "./server/server";

const usage = `bun run docker:dev | docker:dev:down

Brings docker-compose.dev.yml up, or down; the volume is kept.`;

const { positionals } = readOptions(usage, {}, { allowPositionals: true });
const args = { up: ["up", "--detach", "--wait"], down: ["down"] }[
  positionals.join(" ")
];
if (!args) throw refusal(`docker-dev.ts takes up or down, nothing else`);

if (!(await isDockerReady()))
  throw refusal("no Docker engine with Compose v2 answers", {
    hint: "install or start Docker; or run `bun run db:start`, which does without",
  });

const env = readEnv();
// Compose reads .env only, so it is handed what all other commands go by.
const { command, variables } = composeCommand(env, args);
const exitCode = await withProject(env, async () => {
  const child = spawn(command, {
    env: variables,
    stdio: ["inherit", "inherit", "inherit"],
  });
  return await child.exited;
});
if (exitCode !== 0) process.exitCode = FAILED;
else if (positionals[0] === "up" && readUsedEngine(env) !== "embedded") {
  const found = await probe(env.database);
  if (found.state === "ready") recordServer(env, "compose", found.identity);
}
