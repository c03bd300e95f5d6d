import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Sql } from "postgres";
import { nameFolder, readMigrations } from "../../scripts/migrations/journal";
import type { Outcome } from "./command";
import { type TestDatabase, testDatabase } from "./database";
import { copyProject, type Project } from "./project";

/** The project's own migrations, and the newest of their tags. */
export const ownMigrations = readMigrations();
export const ownHead = ownMigrations.at(-1)?.tag ?? "";

const folder = nameFolder();

/** What a test is given: a database and a copy of the project of its own. */
export interface Given {
  database: TestDatabase;
  sql: Sql;
  project: Project;
  run(command: string, variables?: Record<string, string>): Promise<Outcome>;
}

/** A test on an empty database, with a copy of the project. */
export function testMigrations(
  sentence: string,
  body: (given: Given) => Promise<void>,
): void {
  testDatabase(sentence, "empty", async (database) => {
    using project = copyProject();
    const { sql } = database;
    const run: Given["run"] = (command, variables) =>
      database.run(command, variables, project.folder);
    await body({ database, sql, project, run });
  });
}

/**
 * Gives the copy these migrations and no others.
 *
 * @param files the text of each, by its tag; `<tag>.down` is a down file.
 * @param when the stamp of each.
 */
export function writeMigrations(
  project: Project,
  files: Record<string, string>,
  when = (index: number) => 2_000_000_000_000 + index,
): void {
  rmSync(join(project.folder, folder), { recursive: true });
  for (const [tag, text] of Object.entries(files))
    project.write(`${folder}/${tag}.sql`, text);
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
  project.write(`${folder}/meta/_journal.json`, JSON.stringify(journal));
}

/** What drizzle's table holds, oldest first. */
export async function listRecords(sql: Sql) {
  return await sql`
    select hash, created_at::float8 as when
    from drizzle.__drizzle_migrations order by id`;
}
