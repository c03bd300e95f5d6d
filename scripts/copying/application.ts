// What an application has: its package manager, and what its drizzle.config.ts
// and .env files say.
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { loadProject } from "../../src/project";
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

/** @throws with exit code 2 what is wrong with its drizzle.config.ts. */
export function readFound(folder: string): Found {
  const { config, migrationsFolder, records } = loadProject(folder);
  const count =
    listFolders(migrationsFolder).length || countEntries(migrationsFolder);
  return {
    config,
    migrations: relative(folder, migrationsFolder),
    count,
    records: records.sql,
  };
}

function countEntries(migrations: string): number {
  const journal = join(migrations, "meta/_journal.json");
  if (!existsSync(journal)) return 0;
  return JSON.parse(readFileSync(journal, "utf8")).entries.length;
}

/** A part of the address, such as `url`, and the variable that it is in. */
export type Variables = Map<string, string>;

/** The variables from which drizzle.config.ts takes its credentials. */
export function readVariables(folder: string, config: string): Variables {
  const text = readFileSync(join(folder, config), "utf8");
  const parts = ["url", "host", "port", "database", "user", "password"];
  return new Map(
    parts.flatMap((part) => {
      const use = new RegExp(
        `\\b${part}\\s*:[^,\\n]*?\\benv(?:\\.|\\[["'])(\\w+)`,
      );
      const name = use.exec(text)?.[1];
      return name ? [[part, name] as const] : [];
    }),
  );
}
