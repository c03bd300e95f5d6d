// Sets up what all processes of one `bun test` share: the folder for temporary files,
// and how the test files are split between processes.
import {
  accessSync,
  chmodSync,
  constants,
  mkdtempSync,
  readFileSync,
  statfsSync,
  statSync,
} from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { spawnSync } from "bun";
import type { FailureFields } from "../../scripts/lib/report";
import { findTemporaryFolder } from "../../scripts/lib/temporary-folder";

const MEMORY = "/dev/shm";
/** How much memory the databases need that exist at one time. */
const ROOM_BYTES = 2 * 1024 ** 3;

/** True in a process that runs some of the files for another process. */
export const isPart = process.env.TESTS_FOLDER !== undefined;

/**
 * The folder for temporary files, in memory when there is enough. A database has 300
 * files: copying takes some 100 ms on a disk, 20 ms in memory.
 */
export const runFolder =
  process.env.TESTS_FOLDER ??
  mkdtempSync(
    join(hasRoom() ? MEMORY : orEnd(findTemporaryFolder), "starter-test-"),
  );

// In a hook, git's variables would lead the tests' git to the real repository.
for (const name of Object.keys(process.env))
  if (name.startsWith("GIT_")) delete process.env[name];

chmodSync(runFolder, 0o711); // a program that drops its privileges must enter it
process.env.TMPDIR = runFolder; // for everything that asks for a temporary folder later

/** Runs `work`; where it fails, says why in two lines and ends the tests. */
export function orEnd<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    return endWith(error as Error);
  }
}

/** Ends the tests with an error and its hint, once and not in every test. */
export function endWith(error: Error & FailureFields): never {
  console.error(`Error: ${error.message}`);
  if (error.hint) console.error(`Hint: ${error.hint}`);
  process.exit(error.exitCode ?? 1);
}

function hasRoom(): boolean {
  try {
    accessSync(MEMORY, constants.W_OK);
    const { bavail, bsize } = statfsSync(MEMORY);
    return bavail * bsize > ROOM_BYTES;
  } catch {
    return false; // not Linux
  }
}

/**
 * Decides how to run test files at the same time, for which bunfig.toml has no
 * setting.
 *
 * @returns the arguments of `bun`, and whether they name files; undefined when there is
 * only one file, or the arguments of this process already say how, or cannot be read.
 */
export function splitRun(): { args: string[]; hasPaths: boolean } | undefined {
  const flags = readArguments()?.slice(2);
  if (!flags || isPart || flags.some((flag) => OWN_WAY.test(flag)))
    return undefined;
  const paths = flags.filter((flag) => !flag.startsWith("-"));
  const [path = ""] = paths;
  const isFolder = statSync(path, { throwIfNoEntry: false })?.isDirectory();
  if (paths.length === 1 && !isFolder) return undefined;
  const processes = Math.min(availableParallelism() + 2, 6);
  const args = ["test", `--parallel=${processes}`, "--no-isolate", ...flags];
  return { args, hasPaths: paths.length > 0 };
}

const OWN_WAY = /^(--parallel|--test-worker|--isolate|--watch|--inspect|-t$)/;

/** Returns the arguments of this process, which Bun removes from process.argv. */
function readArguments(): string[] | undefined {
  try {
    return readFileSync("/proc/self/cmdline", "utf8").split("\0").slice(0, -1);
  } catch {
    return askForArguments();
  }
}

/** Asks `ps`, as on macOS. It puts a blank between the arguments. */
function askForArguments(): string[] | undefined {
  try {
    const { stdout, success } = spawnSync(
      ["ps", "-ww", "-o", "args=", "-p", String(process.pid)],
      { stderr: "ignore" },
    );
    return success ? stdout.toString().trim().split(/\s+/) : undefined;
  } catch {
    return undefined; // Windows
  }
}
