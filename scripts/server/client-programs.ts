// Finds psql, pg_dump and pg_restore, preferably of the server's own version: on
// the PATH, in the folders of the usual installers, or in the container of the
// development server. No password is passed in their arguments.
import { globSync } from "node:fs";
import { join } from "node:path";
import { spawnSync } from "bun";
import type { Wanted } from "../../src/database-socket";
import { findSystemAuthorities } from "../../src/database-tls";
import {
  connectSeconds,
  type DatabaseAddress,
  isLocal,
} from "../../src/database-url";
import type { Env } from "../../src/env";
import { openConnection, reachedAddress } from "../lib/connection";
import { note, refusal } from "../lib/report";
import { findContainerId } from "./compose";

/** A client program: its command line, to add arguments to, and its environment. */
export interface PostgresTool {
  command: string[];
  variables: Record<string, string | undefined>;
  /**
   * Returns the arguments that connect it to a database of the server, with an
   * application name for pg_stat_activity.
   */
  login: (database: string, application?: string) => string[];
  /** The program's major version. */
  major: number;
}

/** A Docker engine may accept a connection and then never answer. */
const ANSWER_MS = 8000;

type Program = "psql" | "pg_dump" | "pg_restore";
type Tools<P extends Program> = Record<P, PostgresTool>;

/** One folder a version: Debian, Red Hat, Homebrew, the installers for macOS. */
const FOLDERS = [
  "/usr/lib/postgresql/*/bin",
  "/usr/pgsql-*/bin",
  "/{opt/homebrew,usr/local,home/linuxbrew/.linuxbrew}/opt/{postgresql@*,libpq}/bin",
  "/Library/PostgreSQL/*/bin",
  "/Applications/Postgres.app/Contents/Versions/*/bin",
];

/**
 * Finds client programs for the server of `env.direct`, all in one folder: of the
 * server's version, else newer ones. Only pg_dump must be as new as the server.
 * Without pg_dump in `programs`, older ones are accepted; an old psql is warned of.
 *
 * @param wanted which of several servers. The programs connect to the one that
 * this process has reached.
 * @returns the programs, and the server's version, such as `18.4`.
 * @throws when the server cannot be reached; with exit code 2 when there are no such
 * programs, with what to install, or when they do not know a parameter of the address.
 */
export async function findPostgresTools<P extends Program>(
  programs: P[],
  env: Env,
  wanted: Wanted = "primary",
): Promise<{ tools: Tools<P>; serverVersion: string }> {
  const serverVersion = await readVersion(env.direct, wanted);
  const major = Number.parseInt(serverVersion, 10);
  const address = reachedAddress(env.direct);
  const parameter = findNewParameter(address);
  const tools =
    findOnMachine(programs, address, Math.max(major, parameter?.major ?? 0)) ??
    (await findInContainer(programs, env)) ??
    (programs.includes("pg_dump" as P)
      ? undefined
      : findOnMachine(programs, address, major, parameter?.major ?? 0));
  if (tools) {
    const { psql } = tools as Partial<Tools<Program>>;
    if (psql && programs.length === 1 && psql.major < major)
      note(
        `Warning: psql is version ${psql.major}, and the server is PostgreSQL ${major}: some of its \\ commands may fail`,
      );
    return { tools, serverVersion };
  }
  if (parameter && findOnMachine(programs, address, major, 0))
    throw refusal(
      `${parameter.name} in ${address.variable} requires client programs of version ${parameter.major}, and ${programs[0]} is version ${readMajor(programs[0] ?? "")}`,
      {
        code: "CONFIGURATION",
        hint: `leave \`${parameter.name}\` out, or install PostgreSQL's client programs, version ${parameter.major} or newer`,
      },
    );
  const own = programs.flatMap((program) => {
    const version = readMajor(program);
    if (version === undefined) return [`${program} is not installed`];
    return version < major ? [`${program} is version ${version}`] : [];
  });
  throw refusal(`${own.join(", ")}, and the server is PostgreSQL ${major}`, {
    code: "CONFIGURATION",
    hint: `install PostgreSQL's client programs, version ${major} or newer, and put them on the PATH: from apt.postgresql.org \`apt-get install postgresql-client-${major}\`, with Homebrew \`brew install postgresql@${major}\``,
  });
}

/**
 * Finds pg_restore to read an archive. It needs no server: when the server is
 * down, it takes any pg_restore on this machine.
 */
export async function findArchiveReader(env: Env): Promise<PostgresTool> {
  try {
    const { tools } = await findPostgresTools(["pg_restore"], env, "any");
    return tools.pg_restore;
  } catch (error) {
    const own = findOnMachine(["pg_restore"], env.direct, Infinity, 0);
    if (own) return own.pg_restore;
    throw error;
  }
}

async function readVersion(
  address: DatabaseAddress,
  wanted: Wanted,
): Promise<string> {
  await using sql = await openConnection(address, "db:probe", wanted);
  const [row] = await sql<{ version: string }[]>`
    select split_part(current_setting('server_version'), ' ', 1) as version`;
  return row?.version ?? "";
}

/**
 * Finds programs of version `major`, else of the next newer, else of the newest
 * older version; undefined when that is below `least`.
 */
function findOnMachine<P extends Program>(
  programs: P[],
  address: DatabaseAddress,
  major: number,
  least = major,
): Tools<P> | undefined {
  const oldest = (folder: string) =>
    Math.min(
      ...programs.map((program) => readMajor(join(folder, program)) ?? -1),
    );
  let best = { folder: "", major: oldest("") };
  if (best.major !== major)
    for (const folder of FOLDERS.flatMap((pattern) => globSync(pattern))) {
      const other = { folder, major: oldest(folder) };
      const isNew = other.major >= major;
      const isBetter =
        best.major >= major
          ? isNew && other.major < best.major
          : other.major > best.major;
      if (isBetter) best = other;
    }
  if (best.major < least) return undefined;
  return gather(programs, (program) => ({
    command: [join(best.folder, program)],
    variables: {
      ...libpqVariables(address),
      // English messages, which are parsed; psql takes its encoding from the locale.
      ...(program !== "psql" && { LC_ALL: "C" }),
    },
    login: (...names) => nameDatabase(address, ...names),
    major: best.major,
  }));
}

/** Finds them in the container; undefined when it is not the server of `env.direct`. */
async function findInContainer<P extends Program>(
  programs: P[],
  env: Env,
): Promise<Tools<P> | undefined> {
  const address = env.direct;
  if (!isLocal(address) || !Bun.which("docker")) return undefined;
  const container = findContainerId(env);
  if (!container) return undefined;
  const psql = nameInContainer("psql", env, container, false);
  const text = "select system_identifier::text as id from pg_control_system()";
  const options = ["--no-psqlrc", "--tuples-only", "--no-align"];
  const { stdout } = spawnSync(
    [
      ...psql.command,
      ...psql.login(address.database),
      ...options,
      `--command=${text}`,
    ],
    { stdin: "ignore", timeout: ANSWER_MS },
  );
  await using sql = await openConnection(address, "db:probe", "any");
  const [cluster] = await sql.unsafe<{ id: string }[]>(text);
  if (stdout.toString().trim() !== cluster?.id) return undefined;
  const own = await readVersion(address, "any");
  return gather(programs, (program) => ({
    ...nameInContainer(program, env, container),
    major: Number.parseInt(own, 10),
  }));
}

function gather<P extends Program>(
  programs: P[],
  make: (program: P) => PostgresTool,
): Tools<P> {
  const tools = programs.map((program) => [program, make(program)]);
  return Object.fromEntries(tools) as Tools<P>;
}

function nameInContainer(
  program: Program,
  env: Env,
  container: string,
  isAttended = program === "psql" && process.stdin.isTTY,
): Omit<PostgresTool, "major"> {
  const { user } = env.direct; // the container's socket asks for no password
  const terminal = isAttended ? ["--tty"] : [];
  return {
    // `docker compose exec` would take 150 ms longer.
    command: [
      "docker",
      "exec",
      "--interactive",
      ...terminal,
      container,
      program,
    ],
    variables: process.env,
    login: (database, application) => [
      "--username",
      user,
      ...nameDatabase(env.direct, database, application),
    ],
  };
}

/**
 * Returns `--dbname` with a connection string, since a database's name may look
 * like one. It sets keepalives: a lost network is noticed within a minute.
 */
function nameDatabase(
  address: DatabaseAddress,
  database: string,
  application?: string,
): string[] {
  const { settings = {} } = address;
  const quote = (text: string) => `'${text.replace(/['\\]/g, "\\$&")}'`;
  const words = Object.entries({
    dbname: database,
    connect_timeout: String(connectSeconds(address)),
    keepalives: settings.keepalives ?? "1",
    keepalives_idle: settings.keepalives_idle ?? "30",
    keepalives_interval: settings.keepalives_interval ?? "10",
    keepalives_count: settings.keepalives_count ?? "3",
    tcp_user_timeout: settings.tcp_user_timeout ?? "60000",
    ...(application && { application_name: application }),
  }).map(([name, value]) => `${name}=${quote(value)}`);
  return ["--dbname", words.join(" ")];
}

function readMajor(program: string): number | undefined {
  try {
    const { stdout } = spawnSync([program, "--version"]);
    const major = /\d+/.exec(stdout.toString())?.[0];
    return major ? Number(major) : undefined;
  } catch {
    return undefined; // no such program
  }
}

/** A file that does not exist: libpq then ignores the setting. */
const NOWHERE = "/nonexistent";

/**
 * Returns the address as libpq's variables. They also keep libpq from reading the
 * files in the user's home.
 * https://www.postgresql.org/docs/current/libpq-envars.html
 */
function libpqVariables(address: DatabaseAddress) {
  const { sslmode, sslrootcert, settings = {}, parameters } = address;
  const isVerified = sslmode.startsWith("verify");
  return {
    ...process.env,
    PGHOST: address.host,
    PGPORT: String(address.port),
    PGUSER: address.user,
    PGPASSWORD: address.password,
    PGPASSFILE: NOWHERE,
    PGDATABASE: address.database,
    PGSSLMODE: sslmode,
    PGSSLROOTCERT:
      sslrootcert ??
      (isVerified ? (findSystemAuthorities() ?? "system") : NOWHERE),
    PGSSLCERT: settings.sslcert ?? NOWHERE,
    PGSSLKEY: settings.sslkey ?? NOWHERE,
    PGSSLNEGOTIATION: settings.sslnegotiation,
    PGSSLMINPROTOCOLVERSION: settings.ssl_min_protocol_version,
    PGSSLMAXPROTOCOLVERSION: settings.ssl_max_protocol_version,
    PGCHANNELBINDING: settings.channel_binding,
    PGGSSENCMODE: "disable",
    PGAPPNAME: parameters.application_name,
    PGOPTIONS: parameters.options,
  };
}

/** Finds a parameter of the address that needs client programs of a newer version. */
function findNewParameter({ sslrootcert, settings }: DatabaseAddress) {
  if (settings?.sslnegotiation === "direct")
    return { name: "sslnegotiation=direct", major: 17 };
  if (sslrootcert === "system")
    return { name: "sslrootcert=system", major: 16 };
}
