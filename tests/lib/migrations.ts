import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Sql } from "postgres";
import { readMigrations } from "../../scripts/migrations/journal";
import { fixture, type Project } from "./project";

/** Where a project has its migrations. */
export const migrations = "src/infrastructure/database/migrations";

/** The fixture's migrations, and the newest of their tags. */
export const ownMigrations = readMigrations(join(fixture, migrations));
export const ownHead = ownMigrations.at(-1)?.tag ?? "";

/**
 * Gives a project these migrations and no others.
 *
 * @param files the text of each, by its tag; `<tag>.down` is a down file.
 * @param when the stamp of each.
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

/** What drizzle's table holds, oldest first. */
export async function listRecords(sql: Sql) {
  return await sql`
    select hash, created_at::float8 as when
    from drizzle.__drizzle_migrations order by id`;
}
