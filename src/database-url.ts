// Takes connection strings apart, so that postgres.js, drizzle-kit, psql and
// pg_dump all understand the same by one.
import { readFileSync } from "node:fs";

const sslModes = [
  "disable",
  "prefer",
  "require",
  "verify-ca",
  "verify-full",
] as const;

/** Where a database is and how to get in. Holds the password: never print it. */
export interface DatabaseAddress {
  /** The variable that it was read from, for messages. */
  variable: string;
  /** A name, an address without brackets, or the folder of a Unix socket. */
  host: string;
  port: number;
  user: string;
  password: string;
  database: string;
  /** As libpq means it: https://www.postgresql.org/docs/current/libpq-ssl.html */
  sslmode: (typeof sslModes)[number];
  /** A file of certificate authorities; without it, the system's. */
  sslrootcert: string | undefined;
  /** Startup parameters, such as `application_name`. */
  parameters: Record<string, string>;
}

/**
 * Takes a connection string apart. Of its parameters, `sslmode`, `sslrootcert`,
 * `application_name` and `options` are kept; others, such as Neon's
 * `channel_binding` or Prisma's `schema`, would be refused by the server.
 *
 * @throws like `readEnv`; the message never holds the string itself.
 */
export function parseDatabaseUrl(
  text: string,
  variable: string,
  from = "the environment",
): DatabaseAddress {
  const malformed = (what: string, hint: string) =>
    misconfigured(`${variable} in ${from} ${what}`, hint);
  const encode =
    "percent-encode special characters in the user name and password: # is `%23`, % is `%25`, / is `%2F`, ? is `%3F`, @ is `%40`, : is `%3A`";

  if (!/^postgres(ql)?:\/\//.test(text))
    throw malformed(
      "is not a PostgreSQL connection string",
      `write \`${variable}\` as \`postgres://user:password@host:5432/database\``,
    );
  if (/^[^?]*@[^/?#]*,/.test(text))
    throw malformed("names more than one host", "name a single host");

  // URL wants a host where libpq is content with ?host=.
  const url = URL.parse(
    text.replace(/^(\w+:\/\/(?:[^@/?#]*@)?)(?=[/?]|$)/, "$1localhost"),
  );
  if (!url || text.includes("#") || url.pathname.includes("@"))
    throw malformed("is not a valid URL", encode);

  const decode = (part: string) => {
    try {
      return decodeURIComponent(part);
    } catch {
      throw malformed("has a % that encodes nothing", encode);
    }
  };
  const user = decode(url.username);
  const database = decode(url.pathname.slice(1));
  if (!user) throw malformed("names no user", encode);
  if (!database)
    throw malformed(
      "names no database",
      "end it with the database's name: `…@host:5432/database`",
    );
  if (database.includes("/")) throw malformed("is not a valid URL", encode);

  const query = url.searchParams;
  // libpq reads JDBC's ssl=true as sslmode=require.
  const sslmode =
    query.get("sslmode") ??
    (query.get("ssl") === "true" ? "require" : "prefer");
  const knownMode = sslModes.find((mode) => mode === sslmode);
  if (!knownMode)
    throw malformed(
      "has an unknown sslmode",
      `set \`sslmode\` to one of ${sslModes.join(", ")}`,
    );

  const parameters: Record<string, string> = {};
  for (const name of ["application_name", "options"]) {
    const value = query.get(name);
    if (value) parameters[name] = value;
  }
  return {
    variable,
    host:
      query.get("host") ||
      decode(url.hostname).replace(/^\[|\]$/g, "") ||
      "localhost",
    port: Number(url.port || query.get("port") || 5432),
    user,
    password: decode(url.password),
    database,
    sslmode: knownMode,
    sslrootcert: query.get("sslrootcert") ?? undefined,
    parameters,
  };
}

/**
 * The address in the form that postgres.js and drizzle-kit take, with TLS as
 * libpq means each sslmode: `prefer` and `require` encrypt without checking,
 * unless authorities are named (https://www.postgresql.org/docs/current/libpq-ssl.html).
 *
 * @throws an error when the file of `sslrootcert` cannot be read.
 */
export function connectionOptions(address: DatabaseAddress) {
  const { host, port, user, password, database } = address;
  return { host, port, user, password, database, ssl: tlsOptions(address) };
}

function tlsOptions({ sslmode, sslrootcert, variable, host }: DatabaseAddress) {
  if (sslmode === "disable" || host.startsWith("/")) return false;
  if (sslmode === "prefer") return sslmode;
  if (sslmode === "require" && !sslrootcert) return sslmode;
  let ca: string | undefined;
  if (sslrootcert && sslrootcert !== "system")
    try {
      ca = readFileSync(sslrootcert, "utf8");
    } catch (error) {
      throw misconfigured(
        `the sslrootcert of ${variable} cannot be read: ${(error as Error).message}`,
        "set `sslrootcert` to a file of certificates in PEM form",
      );
    }
  return {
    rejectUnauthorized: true,
    ...(ca && { ca }),
    ...(sslmode !== "verify-full" && { checkServerIdentity: () => undefined }),
  };
}

/** True for an address on this machine: loopback or a Unix socket. */
export function isLocal({ host }: Pick<DatabaseAddress, "host">): boolean {
  return (
    host === "localhost" ||
    host === "::1" ||
    host.startsWith("/") ||
    /^127(\.\d{1,3}){3}$/.test(host)
  );
}

/** An error in what was configured: a command that meets one exits with 2. */
export function misconfigured(message: string, hint: string): Error {
  return Object.assign(new Error(message), {
    code: "CONFIGURATION",
    exitCode: 2,
    hint,
  });
}
