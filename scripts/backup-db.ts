// bun run db:backup: a backup that is proven: read back to its end, its rows
// counted from what comes out of it, and only then given its name. Exits 1 when
// that fails, and leaves nothing; 3 where --verify or --drill finds a bad one.
// Needs pg_dump and pg_restore.
import { existsSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import type { Sql } from "postgres";
import { readEnv } from "../src/env";
import {
  dumpDatabase,
  hashFile,
  readArchive,
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
  removeBackup,
  verifyBackup,
} from "./lib/backups";
import { openConnection, patient, probe } from "./lib/connection";
import { compareRows, countRows, listTables } from "./lib/count-rows";
import { tryReadPlan } from "./lib/migrations";
import { findPostgresTool, type PostgresTool } from "./lib/postgres-tools";
import {
  FINDINGS,
  note,
  onInterrupt,
  print,
  printJson,
  readOptions,
  readWhole,
  refusal,
  showProgress,
} from "./lib/report";
import { withScratchDatabase } from "./lib/scratch-database";
import { findEngine } from "./lib/server";

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
  const tools = await findTools();
  const createdAt = new Date().toISOString();
  const path = nameArchive(createdAt);
  const partial = namePartial(path);
  const forget = onInterrupt(async () => discard(path));
  const progress = setInterval(() => {
    const bytes = existsSync(partial) ? statSync(partial).size : 0;
    showProgress(`dumping, ${formatBytes(bytes)}`);
  }, 200);
  let manifest: Manifest;
  try {
    const { names, ...contents } = await readContents();
    await dumpDatabase(tools.dump, address, LOCK_TIMEOUT_MS, partial);
    const [sha256, rows] = await Promise.all([
      hashFile(partial),
      readArchive(tools.restore, partial),
    ]);
    const own = Object.entries(rows).filter(([name]) => names.has(name));
    manifest = {
      file: basename(path),
      database: address.database,
      createdAt,
      bytes: statSync(partial).size,
      sha256,
      ...contents,
      serverVersion: tools.version,
      tables: Object.fromEntries(own),
      verified: true,
      ms: Math.round(performance.now() - start),
    };
    publish(path, manifest);
  } catch (error) {
    discard(path);
    throw error;
  } finally {
    clearInterval(progress);
    showProgress("");
    forget();
  }
  print(
    `Backed up: ${path} (${formatBytes(manifest.bytes)}, ${manifest.ms} ms)`,
  );
  if (keep !== undefined) prune(keep, manifest);
  const {
    database: _,
    systemIdentifier: __,
    createdAt: ___,
    ...document
  } = manifest;
  printJson({ ...document, file: path });
}

/** What the manifest tells besides what is read from the archive itself. */
async function readContents() {
  const sql = await openConnection(address, "db:backup");
  try {
    const [cluster] = await sql<{ systemIdentifier: string }[]>`
      select system_identifier::text as "systemIdentifier" from pg_control_system()`;
    return {
      systemIdentifier: cluster?.systemIdentifier ?? "",
      head: (await tryReadPlan(sql))?.head?.tag ?? null,
      names: await listTables(sql),
    };
  } finally {
    await sql.end({ timeout: 5 });
  }
}

/** Two in one millisecond get two names. */
function nameArchive(createdAt: string): string {
  const stamp = createdAt.replace(/[-:.]/g, "");
  const name = address.database.replace(/[^\w-]/g, "_");
  for (let count = 0; ; count += 1) {
    const suffix = count === 0 ? "" : `-${count}`;
    const path = join(folder, `${name}_${stamp}${suffix}.dump`);
    if (!existsSync(path) && !existsSync(namePartial(path))) return path;
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
    print(`Deleted: ${backup.file}`);
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
  const examined = await examine(path, await findRestore());
  const { manifest } = examined;
  if (examined.isWhole) {
    print(`Verified: ${path}`);
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
  const { restore } = await findTools();
  const { isWhole, manifest, document } = await examine(path, restore);
  if (!isWhole) return printJson(document);
  const start = performance.now();
  const { tables, ms } = await withScratchDatabase(
    address,
    "db:backup",
    async (sql: Sql, scratch) => {
      await restoreArchive(restore, path, scratch.database);
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
      `Drilled: ${path}, restored in ${ms} ms, ${Object.keys(tables).length} tables`,
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
  const head = manifest?.head ?? null;
  const document = { file: path, bytes, sha256, head, verified: isWhole };
  if (isWhole) return { isWhole, manifest, document };
  process.exitCode = FINDINGS;
  print(`Bad: ${path}: ${problem}`);
  return { isWhole, manifest, document: { ...document, problem } };
}

async function findTools() {
  const found = await probe(address);
  if (found.state !== "ready") throw found.error;
  const { version } = found;
  const engine = await findEngine(env);
  return {
    version,
    dump: findPostgresTool("pg_dump", env, address, engine, version),
    restore: findPostgresTool("pg_restore", env, address, engine, version),
  };
}

/** Reading an archive takes no server: one that is down is no obstacle. */
async function findRestore() {
  const found = await probe(address);
  const version = found.state === "ready" ? found.version : undefined;
  const engine = await findEngine(env);
  return findPostgresTool("pg_restore", env, address, engine, version);
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
