// bun run db:stop: stops the server that db:start started, and only that; its
// data stays. Exits 1 when it does not stop.
import { readEnv } from "../src/env";
import { print, printJson, readOptions } from "./lib/report";
import { stopServer } from "./server/server";

const usage = `bun run db:stop [--json]

Stops the server that db:start started. The data stays.
  --json   one JSON document on stdout`;

readOptions(usage, { options: { json: { type: "boolean" } } });

const engine = await stopServer(readEnv());
print(
  engine
    ? `Stopped: ${engine} server`
    : "Nothing to stop: this clone runs no server",
);
printJson({ engine: engine ?? null, stopped: engine !== undefined });
