// PostgreSQL's archives: pg_dump writes them, pg_restore reads them. The file is
// always ours: in a container, they go through its standard streams.
import { createHash } from "node:crypto";
import { closeSync, createReadStream, fsyncSync, openSync } from "node:fs";
import { spawn } from "bun";
import type { DatabaseAddress } from "../../src/database-url";
import type { PostgresTool } from "./postgres-tools";
import { failure } from "./report";

/**
 * Writes an archive in the custom format, which is compressed.
 *
 * @param snapshot an exported one, that of the counts in the manifest.
 * @param lockTimeout milliseconds that it waits for a table.
 * @param path a new file, which nobody else may read.
 */
export async function dumpDatabase(
  tool: PostgresTool,
  address: DatabaseAddress,
  snapshot: string,
  lockTimeout: number,
  path: string,
): Promise<void> {
  const file = openSync(path, "wx", 0o600);
  try {
    const child = spawn(
      [
        ...tool.command,
        "--format=custom",
        `--snapshot=${snapshot}`,
        `--lock-wait-timeout=${lockTimeout}`,
        ...tool.login(address.database),
      ],
      { env: tool.variables, stdin: "ignore", stdout: file, stderr: "pipe" },
    );
    await finish(child, "pg_dump");
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/**
 * Reads an archive to its end, as a restore would; its list of contents would
 * not show that it was cut short.
 *
 * @throws when it cannot be read.
 */
export async function readArchive(
  tool: PostgresTool,
  path: string,
): Promise<void> {
  const child = spawn([...tool.command, "--file=/dev/null"], {
    env: tool.variables,
    stdin: Bun.file(path),
    stdout: "ignore",
    stderr: "pipe",
  });
  await finish(child, "pg_restore");
}

/**
 * Restores an archive into an empty database.
 *
 * @throws at the first statement that fails.
 */
export async function restoreArchive(
  tool: PostgresTool,
  path: string,
  database: string,
): Promise<void> {
  const child = spawn(
    [...tool.command, "--exit-on-error", ...tool.login(database)],
    {
      env: tool.variables,
      stdin: Bun.file(path),
      stdout: "ignore",
      stderr: "pipe",
    },
  );
  await finish(child, "pg_restore");
}

/** The sha256 of a file, in hex. */
export async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }))
    hash.update(chunk);
  return hash.digest("hex");
}

async function finish(
  child: { stderr: ReadableStream; exited: Promise<number>; kill(): void },
  program: string,
): Promise<void> {
  const stop = () => child.kill();
  process.once("exit", stop); // where this one is ended alone
  const stderr = await new Response(child.stderr).text();
  const exitCode = await child.exited;
  process.off("exit", stop);
  if (exitCode === 0) return;
  const lines = stderr.trim().split("\n");
  const reason = lines.find((line) => /error/i.test(line)) ?? lines[0];
  const message = reason?.replace(/^\w+: (error: )?/, "").trim();
  throw failure(`${program} failed: ${message || `exit code ${exitCode}`}`, {
    lines: lines.slice(0, 10).map((line) => `  ${line}`),
  });
}
