// Reads an application: its package manager, its drizzle.config.ts, and the
// variables of its database.
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { findConfig, loadProject } from "../../src/project";
import { listFolders } from "../migrations/folders";

const LOCKFILES = {
  "bun.lock": "bun",
  "bun.lockb": "bun",
  "pnpm-lock.yaml": "pnpm",
  "yarn.lock": "yarn",
  "package-lock.json": "npm",
} as const;

export type PackageManager = (typeof LOCKFILES)[keyof typeof LOCKFILES];

/** The files and tables of an application that the commands use; paths from its root. */
export interface Found {
  config: string;
  migrations: string;
  /** The number of migrations. */
  count: number;
  records: string;
}

/**
 * Finds the package manager by the nearest lockfile or `packageManager`, in the
 * folder or above it; npm when there is none.
 */
export function findPackageManager(folder: string): PackageManager {
  for (const [file, manager] of Object.entries(LOCKFILES))
    if (existsSync(join(folder, file))) return manager;
  const file = join(folder, "package.json");
  const { packageManager = "" } = existsSync(file)
    ? JSON.parse(readFileSync(file, "utf8"))
    : {};
  const named = Object.values(LOCKFILES).find((name) =>
    packageManager.startsWith(`${name}@`),
  );
  if (named) return named;
  return folder === dirname(folder)
    ? "npm"
    : findPackageManager(dirname(folder));
}

/** Returns the command that adds packages to the application in a folder. */
export function nameInstall(
  folder: string,
  packages: string[],
  isForDevelopment: boolean,
): string {
  const manager = findPackageManager(folder);
  const isWorkspace = existsSync(join(folder, "pnpm-workspace.yaml"));
  return [
    manager,
    manager === "npm" ? "install" : "add",
    ...(manager === "pnpm" && isWorkspace ? ["-w"] : []),
    ...(isForDevelopment ? ["-D"] : []),
    ...packages,
  ].join(" ");
}

/**
 * Loads the drizzle.config.ts; the variables that it reads need not be set.
 *
 * @throws with exit code 2 and what is wrong with it.
 */
export function readFound(folder: string): Found {
  const { config, migrationsFolder, records } = withVariables(
    readNames(readFileSync(join(folder, findConfig(folder)), "utf8")),
    () => loadProject(folder),
  );
  const count =
    listFolders(migrationsFolder).length || countEntries(migrationsFolder);
  return {
    config,
    migrations: relative(folder, migrationsFolder),
    count,
    records: records.sql,
  };
}

/** Lists the variables that a TypeScript text reads. */
function readNames(text: string): string[] {
  const uses = text.matchAll(/\benv(?:\.|\[["'])(\w+)/g);
  return [...uses].map(([, name = ""]) => name);
}

/** Runs `work` with a placeholder in each variable that is not set. */
function withVariables<T>(names: string[], work: () => T): T {
  const missing = names.filter((name) => !process.env[name]);
  for (const name of missing)
    process.env[name] = "postgres://user:password@localhost:5432/database";
  try {
    return work();
  } finally {
    for (const name of missing) delete process.env[name];
  }
}

function countEntries(migrations: string): number {
  const journal = join(migrations, "meta/_journal.json");
  if (!existsSync(journal)) return 0;
  return JSON.parse(readFileSync(journal, "utf8")).entries.length;
}

/** The parts of the address, such as `url`, each with its variable. */
export type Variables = Map<string, string>;

/** Finds the variables that drizzle.config.ts reads its credentials from. */
export function readVariables(folder: string): Variables {
  const text = readFileSync(join(folder, findConfig(folder)), "utf8");
  const parts = ["url", "host", "port", "database", "user", "password"];
  const found = new Map(
    parts.flatMap((part) => {
      const use = new RegExp(
        `\\b${part}\\s*:[^,\\n]*?\\benv(?:\\.|\\[["'])(\\w+)`,
      );
      const name = use.exec(text)?.[1];
      return name ? [[part, name] as const] : [];
    }),
  );
  // `const url = process.env.DB_URL` above the credentials
  const url = readNames(text).find((name) => /URL|URI|DSN/.test(name));
  return found.size === 0 && url ? new Map([["url", url]]) : found;
}
