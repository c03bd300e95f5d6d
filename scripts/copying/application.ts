// What an application has: its package manager, and what its drizzle.config.ts
// and .env files say.
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

/** Where an application keeps what the commands look for; paths from its root. */
export interface Found {
  config: string;
  migrations: string;
  /** How many there are. */
  count: number;
  records: string;
}

/** By the lockfile or `packageManager` that is nearest, in the folder or above it;
 * npm without one. */
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

/** The command that adds packages to the application of a folder. */
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
 * Loads the drizzle.config.ts; the variables that it names need not be set.
 *
 * @throws with exit code 2 what is wrong with it.
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

/** The variables that a text of TypeScript reads. */
function readNames(text: string): string[] {
  const uses = text.matchAll(/\benv(?:\.|\[["'])(\w+)/g);
  return [...uses].map(([, name = ""]) => name);
}

/** Gives those that are not set something for as long as `work` takes. */
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

/** A part of the address, such as `url`, and the variable that it is in. */
export type Variables = Map<string, string>;

/** The variables from which drizzle.config.ts takes its credentials. */
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
