// Reads the environment for the application, the scripts, drizzle-kit and the
// tests; nothing else does. The process's own variables win over .env.local,
// which wins over .env; with neither file, development uses .env.example.
import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parse as parseDotenv } from "dotenv";
import {
  type DatabaseAddress,
  isLocal,
  misconfigured,
  parseDatabaseUrl,
  readHosts,
} from "./database-url";

/**
 * The variables that describe a connection; of several, the first one that is set
 * is used. A variable that ends in _FILE names a file that holds the value. Add the
 * names that your own application uses.
 */
const names = {
  url: ["DATABASE_URL", "POSTGRES_URL", "DATABASE_URL_FILE"],
  direct: ["DATABASE_URL_UNPOOLED", "DIRECT_URL"],
  replicas: ["DATABASE_REPLICA_URLS"],
  test: ["TEST_DATABASE_URL"],
  host: ["POSTGRES_HOST"],
  port: ["POSTGRES_PORT"],
  database: ["POSTGRES_DB"],
  user: ["POSTGRES_USER"],
  password: ["POSTGRES_PASSWORD", "POSTGRES_PASSWORD_FILE"],
};

/** The folder of package.json. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** The environment, read and checked. Paths are absolute. */
export interface Env {
  isProduction: boolean;
  /** The application's connection. */
  database: DatabaseAddress;
  /** A connection without the pooler; the same as `database` when none is named. */
  direct: DatabaseAddress;
  replicas: DatabaseAddress[];
  client: ClientSettings;
  engine: "auto" | "compose" | "embedded" | "external";
  dataDir: string;
  /** The server for the tests, if one is named. */
  test: DatabaseAddress | undefined;
  backupDir: string;
  /** Docker Compose's own variable: Compose itself does not read .env.local. */
  composeProjectName: string | undefined;
}

/** The limits of the application's client. Times are in milliseconds. */
export interface ClientSettings {
  /** True behind a transaction pooler, where a session does not keep its settings. */
  isPooled: boolean;
  /** True when a session keeps its prepared statements. */
  canPrepare: boolean;
  poolSize: number;
  replicaPoolSize: number;
  connectMs: number;
  acquireMs: number;
  statementMs: number;
  idleTransactionMs: number;
  replicaMaxLagMs: number;
}

interface Layer {
  name: string;
  folder: string;
  variables: Record<string, string | undefined>;
}

/**
 * Reads and checks the environment.
 *
 * @param folder the folder of the .env files; paths are relative to it.
 * @param variables the process's own variables.
 * @throws an error with `exitCode` 2 and a `hint` that names the variable that
 * is missing or malformed, and where to fix it.
 */
export function readEnv(
  folder = root,
  variables: Layer["variables"] = process.env,
): Env {
  const layers = readLayers(folder, variables);
  const isProduction = find(layers, ["NODE_ENV"])?.value === "production";
  const value = (name: string) => find(layers, [name])?.value;
  const url = find(layers, names.url);
  const database = url ? parse(url) : readParts(layers, isProduction);
  const direct = readDirect(layers, url) ?? database;
  const engine = readEngine(layers);
  const dataDir = resolve(folder, value("DB_DATA_DIR") ?? ".data");
  if (engine !== "external")
    for (const address of [database, direct])
      if (isLocal(address) && !address.host.startsWith("/"))
        address.guard = {
          dataDir,
          isChosen: isAddressChosen(layers),
          isUrl: url !== undefined,
        };
  return {
    isProduction,
    database,
    direct,
    replicas: readList(layers, names.replicas),
    client: readLimits(layers, direct !== database),
    engine,
    dataDir,
    test: readList(layers, names.test)[0],
    backupDir: resolve(folder, value("BACKUP_DIR") ?? "backups"),
    composeProjectName: value("COMPOSE_PROJECT_NAME"),
  };
}

/** Checks the environment if a database is named; for commands that need none. */
export function checkEnv(): void {
  const layers = readLayers(root, process.env);
  if (find(layers, Object.values(names).flat())) readEnv();
}

/**
 * Returns every variable with the value that wins. The URL is also set under those
 * of its names that are not set, so that a config finds it under any of them.
 */
export function readVariables(folder = root): Layer["variables"] {
  const variables: Layer["variables"] = {};
  for (const layer of readLayers(folder, process.env).toReversed())
    for (const [name, value] of Object.entries(layer.variables))
      if (value?.trim()) variables[name] = value;
  const urls = names.url.filter((name) => !name.endsWith("_FILE"));
  const url = urls.map((name) => variables[name]).find(Boolean);
  if (url) for (const name of urls) variables[name] ??= url;
  return variables;
}

function readLayers(folder: string, variables: Layer["variables"]): Layer[] {
  const readLayer = (name: string) => readEnvFile(folder, name);
  const layers: Layer[] = [
    { name: "the environment", folder, variables },
    ...[".env.local", ".env"].flatMap(readLayer),
  ];
  const isProduction = find(layers, ["NODE_ENV"])?.value === "production";
  if (layers.length === 1 && !isProduction)
    layers.push(...readLayer(".env.example"));
  return layers;
}

function readEnvFile(folder: string, name: string): Layer[] {
  const bytes = readFileIfThere(join(folder, name), name);
  if (!bytes) return [];
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (!text.includes("\0"))
      return [{ name, folder, variables: parseDotenv(text) }];
  } catch {} // UTF-16 or an older encoding, as is a text with zeros
  throw misconfigured(
    `${name} is not encoded as UTF-8`,
    `save \`${name}\` as UTF-8; PowerShell 5 writes UTF-16 with \`>\``,
  );
}

function readFileIfThere(path: string, name: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw misconfigured(
      `${name} cannot be read: ${(error as Error).message}`,
      `make ${name} a file that this user may read`,
    );
  }
}

/** A variable that is set, with its value or the content of the file it names. */
interface Found {
  name: string;
  value: string;
  /** The index of its layer: 0 is the process's own variables. */
  depth: number;
  from: string;
}

/** Finds a variable in the first layer that sets it; an empty one counts as unset. */
function find(layers: Layer[], names: string[]): Found | undefined {
  for (const [depth, { name: from, folder, variables }] of layers.entries())
    for (const name of names) {
      const text = variables[name] ?? "";
      if (!text.trim()) continue;
      const value = clean(name, text);
      if (!name.endsWith("_FILE")) return { name, value, depth, from };
      const file = readFileIfThere(
        resolve(folder, text.trim()),
        `the file of ${name}`,
      );
      const content = file && clean(name, file.toString());
      if (content?.trim()) return { name, value: content, depth, from };
      throw misconfigured(
        `${name} in ${from} names a file that is ${file ? "empty" : "missing"}`,
        `set \`${name}\` to a file that holds the value`,
      );
    }
}

/** A password may begin or end with a blank, but not with the end of a line. */
function clean(name: string, text: string): string {
  return name.startsWith("POSTGRES_PASSWORD")
    ? text.replace(/[\r\n]+$/, "")
    : text.trim();
}

function parse({ name, value, from }: Found): DatabaseAddress {
  return parseDatabaseUrl(value, name, from);
}

function readParts(layers: Layer[], isProduction: boolean): DatabaseAddress {
  const part = (alternatives: string[]) => {
    const found = find(layers, alternatives)?.value;
    if (found) return found;
    const parts = [names.database, names.user, names.password];
    const missing = parts.some((part) => find(layers, part))
      ? alternatives[0]
      : names.url[0];
    throw misconfigured(
      `${missing} is not set`,
      isProduction
        ? `set \`${missing}\` in the environment: with NODE_ENV=production there is no default`
        : `set \`${missing}\` in \`.env.local\`, as \`.env.example\` shows`,
    );
  };
  const database = part(names.database);
  const user = part(names.user);
  const password = part(names.password);
  const port = find(layers, names.port);
  const [first, ...otherHosts] = readHosts(
    find(layers, names.host)?.value ?? "localhost",
    port?.value ?? "",
    port ? `${port.name} in ${port.from}` : "the environment",
  );
  return {
    variable: "POSTGRES_*",
    ...first,
    otherHosts,
    database,
    user,
    password,
    sslmode: "prefer",
    sslrootcert: undefined,
    parameters: {},
  };
}

/** False when every part of the address comes from .env.example. */
function isAddressChosen(layers: Layer[]): boolean {
  const { url, host, port, database, user, password } = names;
  return [url, host, port, database, user, password].some((part) => {
    const { from = ".env.example" } = find(layers, part) ?? {};
    return from !== ".env.example";
  });
}

/**
 * Reads the direct connection. One from a file does not apply to a DATABASE_URL, or
 * parts of one, that the process itself has set: a command would reach another
 * database than the one it was given.
 */
function readDirect(
  layers: Layer[],
  url: Found | undefined,
): DatabaseAddress | undefined {
  const parts = [names.host, names.port, names.database];
  const used = url ? [url] : parts.map((part) => find(layers, part));
  const depth = Math.min(...used.map((found) => found?.depth ?? Infinity));
  const direct = find(layers, names.direct);
  if (direct && direct.depth <= depth) return parse(direct);
}

/** Reads a list of URLs. A comma separates only before a URL; others are part of one. */
function readList(layers: Layer[], names: string[]): DatabaseAddress[] {
  const list = find(layers, names);
  if (!list) return [];
  return list.value
    .split(/,\s*(?=\w+:\/\/|,|$)/)
    .map((url) => url.trim())
    .filter(Boolean)
    .map((value) => parse({ ...list, value }));
}

/**
 * Reads the limits of the application's client.
 *
 * @param hasDirect true when a second variable names a direct connection: the
 * first then goes through a pooler.
 */
function readLimits(layers: Layer[], hasDirect: boolean): ClientSettings {
  const poolSize = readCount(layers, "DATABASE_POOL_SIZE", 10);
  const prepare = find(layers, ["DATABASE_PREPARE"]);
  if (prepare && !["true", "false"].includes(prepare.value))
    throw misconfigured(
      `DATABASE_PREPARE in ${prepare.from} is neither true nor false`,
      "set `DATABASE_PREPARE` to false behind a transaction pooler that forgets prepared statements, to true behind one that keeps them",
    );
  const isPooled = hasDirect || prepare?.value === "false";
  return {
    isPooled,
    canPrepare: prepare ? prepare.value === "true" : !isPooled,
    poolSize,
    replicaPoolSize: readCount(layers, "DATABASE_REPLICA_POOL_SIZE", poolSize),
    connectMs: readTime(layers, "DATABASE_CONNECT_TIMEOUT", 5),
    acquireMs: readTime(layers, "DATABASE_ACQUIRE_TIMEOUT", 10),
    statementMs: readTime(layers, "DATABASE_STATEMENT_TIMEOUT", 30),
    idleTransactionMs: readTime(
      layers,
      "DATABASE_IDLE_TRANSACTION_TIMEOUT",
      30,
    ),
    replicaMaxLagMs: readTime(layers, "DATABASE_REPLICA_MAX_LAG", 10),
  };
}

function readCount(layers: Layer[], name: string, standard: number): number {
  const found = find(layers, [name]);
  if (!found) return standard;
  if (/^[1-9]\d{0,3}$/.test(found.value)) return Number(found.value);
  throw misconfigured(
    `${name} in ${found.from} is not a number of connections`,
    `set \`${name}\` to a whole number from 1 to 9999`,
  );
}

/** Reads a time with a unit in PostgreSQL's notation; in seconds without a unit. */
function readTime(layers: Layer[], name: string, seconds: number): number {
  const found = find(layers, [name]);
  if (!found) return seconds * 1000;
  const [, number, unit = "s"] =
    /^(\d+(?:\.\d+)?) ?(ms|s|min)?$/.exec(found.value) ?? [];
  const factor = { ms: 1, s: 1000, min: 60_000 }[unit] ?? 0;
  const time = Math.round(Number(number) * factor);
  // The limit of JavaScript's timers.
  if (time >= 1 && time < 2 ** 31 - 60_000) return time;
  throw misconfigured(
    `${name} in ${found.from} is not a time`,
    `set \`${name}\` to a number with its unit, such as 500ms, 30s or 5min`,
  );
}

function readEngine(layers: Layer[]): Env["engine"] {
  const engine = find(layers, ["DB_ENGINE"]);
  switch (engine?.value) {
    case undefined:
      return "auto";
    case "auto":
    case "compose":
    case "embedded":
    case "external":
      return engine.value;
    default:
      throw misconfigured(
        `DB_ENGINE in ${engine?.from} is not an engine`,
        "set `DB_ENGINE` to auto, compose, embedded or external",
      );
  }
}
