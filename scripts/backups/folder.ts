// The backup folder. Each backup is an archive, with a manifest beside it that says
// what the archive contains.
import { createHash } from "node:crypto";
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { failure, type FailureFields, note, refusal } from "../lib/report";
import type { PostgresTool } from "../server/client-programs";
import { hashFile, readArchive } from "./archive";

/** The record of a backup. */
export interface Manifest {
  /** The archive's file name. */
  file: string;
  database: string;
  /** The cluster's: another cluster may have a database of the same name. */
  systemIdentifier: string;
  /** In ISO 8601. */
  createdAt: string;
  bytes: number;
  sha256: string;
  /** The newest migration that was applied. */
  head: string | null;
  /** Such as `18.4`. */
  serverVersion: string;
  /** Rows of each table, counted from the archive. */
  tables: Record<string, number>;
  /** The archive was read to its end after it was written. */
  verified: boolean;
  /** How the last drill ended; undefined when there was none. */
  drill?: "passed" | "failed";
  /** How long the backup took, in milliseconds. */
  ms: number;
}

/** An archive in the folder, with the fields of its manifest, if it has one. */
export interface Backup extends Partial<Manifest> {
  file: string;
  bytes: number;
  createdAt: string;
  verified: boolean;
}

/** The host's name and its process namespace: each container has its own ids. */
const machine = hostname() + readProcessNamespace();

/** The suffix of an unfinished file: the machine and the process that write it. */
const PARTIAL = /\.partial-(.+)-(\d+)$/;

/** An unfinished file of another machine counts as abandoned after this time. */
const ABANDONED_MS = 24 * 3600 * 1000;

/**
 * Creates the folder with mode 0700, if there is none, and removes files that an
 * interrupted backup has left.
 *
 * @throws with exit code 2 when the folder cannot be written.
 */
export function openFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    accessSync(folder, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    const isFile = existsSync(folder) && !statSync(folder).isDirectory();
    throw folderError(
      folder,
      isFile ? new Error("it is a file") : (error as Error),
    );
  }
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (isAbandoned(path)) rmSync(path, { force: true }); // it may be gone already
  }
}

function isAbandoned(path: string): boolean {
  const [, host, pid] = PARTIAL.exec(path) ?? [];
  if (!pid) return false;
  // A file with our own id is from an earlier process: this one has written none.
  const isOurs = Number(pid) === process.pid || !isAlive(Number(pid));
  if (host === machine && isOurs) return true;
  const written = lstatSync(path, { throwIfNoEntry: false })?.mtimeMs;
  return written !== undefined && Date.now() - written > ABANDONED_MS;
}

function readProcessNamespace(): string {
  try {
    return readlinkSync("/proc/self/ns/pid").replace(/\D/g, "");
  } catch {
    return ""; // not Linux
  }
}

function folderError(folder: string, { message }: Error): Error {
  return refusal(`the backup folder cannot be used: ${message}`, {
    code: "BACKUP_DIR",
    hint: `\`BACKUP_DIR\` is ${folder}: set it to a folder that this user may write to`,
  });
}

/** Returns the path under which an archive is written until it is verified. */
export function namePartial(path: string): string {
  return `${path}.partial-${machine}-${process.pid}`;
}

/** Writes the result of a verification or a drill into the manifest. */
export function recordFinding(path: string, manifest: Manifest): void {
  const manifestPath = nameManifest(path);
  try {
    writeManifest(namePartial(manifestPath), manifest);
    renameSync(namePartial(manifestPath), manifestPath);
  } catch (error) {
    note(`Warning: the manifest was not updated: ${(error as Error).message}`);
  }
}

function writeManifest(path: string, manifest: Manifest): void {
  const digest = hashManifest(manifest);
  writeFileSync(path, `${JSON.stringify({ ...manifest, digest }, null, 2)}\n`, {
    mode: 0o600,
    flush: true,
  });
}

/** Renames manifest and archive into place; the archive last, as it is what counts. */
export function publish(path: string, manifest: Manifest): void {
  const manifestPath = nameManifest(path);
  writeManifest(namePartial(manifestPath), manifest);
  renameSync(namePartial(manifestPath), manifestPath);
  try {
    renameSync(namePartial(path), path);
  } catch (error) {
    rmSync(manifestPath, { force: true });
    throw error;
  }
  const folder = openSync(dirname(path), "r");
  attempt(() => fsyncSync(folder)); // fails on some network file systems
  closeSync(folder);
}

/** Removes the files of a backup that failed. */
export function discard(path: string): void {
  for (const file of [path, nameManifest(path)])
    rmSync(namePartial(file), { force: true });
}

/**
 * Lists the archives of a folder, newest first; none when there is no folder.
 *
 * @throws with exit code 2 when it cannot be read.
 */
export function listBackups(folder: string): Backup[] {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw folderError(folder, error as Error);
  }
  return names
    .filter((name) => name.endsWith(".dump"))
    .flatMap((file) => {
      const path = join(folder, file);
      const found = statSync(path, { throwIfNoEntry: false });
      if (!found?.isFile()) return []; // just deleted, or not a file
      const { size: bytes, mtime } = found;
      const manifest = attempt(() => readManifest(path));
      const isWhole =
        manifest?.bytes === bytes &&
        manifest.verified &&
        manifest.drill !== "failed";
      return {
        createdAt: mtime.toISOString(),
        ...manifest,
        file,
        bytes,
        verified: isWhole,
      };
    })
    .sort((a, b) => b.createdAt.localeCompare(a.createdAt));
}

/** Removes an archive, then its manifest. */
export function removeBackup(folder: string, file: string): void {
  rmSync(join(folder, file), { force: true }); // it may be gone already
  rmSync(nameManifest(join(folder, file)), { force: true });
}

/**
 * Reads the manifest of an archive; undefined when there is none.
 *
 * @throws when it cannot be read.
 */
function readManifest(path: string): Manifest | undefined {
  let text: string;
  try {
    text = readFileSync(nameManifest(path), "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  const written = attempt(() => JSON.parse(text));
  if (typeof written === "object" && written !== null) {
    const { digest, ...manifest } = written;
    if (digest === hashManifest(manifest)) return manifest;
  }
  throw failure(
    `${basename(nameManifest(path))} is not a manifest, or was changed`,
    { code: "BACKUP_BAD" },
  );
}

/** Returns a digest that is stored in the manifest: it shows later changes. */
function hashManifest(manifest: Manifest): string {
  return createHash("sha256").update(JSON.stringify(manifest)).digest("hex");
}

/** Returns the result of `work`; undefined when it throws. */
function attempt<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch {
    return undefined;
  }
}

/**
 * Returns the path of an archive, given a path or a name in the backup folder.
 *
 * @throws when there is no such file.
 */
export function locateArchive(folder: string, name: string): string {
  const inFolder = join(folder, name);
  const path =
    !existsSync(name) && existsSync(inFolder) ? inFolder : resolve(name);
  const found = statSync(path, { throwIfNoEntry: false });
  if (found?.isFile()) return path;
  throw failure(found ? `${path} is not a file` : `there is no file ${path}`, {
    code: "FILE_MISSING",
    hint: found
      ? "name an archive of `pg_dump --format=custom`"
      : "`bun run db:backup --list` lists the backups",
  });
}

/** The result of verifying an archive. */
export interface Verification {
  bytes: number;
  sha256: string;
  manifest: Manifest | undefined;
  /** What is wrong with it; undefined when nothing is. */
  problem: string | undefined;
}

/**
 * Compares an archive with its manifest, and reads it to its end.
 *
 * @param isReread when false, an archive is not read again if its checksum shows
 * that it is the file that was read when the backup was made.
 * @throws when pg_restore cannot be run.
 */
export async function verifyBackup(
  tool: PostgresTool,
  path: string,
  isReread = true,
): Promise<Verification> {
  const bytes = statSync(path).size;
  let manifest: Manifest | undefined;
  let unreadable: string | undefined;
  try {
    manifest = readManifest(path);
  } catch (error) {
    unreadable = (error as Error).message;
  }
  const isProven = manifest?.verified && !isReread;
  const reading = isProven
    ? undefined
    : readArchive(tool, path).catch((error: Error & FailureFields) => error);
  const [sha256, unread] = await Promise.all([hashFile(path), reading]);
  if (manifest && manifest.sha256 !== sha256) {
    const length =
      bytes === manifest.bytes ? "" : `: ${bytes} bytes, not ${manifest.bytes}`;
    const problem = `its checksum differs from the one in its manifest${length}`;
    return { bytes, sha256, manifest, problem };
  }
  if (unread?.code === "TOOL_FAILED") throw unread;
  const problem = unreadable ?? unread?.message;
  return { bytes, sha256, manifest, problem };
}

function nameManifest(path: string): string {
  return `${path}.json`;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** Returns a size such as `36.1 MB`. */
export function formatBytes(bytes: number): string {
  return bytes < 1024 * 1024
    ? `${(bytes / 1024).toFixed(1)} kB`
    : `${(bytes / 1024 / 1024).toFixed(1)} MB`;
}
