// Writes a migration into drizzle-kit's folder: first its snapshot and its SQL, then
// the journal. Until the journal is written, the migration does not count.
import {
  existsSync,
  mkdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { root } from "../../src/env";
import { readProject } from "../../src/project";
import { failure, refusal } from "../lib/report";
import {
  type Migration,
  nameDownFile,
  nameJournal,
  nameUpFile,
  readJournal,
} from "../migrations/journal";
import { nameSnapshotFile, type Snapshot } from "./snapshots";

/** Paths from the project's root. */
export interface WrittenMigration {
  tag: string;
  file: string;
  down: string | null;
}

/**
 * Adds a migration after those of `base`; the journal then has only these.
 *
 * @param title the part of its tag after the number.
 * @param read the migrations of the journal, whose files may be overwritten.
 * @throws with exit code 2 when another file is in the way.
 */
export function writeMigration(
  base: Migration[],
  title: string,
  parts: { text: string; down?: string; snapshot: Snapshot },
  read = base,
): WrittenMigration {
  // Always later than the others: drizzle's own migrator skips earlier time stamps.
  // One second apart, because `drizzle-kit up` of 1.0 orders them by seconds.
  const when = Math.max(Date.now(), ...base.map((m) => m.when + 1000));
  const idx = Math.max(-1, ...base.map((migration) => migration.idx)) + 1;
  const words = title.replace(/[^\p{L}\p{N}_-]+/gu, "_").slice(0, 100);
  const tag = `${nameNext(base, idx, when)}_${words}`;
  const file = nameUpFile(tag);
  const { breakpoints } = readProject();
  requireFree([file, nameDownFile(tag), nameSnapshotFile(tag)], read);
  writeSnapshot(tag, parts.snapshot);
  write(file, parts.text);
  if (parts.down !== undefined) writeDownFile(tag, parts.down);
  writeJournal(base, { idx, version: "7", when, tag, breakpoints });
  return {
    tag,
    file,
    down: parts.down === undefined ? null : nameDownFile(tag),
  };
}

/** Returns a name such as `alter_users`, from the first statement. */
export function nameAfter(statements: string[]): string {
  const [, verb = "change", object = "schema"] =
    statements
      .map((text) => /^(\w+) [^"']*(?:"public"\.)?"([^"]+)"/.exec(text))
      .find((found) => found !== null) ?? [];
  return `${verb.toLowerCase()}_${object}`;
}

/** @throws with exit code 2 when a file exists that the journal does not name, or the
 * journal has a migration that was not read. */
function requireFree(files: string[], read: Migration[]): void {
  const own = read.flatMap(({ tag }) => [
    nameUpFile(tag),
    nameDownFile(tag),
    nameSnapshotFile(tag),
  ]);
  const taken = files.find(
    (file) => !own.includes(file) && existsSync(join(root, file)),
  );
  if (taken)
    throw refusal(
      `${taken} already exists, and ${nameJournal()} does not name it`,
      {
        code: "FILE_EXISTS",
        hint: `restore the journal from git, or remove \`${taken}\``,
      },
    );
  const known = new Set(read.map(({ tag }) => tag));
  const other = readDocument().entries.find(({ tag }) => !known.has(tag));
  if (other)
    throw refusal(
      `${nameJournal()} has ${other.tag}, which was not there before`,
      {
        code: "FILE_EXISTS",
        hint: "run the command again",
      },
    );
}

function readDocument(): { entries: { tag: string }[] } {
  if (existsSync(join(root, nameJournal()))) return readJournal().document;
  const start = { version: "7", dialect: "postgresql", entries: [] };
  return start;
}

/** Writes the journal with the entries of these migrations, and a new entry. */
export function writeJournal(base: Migration[], entry?: object): void {
  const journal = readDocument();
  const tags = new Set(base.map(({ tag }) => tag));
  const kept = journal.entries.filter(({ tag }) => tags.has(tag));
  const entries = entry ? [...kept, entry] : kept;
  write(nameJournal(), JSON.stringify({ ...journal, entries }, null, 2));
}

/** Removes the files of a migration that the journal no longer has. */
export function removeFiles(tag: string, isSnapshotShared: boolean): void {
  const files = [nameUpFile(tag), nameDownFile(tag)];
  if (!isSnapshotShared) files.push(nameSnapshotFile(tag));
  for (const file of files) rmSync(join(root, file), { force: true });
}

export function writeSnapshot(tag: string, snapshot: Snapshot): void {
  write(nameSnapshotFile(tag), JSON.stringify(snapshot, null, 2));
}

export function writeDownFile(tag: string, text: string): void {
  write(nameDownFile(tag), text);
}

/** Returns the prefix of a new tag: the next number, or the time when the newest tag
 * begins with a time or drizzle.config.ts asks for it. */
function nameNext(base: Migration[], idx: number, when: number): string {
  const newest = base.at(-1)?.tag ?? "";
  const { prefix } = readProject();
  if (prefix === "none") return "";
  if (prefix === "unix") return String(Math.floor(when / 1000));
  if (prefix !== "index" || /^\d{14}_/.test(newest))
    return new Date(when).toISOString().replace(/\D/g, "").slice(0, 14);
  const numbers = base.map(({ tag }) => /^(\d+)_/.exec(tag)?.[1] ?? "-1");
  return String(Math.max(idx, ...numbers.map((n) => Number(n) + 1))).padStart(
    4,
    "0",
  );
}

/** Writes a file completely or not at all, even when it is interrupted. */
function write(file: string, text: string): void {
  const path = join(root, file);
  mkdirSync(dirname(path), { recursive: true });
  try {
    writeFileSync(`${path}.partial`, text);
    renameSync(`${path}.partial`, path);
  } catch (error) {
    rmSync(`${path}.partial`, { force: true });
    throw failure(`${file} cannot be written: ${(error as Error).message}`);
  }
}
