// bun run db:backup: makes a backup and verifies it: reads the archive back to its
// end, counts its rows, and only then gives it its name. Exits 1 when that fails,
// and leaves no file; 3 when --verify or --drill finds a bad one. Needs pg_dump and
// pg_restore.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../src/database-url";
import { readEnv } from "../src/env";
import { compareRows, countRows } from "./backups/count-rows";
import {
  type Backup,
  formatBytes,
  listBackups,
  locateArchive,
  type Manifest,
  recordFinding,
  removeBackup,
  verifyBackup,
} from "./backups/folder";
import { makeBackup } from "./backups/make-backup";
import { planRestore, restoreInto } from "./backups/obstacles";
import { liftTimeouts } from "./lib/connection";
import { jsonFlag, readOptions, readWhole } from "./lib/options";
import {
  announce,
  FINDINGS,
  note,
  print,
  printJson,
  refusal,
  withProgress,
} from "./lib/report";
import { withScratchDatabase } from "./lib/scratch-database";
import { readHead } from "./migrations/plan";
import {
  findArchiveReader,
  findPostgresTools,
  type PostgresTool,
} from "./server/client-programs";

const usage = `bun run db:backup [flags]

Dumps the database into the folder BACKUP_DIR, and verifies that the archive can be
read.`;

const { values } = readOptions(usage, {
  keep: {
    type: "string",
    value: "<number>",
    help: "then delete older backups, all but this many",
  },
  list: { type: "boolean", help: "list the backups" },
  verify: {
    type: "string",
    value: "<file>",
    help: "read it to its end, compare its checksum",
  },
  drill: {
    type: "string",
    value: "<file>",
    help: "restore it into a scratch database, compare its rows, print the time",
  },
  ...jsonFlag,
});
const keep =
  values.keep === undefined ? undefined : readWhole(values.keep, "--keep");
if (keep === 0) throw refusal("--keep 0 would keep none", { code: "USAGE" });
if (
  [values.list, values.verify, values.drill, values.keep].filter(
    (value) => value !== undefined,
  ).length > 1
)
  throw refusal("use only one of --keep, --list, --verify and --drill", {
    code: "USAGE",
  });

if (values.verify === "" || values.drill === "")
  throw refusal("--verify and --drill take an archive", { code: "USAGE" });

const env = readEnv();
const { direct: address, backupDir: folder } = env;
if (values.list) list();
else if (values.verify !== undefined)
  await verify(locateArchive(folder, values.verify));
else if (values.drill !== undefined)
  await drill(locateArchive(folder, values.drill));
else await backUp();

async function backUp(): Promise<void> {
  const { path, manifest } = await makeBackup(env, readHead);
  const { bytes, sha256, head, serverVersion, tables, verified, ms } = manifest;
  print(`Backed up: ${path} (${formatBytes(bytes)}, ${ms} ms)`);
  if (keep !== undefined) prune(keep, manifest);
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

/** Deletes older backups of this database; never a file without a manifest. */
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
  const { tools, serverVersion } = await findPostgresTools(
    ["pg_restore", "psql"],
    env,
  );
  const { pg_restore: restore, psql } = tools;
  const { isWhole, manifest, document } = await examine(path, restore);
  if (!isWhole) return printJson(document);
  const work = async (sql: Sql, scratch: DatabaseAddress) => {
    await sql.unsafe(liftTimeouts);
    // Without owners: the scratch database is dropped anyway.
    const options = await planRestore(restore, psql, path, sql, true);
    const start = performance.now();
    await withProgress(
      () => `restoring into ${scratch.database}`,
      () => restoreInto(sql, restore, path, scratch, options, serverVersion),
    ).catch((error: Error & { code?: string }) => {
      if (manifest && error.code === "FAILED")
        recordFinding(path, { ...manifest, drill: "failed" });
      throw error;
    });
    const ms = Math.round(performance.now() - start);
    return { tables: await countRows(sql), ms };
  };
  const { tables, ms } = await withScratchDatabase(address, "db:backup", work);
  const differences = manifest ? compareRows(manifest.tables, tables) : [];
  for (const difference of differences) print(`Bad: ${path}: ${difference}`);
  const drill = differences.length > 0 ? "failed" : "passed";
  if (manifest) recordFinding(path, { ...manifest, drill });
  if (differences.length > 0) process.exitCode = FINDINGS;
  else
    print(
      `Drilled: ${path}, restored in ${ms} ms (${Object.keys(tables).length} tables)`,
    );
  if (!manifest) note("It has no manifest: its rows could not be compared");
  printJson({ ...document, tables, verified: differences.length === 0, ms });
}

/** Verifies an archive; prints what is wrong, and sets the exit code for findings. */
async function examine(path: string, restore: PostgresTool) {
  const { bytes, sha256, manifest, problem } = await verifyBackup(
    restore,
    path,
  );
  const isWhole = problem === undefined;
  if (manifest && manifest.verified !== isWhole)
    recordFinding(path, { ...manifest, verified: isWhole });
  const head = manifest?.head ?? null;
  const document = { file: path, bytes, sha256, head, verified: isWhole };
  if (isWhole) return { isWhole, manifest, document };
  process.exitCode = FINDINGS;
  print(`Bad: ${path}: ${problem}`);
  return { isWhole, manifest, document: { ...document, problem } };
}

function formatAge(ms: number): string {
  const minutes = Math.round(ms / 60_000);
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} days`;
}
