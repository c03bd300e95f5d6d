// Reads drizzle's journal and the files that it names. Reads only.
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { root } from "../../src/env";
import { readProject } from "../../src/project";
import { failure } from "../lib/report";
import { listFolders, readStamp } from "./folders";

/** An entry of the journal, with its file. */
export interface Migration {
  tag: string;
  idx: number;
  /** The entry's stamp, in milliseconds; a record's `created_at`. */
  when: number;
  /** The path from the project's root, for messages. */
  file: string;
  /** The whole file. */
  text: string;
  /** As drizzle-orm computes it: the file's sha256, in hex. */
  hash: string;
}

const CONFLICT = "a merge has left its conflict in it";

/**
 * Reads the journal and every file that it names.
 *
 * @throws when the journal cannot be read, names a tag twice, or names a file
 * that is not there.
 */
export function readMigrations(
  folder = readProject().migrationsFolder,
): Migration[] {
  const folders = listFolders(folder);
  if (folders.length > 0) return readFolders(folder, folders);
  const journal = nameJournal(folder);
  const invalid = (message: string) =>
    failure(message, {
      code: "JOURNAL_INVALID",
      hint: message.endsWith(CONFLICT)
        ? "keep the entries of both sides, and then `bun run db:generate --rebase`"
        : `restore \`${journal}\` from git, or make it with \`bun run db:generate\``,
    });
  let entries: ({ tag?: unknown; when?: unknown; idx?: unknown } | null)[];
  try {
    const text = readFileSync(join(root, journal), "utf8");
    if (/^<{7} /m.test(text)) throw new Error(CONFLICT);
    entries = JSON.parse(text).entries;
    if (!Array.isArray(entries)) throw new Error("it has no entries");
  } catch (error) {
    throw invalid(`${journal} cannot be read: ${(error as Error).message}`);
  }

  const tags = new Set<string>();
  return entries.map((entry, index) => {
    const { tag, when, idx } = entry ?? {};
    if (typeof tag !== "string" || typeof when !== "number")
      throw invalid(`${journal} has an entry without a tag or a stamp`);
    if (tags.has(tag)) throw invalid(`${journal} has the tag ${tag} twice`);
    tags.add(tag);
    const file = relative(root, join(folder, `${tag}.sql`));
    const text = readMigrationFile(file, tag);
    const number = typeof idx === "number" ? idx : index;
    return { tag, idx: number, when, file, text, hash: hashText(text) };
  });
}

/** The same for the layout of drizzle-kit 1.0. */
function readFolders(folder: string, names: string[]): Migration[] {
  return names.map((tag, idx) => {
    const file = relative(root, join(folder, tag, "migration.sql"));
    const text = readMigrationFile(file, tag);
    return { tag, idx, when: readStamp(tag), file, text, hash: hashText(text) };
  });
}

function readMigrationFile(file: string, tag: string): string {
  try {
    return readFileSync(join(root, file), "utf8");
  } catch {
    throw failure(`${file} is not there, and the journal names it`, {
      code: "FILE_MISSING",
      hint: `restore it from git: \`git log --all -- ${file}\` finds it`,
      details: { tag, file },
    });
  }
}

/** The folder of the migrations, from the project's root. */
export function nameFolder(folder = readProject().migrationsFolder): string {
  return relative(root, folder);
}

/** The path of the journal, from the project's root. */
export function nameJournal(folder?: string): string {
  return join(nameFolder(folder), "meta/_journal.json");
}

/** The path of a migration's SQL, from the project's root. */
export function nameUpFile(tag: string): string {
  const file = isInFolder(tag) ? `${tag}/migration.sql` : `${tag}.sql`;
  return join(nameFolder(), file);
}

/** The path of the SQL that takes a migration back, from the project's root. */
export function nameDownFile(tag: string): string {
  const file = isInFolder(tag) ? `${tag}/down.sql` : `${tag}.down.sql`;
  return join(nameFolder(), file);
}

function isInFolder(tag: string): boolean {
  return existsSync(join(root, nameFolder(), tag, "migration.sql"));
}

/** As drizzle-orm hashes a file: sha256, in hex. */
export function hashText(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
