// Makes a backup: dumps in one snapshot, reads the archive back to its end, counts
// its rows, and only then gives it its name.
import { existsSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import type { Env } from "../../src/env";
import { openConnection, liftTimeouts } from "../lib/connection";
import { onInterrupt } from "../lib/interrupt";
import { failure, withProgress } from "../lib/report";
import {
  findPostgresTools,
  type PostgresTool,
} from "../server/client-programs";
import {
  type CopiedRows,
  countArchived,
  dumpDatabase,
  hashFile,
  nameCopied,
} from "./archive";
import { type CountedTable, listTables, type RowCounts } from "./count-rows";
import {
  discard,
  formatBytes,
  type Manifest,
  namePartial,
  openFolder,
  publish,
} from "./folder";
import { requireReadable } from "./obstacles";

/** How long a dump waits for a locked table. */
const LOCK_TIMEOUT_MS = 60_000;

/**
 * Backs up the database of `env.direct` into `env.backupDir`.
 *
 * @param readHead returns the tag of the newest applied migration, or null.
 * @returns the archive's path, and its manifest.
 * @throws when it cannot be made or verified, and then leaves no file; with exit
 * code 2 when the folder cannot be used.
 */
export async function makeBackup(
  env: Env,
  readHead: (sql: Sql) => Promise<string | null>,
): Promise<{ path: string; manifest: Manifest }> {
  const { direct: address, backupDir: folder } = env;
  const { database } = address;
  const start = performance.now();
  openFolder(folder);
  const { tools, serverVersion } = await findPostgresTools(
    ["pg_dump", "pg_restore"],
    env,
    "prefer-primary",
  );
  const createdAt = new Date().toISOString();
  const path = nameArchive(folder, database, createdAt);
  const partial = namePartial(path);
  const forget = onInterrupt(async () => discard(path), "No backup was made");
  try {
    const { systemIdentifier, head, tables } = await withProgress(
      () => `dumping, ${formatBytes(sizeOf(partial))}`,
      () => dump(address, tools.pg_dump, partial, readHead),
    );
    const [sha256, copied] = await withProgress(
      () => `reading ${formatBytes(sizeOf(partial))} back`,
      () =>
        Promise.all([
          hashFile(partial),
          countArchived(tools.pg_restore, partial),
        ]),
    );
    const manifest: Manifest = {
      file: basename(path),
      database,
      createdAt,
      bytes: sizeOf(partial),
      sha256,
      systemIdentifier,
      head,
      serverVersion,
      tables: sumRows(copied, tables),
      verified: true,
      ms: Math.round(performance.now() - start),
    };
    publish(path, manifest);
    return { path, manifest };
  } catch (error) {
    discard(path);
    throw error;
  } finally {
    forget();
  }
}

/** Dumps, and reads the fields of the manifest in the same snapshot. */
async function dump(
  address: DatabaseAddress,
  pgDump: PostgresTool,
  partial: string,
  readHead: (sql: Sql) => Promise<string | null>,
) {
  await using sql = await openConnection(
    address,
    "db:backup",
    "prefer-primary",
  );
  await sql.unsafe(liftTimeouts);
  await sql.unsafe("begin isolation level repeatable read, read only");
  const [row] = await sql<{ snapshot: string; systemIdentifier: string }[]>`
    select pg_export_snapshot() as snapshot,
      system_identifier::text as "systemIdentifier" from pg_control_system()`;
  const { snapshot = "", systemIdentifier = "" } = row ?? {};
  await requireReadable(sql);
  const tables = await listTables(sql);
  // The savepoint keeps the snapshot after an error.
  await sql.unsafe("savepoint head");
  const head = await readHead(sql);
  const application = `pg_dump ${crypto.randomUUID()}`;
  const forget = onInterrupt(() => endSession(address, application));
  await dumpDatabase(
    pgDump,
    address,
    snapshot,
    application,
    LOCK_TIMEOUT_MS,
    partial,
  ).finally(forget);
  return { systemIdentifier, head, tables };
}

/** Ends pg_dump's session: no signal reaches a program in a container. */
async function endSession(
  address: DatabaseAddress,
  application: string,
): Promise<void> {
  await using sql = await openConnection(
    address,
    "db:backup",
    "prefer-primary",
  );
  await sql`
    select pg_terminate_backend(pid) from pg_stat_activity
    where application_name = ${application}`;
}

/**
 * Returns the number of rows in the archive, by table.
 *
 * @throws when one of the tables is not in it.
 */
function sumRows(copied: CopiedRows, tables: CountedTable[]): RowCounts {
  const rows: RowCounts = Object.create(null);
  const found = new Set<string>();
  for (const { schema, table, name } of tables) {
    const count = copied.get(nameCopied(schema, table));
    if (count !== undefined) found.add(name);
    rows[name] = (rows[name] ?? 0) + (count ?? 0);
  }
  const lost = tables.find(
    ({ name, source }) => source !== null && !found.has(name),
  );
  if (lost) throw failure(`${lost.name} is missing from the archive`);
  return rows;
}

/** Names an archive to the microsecond, so that two at once have two names. */
function nameArchive(
  folder: string,
  database: string,
  createdAt: string,
): string {
  const micros = Math.trunc((performance.now() % 1) * 1000);
  const stamp = `${createdAt.replace(/\D/g, "")}${String(micros).padStart(3, "0")}`;
  const time = stamp.replace(/^(.{8})/, "$1T");
  const name = database.replace(/[^\w-]/g, "_");
  for (let count = 0; ; count += 1) {
    const suffix = count === 0 ? "" : `-${count}`;
    const path = join(folder, `${name}_${time}Z${suffix}.dump`);
    if (!existsSync(path)) return path;
  }
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}
