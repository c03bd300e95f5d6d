// Parses connection strings as libpq does, so that one means the same to the
// application, the commands, drizzle-kit, psql and pg_dump.
// https://www.postgresql.org/docs/current/libpq-connect.html

/** The accepted values of libpq's parameters. Other parameters are refused. */
const accepted = {
  // The parts of the address itself.
  host: /./,
  port: /./,
  user: /./,
  password: /./,
  dbname: /./,

  // Which of several hosts.
  target_session_attrs: [
    "any",
    "read-write",
    "read-only",
    "primary",
    "standby",
    "prefer-standby",
  ],
  load_balance_hosts: ["disable", "random"],

  // TLS.
  sslmode: [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
  ],
  sslrootcert: /./,
  sslcert: /./,
  sslkey: /./,
  sslnegotiation: ["postgres", "direct"],
  channel_binding: ["disable", "prefer", "require"],
  ssl_min_protocol_version: ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"],
  ssl_max_protocol_version: ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"],

  // The network. A connect_timeout of zero or less means the default: no command
  // waits forever. JavaScript's sockets support only the first two keepalives; the
  // others apply to psql and pg_dump.
  connect_timeout: /^-?\d+$/,
  keepalives: ["0", "1"],
  keepalives_idle: /^\d+$/,
  keepalives_interval: /^\d+$/,
  keepalives_count: /^\d+$/,
  tcp_user_timeout: /^\d+$/,

  // The session.
  application_name: /./,
  fallback_application_name: /./,
  options: /./,

  // Accepted with the value that applies anyway.
  client_encoding: /^(auto|utf-?8)$/i,
  gssencmode: ["disable", "prefer"],
  sslcertmode: ["allow"],
  sslcompression: ["0"],
  sslsni: ["1"],
  ssl: ["true"], // JDBC's, which libpq reads as sslmode=require
} as const;

/** Parameters of other clients and of hosting services. They are ignored. */
const foreign = [
  "connection_limit", // Prisma
  "max_idle_connection_lifetime",
  "pgbouncer",
  "pool_timeout",
  "schema",
  "single_use_connections",
  "socket_timeout",
  "statement_cache_size",
  "pool_mode", // Supabase
  "supa",
  "workaround",
  "uselibpqcompat", // node-postgres
];

/** The parameters of an address, by libpq's names, with the values listed above. */
export type Settings = {
  [
    Name in keyof typeof accepted
  ]?: (typeof accepted)[Name] extends readonly (infer Word)[] ? Word : string;
};

/** One server of an address. */
export interface Host {
  /** A name, an address without brackets, or the folder of a Unix socket. */
  host: string;
  port: number;
}

/** The address of a database, and its login. Holds the password: never print it. */
export interface DatabaseAddress extends Host {
  /** The variable that it was read from, for messages. */
  variable: string;
  /** The hosts after the first, where several are named. */
  otherHosts?: Host[];
  user: string;
  password: string;
  database: string;
  /** With libpq's meaning: https://www.postgresql.org/docs/current/libpq-ssl.html */
  sslmode: NonNullable<Settings["sslmode"]>;
  /** A file of certificate authorities, or `system`; the system's when undefined. */
  sslrootcert: string | undefined;
  /** The other parameters of the connection string. */
  settings?: Settings;
  /** Startup parameters, such as `application_name`. */
  parameters: Record<string, string>;
  /**
   * Set for an address on this machine, where another clone's server may use the
   * port: the folder of this clone's record, and whether the address was configured, and
   * by a URL.
   */
  guard?: { dataDir: string; isChosen: boolean; isUrl: boolean };
}

const DEFAULT_SECONDS = 10;

// postgres://user:password@host:port,host:port/database?name=value&name=value
const URI =
  /^postgres(?:ql)?:\/\/(?:([^:@/?#]*)(?::([^@/?#]*))?@)?([^@/?#]*)(?:\/([^@/?#]*))?(?:\?([^#]*))?$/;

/**
 * Parses a connection string, as libpq does.
 *
 * @param from the place of the variable, for messages.
 * @throws like `readEnv`; the message never contains the string itself.
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
  const decode = (part: string) => {
    try {
      return decodeURIComponent(part);
    } catch {
      throw malformed("has a % that encodes nothing", encode);
    }
  };

  if (!/^postgres(ql)?:\/\//.test(text))
    throw malformed(
      "is not a PostgreSQL connection string",
      `write \`${variable}\` as \`postgres://user:password@host:5432/database\``,
    );
  const parts = URI.exec(text);
  if (!parts) throw malformed("is not a valid URL", encode);
  const [, login = "", secret = "", servers = "", path = "", query = ""] =
    parts;

  const given: Record<string, string> = {};
  for (const pair of query.split("&")) {
    const [name = "", value = ""] = pair.split(/=(.*)/s).map(decode);
    if (!/^\w*$/.test(name)) throw malformed("is not a valid URL", encode);
    if (value) given[name] = value;
  }
  const user = given.user ?? decode(login);
  const database = given.dbname ?? decode(path);
  if (!user) throw malformed("names no user", encode);
  if (!database)
    throw malformed(
      "names no database",
      "end it with the database's name: `…@host:5432/database`",
    );
  if (database.includes("/")) throw malformed("is not a valid URL", encode);

  for (const [name, value] of Object.entries(given)) {
    const rule = Object.hasOwn(accepted, name)
      ? accepted[name as keyof typeof accepted]
      : undefined;
    if (foreign.includes(name)) delete given[name];
    else if (!rule)
      throw malformed(
        `has a parameter that is not supported: ${name}`,
        `leave \`${name}\` out; a setting of the server is written as \`options=-c%20name%3Dvalue\``,
      );
    else if (rule instanceof RegExp && !rule.test(value))
      throw malformed(
        `has a wrong ${name}`,
        `set \`${name}\` to ${name === "client_encoding" ? "UTF8" : "a whole number"}`,
      );
    else if (rule instanceof Array && !rule.some((word) => word === value))
      throw malformed(
        `has an unknown ${name}`,
        `set \`${name}\` to ${rule.length > 1 ? "one of " : ""}${rule.join(", ")}`,
      );
  }
  const {
    host,
    port,
    user: _user,
    password = decode(secret),
    dbname: _dbname,
    ssl,
    sslmode = ssl ? "require" : undefined,
    sslrootcert,
    application_name,
    fallback_application_name,
    options,
    ...settings
  } = given as Settings;

  const weak = ["disable", "allow", "prefer", undefined].includes(sslmode);
  const isSystem = sslrootcert === "system";
  if (isSystem && sslmode && sslmode !== "verify-full")
    throw malformed(
      "has sslrootcert=system with a weaker sslmode",
      "set `sslmode` to verify-full, or leave it out",
    );
  if (settings.sslnegotiation === "direct" && weak && !isSystem)
    throw malformed(
      "has sslnegotiation=direct with a weak sslmode",
      "set `sslmode` to require, verify-ca or verify-full",
    );
  if (settings.channel_binding === "require" && sslmode === "disable")
    throw malformed(
      "has channel_binding=require with sslmode=disable",
      "set `sslmode` to require, verify-ca or verify-full",
    );
  if (!settings.sslcert !== !settings.sslkey)
    throw malformed(
      "has only one of sslcert and sslkey",
      "name the file of the certificate and the file of its key",
    );

  const named = servers.split(",").map((server) => {
    const [, name = "", port = ""] =
      /^(\[.*\]|[^:]*)(?::(.*))?$/.exec(server) ?? [];
    return { name: decode(name), port };
  });
  const [first, ...otherHosts] = readHosts(
    host ?? named.map(({ name }) => name).join(),
    port ?? named.map(({ port }) => port).join(),
    `${variable} in ${from}`,
  );
  const name = application_name ?? fallback_application_name;
  return {
    variable,
    ...first,
    otherHosts,
    user,
    password,
    database,
    sslmode: sslmode ?? (isSystem ? "verify-full" : "prefer"),
    sslrootcert,
    settings,
    parameters: {
      ...(name && { application_name: name }),
      ...(options && { options }),
    },
  };
}

/** Returns the address as a connection string. Holds the password: never print it. */
export function formatDatabaseUrl(address: DatabaseAddress): string {
  const { user, password, database, sslmode, sslrootcert } = address;
  const hosts = hostsOf(address).map(({ host, port }) =>
    host.includes(":")
      ? `[${host}]:${port}`
      : `${encodeURIComponent(host)}:${port}`,
  );
  const query = Object.entries({
    sslmode,
    ...(sslrootcert && { sslrootcert }),
    ...address.settings,
    ...address.parameters,
  }).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  const [login, secret, path] = [user, password, database].map(
    encodeURIComponent,
  );
  return `postgres://${login}:${secret}@${hosts}/${path}?${query.join("&")}`;
}

/**
 * Pairs a list of hosts with a list of ports: one port for each, or one for all.
 *
 * @param from the source of the lists, for messages.
 * @throws like `readEnv`.
 */
export function readHosts(
  hostList: string,
  portList: string,
  from: string,
): [Host, ...Host[]] {
  const ports = portList.split(",").map((port) => Number(port || 5432));
  if (ports.some((port) => !Number.isInteger(port) || port < 1 || port > 65535))
    throw misconfigured(
      `${from} names a port that is not a number from 1 to 65535`,
      "fix the port: PostgreSQL's default is 5432",
    );
  const hosts = hostList.split(",").map((host, index) => ({
    host: host.replace(/^\[|\]$/g, "") || "localhost",
    port: (ports.length === 1 ? ports[0] : ports[index]) ?? 0,
  }));
  const [first, ...others] = hosts;
  if (!first || (ports.length > 1 && ports.length !== hosts.length))
    throw misconfigured(
      `${from} names ${hosts.length} hosts and ${ports.length} ports`,
      "name one port for each host, or one for all",
    );
  return [first, ...others];
}

/** Returns all servers of an address, in their order. */
export function hostsOf({ host, port, otherHosts = [] }: DatabaseAddress) {
  return [{ host, port }, ...otherHosts];
}

/** Returns how many seconds each host has to connect and log in. */
export function connectSeconds({ settings }: DatabaseAddress): number {
  const seconds = Number(settings?.connect_timeout ?? 0);
  return seconds > 0 ? seconds : DEFAULT_SECONDS;
}

/** True when every host is this machine: loopback or a Unix socket. */
export function isLocal({
  host,
  otherHosts = [],
}: Pick<DatabaseAddress, "host" | "otherHosts">): boolean {
  return [host, ...otherHosts.map((other) => other.host)].every(
    (name) =>
      name === "localhost" ||
      name === "::1" ||
      name.startsWith("/") ||
      /^127(\.\d{1,3}){3}$/.test(name),
  );
}

/** Returns an error in the configuration: a command exits with 2. */
export function misconfigured(message: string, hint: string): Error {
  return Object.assign(new Error(message), {
    code: "CONFIGURATION",
    exitCode: 2,
    hint,
  });
}
