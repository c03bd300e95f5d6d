// Waits until its parent closes the pipe or ends. Then it stops the servers of the run
// whose folder is its argument, and removes the folder.
import { globSync, rmSync } from "node:fs";
import { join } from "node:path";
import { stopEmbedded } from "../../scripts/server/embedded";
import { removeContainer } from "./container";

const [runFolder = ""] = process.argv.slice(2);
for await (const _ of Bun.stdin.stream());
for (const folder of globSync(join(runFolder, "{server,installed-*}")))
  await stopEmbedded(folder);
await removeContainer(runFolder);
rmSync(runFolder, { recursive: true, force: true });
