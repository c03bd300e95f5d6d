// bun run db:stop: stops the server that db:start started, and only that; its
// data stays. Exits 1 when it does not stop.
import { readEnv } from "../src/env";
import { jsonFlag, readOptions } from "./lib/options";
import { print, printJson } from "./lib/report";
import { stopServer } from "./server/server";

const usage = `bun run db:stop [--json]

Stops the server that db:start started. The data stays.`;

readOptions(usage, {
  ...jsonFlag,
});

const engine = await stopServer(readEnv());
print(
  engine
    ? `Stopped: ${engine} server`
    : "Nothing to stop: this clone runs no server",
);
printJson({ engine: engine ?? null, stopped: engine !== undefined });
