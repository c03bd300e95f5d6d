// What is one for a whole run of `bun test`, in however many processes: the
// folder of its temporary files, and whether this process is all of it.
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  mkdtempSync,
  readFileSync,
  statfsSync,
} from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";

const MEMORY = "/dev/shm";
/** Enough for the databases that are there at one time. */
const ROOM_BYTES = 2 * 1024 ** 3;

/** True in a process that runs some of the files for another, which waits. */
export const isPart = process.env.TESTS_FOLDER !== undefined;

/**
 * Where temporary files are: in memory, where there is room. A database is 300
 * files: some 100 ms on a disk, 20 in memory.
 */
export const runFolder =
  process.env.TESTS_FOLDER ??
  mkdtempSync(join(hasRoom() ? MEMORY : tmpdir(), "starter-test-"));

chmodSync(runFolder, 0o711); // a program that drops its rights has to get in
process.env.TMPDIR = runFolder; // for everything that asks for a folder later

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
 * How to run the files beside each other, for which bunfig.toml has no setting.
 *
 * @returns the arguments of `bun`; undefined where there is one file, or the
 * arguments of this process say how, or cannot be read.
 */
export function splitRun(): string[] | undefined {
  const flags = readArguments()?.slice(2);
  if (!flags || isPart || flags.some((flag) => OWN_WAY.test(flag)))
    return undefined;
  const paths = flags.filter((flag) => !flag.startsWith("-"));
  if (paths.length === 1 && !existsSync(join(paths[0] ?? "", ".")))
    return undefined;
  const processes = Math.min(availableParallelism() + 1, 6);
  return ["test", `--parallel=${processes}`, "--no-isolate", ...flags];
}

const OWN_WAY = /^(--parallel|--test-worker|--isolate|--watch|--inspect|-t$)/;

/** The arguments of this process, which Bun takes out of process.argv. */
function readArguments(): string[] | undefined {
  try {
    return readFileSync("/proc/self/cmdline", "utf8").split("\0").slice(0, -1);
  } catch {
    return undefined; // not Linux
  }
}
