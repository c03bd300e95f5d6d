import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Sql } from "postgres";
import { readMigrations } from "../../scripts/migrations/journal";
import { fixture, type Project } from "./project";

/** The folder of a project's migrations. */
export const migrations = "src/infrastructure/database/migrations";

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

/** Returns the rows of drizzle's table, oldest first. */
export async function listRecords(sql: Sql) {
  return await sql`
    select hash, created_at::float8 as when
    from drizzle.__drizzle_migrations order by id`;
}
