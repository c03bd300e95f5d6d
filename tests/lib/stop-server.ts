// Waits until its parent closes the pipe or ends. Then it stops the embedded server in
// the folder that is its argument, and removes the folder.
import { rmSync } from "node:fs";
import { join } from "node:path";
import { stopEmbedded } from "../../scripts/server/embedded";

const [runFolder = ""] = process.argv.slice(2);
for await (const _ of Bun.stdin.stream());
await stopEmbedded(join(runFolder, "server"));
rmSync(runFolder, { recursive: true, force: true });
