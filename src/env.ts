// The only reader of the environment, for the application, the scripts,
// drizzle-kit and the tests. The process's own variables win over .env.local,
// which wins over .env; with neither file, .env.example holds for development.
import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parse } from "dotenv";
import {
  type DatabaseAddress,
  misconfigured,
  parseDatabaseUrl,
} from "./database-url";

/** The folder that package.json is in. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** The environment, read and checked. Paths are absolute. */
export interface Env {
  isProduction: boolean;
  /** The application's connection. */
  database: DatabaseAddress;
  /** A connection past the pooler, the same as `database` where there is none. */
  direct: DatabaseAddress;
  replicas: DatabaseAddress[];
  engine: "auto" | "compose" | "embedded" | "external";
  dataDir: string;
  /** The server for the tests, where one is named. */
  test: DatabaseAddress | undefined;
  backupDir: string;
  /** Docker Compose's own variable, which it would not find in .env.local. */
  composeProjectName: string | undefined;
}

interface Layer {
  name: string;
  variables: Record<string, string | undefined>;
}

/**
 * Reads and checks the environment. Removes libpq's `PG*` variables from this
 * process: postgres.js and psql would let them override what is read here.
 *
 * @throws an error with `exitCode` 2 and a `hint` that names the variable that
 * is missing or malformed, and where to mend it.
 */
export function readEnv(): Env {
  for (const name of Object.keys(process.env))
    if (/^PG[A-Z_]+$/.test(name)) delete process.env[name];

  const layers = readLayers();
  const isProduction = find(layers, "NODE_ENV")?.value === "production";
  const value = (name: string) => find(layers, name)?.value;
  const database = readDatabaseAddress(layers, isProduction);
  return {
    isProduction,
    database,
    direct: readDirectAddress(layers) ?? database,
    replicas: readList(layers, "DATABASE_REPLICA_URLS"),
    engine: readEngine(layers),
    dataDir: resolve(root, value("DB_DATA_DIR") ?? ".data"),
    test: readList(layers, "TEST_DATABASE_URL")[0],
    backupDir: resolve(root, value("BACKUP_DIR") ?? "backups"),
    composeProjectName: value("COMPOSE_PROJECT_NAME"),
  };
}

/** Every variable, with the value that wins. */
export function readVariables(): Record<string, string | undefined> {
  const variables: Record<string, string | undefined> = {};
  for (const layer of readLayers().toReversed())
    for (const [name, value] of Object.entries(layer.variables))
      if (value?.trim()) variables[name] = value;
  return variables;
}

function readLayers(): Layer[] {
  const layers: Layer[] = [
    { name: "the environment", variables: process.env },
    ...[".env.local", ".env"].flatMap(readEnvFile),
  ];
  const isProduction = find(layers, "NODE_ENV")?.value === "production";
  return layers.length === 1 && !isProduction
    ? [...layers, ...readEnvFile(".env.example")]
    : layers;
}

function readEnvFile(name: string): Layer[] {
  try {
    return [{ name, variables: parse(readFileSync(join(root, name), "utf8")) }];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw misconfigured(
      `${name} cannot be read: ${(error as Error).message}`,
      `make ${name} a file that this user may read`,
    );
  }
}

/** The first layer that has the variable; an empty value counts as unset. */
function find(layers: Layer[], name: string) {
  for (const [depth, layer] of layers.entries()) {
    const value = layer.variables[name]?.trim();
    if (value) return { value, depth, from: layer.name };
  }
}

function readDatabaseAddress(
  layers: Layer[],
  isProduction: boolean,
): DatabaseAddress {
  const url = find(layers, "DATABASE_URL");
  if (url) return parseDatabaseUrl(url.value, "DATABASE_URL", url.from);

  const part = (name: string) => {
    const found = find(layers, name)?.value;
    if (found) return found;
    const parts = ["POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"];
    const missing = parts.some((part) => find(layers, part))
      ? name
      : "DATABASE_URL";
    throw misconfigured(
      `${missing} is not set`,
      isProduction
        ? `set \`${missing}\` in the environment: with NODE_ENV=production there is no default`
        : `set \`${missing}\` in \`.env.local\`, as \`.env.example\` shows`,
    );
  };
  const port = find(layers, "POSTGRES_PORT");
  return {
    variable: "POSTGRES_*",
    database: part("POSTGRES_DB"),
    user: part("POSTGRES_USER"),
    password: part("POSTGRES_PASSWORD"),
    host: find(layers, "POSTGRES_HOST")?.value ?? "localhost",
    port: port ? parsePort(port.value, "POSTGRES_PORT", port.from) : 5432,
    sslmode: "prefer",
    sslrootcert: undefined,
    parameters: {},
  };
}

/**
 * The direct connection belongs to the DATABASE_URL that it stands beside: one
 * from a file does not apply to a DATABASE_URL that the process set itself, or
 * a command would reach another database than the one it was given.
 */
function readDirectAddress(layers: Layer[]): DatabaseAddress | undefined {
  const depth = Math.min(
    find(layers, "DATABASE_URL")?.depth ?? Infinity,
    find(layers, "POSTGRES_DB")?.depth ?? Infinity,
  );
  for (const name of ["DATABASE_URL_UNPOOLED", "DIRECT_URL"]) {
    const url = find(layers, name);
    if (url && url.depth <= depth)
      return parseDatabaseUrl(url.value, name, url.from);
  }
}

function readList(layers: Layer[], name: string): DatabaseAddress[] {
  const list = find(layers, name);
  return (list?.value.split(",") ?? [])
    .filter((url) => url.trim() !== "")
    .map((url) => parseDatabaseUrl(url.trim(), name, list?.from ?? ""));
}

function readEngine(layers: Layer[]): Env["engine"] {
  const engine = find(layers, "DB_ENGINE");
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

function parsePort(text: string, variable: string, from: string): number {
  const port = Number(text);
  if (Number.isInteger(port) && port > 0 && port < 65536) return port;
  throw misconfigured(
    `${variable} in ${from} is not a port`,
    `set \`${variable}\` to a number from 1 to 65535`,
  );
}
