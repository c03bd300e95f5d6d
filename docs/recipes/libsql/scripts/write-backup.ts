// Copies the database's file while it is in use, as it is at one moment.
// https://www.sqlite.org/lang_vacuum.html#vacuuminto
import { mkdirSync, renameSync } from "node:fs";
import { basename } from "node:path";
import { createClient } from "@libsql/client";
import { client } from "../src/database";

/**
 * Writes a backup into the folder `backups`, for nobody else to read, and reads it
 * back. It gets its name once it was found to be whole.
 *
 * @returns its path.
 */
export async function writeBackup(file: string): Promise<string> {
  process.umask(0o077);
  mkdirSync("backups", { recursive: true });
  const now = new Date().toISOString().replace(/[-:.]/g, "");
  const path = `backups/${basename(file, ".db")}_${now}.db`;
  await client.execute({ sql: "vacuum into ?", args: [`${path}.partial`] });
  const copy = createClient({ url: `file:${path}.partial` });
  const { rows } = await copy.execute("pragma integrity_check");
  copy.close();
  if (rows[0]?.integrity_check !== "ok")
    throw new Error(`${path}.partial is damaged: ${JSON.stringify(rows)}`);
  renameSync(`${path}.partial`, path);
  return path;
}
