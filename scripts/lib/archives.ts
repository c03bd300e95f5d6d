// PostgreSQL's archives: pg_dump writes them, pg_restore reads them. The file is
// always ours: in a container, they go through its standard streams.
import { createHash } from "node:crypto";
import { closeSync, createReadStream, fsyncSync, openSync } from "node:fs";
import { spawn } from "bun";
import type { DatabaseAddress } from "../../src/database-url";
import type { RowCounts } from "./count-rows";
import type { PostgresTool } from "./postgres-tools";
import { failure } from "./report";

/**
 * Writes an archive in the custom format, which is compressed.
 *
 * @param lockTimeout milliseconds that it waits for a table.
 * @param path a new file, which nobody else may read.
 */
export async function dumpDatabase(
  tool: PostgresTool,
  address: DatabaseAddress,
  lockTimeout: number,
  path: string,
): Promise<void> {
  const file = openSync(path, "wx", 0o600);
  try {
    const child = spawn(
      [
        ...tool.command,
        "--format=custom",
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
 * @returns the rows of each table in it; those of `public` go without their
 * schema.
 * @throws when it cannot be read, with the code `TOOL_FAILED` where that is not
 * the archive's fault.
 */
export async function readArchive(
  tool: PostgresTool,
  path: string,
): Promise<RowCounts> {
  const child = spawn([...tool.command, "--data-only", "--file=-"], {
    env: tool.variables,
    stdin: Bun.file(path),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [counts] = await Promise.all([
    countCopied(child.stdout),
    finish(child, "pg_restore"),
  ]);
  return counts;
}

/** https://www.postgresql.org/docs/current/sql-copy.html, "Text Format" */
async function countCopied(
  stream: ReadableStream<Uint8Array>,
): Promise<RowCounts> {
  const counts: RowCounts = {};
  let table: string | undefined;
  let rows = 0;
  let rest = Buffer.alloc(0);
  for await (const bytes of stream) {
    const chunk =
      rest.length > 0
        ? Buffer.concat([rest, bytes])
        : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let start = 0;
    for (
      let end = chunk.indexOf(10);
      end !== -1;
      end = chunk.indexOf(10, start)
    ) {
      const isEnd =
        end - start === 2 && chunk[start] === 92 && chunk[start + 1] === 46;
      if (table !== undefined && isEnd) {
        counts[table] = rows;
        table = undefined;
      } else if (table !== undefined) rows += 1;
      else if (chunk[start] === 67) {
        table = readCopy(chunk.toString("utf8", start, end));
        rows = 0;
      }
      start = end + 1;
    }
    // Of a row, which may be as long as a gigabyte, the start is enough.
    const end = table === undefined ? chunk.length : start + 3;
    rest = Buffer.from(chunk.subarray(start, end));
  }
  return counts;
}

/** The table of `COPY public.users (id, name) FROM stdin;`. */
function readCopy(line: string): string | undefined {
  const name = '("(?:[^"]|"")+"|[^". ]+)';
  const found = new RegExp(`^COPY ${name}\\.${name} .*FROM stdin;$`).exec(line);
  if (!found) return undefined;
  const [schema = "", table = ""] = found
    .slice(1)
    .map((part) => part.replace(/^"|"$/g, "").replaceAll('""', '"'));
  return schema === "public" ? table : `${schema}.${table}`;
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
