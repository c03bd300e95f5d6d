// bun run docker:dev: starts docker-compose.dev.yml; docker:dev:down takes it down
// and keeps its volume, unless --volumes is given. Exits 1 when Docker fails, 2 when
// there is no Docker or the Compose project is another checkout's.
import { spawn } from "bun";
import { readEnv } from "../src/env";
import { readOptions } from "./lib/options";
import { probe } from "./lib/probe";
import { FAILED, refusal } from "./lib/report";
import { composeCommand, isDockerReady, withProject } from "./server/compose";
import { readUsedEngine, recordServer } from "./server/server";

const usage = `bun run docker:dev | docker:dev:down

Starts docker-compose.dev.yml, or takes it down; the volume is kept, unless
--volumes is given.`;

const { positionals, values } = readOptions(
  usage,
  {
    volumes: {
      type: "boolean",
      help: "for docker:dev:down: removes this clone's data as well",
    },
  },
  { allowPositionals: true },
);
const removed = values.volumes ? ["--volumes"] : [];
const args = { up: ["up", "--detach", "--wait"], down: ["down", ...removed] }[
  positionals.join(" ")
];
if (!args || (values.volumes && positionals[0] === "up"))
  throw refusal(
    "docker-dev.ts takes up, down, or down --volumes, nothing else",
  );

if (!(await isDockerReady()))
  throw refusal("no Docker engine with Compose v2 answers", {
    hint: "install or start Docker; or run `bun run db:start`, which also works without Docker",
  });

const env = readEnv();
// Compose itself reads only .env: it gets the variables of all other commands.
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
