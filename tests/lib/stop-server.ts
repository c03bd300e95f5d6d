// Waits until its parent closes the pipe or ends. Then it stops the servers of the run
// whose folder is its argument, and whatever else names the folder in its arguments: a
// server that a test was starting, a command that never ends. It removes the folder.
import { globSync, rmSync } from "node:fs";
import { join } from "node:path";
import { $ } from "bun";
import { stopEmbedded } from "../../scripts/server/embedded";
import { removeContainer } from "./container";

const LEFT_MS = 5000;

const [runFolder] = process.argv.slice(2);
// Without a folder, every process of the machine would be one of the run's.
if (!runFolder) throw new Error("the folder of the run is missing");
for await (const _ of Bun.stdin.stream());
for (const folder of globSync(join(runFolder, "{server,installed-*}")))
  await stopEmbedded(folder);
await removeContainer(runFolder);
// At SIGQUIT a server stops at once and tidies up, and a program ends.
for (const signal of ["QUIT", "KILL"]) await end(signal);
rmSync(runFolder, { recursive: true, force: true });

async function end(signal: string): Promise<void> {
  const deadline = performance.now() + LEFT_MS;
  let left = await listLeft();
  for (const pid of left) await $`kill -s ${signal} ${pid}`.quiet().nothrow();
  while (left.length > 0 && performance.now() < deadline) {
    await Bun.sleep(10);
    left = await listLeft();
  }
}

async function listLeft(): Promise<string[]> {
  const pids = await $`pgrep -f ${runFolder}`.quiet().nothrow().text();
  return pids.split("\n").filter((pid) => pid && pid !== String(process.pid));
}
