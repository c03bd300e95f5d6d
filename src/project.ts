// Reads drizzle.config.ts: where the schema and the migrations are, and which
// schemas, tables and roles are ours. It is read once, at the first use. No other
// place names a folder or a table.
import { existsSync, globSync, readdirSync, statSync } from "node:fs";
import Module, { createRequire } from "node:module";
import { dirname, join, relative, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { misconfigured } from "./database-url";
import { readVariables, root } from "./env";

/** The configuration, read and checked, with drizzle-kit's defaults filled in. */
export interface Project {
  /** The name of the file, for messages. */
  config: string;
  /** Files, folders and globs of the schema, as written in the config. */
  schema: string[];
  /** The folder that drizzle-kit writes to: `out`, as an absolute path. */
  migrationsFolder: string;
  casing: "camelCase" | "snake_case" | undefined;
  /** The schemas that are ours; undefined when the config does not say. */
  schemaFilter: string[] | undefined;
  /** Globs of tables that are ours; with `!`, of tables that are not. */
  tablesFilter: string[];
  /** Extensions whose tables are not ours, such as `postgis`. */
  extensionsFilters: string[];
  /** Which roles are ours (`entities.roles`). */
  roles:
    boolean | { provider?: string; include?: string[]; exclude?: string[] };
  /** The table of the records; `sql` is its quoted name. */
  records: { schema: string; table: string; sql: string };
  /** The prefix of a new migration's name. */
  prefix: "index" | "timestamp" | "supabase" | "unix" | "none";
  /** False when generated statements have no `--> statement-breakpoint` between. */
  breakpoints: boolean;
}

/** The names that drizzle-kit looks for, in its order. */
const CONFIGS = ["ts", "js", "json"].map((type) => `drizzle.config.${type}`);

/** Settings that do not matter to the commands, or that drizzle-kit reads itself. */
const HARMLESS = ["dbCredentials", "introspect", "strict", "verbose"];

let project: Project | undefined;

/**
 * Reads drizzle.config.ts (drizzle-kit 0.31's: https://orm.drizzle.team/docs/drizzle-config-file).
 *
 * @throws an error with `exitCode` 2 and a `hint` when there is no config, when it
 * cannot be loaded, and when the commands do not support one of its settings.
 */
export function readProject(): Project {
  project ??= loadProject(root);
  return project;
}

/** Reads the config of the application in a folder; throws like `readProject`. */
export function loadProject(folder: string): Project {
  const name = findConfig(folder);
  return checkConfig(folder, name, loadConfig(join(folder, name), name));
}

/**
 * Lists the files that `schema` names, in the same way as drizzle-kit: a folder
 * without its subfolders.
 *
 * @param folder the folder of another application, or of another commit of this one.
 * @returns absolute paths.
 * @throws like `readProject`, when there is no such file.
 */
function listSchemaFiles(folder = root): string[] {
  const { config, schema } =
    folder === root ? readProject() : loadProject(folder);
  const found = schema
    .flatMap((pattern) => {
      const path = resolve(folder, pattern);
      return existsSync(path) ? [path] : globSync(path);
    })
    .flatMap((path) =>
      statSync(path).isDirectory()
        ? readdirSync(path).map((name) => join(path, name))
        : [path],
    )
    .filter((path) => /\.[cm]?[jt]s$/.test(path));
  if (found.length > 0) return [...new Set(found)];
  throw misconfigured(
    schema.length > 0
      ? `${config}: schema names no file: ${schema.join(", ")}`
      : `${config} does not set schema`,
    `set \`schema\` in \`${config}\` to the file, folder or glob of your tables`,
  );
}

/** Loads everything that the schema's files export. If two export the same name, both are kept. */
export async function loadSchema(
  folder = root,
): Promise<Record<string, unknown>> {
  const schema: Record<string, unknown> = {};
  const known = new Set<unknown>();
  for (const file of listSchemaFiles(folder)) {
    const exported = await import(pathToFileURL(file).href);
    for (const [name, value] of Object.entries(exported)) {
      if (known.has(value)) continue; // exported again, under another name or by a barrel
      known.add(value);
      schema[name in schema ? `${name} of ${relative(folder, file)}` : name] =
        value;
    }
  }
  return schema;
}

/** Returns the name of a folder's drizzle.config.ts; throws like `readProject`. */
export function findConfig(folder: string): string {
  const found = CONFIGS.find((name) => existsSync(join(folder, name)));
  if (found) return found;
  throw misconfigured(
    `there is no drizzle.config.ts in ${folder}`,
    "write one that sets `dialect`, `schema` and `out`: https://orm.drizzle.team/docs/drizzle-config-file",
  );
}

/**
 * Loads the config. Its changes to the environment are undone, and its output is
 * dropped: it may print the URL with its password.
 */
function loadConfig(file: string, name: string): Record<string, unknown> {
  const before = { ...process.env };
  const { log, info } = console;
  const restore = provideDefineConfig();
  const { exit } = process;
  const cwd = process.cwd();
  // Its credentials are not used: a t3 application need not have all its variables.
  const quiet = { DOTENV_CONFIG_QUIET: "true", SKIP_ENV_VALIDATION: "1" };
  Object.assign(process.env, readVariables(dirname(file)), quiet);
  console.log = console.info = () => {};
  process.chdir(dirname(file)); // as drizzle-kit is run
  process.exit = () => {
    throw new Error("it ends the process");
  };
  try {
    const exported = createRequire(import.meta.url)(file);
    return exported.default ?? exported;
  } catch (error) {
    const [message] = (error as Error).message.split("\nRequire stack:");
    const reason = (message ?? "").replace(/\s+/g, " ").trim().slice(0, 300);
    throw misconfigured(
      `${name} cannot be loaded: ${reason}`,
      `fix \`${name}\`, or set the variable that it asks for`,
    );
  } finally {
    Object.assign(console, { log, info });
    process.exit = exit;
    restore();
    process.chdir(cwd);
    for (const variable of Object.keys(process.env))
      if (!(variable in before)) delete process.env[variable];
    Object.assign(process.env, before);
  }
}

/** The part of Bun's API used here: an application on Node does not have its types. */
interface BunPlugins {
  plugin(plugin: {
    name: string;
    setup(build: {
      module(
        name: string,
        load: () => { exports: object; loader: "object" },
      ): unknown;
    }): void;
  }): unknown;
}

/** Provides `defineConfig`, which returns its argument: drizzle-kit need not be installed. */
function provideDefineConfig(): () => void {
  const kit = { defineConfig: (config: object) => config };
  const { Bun: bun } = globalThis as { Bun?: BunPlugins };
  if (bun) {
    const load = () => ({ exports: kit, loader: "object" as const });
    bun.plugin({
      name: "defineConfig",
      setup: (build) => void build.module("drizzle-kit", load),
    });
    return () => {};
  }
  const node = Module as unknown as { _load(...call: unknown[]): unknown };
  const load = node._load;
  node._load = (...call) =>
    call[0] === "drizzle-kit" ? kit : load.apply(node, call);
  return () => {
    node._load = load;
  };
}

function checkConfig(
  folder: string,
  name: string,
  config: Record<string, unknown>,
): Project {
  const refuse = (key: string, what: string) =>
    misconfigured(
      `${name}: ${key} ${what}`,
      `change \`${key}\` in \`${name}\`: the commands read it`,
    );
  const read = <T>(
    values: object | undefined,
    key: string,
    isFine: (value: unknown) => boolean,
    what: string,
    path = key,
  ): T | undefined => {
    const value = (values as Record<string, unknown> | undefined)?.[key];
    if (value === undefined || isFine(value)) return value as T | undefined;
    throw refuse(path, `is not ${what}`);
  };
  const isName = (value: unknown) => typeof value === "string" && value !== "";
  const isNames = (value: unknown) =>
    isName(value) || (Array.isArray(value) && value.every(isName));
  const isFlag = (value: unknown) => typeof value === "boolean";
  const isObject = (value: unknown) =>
    typeof value === "object" && value !== null && !Array.isArray(value);
  const isOneOf = (words: string[]) => (value: unknown) =>
    words.includes(value as string);
  const refuseOthers = (
    values: object | undefined,
    path: string,
    known: string[],
  ) => {
    for (const key of Object.keys(values ?? {}))
      if (!known.includes(key))
        throw refuse(path + key, "is set, and the commands do not support it");
  };

  const names = (key: string) => {
    const value = read<string | string[]>(
      config,
      key,
      isNames,
      "a name or a list of names",
    );
    return value === undefined ? undefined : [value].flat();
  };
  if (config.dialect !== "postgresql")
    throw refuse("dialect", 'is not "postgresql"');
  const migrations = read<object>(config, "migrations", isObject, "an object");
  const entities = read<object>(config, "entities", isObject, "an object");
  refuseOthers(config, "", [
    ...["dialect", "schema", "out", "casing", "breakpoints", "migrations"],
    ...["schemaFilter", "tablesFilter", "extensionsFilters", "entities"],
    ...HARMLESS,
  ]);
  refuseOthers(migrations, "migrations.", ["table", "schema", "prefix"]);
  refuseOthers(entities, "entities.", ["roles"]);

  const prefixes = ["index", "timestamp", "supabase", "unix", "none"];
  const schema =
    read<string>(migrations, "schema", isName, "a name", "migrations.schema") ??
    "drizzle";
  const table =
    read<string>(migrations, "table", isName, "a name", "migrations.table") ??
    "__drizzle_migrations";
  return {
    config: name,
    schema: names("schema") ?? [],
    migrationsFolder: resolve(
      folder,
      read<string>(config, "out", isName, "a folder") ?? "drizzle",
    ),
    casing: read(
      config,
      "casing",
      isOneOf(["camelCase", "snake_case"]),
      "camelCase or snake_case",
    ),
    schemaFilter: names("schemaFilter"),
    tablesFilter: names("tablesFilter") ?? [],
    extensionsFilters: names("extensionsFilters") ?? [],
    roles:
      read<Project["roles"]>(
        entities,
        "roles",
        (value) => isFlag(value) || isObject(value),
        "true, false or an object",
        "entities.roles",
      ) ?? false,
    records: { schema, table, sql: `${quote(schema)}.${quote(table)}` },
    prefix:
      read<Project["prefix"]>(
        migrations,
        "prefix",
        isOneOf(prefixes),
        `one of ${prefixes.join(", ")}`,
        "migrations.prefix",
      ) ?? "index",
    breakpoints:
      read<boolean>(config, "breakpoints", isFlag, "true or false") ?? true,
  };
}

/** Quotes a name, unless it is one that certainly needs no quotes. */
function quote(name: string): string {
  if (/^(__[a-z0-9_]+|drizzle|public)$/.test(name)) return name;
  return `"${name.replaceAll('"', '""')}"`;
}
