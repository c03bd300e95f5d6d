// Starts an embedded server for one command, and removes it with its folder. Started
// as a program, it waits until its parent has ended, and then does the latter.
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { spawn } from "bun";
import { type DatabaseAddress, parseDatabaseUrl } from "../../src/database-url";
import { onInterrupt } from "../lib/interrupt";
import { findTemporaryFolder } from "../lib/temporary-folder";
import { startEmbedded, stopEmbedded } from "./embedded";
import { findPostgresBinaries } from "./postgres-binaries";

/** Its data need not survive a crash. */
const UNSAFE = ["fsync=off", "synchronous_commit=off", "full_page_writes=off"];

/**
 * Starts a server on a free port, with a database `postgres`.
 *
 * @param major its major version.
 * @returns its address, disposable: that stops it and removes its folder;
 * undefined when this machine has no server of that version.
 */
export async function startTemporaryServer(
  major: number,
): Promise<({ address: DatabaseAddress } & AsyncDisposable) | undefined> {
  try {
    if (Number(findPostgresBinaries().major) !== major) return undefined;
  } catch {
    return undefined; // the package is optional
  }
  const dataDir = mkdtempSync(join(findTemporaryFolder(), "db-scratch-"));
  const watcher = spawn([process.execPath, import.meta.path, dataDir], {
    detached: true, // Ctrl-C is for this process
    stdio: ["pipe", "ignore", "ignore"],
  });
  watcher.unref();
  const stop = async () => {
    await remove(dataDir);
    watcher.stdin.end();
  };
  const forget = onInterrupt(stop);
  const dispose = () => stop().finally(forget);
  try {
    const login = `postgres:${crypto.randomUUID()}`;
    const address = parseDatabaseUrl(
      `postgres://${login}@127.0.0.1:${await findFreePort()}/postgres?sslmode=disable`,
      "a temporary server",
    );
    await startEmbedded(dataDir, address, UNSAFE);
    return { address, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

async function remove(dataDir: string): Promise<void> {
  await stopEmbedded(dataDir);
  rmSync(dataDir, { recursive: true, force: true });
}

function findFreePort(): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const server = createServer().once("error", reject);
  server.listen(0, "127.0.0.1", () => {
    const address = server.address();
    const port = typeof address === "object" && address ? address.port : 0;
    server.close(() => resolve(port));
  });
  return promise;
}

const [, , folder] = process.argv;
if (import.meta.main && folder) {
  for await (const _ of Bun.stdin.stream()); // the pipe closes with the parent
  await remove(folder);
}
