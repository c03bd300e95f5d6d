// The `test` function for backups, and what their tests ask of a server. They need
// pg_dump as new as the server.
import {
  chmodSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Sql } from "postgres";
import { findPostgresTools } from "../../scripts/server/client-programs";
import { readEnv } from "../../src/env";
import { openDatabase, type State, type TestDatabase } from "./database";
import { oneOf } from "./sample";
import { test } from "./test";

/** What a test of backups is given. */
export interface Given extends TestDatabase {
  folder: string;
  /** The archives that are there. */
  list(): string[];
}

/** pg_dump and pg_restore; why the tests of backups are left out, without them. */
export const { tools, missing } = await findPrograms();
if (missing) console.warn(`Left out: backups, for ${missing}`);

export const isInContainer = tools?.pg_dump.command[0] === "docker";

async function findPrograms() {
  try {
    const programs = ["pg_dump" as const, "pg_restore" as const];
    const { tools } = await findPostgresTools(programs, readEnv());
    return { tools };
  } catch (error) {
    return { missing: (error as Error).message };
  }
}

/** Registers a test with a folder for backups. */
export function testFolder(
  sentence: string,
  state: State,
  body: (given: Given) => Promise<void>,
): void {
  test(sentence, state, async ({ database }) => {
    const folder = mkdtempSync(join(tmpdir(), "starter-backups-"));
    chmodSync(folder, 0o755);
    const run: Given["run"] = (command, variables) =>
      database.run(command, { BACKUP_DIR: folder, ...variables });
    const start: Given["start"] = (script) =>
      database.start(script, { BACKUP_DIR: folder });
    const list = () =>
      readdirSync(folder)
        .filter((name) => name.endsWith(".dump"))
        .sort();
    try {
      await body({ ...database, run, start, folder, list });
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}

/**
 * Registers a test that needs pg_dump and pg_restore. Where they are run in a
 * container, which takes 0.2 s a time, one of about three is run.
 */
export const testBackup = missing
  ? () => {}
  : isInContainer
    ? oneOf(3, testFolder)
    : testFolder;

/** With a connection of its own, for a swap ends those that are open. */
export async function look<T>(
  { address }: TestDatabase,
  work: (sql: Sql) => Promise<T>,
  database = address.database,
): Promise<T> {
  const sql = openDatabase({ ...address, database });
  try {
    return await work(sql);
  } finally {
    await sql.end();
  }
}

export const digestOf = (bytes: string | Uint8Array) =>
  new Bun.CryptoHasher("sha256").update(bytes).digest("hex");

/** Changes the manifest of an archive, so that it is believed. */
export function rewrite(path: string, changes: Record<string, unknown>): void {
  const file = `${path}.json`;
  const { digest, ...manifest } = JSON.parse(readFileSync(file, "utf8"));
  Object.assign(manifest, changes);
  writeFileSync(
    file,
    JSON.stringify({
      ...manifest,
      digest: digestOf(JSON.stringify(manifest)),
    }),
  );
}

/** Lists this test's database and those beside it, without their common beginning. */
export async function listDatabases(given: Given): Promise<string[]> {
  const { name } = given;
  const rows = await look(
    given,
    (sql) => sql`
    select substr(datname, ${name.length + 1}) as suffix from pg_database
    where starts_with(datname, ${name}) order by 1`,
  );
  return rows.map(({ suffix }) => suffix);
}
