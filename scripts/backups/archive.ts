// Writes PostgreSQL's archives with pg_dump, and reads them with pg_restore. The
// file is opened here and passed as a standard stream, so that the programs may
// run in a container.
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
 * @param snapshot the snapshot to dump, exported by an open transaction.
 * @param application the application name in pg_stat_activity.
 * @param lockTimeout how long it waits for a table, in milliseconds.
 * @param path a new file, created with mode 0600.
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

/** The number of rows of each table in an archive, by the name from `nameCopied`. */
export type CopiedRows = Map<string, number>;

/** Returns the key of a table in `CopiedRows`. */
export function nameCopied(schema: string, table: string): string {
  return JSON.stringify([schema, table]);
}

/**
 * Reads an archive to its end, as a restore would. Its list of contents alone
 * would not show that the file is truncated.
 *
 * @throws when it cannot be read, with the code `TOOL_FAILED` when that is not
 * the archive's fault.
 */
export async function readArchive(
  tool: PostgresTool,
  path: string,
): Promise<void> {
  await finish(startReading(tool, path, "--data-only", "ignore"), "pg_restore");
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
  const child = startReading(tool, path, "--data-only", "pipe");
  const [copied] = await Promise.all([
    countCopied(child.stdout),
    finish(child, "pg_restore"),
  ]);
  return copied;
}

function startReading<Out extends "ignore" | "pipe">(
  tool: PostgresTool,
  path: string,
  part: "--data-only" | "--schema-only",
  stdout: Out,
) {
  requireArchive(path);
  return spawn([...tool.command, part, "--file=-"], {
    env: tool.variables,
    stdin: Bun.file(path),
    stdout,
    stderr: "pipe",
  });
}

/** Requires the custom format: pg_restore would hang on a truncated tar archive. */
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

/**
 * Counts the rows of each COPY in a script.
 * https://www.postgresql.org/docs/current/sql-copy.html, "Text Format"
 */
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
        // A name may contain a line break.
        header += chunk.toString("utf8", start, end + 1);
        table = readCopy(header);
        if (table !== undefined || !header.startsWith("COPY ")) header = "";
        rows = 0;
      }
      start = end + 1;
    }
    if (table !== undefined) add(table, rows);
    // Keeps only the start of a row: a row may be a gigabyte long.
    const end = table === undefined ? chunk.length : start + 3;
    rest = Buffer.from(chunk.subarray(start, end));
  }
  return copied;

  function add(name: string, rows: number): void {
    copied.set(name, (copied.get(name) ?? 0) + rows);
  }
}

/** Reads the table of `COPY public.users (id, name) FROM stdin;`. */
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

/** How to restore an archive on a server that may not be its own. */
export interface RestoreOptions {
  psql: PostgresTool;
  /** The restoring role owns everything. */
  isWithoutOwner: boolean;
  isWithoutGrants: boolean;
  /** The extensions in the archive, and their schemas; names quoted as in SQL. */
  extensions: { name: string; home: string }[];
}

/** Returns the SQL that creates the objects of an archive, without the rows. */
export async function readSchema(
  tool: PostgresTool,
  path: string,
): Promise<string> {
  const child = startReading(tool, path, "--schema-only", "pipe");
  const [text] = await Promise.all([
    new Response(child.stdout).text(),
    finish(child, "pg_restore"),
  ]);
  return text;
}

/**
 * Restores an archive into an empty database.
 *
 * @param leftOut extensions that are not created.
 * @param serverMajor the major version of the server.
 * @throws at the first statement that fails.
 */
export async function restoreArchive(
  tool: PostgresTool,
  path: string,
  database: string,
  { psql, isWithoutOwner, isWithoutGrants }: RestoreOptions,
  leftOut: string[],
  serverMajor: number,
): Promise<void> {
  const flags = [
    ...(isWithoutOwner ? ["--no-owner"] : []),
    ...(isWithoutGrants ? ["--no-acl"] : []),
  ];
  // pg_restore 17 and newer set transaction_timeout, which older servers refuse.
  const isTooNew = tool.major >= 17 && serverMajor < 17;
  if (leftOut.length > 0 || isTooNew)
    return await restoreThroughPsql(tool, psql, path, database, flags, leftOut);
  const child = spawn(
    [...tool.command, "--exit-on-error", ...flags, ...tool.login(database)],
    {
      env: tool.variables,
      stdin: Bun.file(path),
      stdout: "ignore",
      stderr: "pipe",
    },
  );
  await finish(child, "pg_restore");
}

/** Restores an archive as a script for psql, with some lines left out. */
async function restoreThroughPsql(
  tool: PostgresTool,
  psql: PostgresTool,
  path: string,
  database: string,
  flags: string[],
  leftOut: string[],
): Promise<void> {
  const reader = spawn([...tool.command, "--file=-", ...flags], {
    env: tool.variables,
    stdin: Bun.file(path),
    stdout: "pipe",
    stderr: "pipe",
  });
  const options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"];
  const writer = spawn([...psql.command, ...options, ...psql.login(database)], {
    env: { ...psql.variables, LC_ALL: "C" },
    stdin: "pipe",
    stdout: "ignore",
    stderr: "pipe",
  });
  void writer.exited.then(() => reader.kill()); // psql has ended, and says why
  const copy = async () => {
    try {
      for await (const chunk of leaveOut(reader.stdout, leftOut)) {
        writer.stdin.write(chunk);
        await writer.stdin.flush();
      }
      await writer.stdin.end();
    } catch {
      writer.kill(); // unless it has ended, as usual here: nothing more will come
    }
  };
  const [, , read] = await Promise.all([
    copy(),
    finish(writer, "psql"),
    finish(reader, "pg_restore").catch((error: Error) => error),
  ]);
  if (read instanceof Error) throw read;
}

/** The end of the part to filter: the first object that is no schema or extension. */
const HEAD_END =
  /^-- (?:Data for )?Name: .*; Type: (?!(?:SCHEMA|EXTENSION|COMMENT);)/m;

async function* leaveOut(
  stream: ReadableStream<Uint8Array>,
  extensions: string[],
): AsyncGenerator<Uint8Array> {
  // latin1 keeps every byte, whatever the encoding.
  let head: string | undefined = "";
  const filter = (text: string) => {
    const rest = lines.reduce(
      (left, line) => left.replace(new RegExp(line, "m"), ""),
      text,
    );
    return Buffer.from(rest, "latin1");
  };
  const lines = [
    "^SET transaction_timeout = 0;$",
    ...extensions.flatMap((name) => {
      const escaped = RegExp.escape(name);
      return [
        `^CREATE EXTENSION IF NOT EXISTS ${escaped} [^;]*;$`,
        `^COMMENT ON EXTENSION ${escaped} IS '(?:[^']|'')*';$`,
      ];
    }),
  ];
  for await (const chunk of stream) {
    if (head === undefined) {
      yield chunk;
      continue;
    }
    head += Buffer.from(chunk).toString("latin1");
    const end = head.search(HEAD_END);
    if (end === -1) continue;
    yield filter(head.slice(0, end));
    yield Buffer.from(head.slice(end), "latin1"); // a row may look like such a line
    head = undefined;
  }
  if (head !== undefined) yield filter(head);
}

/** Returns the sha256 of a file, in hex. */
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
  process.once("exit", stop); // when only this process is ended
  const stderr = await new Response(child.stderr).text();
  const exitCode = await child.exited;
  process.off("exit", stop);
  if (exitCode === 0) return;
  const lines = stderr.split("\n").filter((line) => line.trim() !== "");
  const reason = lines.find((line) => /error/i.test(line)) ?? lines[0];
  const message = reason
    ?.replace(/^\w+:(<stdin>:\d+:)? *(error: +)?/i, "")
    .trim();
  // An error of Docker, or a signal, is not the program's own error.
  const isOwn = reason?.startsWith(`${program}:`);
  const isTooOld = /unsupported version/.test(message ?? "");
  throw failure(`${program} failed: ${message || `exit code ${exitCode}`}`, {
    code: isOwn && !isTooOld ? "FAILED" : "TOOL_FAILED",
    hint: isTooOld
      ? `the archive was written by a newer pg_dump: install PostgreSQL's client programs of that version`
      : undefined,
    lines: lines.slice(0, 10).map((line) => `  ${line}`),
  });
}
