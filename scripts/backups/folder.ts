// The folder of backups: each an archive with a manifest beside it, which says
// what has to come out of it again.
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

/** What is known of a backup. */
export interface Manifest {
  /** The name of the archive in its folder. */
  file: string;
  database: string;
  /** The cluster's, since another may have a database of that name. */
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
  /** How the last drill ended; without it there was none. */
  drill?: "passed" | "failed";
  /** Milliseconds that all of it took. */
  ms: number;
}

/** An archive in the folder, with its manifest where it has one. */
export interface Backup extends Partial<Manifest> {
  file: string;
  bytes: number;
  createdAt: string;
  verified: boolean;
}

/** On one machine each container has processes of its own. */
const machine = hostname() + readProcessNamespace();

/** The ending of a file in the making: which process on which machine makes it. */
const PARTIAL = /\.partial-(.+)-(\d+)$/;

/** A file of another machine is left over when it was not written to for so long. */
const ABANDONED_MS = 24 * 3600 * 1000;

/**
 * Makes the folder where there is none, for nobody else to enter, and clears what
 * was cut off.
 *
 * @throws with exit code 2 where files cannot be put there.
 */
export function openFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    accessSync(folder, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    const isFile = existsSync(folder) && !statSync(folder).isDirectory();
    throw unusable(
      folder,
      isFile ? new Error("it is a file") : (error as Error),
    );
  }
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (isAbandoned(path)) rmSync(path, { force: true }); // another may have done it
  }
}

function isAbandoned(path: string): boolean {
  const [, host, pid] = PARTIAL.exec(path) ?? [];
  if (!pid) return false;
  // This process has made none yet: its number was another's before.
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

function unusable(folder: string, { message }: Error): Error {
  return refusal(`the folder of backups cannot be used: ${message}`, {
    code: "BACKUP_DIR",
    hint: `\`BACKUP_DIR\` is ${folder}: set it to a folder that this user may write to`,
  });
}

/** Where an archive is written until it is proven. */
export function namePartial(path: string): string {
  return `${path}.partial-${machine}-${process.pid}`;
}

/** Writes down what a look at an archive has found, so that a list can tell. */
export function recordFinding(path: string, manifest: Manifest): void {
  const manifestPath = nameManifest(path);
  try {
    writeManifest(namePartial(manifestPath), manifest);
    renameSync(namePartial(manifestPath), manifestPath);
  } catch (error) {
    note(`Warning: not written down: ${(error as Error).message}`);
  }
}

function writeManifest(path: string, manifest: Manifest): void {
  const file = openSync(path, "w", 0o600);
  const digest = hashManifest(manifest);
  writeFileSync(file, `${JSON.stringify({ ...manifest, digest }, null, 2)}\n`);
  fsyncSync(file);
  closeSync(file);
}

/** Puts archive and manifest in place: the archive last, for it is what counts. */
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
  attempt(() => fsyncSync(folder)); // a network's folder may not take it
  closeSync(folder);
}

/** Removes what is left of a backup that was not to be. */
export function discard(path: string): void {
  for (const file of [path, nameManifest(path)])
    rmSync(namePartial(file), { force: true });
}

/**
 * The archives of a folder, newest first; none where there is no folder.
 *
 * @throws with exit code 2 where it cannot be read.
 */
export function listBackups(folder: string): Backup[] {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw unusable(folder, error as Error);
  }
  return names
    .filter((name) => name.endsWith(".dump"))
    .flatMap((file) => {
      const path = join(folder, file);
      const found = statSync(path, { throwIfNoEntry: false });
      if (!found?.isFile()) return []; // deleted meanwhile, or no archive
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

/** Removes an archive, and its manifest after it. */
export function removeBackup(folder: string, file: string): void {
  rmSync(join(folder, file), { force: true }); // another may have done it
  rmSync(nameManifest(join(folder, file)), { force: true });
}

/**
 * The manifest of an archive; undefined where there is none.
 *
 * @throws when it cannot be read.
 */
export function readManifest(path: string): Manifest | undefined {
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

/** So that a manifest tells by itself whether it was changed. */
function hashManifest(manifest: Manifest): string {
  return createHash("sha256").update(JSON.stringify(manifest)).digest("hex");
}

/** Undefined where it throws. */
function attempt<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch {
    return undefined;
  }
}

/**
 * The path of an archive, from a path or from its name in the folder of backups.
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
      ? "it takes an archive of `pg_dump --format=custom`"
      : "`bun run db:backup --list` lists the backups",
  });
}

/** What was found of an archive. */
export interface Verification {
  bytes: number;
  sha256: string;
  manifest: Manifest | undefined;
  /** What is wrong with it; undefined where nothing is. */
  problem: string | undefined;
}

/**
 * Compares an archive with its manifest, and reads it to its end.
 *
 * @param isReread false leaves out the reading where the checksum tells that it
 * is the very file that was read when it was made.
 * @throws where there is nothing to read it with.
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

/** `36.1 MB`. */
export function formatBytes(bytes: number): string {
  return bytes < 1024 * 1024
    ? `${(bytes / 1024).toFixed(1)} kB`
    : `${(bytes / 1024 / 1024).toFixed(1)} MB`;
}
