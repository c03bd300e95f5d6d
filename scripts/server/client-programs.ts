// psql, pg_dump and pg_restore, best of the server's own version: from PATH, from
// where installers keep several versions, or from the container of the development
// server. No password is among the arguments.
import { existsSync, globSync } from "node:fs";
import { join } from "node:path";
import { spawnSync } from "bun";
import { type DatabaseAddress, isLocal } from "../../src/database-url";
import type { Env } from "../../src/env";
import { openConnection } from "../lib/connection";
import { failure, note } from "../lib/report";
import { composeCommand } from "./compose";

/** A command line, to which arguments may be added, and its environment. */
export interface PostgresTool {
  command: string[];
  variables: Record<string, string | undefined>;
  /**
   * The arguments that connect it to a database of the server, under a name that
   * others see in pg_stat_activity.
   */
  login: (database: string, application?: string) => string[];
  /** The program's major version. */
  major: number;
}

/** A Docker engine may accept a connection and then never answer. */
const ANSWER_MS = 8000;

type Program = "psql" | "pg_dump" | "pg_restore";
type Tools<P extends Program> = Record<P, PostgresTool>;

/** Folders of one version each: Debian, Red Hat, Homebrew, the installers for macOS. */
const FOLDERS = [
  "/usr/lib/postgresql/*/bin",
  "/usr/pgsql-*/bin",
  "/{opt/homebrew,usr/local,home/linuxbrew/.linuxbrew}/opt/{postgresql@*,libpq}/bin",
  "/Library/PostgreSQL/*/bin",
  "/Applications/Postgres.app/Contents/Versions/*/bin",
];

/**
 * Finds client programs for the server that `env.direct` names, all in one place:
 * of its version, else newer ones. Only pg_dump has to be as new as the server;
 * without it older ones are taken, too, and psql's age is said.
 *
 * @returns them, and the server's version, such as `18.4`.
 * @throws when it cannot be reached, or there are none, with what to install.
 */
export async function findPostgresTools<P extends Program>(
  programs: P[],
  env: Env,
): Promise<{ tools: Tools<P>; serverVersion: string }> {
  const serverVersion = await readVersion(env.direct);
  const major = Number.parseInt(serverVersion, 10);
  const found = findOnMachine(programs, env.direct, major);
  const tools =
    found ??
    (await findInContainer(programs, env)) ??
    (programs.includes("pg_dump" as P)
      ? undefined
      : findOnMachine(programs, env.direct, major, true));
  if (tools) {
    const psql: PostgresTool | undefined = (tools as Partial<Tools<Program>>)
      .psql;
    if (psql && psql.major < major)
      note(
        `Warning: psql is version ${psql.major}, and the server is PostgreSQL ${major}: some of its \\ commands may fail`,
      );
    return { tools, serverVersion };
  }
  const own = programs.flatMap((program) => {
    const version = readMajor(program);
    if (version === undefined) return [`${program} is not installed`];
    return version < major ? [`${program} is version ${version}`] : [];
  });
  throw failure(`${own.join(", ")}, and the server is PostgreSQL ${major}`, {
    hint: `install PostgreSQL's client programs, version ${major} or newer, and put them on the PATH: from apt.postgresql.org \`apt-get install postgresql-client-${major}\`, with Homebrew \`brew install postgresql@${major}\``,
  });
}

/**
 * Finds what reads an archive. That takes no server: one that is down is no
 * obstacle where there is a program on the PATH.
 */
export async function findArchiveReader(env: Env): Promise<PostgresTool> {
  try {
    const { tools } = await findPostgresTools(["pg_restore"], env);
    return tools.pg_restore;
  } catch (error) {
    const own = findOnMachine(["pg_restore"], env.direct, 0);
    if (own) return own.pg_restore;
    throw error;
  }
}

async function readVersion(address: DatabaseAddress): Promise<string> {
  await using sql = await openConnection(address, "db:probe");
  const [row] = await sql<{ version: string }[]>`
    select split_part(current_setting('server_version'), ' ', 1) as version`;
  return row?.version ?? "";
}

/** Those of the version, else the next newer; or, where `isOlderFine`, the newest. */
function findOnMachine<P extends Program>(
  programs: P[],
  address: DatabaseAddress,
  major: number,
  isOlderFine = false,
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
  if (best.major < (isOlderFine ? 0 : major)) return undefined;
  return gather(programs, (program) => ({
    command: [join(best.folder, program)],
    variables: {
      ...libpqVariables(address),
      // Its messages are read; psql takes the encoding from its locale.
      ...(program !== "psql" && { LC_ALL: "C" }),
    },
    login: nameDatabase,
    major: best.major,
  }));
}

/** Undefined where the container is not the server that `env.direct` names. */
async function findInContainer<P extends Program>(
  programs: P[],
  env: Env,
): Promise<Tools<P> | undefined> {
  const address = env.direct;
  if (!isLocal(address) || !Bun.which("docker")) return undefined;
  const psql = nameInContainer("psql", env, false);
  const text = "select system_identifier::text as id from pg_control_system()";
  const options = ["--no-psqlrc", "--tuples-only", "--no-align"];
  const { stdout } = spawnSync(
    [
      ...psql.command,
      ...psql.login(address.database),
      ...options,
      `--command=${text}`,
    ],
    { env: psql.variables, stdin: "ignore", timeout: ANSWER_MS },
  );
  await using sql = await openConnection(address, "db:probe");
  const [cluster] = await sql.unsafe<{ id: string }[]>(text);
  if (stdout.toString().trim() !== cluster?.id) return undefined;
  const own = await readVersion(address);
  return gather(programs, (program) => ({
    ...nameInContainer(program, env),
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
  isAttended = program === "psql" && process.stdin.isTTY,
): Omit<PostgresTool, "major"> {
  const { user } = env.direct; // whom its socket asks for no password
  const terminal = isAttended ? [] : ["-T"];
  return {
    ...composeCommand(env, ["exec", ...terminal, "db", program]),
    login: (database, application) => [
      "--username",
      user,
      ...nameDatabase(database, application),
    ],
  };
}

/** So that a network that is gone is noticed within a minute, and not in hours. */
const KEEPALIVE =
  "connect_timeout=10 keepalives_idle=30 keepalives_interval=10 keepalives_count=3 tcp_user_timeout=60000";

/** As a connection string, for a name may look like one. */
function nameDatabase(database: string, application?: string): string[] {
  const quote = (text: string) => `'${text.replace(/['\\]/g, "\\$&")}'`;
  const words = [`dbname=${quote(database)}`, KEEPALIVE];
  if (application) words.push(`application_name=${quote(application)}`);
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

/** https://www.postgresql.org/docs/current/libpq-envars.html */
function libpqVariables(address: DatabaseAddress) {
  const { host, port, user, password, database, sslmode, parameters } = address;
  const isVerified = sslmode.startsWith("verify");
  return {
    ...process.env,
    PGHOST: host,
    PGPORT: String(port),
    PGUSER: user,
    PGPASSWORD: password,
    PGDATABASE: database,
    PGSSLMODE: sslmode,
    PGSSLROOTCERT:
      address.sslrootcert ?? (isVerified ? findSystemAuthorities() : undefined),
    PGAPPNAME: parameters.application_name,
    PGOPTIONS: parameters.options,
  };
}

/** Before version 16, libpq does not know the system's authorities by itself. */
function findSystemAuthorities(): string {
  const files = [
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt", // Fedora
    "/etc/ssl/cert.pem", // macOS
  ];
  return files.find((file) => existsSync(file)) ?? "system";
}
