import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Sql } from "postgres";
import { readMigrations } from "../../scripts/migrations/journal";
import { fixture, type Project } from "./project";

/** The folder of a project's migrations. */
export const migrations = "src/infrastructure/database/migrations";
export const journal = `${migrations}/meta/_journal.json`;

/** The migrations of the fixture, and their newest tag. */
export const ownMigrations = readMigrations(join(fixture, migrations));
export const ownHead = ownMigrations.at(-1)?.tag ?? "";

/**
 * Gives a project these migrations and no others.
 *
 * @param files the text of each migration by its tag; `<tag>.down` is a down file.
 * @param when the time stamp of each migration.
 */
export function writeMigrations(
  project: Project,
  files: Record<string, string>,
  when = (index: number) => 2_000_000_000_000 + index,
): void {
  rmSync(join(project.folder, migrations), { recursive: true });
  for (const [tag, text] of Object.entries(files))
    project.write(`${migrations}/${tag}.sql`, text);
  const entries = Object.keys(files)
    .filter((tag) => !tag.endsWith(".down"))
    .map((tag, idx) => ({
      idx,
      version: "7",
      when: when(idx),
      tag,
      breakpoints: true,
    }));
  const journal = { version: "7", dialect: "postgresql", entries };
  project.write(`${migrations}/meta/_journal.json`, JSON.stringify(journal));
}

/**
 * Adds a migration after the newest one, as `db:generate --custom` does, with its SQL.
 * Its snapshot is the one of the newest.
 */
export function addMigration(
  project: Project,
  tag: string,
  up: string,
  down?: string,
): void {
  const nameSnapshot = (tag: unknown) =>
    `${migrations}/meta/${String(tag).slice(0, 4)}_snapshot.json`;
  editJournal(project, (entries) => {
    const newest = entries.at(-1);
    const { id, ...same } = JSON.parse(project.read(nameSnapshot(newest?.tag)));
    const snapshot = { ...same, id: crypto.randomUUID(), prevId: id };
    project.write(nameSnapshot(tag), JSON.stringify(snapshot));
    const [idx, when] = [Number(newest?.idx) + 1, Number(newest?.when) + 1000];
    entries.push({ ...newest, idx, when, tag });
  });
  project.write(`${migrations}/${tag}.sql`, up);
  if (down !== undefined) project.write(`${migrations}/${tag}.down.sql`, down);
}

/** Changes the entries of a project's journal. */
export function editJournal(
  { read, write }: Project,
  edit: (entries: Record<string, unknown>[]) => void,
): void {
  const { entries, ...rest } = JSON.parse(read(journal));
  edit(entries);
  write(journal, JSON.stringify({ ...rest, entries }, null, 2));
}

/** Returns the rows of drizzle's table, oldest first. */
export async function listRecords(sql: Sql) {
  return await sql`
    select hash, created_at::float8 as when
    from drizzle.__drizzle_migrations order by id`;
}
