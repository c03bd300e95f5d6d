// bun run db:backup: a backup that is proven: read back to its end, its rows
// counted from what comes out of it, and only then given its name. Exits 1 when
// that fails, and leaves nothing; 3 where --verify or --drill finds a bad one.
// Needs pg_dump and pg_restore.
import { existsSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import type { Sql } from "postgres";
import { readEnv } from "../src/env";
import {
  type CopiedRows,
  countArchived,
  dumpDatabase,
  hashFile,
  nameCopied,
  restoreArchive,
} from "./lib/archives";
import {
  type Backup,
  listBackups,
  locateArchive,
  type Manifest,
  discard,
  namePartial,
  openFolder,
  publish,
  recordVerified,
  removeBackup,
  verifyBackup,
} from "./lib/backups";
import { openConnection, patient } from "./lib/connection";
import {
  compareRows,
  type CountedTable,
  countRows,
  listTables,
  type RowCounts,
} from "./lib/count-rows";
import { tryReadPlan } from "./lib/migrations";
import {
  findArchiveReader,
  findPostgresTools,
  type PostgresTool,
} from "./lib/postgres-tools";
import {
  announce,
  failure,
  FINDINGS,
  note,
  onInterrupt,
  print,
  printJson,
  readOptions,
  readWhole,
  refusal,
  withProgress,
} from "./lib/report";
import { withScratchDatabase } from "./lib/scratch-database";

const usage = `bun run db:backup [flags]

Dumps the database into the folder of BACKUP_DIR, and proves that it can be read.
  --keep <number>   then delete older ones, but for this many
  --list            the backups that are there
  --verify <file>   is it whole?
  --drill <file>    restore it into a scratch database, compare, say how long
  --json            one JSON document on stdout`;

const { values } = readOptions(usage, {
  options: {
    keep: { type: "string" },
    list: { type: "boolean" },
    verify: { type: "string" },
    drill: { type: "string" },
    json: { type: "boolean" },
  },
});
const keep =
  values.keep === undefined ? undefined : readWhole(values.keep, "--keep");
if (keep === 0) throw refusal("--keep 0 would keep none", { code: "USAGE" });
if (
  [values.list, values.verify, values.drill, values.keep].filter(
    (value) => value !== undefined,
  ).length > 1
)
  throw refusal("--keep, --list, --verify and --drill are for one at a time", {
    code: "USAGE",
  });

const recordsTable = "drizzle.__drizzle_migrations";
/** How long a dump waits for a table that somebody has locked. */
const LOCK_TIMEOUT_MS = 60_000;

const env = readEnv();
const { direct: address, backupDir: folder } = env;
if (values.list) list();
else if (values.verify !== undefined)
  await verify(locateArchive(folder, values.verify));
else if (values.drill !== undefined)
  await drill(locateArchive(folder, values.drill));
else await backUp();

async function backUp(): Promise<void> {
  const start = performance.now();
  openFolder(folder);
  const { tools, serverVersion } = await findPostgresTools(
    ["pg_dump", "pg_restore"],
    env,
  );
  const createdAt = new Date().toISOString();
  const path = nameArchive(createdAt);
  const partial = namePartial(path);
  const forget = onInterrupt(async () => discard(path), "No backup was made");
  let manifest: Manifest;
  try {
    const { systemIdentifier, head, tables } = await withProgress(
      () => `dumping, ${formatBytes(sizeOf(partial))}`,
      () => dump(tools.pg_dump, partial),
    );
    const [sha256, copied] = await withProgress(
      () => `reading ${formatBytes(sizeOf(partial))} back`,
      () =>
        Promise.all([
          hashFile(partial),
          countArchived(tools.pg_restore, partial),
        ]),
    );
    manifest = {
      file: basename(path),
      database: address.database,
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
  } catch (error) {
    discard(path);
    throw error;
  } finally {
    forget();
  }
  print(
    `Backed up: ${path} (${formatBytes(manifest.bytes)}, ${manifest.ms} ms)`,
  );
  if (keep !== undefined) prune(keep, manifest);
  const { bytes, sha256, head, tables, verified, ms } = manifest;
  printJson({
    file: path,
    bytes,
    sha256,
    head,
    serverVersion,
    tables,
    verified,
    ms,
  });
}

/** Dumps, and reads in the same snapshot what the manifest tells of it. */
async function dump(pgDump: PostgresTool, partial: string) {
  const sql = await openConnection(address, "db:backup");
  try {
    await sql.unsafe(patient);
    await sql.unsafe("begin isolation level repeatable read, read only");
    const [row] = await sql<{ snapshot: string; systemIdentifier: string }[]>`
      select pg_export_snapshot() as snapshot,
        system_identifier::text as "systemIdentifier" from pg_control_system()`;
    const { snapshot = "", systemIdentifier = "" } = row ?? {};
    const tables = await listTables(sql);
    const hasRecords = tables.some(({ name }) => name === recordsTable);
    // An error would end the snapshot, and a lock would be held all the time.
    await sql.unsafe("savepoint head");
    const plan = hasRecords ? await tryReadPlan(sql) : undefined;
    await sql.unsafe("rollback to savepoint head");
    const head = plan?.head?.tag ?? null;
    const application = `pg_dump ${crypto.randomUUID()}`;
    const forget = onInterrupt(() => endSession(application));
    await dumpDatabase(
      pgDump,
      address,
      snapshot,
      application,
      LOCK_TIMEOUT_MS,
      partial,
    ).finally(forget);
    return { systemIdentifier, head, tables };
  } finally {
    await sql.end({ timeout: 5 });
  }
}

/** No signal reaches a program in a container: its session is ended instead. */
async function endSession(application: string): Promise<void> {
  const sql = await openConnection(address, "db:backup");
  try {
    await sql`
      select pg_terminate_backend(pid) from pg_stat_activity
      where application_name = ${application}`;
  } finally {
    await sql.end({ timeout: 5 });
  }
}

/**
 * The rows in the archive, by table.
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
  if (lost) throw failure(`${lost.name} is not in what pg_dump has written`);
  return rows;
}

/** To the microsecond, so that two at once get two names. */
function nameArchive(createdAt: string): string {
  const micros = Math.trunc((performance.now() % 1) * 1000);
  const stamp = `${createdAt.replace(/\D/g, "")}${String(micros).padStart(3, "0")}`;
  const time = stamp.replace(/^(.{8})/, "$1T");
  const name = address.database.replace(/[^\w-]/g, "_");
  for (let count = 0; ; count += 1) {
    const suffix = count === 0 ? "" : `-${count}`;
    const path = join(folder, `${name}_${time}Z${suffix}.dump`);
    if (!existsSync(path)) return path;
  }
}

/** Older ones of this database; one without a manifest is not ours to delete. */
function prune(count: number, made: Manifest): void {
  const own = listBackups(folder).filter(
    ({ database, systemIdentifier }) =>
      database === made.database && systemIdentifier === made.systemIdentifier,
  );
  const newestVerified = own.find(({ verified }) => verified);
  for (const backup of own.slice(count)) {
    if (backup === newestVerified || backup.file === made.file) continue;
    removeBackup(folder, backup.file);
    announce(`Deleted: ${backup.file}`);
  }
}

function list(): void {
  const backups = listBackups(folder);
  for (const backup of backups) print(describe(backup));
  if (backups.length === 0) print(`No backups: ${folder}`);
  printJson({ backups });
}

function describe(backup: Backup): string {
  const { file, bytes, createdAt, head, verified } = backup;
  return [
    file,
    formatBytes(bytes).padStart(9),
    formatAge(Date.now() - Date.parse(createdAt)).padStart(7),
    head ?? "no migration",
    verified ? "verified" : "not verified",
  ].join("  ");
}

async function verify(path: string): Promise<void> {
  const start = performance.now();
  const examined = await examine(path, await findArchiveReader(env));
  const { manifest } = examined;
  if (examined.isWhole) {
    print(manifest ? `Verified: ${path}` : `Read: ${path}, to its end`);
    if (!manifest)
      note("It has no manifest: its checksum could not be compared");
  }
  printJson({
    ...examined.document,
    serverVersion: manifest?.serverVersion ?? null,
    tables: manifest?.tables ?? null,
    ms: Math.round(performance.now() - start),
  });
}

async function drill(path: string): Promise<void> {
  const { tools: found } = await findPostgresTools(["pg_restore"], env);
  const restore = found.pg_restore;
  const { isWhole, manifest, document } = await examine(path, restore);
  if (!isWhole) return printJson(document);
  const { tables, ms } = await withScratchDatabase(
    address,
    "db:backup",
    async (sql: Sql, scratch) => {
      const start = performance.now();
      await withProgress(
        () => `restoring into ${scratch.database}`,
        () => restoreArchive(restore, path, scratch.database),
      );
      const ms = Math.round(performance.now() - start);
      await sql.unsafe(patient);
      return { tables: await countRows(sql), ms };
    },
  );
  const differences = manifest ? compareRows(manifest.tables, tables) : [];
  for (const difference of differences) print(`Bad: ${path}: ${difference}`);
  if (differences.length > 0) process.exitCode = FINDINGS;
  else
    print(
      `Drilled: ${path}, restored in ${ms} ms (tables ${Object.keys(tables).length})`,
    );
  if (!manifest) note("It has no manifest: its rows could not be compared");
  printJson({ ...document, tables, verified: differences.length === 0, ms });
}

/** Says where an archive is bad, with the exit code of a finding. */
async function examine(path: string, restore: PostgresTool) {
  const { bytes, sha256, manifest, problem } = await verifyBackup(
    restore,
    path,
  );
  const isWhole = problem === undefined;
  if (manifest && manifest.verified !== isWhole)
    try {
      recordVerified(path, { ...manifest, verified: isWhole });
    } catch (error) {
      note(`Warning: not written down: ${(error as Error).message}`);
    }
  const head = manifest?.head ?? null;
  const document = { file: path, bytes, sha256, head, verified: isWhole };
  if (isWhole) return { isWhole, manifest, document };
  process.exitCode = FINDINGS;
  print(`Bad: ${path}: ${problem}`);
  return { isWhole, manifest, document: { ...document, problem } };
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}

function formatBytes(bytes: number): string {
  return bytes < 1024 * 1024
    ? `${(bytes / 1024).toFixed(1)} kB`
    : `${(bytes / 1024 / 1024).toFixed(1)} MB`;
}

function formatAge(ms: number): string {
  const minutes = Math.round(ms / 60_000);
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} days`;
}
