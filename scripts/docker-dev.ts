// bun run docker:dev: docker-compose.dev.yml, up; docker:dev:down takes it down
// again and keeps its volume. Needs Docker. Exits 1 when Docker fails.
import { spawn } from "bun";
import { readEnv } from "../src/env";
import { readOptions } from "./lib/options";
import { FAILED, refusal } from "./lib/report";
import { composeCommand } from "./server/compose";

const usage = `bun run docker:dev | docker:dev:down

Brings docker-compose.dev.yml up, or down; the volume is kept.`;

const { positionals } = readOptions(usage, {}, { allowPositionals: true });
const args = { up: ["up", "--detach", "--wait"], down: ["down"] }[
  positionals.join(" ")
];
if (!args) throw refusal(`docker-dev.ts takes up or down, nothing else`);

// Compose reads .env only, so it is handed what all other commands go by.
const { command, variables } = composeCommand(readEnv(), args);
const child = spawn(command, {
  env: variables,
  stdio: ["inherit", "inherit", "inherit"],
});
if ((await child.exited) !== 0) process.exitCode = FAILED;
