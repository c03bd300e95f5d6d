// Reads the layout of drizzle-kit 1.0: no journal, and a folder for each migration.
// Its name begins with a time; it has migration.sql, snapshot.json and our down.sql.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

const FOLDER = /^\d{14}_/;

/** Returns the names of the folders in their order; none when there is a journal. */
export function listFolders(migrations: string): string[] {
  if (existsSync(join(migrations, "meta/_journal.json"))) return [];
  if (!existsSync(migrations)) return [];
  return readdirSync(migrations)
    .filter((name) => FOLDER.test(name))
    .filter((name) => existsSync(join(migrations, name, "migration.sql")))
    .sort((one, other) => one.localeCompare(other)); // as drizzle-orm does
}

/** Returns the time at the start of a folder's name, in milliseconds. */
export function readStamp(name: string): number {
  const [year = 0, month = 1, ...rest] = [4, 6, 8, 10, 12, 14].map((end) =>
    Number(name.slice(end === 4 ? 0 : end - 2, end)),
  );
  return Date.UTC(year, month - 1, ...rest);
}

/**
 * Returns the name of the folder that `drizzle-kit up` creates for a migration.
 * drizzle-orm 1.0 finds the record of a migration by this name.
 */
export function nameInFolders({
  tag,
  when,
}: {
  tag: string;
  when: number;
}): string {
  if (FOLDER.test(tag) && readStamp(tag) === when) return tag;
  const stamp = new Date(when).toISOString().replace(/\D/g, "").slice(0, 14);
  return `${stamp}_${tag.split("_").slice(1).join("_")}`;
}

/** Lists the down files that `drizzle-kit up` did not move, and where they belong. */
export function findLeftDownFiles(
  migrations: string,
): { tag: string; from: string; to: string }[] {
  const folders = listFolders(migrations);
  if (folders.length === 0) return [];
  return readdirSync(migrations)
    .filter((name) => name.endsWith(".down.sql"))
    .sort()
    .flatMap((name) => {
      const title = name.replace(/^[^_]*_|\.down\.sql$/g, "");
      const [tag, ...others] = folders.filter(
        (folder) => folder.slice(15) === title,
      );
      return tag && others.length === 0
        ? [{ tag, from: name, to: join(tag, "down.sql") }]
        : [];
    });
}
