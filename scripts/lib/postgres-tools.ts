// psql, pg_dump and pg_restore: from PATH where they are as new as the server, else from
// the container of the development server. No password is among the arguments.
import { existsSync } from "node:fs";
import { spawnSync } from "bun";
import type { DatabaseAddress } from "../../src/database-url";
import type { Env } from "../../src/env";
import { composeCommand } from "./compose";
import { failure } from "./report";
import type { Engine } from "./server";

/** A command line, to which arguments may be added, and its environment. */
export interface PostgresTool {
  command: string[];
  variables: Record<string, string | undefined>;
  /** The arguments that connect it to a database of the server. */
  login: (database: string) => string[];
}

/**
 * Finds a client program for the server at `address`.
 *
 * @param serverVersion such as `18.4`; an older program may misread it. Where
 * no server is wanted, undefined takes any program.
 * @throws when there is none, with what to install.
 */
export function findPostgresTool(
  program: "psql" | "pg_dump" | "pg_restore",
  env: Env,
  address: DatabaseAddress,
  engine: Engine,
  serverVersion: string | undefined,
): PostgresTool {
  const major = Number.parseInt(serverVersion ?? "0", 10);
  const own = readMajor(program);
  if (own !== undefined && own >= major)
    return {
      command: [program],
      variables: libpqVariables(address),
      login: nameDatabase,
    };

  if (engine === "compose") {
    // Inside the container its socket asks for no password.
    const isAttended = program === "psql" && process.stdin.isTTY;
    const terminal = isAttended ? [] : ["-T"];
    return {
      ...composeCommand(env, ["exec", ...terminal, "db", program]),
      login: (database) => [
        "--username",
        address.user,
        ...nameDatabase(database),
      ],
    };
  }
  const found = own === undefined ? "not installed" : `version ${own}`;
  throw failure(
    `${program} is ${found}, and the server is PostgreSQL ${major}`,
    {
      hint: `install PostgreSQL's client programs, version ${major} or newer, and put them on the PATH: from apt.postgresql.org \`apt-get install postgresql-client-${major}\`, with Homebrew \`brew install postgresql@${major}\``,
    },
  );
}

/** As a connection string, for a name may look like one. */
function nameDatabase(database: string): string[] {
  const quoted = database.replace(/['\\]/g, "\\$&");
  return ["--dbname", `dbname='${quoted}'`];
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
    LC_MESSAGES: "C",
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
