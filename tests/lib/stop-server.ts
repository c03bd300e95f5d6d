// Waits until its parent closes the pipe, by hand or by dying, then stops the
// embedded server in the folder that it is given, and removes the folder.
import { rmSync } from "node:fs";
import { join } from "node:path";
import { stopEmbedded } from "../../scripts/server/embedded";

const [runFolder = ""] = process.argv.slice(2);
for await (const _ of Bun.stdin.stream());
await stopEmbedded(join(runFolder, "server"));
rmSync(runFolder, { recursive: true, force: true });
