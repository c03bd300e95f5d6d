import { readdirSync } from "node:fs";
import { join } from "node:path";
import { migrations } from "./migrations";
import type { Project } from "./project";

/** The path of a project's schema. */
export const schemaFile = "src/infrastructure/database/schema.ts";

/** A line of schema.ts, and a way to add a column after it. */
export const image = 'image: text("image"),';
export const fixture = 'image: text("image"),\n    fixture: text("fixture"),';

/** Lists the names of a project's SQL files. */
export function listMigrations({ folder }: Project): string[] {
  return readdirSync(join(folder, migrations))
    .filter((file) => file.endsWith(".sql"))
    .sort();
}
