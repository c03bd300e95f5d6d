// The `test` function for backups, and what their tests ask of a server. They need
// pg_dump as new as the server: where there is none, a server of this machine's own.
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
import {
  findPostgresTools,
  type PostgresTool,
} from "../../scripts/server/client-programs";
import type { DatabaseAddress } from "../../src/database-url";
import { readEnv } from "../../src/env";
import { openDatabase, type State, type TestDatabase } from "./database";
import { startInstalled } from "./installed-server";
import { oneOf } from "./sample";
import { testOn } from "./test";

/** What a test of backups is given. */
export interface Given extends TestDatabase {
  folder: string;
  /** The archives that are there. */
  list(): string[];
}

interface Programs {
  tools?: Record<"pg_dump" | "pg_restore", PostgresTool>;
  /** The server for the tests of backups, where it is not that of the other tests. */
  server?: DatabaseAddress;
  /** Why there are none. */
  missing?: string;
}

const { tools, server, missing } = await findPrograms();
if (missing) console.warn(`Left out: backups, for ${missing}`);

export const isInContainer = tools?.pg_dump.command[0] === "docker";

/** pg_restore, in tests that are run only where there is one. */
export const pgRestore = tools?.pg_restore as PostgresTool;

async function findPrograms(server?: DatabaseAddress): Promise<Programs> {
  const env = readEnv();
  try {
    const { tools } = await findPostgresTools(["pg_dump", "pg_restore"], {
      ...env,
      direct: server ?? env.direct,
    });
    return { tools, server };
  } catch (error) {
    const installed = server ? undefined : await startInstalled();
    if (installed) return await findPrograms(installed);
    return { missing: (error as Error).message };
  }
}

/** Registers a test with a folder for backups. */
export function testFolder(
  sentence: string,
  state: State,
  body: (given: Given) => Promise<void>,
): void {
  testOn(server, sentence, state, async ({ database }) => {
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

/** Registers a test that needs pg_dump and pg_restore. Each starts several programs: where
 * files are sampled, one of about three is run. */
export const testBackup = missing ? () => {} : oneOf(3, testFolder);

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
