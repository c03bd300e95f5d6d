// Reads drizzle's journal and the files that it names; writes nothing.
import { isUtf8 } from "node:buffer";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { root } from "../../src/env";
import { readProject } from "../../src/project";
import { failure } from "../lib/report";
import { listFolders, readStamp } from "./folders";

/** An entry of the journal, with the content of its file. */
export interface Migration {
  tag: string;
  idx: number;
  /** The time stamp of the entry, in milliseconds; `created_at` in its record. */
  when: number;
  /** The path from the project's root, for messages. */
  file: string;
  /** The whole file. */
  text: string;
  /** The sha256 of the file in hex, as drizzle-orm computes it. */
  hash: string;
}

/** The fields of a journal entry that are read. */
export type JournalEntry = Pick<Migration, "tag" | "idx" | "when">;

/** The journal, as its file has it. */
export interface Journal {
  text: string;
  entries: JournalEntry[];
  /** The whole content of the file, used when it is written again. */
  document: { entries: { tag: string }[] };
}

/**
 * Reads the journal. An entry without `idx` gets its position.
 *
 * @throws JOURNAL_INVALID when it cannot be read, is for another kind of database,
 * or has an entry without a tag or a time stamp.
 */
export function readJournal(folder?: string): Journal {
  const file = nameJournal(folder);
  let text: string;
  try {
    text = readFileSync(join(root, file), "utf8");
  } catch (error) {
    throw invalidJournal(file, `cannot be read: ${(error as Error).message}`);
  }
  return parseJournal(text, file);
}

/** Reads the text of a journal; throws like `readJournal`. */
export function parseJournal(text: string, file: string): Journal {
  if (text.includes("<<<<<<< "))
    throw failure(`${file} contains merge conflict markers`, {
      code: "JOURNAL_INVALID",
      hint: "keep the entries of both sides, and then run `bun run db:generate --rebase`",
    });
  let document: Journal["document"] & { dialect?: unknown };
  try {
    document = JSON.parse(text.replace(/^\uFEFF/, ""));
  } catch (error) {
    const { message } = error as Error;
    throw invalidJournal(file, `cannot be read: ${message}`);
  }
  const { dialect = "postgresql", entries } = document ?? {};
  if (!/^(postgresql|pg)$/.test(String(dialect)))
    throw invalidJournal(file, `is for ${dialect}`);
  if (!Array.isArray(entries)) throw invalidJournal(file, "has no entries");
  const read = entries.map((entry: Partial<JournalEntry> | null, index) => {
    const { tag, when, idx } = entry ?? {};
    if (typeof tag !== "string" || typeof when !== "number")
      throw invalidJournal(file, "has an entry without a tag or a stamp");
    return { tag, when, idx: typeof idx === "number" ? idx : index };
  });
  return { text, entries: read, document };
}

function invalidJournal(file: string, reason: string): Error {
  return failure(`${file} ${reason}`, {
    code: "JOURNAL_INVALID",
    hint: `restore it from git: \`git log --all -- ${file}\` lists its commits; or make it with \`bun run db:generate\``,
  });
}

/**
 * Reads the journal and every file that it names.
 *
 * @throws like `readJournal`; also when a tag is repeated or a file is missing.
 */
export function readMigrations(
  folder = readProject().migrationsFolder,
): Migration[] {
  const folders = listFolders(folder);
  if (folders.length > 0) return readFolders(folder, folders);
  const tags = new Set<string>();
  return readJournal(folder).entries.map((entry) => {
    const { tag } = entry;
    if (tags.has(tag))
      throw invalidJournal(nameJournal(folder), `has the tag ${tag} twice`);
    tags.add(tag);
    const file = relative(root, join(folder, `${tag}.sql`));
    return { ...entry, file, ...readMigrationFile(file, tag) };
  });
}

/** Reads the migrations in the layout of drizzle-kit 1.0. */
function readFolders(folder: string, names: string[]): Migration[] {
  return names.map((tag, idx) => {
    const file = relative(root, join(folder, tag, "migration.sql"));
    const when = readStamp(tag);
    return { tag, idx, when, file, ...readMigrationFile(file, tag) };
  });
}

function readMigrationFile(file: string, tag: string) {
  try {
    const bytes = readFileSync(join(root, file));
    const text = bytes.toString("utf8");
    return { text, hash: hashText(isUtf8(bytes) ? bytes : text) };
  } catch {
    throw failure(`${file} is missing, and the journal names it`, {
      code: "FILE_MISSING",
      hint: `restore it from git: \`git log --all -- ${file}\` lists its commits`,
      details: { tag, file },
    });
  }
}

/**
 * Refuses a file that is not in UTF-8: running it would corrupt its text.
 *
 * @throws with the place of the first wrong byte.
 */
export function refuseOtherEncoding({
  tag,
  file,
  text,
}: Pick<Migration, "tag" | "file" | "text">): void {
  if (!/[\uFFFD\0]/.test(text)) return;
  const bytes = readFileSync(join(root, file));
  for (let line = 1, start = 0; start < bytes.length; line += 1) {
    const end = bytes.indexOf("\n", start);
    const part = bytes.subarray(start, end === -1 ? bytes.length : end + 1);
    start += part.length;
    const hasNul = part.includes(0); // ASCII text in UTF-16 has them
    if (isUtf8(part) && !hasNul) continue;
    const column = part.toString("utf8").search(/[\uFFFD\0]/) + 1;
    const encoding = hasNul ? "utf-16" : "latin1";
    const what = isUtf8(part) ? "contains a NUL character" : "is not in UTF-8";
    throw failure(`${file} ${what}`, {
      code: "NOT_UTF8",
      lines: [`  at ${file}:${line}:${column}`],
      hint: `save it in UTF-8; \`iconv -f ${encoding} -t utf-8 ${file}\` prints it in UTF-8`,
      details: { tag, file, line, column },
    });
  }
}

/** Returns the path of the migrations' folder, from the project's root. */
export function nameFolder(folder = readProject().migrationsFolder): string {
  return relative(root, folder);
}

/** Returns the path of the journal, from the project's root. */
export function nameJournal(folder?: string): string {
  return join(nameFolder(folder), "meta/_journal.json");
}

/** Returns the path of a migration's SQL, from the project's root. */
export function nameUpFile(tag: string): string {
  const file = isInFolder(tag) ? `${tag}/migration.sql` : `${tag}.sql`;
  return join(nameFolder(), file);
}

/** Returns the path of a migration's down file, from the project's root. */
export function nameDownFile(tag: string): string {
  const file = isInFolder(tag) ? `${tag}/down.sql` : `${tag}.down.sql`;
  return join(nameFolder(), file);
}

function isInFolder(tag: string): boolean {
  return existsSync(join(root, nameFolder(), tag, "migration.sql"));
}

/** Returns the sha256 in hex, as drizzle-orm hashes a file. */
export function hashText(text: string | Uint8Array): string {
  return createHash("sha256").update(text).digest("hex");
}
