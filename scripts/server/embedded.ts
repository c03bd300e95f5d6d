// Runs the embedded server: PostgreSQL from npm as a daemon of this clone, with
// its cluster and its log in one folder.
import { createHash } from "node:crypto";
import {
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { DatabaseAddress } from "../../src/database-url";
import { nameServer } from "../lib/explain-connection";
import { failure } from "../lib/report";
import {
  findPostgresBinaries,
  type PostgresBinaries,
} from "./postgres-binaries";

const START_SECONDS = 60;

/** Returns the path of the server's log in DB_DATA_DIR. */
export const embeddedLog = (dataDir: string) => join(dataDir, "postgres.log");

const clusterOf = (dataDir: string) => join(dataDir, "postgres");

/**
 * Creates the cluster if there is none, and starts the server on the host and
 * port of `address`, with its user and password. The caller must hold the lock on
 * `dataDir`, and must have checked that nothing listens on the port.
 *
 * @param settings further server settings, such as `fsync=off`.
 * @throws why it did not start; an existing cluster is unchanged.
 */
export async function startEmbedded(
  dataDir: string,
  address: DatabaseAddress,
  settings: string[] = [],
): Promise<void> {
  const binaries = findPostgresBinaries();
  const cluster = clusterOf(dataDir);
  const log = embeddedLog(dataDir);
  if (!existsSync(cluster)) await createCluster(dataDir, address);
  refuseOtherVersion(binaries, cluster);
  // It may still run on another port, if DATABASE_URL was changed.
  await stopEmbedded(dataDir);
  // Postgres takes any process with this id for a running server.
  rmSync(join(cluster, "postmaster.pid"), { force: true });

  const host = address.host === "localhost" ? "127.0.0.1" : address.host;
  const flags = [
    `port=${address.port}`,
    `listen_addresses=${host}`,
    "unix_socket_directories=",
    `cluster_name=${nameCluster(cluster)}`,
    ...settings,
  ].flatMap((setting) => ["-c", setting]);
  const start = [
    "-D",
    cluster,
    "-l",
    log,
    "-w",
    "-t",
    String(START_SECONDS),
    "-o",
    flags.join(" "),
    "start",
  ];

  if (binaries.owner !== undefined) {
    writeFileSync(log, "", { flag: "a", mode: 0o600 });
    chownSync(log, binaries.owner, binaries.owner);
    giveTo(binaries.owner, cluster);
  }
  const deadline = Date.now() + START_SECONDS * 1000;
  while (true) {
    const logged = existsSync(log) ? statSync(log).size : 0;
    const { success, stderr } = await binaries.run("pg_ctl", start);
    // pg_ctl 18 reports success when a standby did not come up.
    if (success && readEmbeddedPort(dataDir) !== undefined) return;
    const news = existsSync(log)
      ? readFileSync(log).subarray(logged).toString()
      : "";
    // After kill -9 the old server's processes take a moment to end.
    const isEnding = news.includes("pre-existing shared memory block");
    if (!isEnding || Date.now() > deadline)
      throw explain(news || stderr, dataDir, address);
    await Bun.sleep(100);
  }
}

/** Returns a cluster name that differs between this folder and a copy of it. */
function nameCluster(cluster: string): string {
  const hash = createHash("sha256").update(realpathSync(cluster));
  return `clone-${hash.digest("hex").slice(0, 12)}`;
}

/**
 * Stops the server of this folder, if it runs.
 *
 * @returns true when it ran.
 * @throws when it does not stop within a minute.
 */
export async function stopEmbedded(dataDir: string): Promise<boolean> {
  if (readEmbeddedPort(dataDir) === undefined) return false;
  const cluster = clusterOf(dataDir);
  const { success, stderr } = await findPostgresBinaries().run("pg_ctl", [
    "-D",
    cluster,
    "-m",
    "fast",
    "-w",
    "stop",
  ]);
  if (success || readEmbeddedPort(dataDir) === undefined) return true;
  throw failure(`the embedded server did not stop: ${stderr}`, {
    hint: "see what keeps it busy with `bun run db:logs`",
  });
}

/** Reads the port of this folder's server; undefined when it does not run. */
export function readEmbeddedPort(dataDir: string): number | undefined {
  const cluster = clusterOf(dataDir);
  const file = join(cluster, "postmaster.pid");
  if (!existsSync(file)) return undefined;
  // https://www.postgresql.org/docs/current/storage-file-layout.html
  const [pid, , , port] = readFileSync(file, "utf8").split("\n").map(Number);
  return pid && isServerOf(cluster, pid) ? port : undefined;
}

/** True when the process is this server: after a reboot its id may be another's. */
function isServerOf(cluster: string, pid: number): boolean {
  if (process.platform !== "linux") return isAlive(pid);
  try {
    if (!readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("postgres"))
      return false;
  } catch {
    return false; // no such process
  }
  try {
    return readlinkSync(`/proc/${pid}/cwd`) === realpathSync(cluster);
  } catch {
    return true; // another user's process: its folder cannot be read
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/**
 * Creates the cluster in a folder, with the user and password of `address`. It is
 * renamed into place once it is complete.
 *
 * @param options further options of initdb, such as `--no-sync`.
 * @throws why initdb failed.
 */
export async function createCluster(
  dataDir: string,
  address: DatabaseAddress,
  options: string[] = [],
): Promise<void> {
  const binaries = findPostgresBinaries();
  if (!address.password)
    throw failure("the embedded server needs a password", {
      exitCode: 2,
      hint: `put one into \`${address.variable}\`: \`postgres://user:password@host:5432/database\``,
    });
  const partial = `${clusterOf(dataDir)}.partial`;
  const passwordFile = join(dataDir, "password");
  rmSync(partial, { recursive: true, force: true });
  try {
    mkdirSync(partial, { mode: 0o700 });
    writeFileSync(passwordFile, `${address.password}\n`, { mode: 0o600 });
    if (binaries.owner !== undefined)
      for (const path of [partial, passwordFile])
        chownSync(path, binaries.owner, binaries.owner);
    const { success, stderr } = await binaries.run("initdb", [
      `--pgdata=${partial}`,
      `--username=${address.user}`,
      `--pwfile=${passwordFile}`,
      "--auth=scram-sha-256",
      "--encoding=UTF8",
      "--locale-provider=builtin",
      "--builtin-locale=C.UTF-8",
      "--locale=C",
      ...options,
    ]);
    if (!success) throw explain(stderr, dataDir, address);
    renameSync(partial, clusterOf(dataDir));
  } finally {
    rmSync(passwordFile, { force: true });
    rmSync(partial, { recursive: true, force: true });
  }
}

function refuseOtherVersion(
  { major }: PostgresBinaries,
  cluster: string,
): void {
  const version = readFileSync(join(cluster, "PG_VERSION"), "utf8").trim();
  if (version === major) return;
  throw failure(
    `${cluster} holds the data of PostgreSQL ${version}, and the embedded server is PostgreSQL ${major}`,
    {
      hint: `dump it with version ${version} of the package, or start with an empty folder: set another \`DB_DATA_DIR\` in \`.env.local\``,
    },
  );
}

/** Changes the owner of the cluster, which an earlier run may have created as another user. */
function giveTo(owner: number, folder: string): void {
  if (statSync(folder).uid === owner) return;
  for (const name of readdirSync(folder, { recursive: true, encoding: "utf8" }))
    chownSync(join(folder, name), owner, owner);
  chownSync(folder, owner, owner);
}

/** Returns one error for the output of initdb or the server's log. */
function explain(
  log: string,
  dataDir: string,
  address: DatabaseAddress,
): Error {
  if (/address already in use/i.test(log))
    return failure(`${nameServer(address)} is taken by another program`, {
      hint: "free the port, or set another `POSTGRES_PORT` in `.env.local`",
    });
  if (/no space left on device|check free disk space/i.test(log))
    return fullDiskError(dataDir);
  const reasons = log
    .split("\n")
    .filter((line) => /FATAL|PANIC|error:|Permission denied/.test(line));
  const reason = reasons.at(-1) ?? log.trim().split("\n").at(-1) ?? "";
  return failure(
    `the embedded server did not start: ${reason.replace(/^.*?(FATAL|PANIC|error): +/, "")}`,
    {
      hint: existsSync(embeddedLog(dataDir))
        ? "see its log with `bun run db:logs`"
        : undefined, // initdb has none
    },
  );
}

/** Returns the error for a full disk under the embedded server's folder. */
export function fullDiskError(dataDir: string): Error {
  return failure(`the disk that holds ${dataDir} is full`, {
    hint: "free some space, or set `DB_DATA_DIR` to a folder on another disk",
  });
}
