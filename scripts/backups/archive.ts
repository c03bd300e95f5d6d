// PostgreSQL's archives: pg_dump writes them, pg_restore reads them. The file is
// always ours: in a container, they go through its standard streams.
import { createHash } from "node:crypto";
import {
  closeSync,
  createReadStream,
  fsyncSync,
  openSync,
  readSync,
} from "node:fs";
import { dirname } from "node:path";
import { spawn } from "bun";
import type { DatabaseAddress } from "../../src/database-url";
import { failure } from "../lib/report";
import type { PostgresTool } from "../server/client-programs";

/**
 * Writes an archive in the custom format, which is compressed.
 *
 * @param snapshot what it is to see, exported by a transaction that is open.
 * @param application its name in pg_stat_activity.
 * @param lockTimeout milliseconds that it waits for a table.
 * @param path a new file, which nobody else may read.
 */
export async function dumpDatabase(
  tool: PostgresTool,
  address: DatabaseAddress,
  snapshot: string,
  application: string,
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
        ...tool.login(address.database, application),
      ],
      { env: tool.variables, stdin: "ignore", stdout: file, stderr: "pipe" },
    );
    await finish(child, "pg_dump");
    fsyncSync(file);
  } catch (error) {
    if (!/no space left/i.test((error as Error).message)) throw error;
    throw failure((error as Error).message, {
      hint: `free some space for ${dirname(path)}, or set another \`BACKUP_DIR\``,
    });
  } finally {
    closeSync(file);
  }
}

/** Rows in an archive by table, as `nameCopied` names it. */
export type CopiedRows = Map<string, number>;

/** How a table is named in an archive. */
export function nameCopied(schema: string, table: string): string {
  return JSON.stringify([schema, table]);
}

/**
 * Reads an archive to its end, as a restore would; its list of contents would
 * not show that it was cut short.
 *
 * @throws when it cannot be read, with the code `TOOL_FAILED` where that is not
 * the archive's fault.
 */
export async function readArchive(
  tool: PostgresTool,
  path: string,
): Promise<void> {
  await finish(startReading(tool, path, "ignore"), "pg_restore");
}

/**
 * Reads an archive that `dumpDatabase` has written, like `readArchive`.
 *
 * @returns the rows of each table in it.
 */
export async function countArchived(
  tool: PostgresTool,
  path: string,
): Promise<CopiedRows> {
  const child = startReading(tool, path, "pipe");
  const [copied] = await Promise.all([
    countCopied(child.stdout),
    finish(child, "pg_restore"),
  ]);
  return copied;
}

function startReading<Out extends "ignore" | "pipe">(
  tool: PostgresTool,
  path: string,
  stdout: Out,
) {
  requireArchive(path);
  return spawn([...tool.command, "--data-only", "--file=-"], {
    env: tool.variables,
    stdin: Bun.file(path),
    stdout,
    stderr: "pipe",
  });
}

/** Of a tar archive that was cut short, pg_restore would never find the end. */
function requireArchive(path: string): void {
  const file = openSync(path, "r");
  const start = Buffer.alloc(5);
  try {
    readSync(file, start);
  } finally {
    closeSync(file);
  }
  if (start.toString("latin1") === "PGDMP") return;
  throw failure("it is not an archive of `pg_dump --format=custom`");
}

/** https://www.postgresql.org/docs/current/sql-copy.html, "Text Format" */
async function countCopied(
  stream: ReadableStream<Uint8Array>,
): Promise<CopiedRows> {
  const copied: CopiedRows = new Map();
  let table: string | undefined;
  let header = "";
  let rest = Buffer.alloc(0);
  for await (const bytes of stream) {
    const chunk =
      rest.length > 0
        ? Buffer.concat([rest, bytes])
        : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let start = 0;
    let rows = 0;
    for (
      let end = chunk.indexOf(10);
      end !== -1;
      end = chunk.indexOf(10, start)
    ) {
      const isEnd =
        end - start === 2 && chunk[start] === 92 && chunk[start + 1] === 46;
      if (table !== undefined && isEnd) {
        add(table, rows);
        table = undefined;
      } else if (table !== undefined) rows += 1;
      else if (header || chunk[start] === 67) {
        // A name may have a line break in it.
        header += chunk.toString("utf8", start, end + 1);
        table = readCopy(header);
        if (table !== undefined || !header.startsWith("COPY ")) header = "";
        rows = 0;
      }
      start = end + 1;
    }
    if (table !== undefined) add(table, rows);
    // Of a row, which may be as long as a gigabyte, the start is enough.
    const end = table === undefined ? chunk.length : start + 3;
    rest = Buffer.from(chunk.subarray(start, end));
  }
  return copied;

  function add(name: string, rows: number): void {
    copied.set(name, (copied.get(name) ?? 0) + rows);
  }
}

/** The table of `COPY public.users (id, name) FROM stdin;`. */
function readCopy(statement: string): string | undefined {
  const name = '("(?:[^"]|"")+"|[^". ]+)';
  const found = new RegExp(`^COPY ${name}\\.${name} [^]*FROM stdin;\n$`).exec(
    statement,
  );
  if (!found) return undefined;
  const [schema = "", table = ""] = found
    .slice(1)
    .map((part) => part.replace(/^"|"$/g, "").replaceAll('""', '"'));
  return nameCopied(schema, table);
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
  const lines = stderr.split("\n").filter((line) => line.trim() !== "");
  const reason = lines.find((line) => /error/i.test(line)) ?? lines[0];
  const message = reason?.replace(/^\w+: (error: )?/, "").trim();
  // What Docker says, or a signal, is not the program's own finding.
  const isOwn = reason?.startsWith(`${program}: `);
  const isTooOld = /unsupported version/.test(message ?? "");
  throw failure(`${program} failed: ${message || `exit code ${exitCode}`}`, {
    code: isOwn && !isTooOld ? "FAILED" : "TOOL_FAILED",
    hint: isTooOld
      ? `the archive is of a newer ${program}: install PostgreSQL's client programs of that version`
      : undefined,
    lines: lines.slice(0, 10).map((line) => `  ${line}`),
  });
}
