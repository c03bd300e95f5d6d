import { expect } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Sql } from "postgres";
import type { Outcome } from "./command";
import { type State, type TestDatabase, testDatabase } from "./database";
import { copyProject, type Project } from "./project";

/** What a test is given: a database and a copy of the project of its own. */
export interface Given {
  database: TestDatabase;
  sql: Sql;
  project: Project;
  run(command: string, variables?: Record<string, string>): Promise<Outcome>;
  /** Replaces a piece of schema.ts. */
  change(from: string, to: string): void;
  /** A file of the copy, by its path. */
  read(file: string): string;
}

/** Where the copy has its migrations. */
export const migrations = "src/infrastructure/database/migrations";

const schemaFile = "src/infrastructure/database/schema.ts";

/** A line of schema.ts, and what puts a column or two beside it. */
export const image = 'image: text("image"),';
export const fixture = 'image: text("image"),\n    fixture: text("fixture"),';

/** A test with a database in that state, and a copy of the project. */
export function testSchema(
  sentence: string,
  state: State,
  body: (given: Given) => Promise<void>,
): void {
  testDatabase(sentence, state, async (database) => {
    using project = copyProject();
    const { sql } = database;
    const run: Given["run"] = (command, variables) =>
      database.run(command, variables, project.folder);
    const read: Given["read"] = (file) =>
      readFileSync(join(project.folder, file), "utf8");
    const change: Given["change"] = (from, to) => {
      const text = read(schemaFile);
      expect(text).toContain(from);
      project.write(schemaFile, text.replace(from, to));
    };
    await body({ database, sql, project, run, change, read });
  });
}

/** The names of the copy's SQL files. */
export function listMigrations({ folder }: Project): string[] {
  return readdirSync(join(folder, migrations))
    .filter((file) => file.endsWith(".sql"))
    .sort();
}
