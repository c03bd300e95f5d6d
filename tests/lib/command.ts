import { AsyncLocalStorage } from "node:async_hooks";
import { existsSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawn } from "bun";
import { root } from "../../src/env";
import { runFolder } from "./run";
import type { Job } from "./worker";

export { formatDatabaseUrl as urlOf } from "../../src/database-url";

/** The folder where commands look for the project's server; it has none. */
export const emptyDataDir = join(tmpdir(), `starter-none-${process.pid}`);

/** The result of a command. */
export interface Outcome {
  exitCode: number;
  stdout: string;
  stderr: string;
}

/** The commands that a test has run, as lines to print when it fails. */
const commandLog = new AsyncLocalStorage<string[]>();

/** Runs a test's body; when it throws, prints the output of its commands. */
export async function withCommandLog(body: () => Promise<void>): Promise<void> {
  const lines: string[] = [];
  try {
    await commandLog.run(lines, body);
  } catch (error) {
    for (const line of lines) console.error(line);
    throw error;
  }
}

/**
 * Runs a command without a terminal, as `bun run <command>` does. A worker
 * (tests/lib/worker.ts) runs the commands that need no separate process, in a third
 * of the time; `COMMAND_WORKERS=0` runs each command as a process.
 *
 * @param command such as `db:migrate --json`, split at blanks; or its words.
 * @param variables the environment, to which only PATH and HOME are added.
 * @param cwd the project, or a copy of it.
 */
export async function run(
  words: string | string[],
  variables: Record<string, string> = {},
  cwd = root,
  stdin = "",
): Promise<Outcome> {
  const { PATH, HOME } = process.env;
  const command = [words].flat().join(" ");
  const job = {
    folder: cwd,
    args: typeof words === "string" ? words.split(" ") : words,
    variables: { PATH, HOME, DB_DATA_DIR: emptyDataDir, ...variables },
  };
  const needsProcess =
    stdin !== "" ||
    "PATH" in variables ||
    !WORKABLE.test(command) ||
    process.env.COMMAND_WORKERS === "0";
  const outcome = await (needsProcess ? runProcess(job, stdin) : work(job));
  const { exitCode, stderr } = outcome;
  commandLog
    .getStore()
    ?.push(`$ bun run ${command} (exit code ${exitCode})\n${stderr}`.trim());
  return outcome;
}

/** Commands that a worker can run: the others pass their input or output to other
 * programs, or start a server. */
const WORKABLE = /^copy\b|^db:(?!setup|shell|studio|logs)/;

async function runProcess(
  { folder, args, variables }: Job,
  stdin: string,
): Promise<Outcome> {
  const child = spawn([process.execPath, ...programOf(folder, args)], {
    cwd: folder,
    env: variables,
    stdin: Buffer.from(stdin),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr, exitCode] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { exitCode, stdout, stderr };
}

/** Without `bun run`, which is a process of its own; one test has each command with it. */
function programOf(folder: string, [command = "", ...flags]: string[]) {
  const file = join(folder, "package.json");
  const { scripts } = existsSync(file)
    ? JSON.parse(readFileSync(file, "utf8"))
    : { scripts: {} };
  const [, ...program] = scripts?.[command]?.split(" ") ?? ["", "run", command];
  return [...program, ...flags];
}

interface Worker {
  isBusy: boolean;
  run(job: Job): Promise<Outcome>;
  end(): Promise<unknown>;
}

const workers: Worker[] = [];

/** Runs a command in the oldest idle worker, which has loaded the most, or in a new one. */
async function work(job: Job): Promise<Outcome> {
  const worker = workers.find(({ isBusy }) => !isBusy) ?? startWorker();
  worker.isBusy = true;
  const outcome = await worker.run(job);
  worker.isBusy = false;
  return outcome;
}

function startWorker(): Worker {
  const { PATH, HOME } = process.env;
  let current: PromiseWithResolvers<Outcome> | undefined;
  const program = join(import.meta.dir, "worker.ts");
  // The folder tells whose it is to what ends the rest of a run.
  const child = spawn([process.execPath, program, runFolder], {
    cwd: root,
    env: { PATH, HOME },
    stdin: "ignore",
    stdout: "ignore",
    stderr: "inherit",
    serialization: "json",
    ipc: (outcome: Outcome) => current?.resolve(outcome),
    onExit: (_child, exitCode) =>
      current?.reject(new Error(`a worker ended with exit code ${exitCode}`)),
  });
  const worker: Worker = {
    isBusy: false,
    run: (job: Job) => {
      current = Promise.withResolvers<Outcome>();
      child.send(job);
      return current.promise;
    },
    end: () => {
      child.kill();
      return child.exited;
    },
  };
  workers.push(worker);
  return worker;
}

/** Ends the workers. */
export async function endWorkers(): Promise<void> {
  await Promise.all(workers.splice(0).map((worker) => worker.end()));
}

/**
 * Starts a script without `bun run`, so that a signal reaches the script itself.
 *
 * @param script such as `scripts/reset-db.ts --json`; it is split at blanks.
 */
export function start(
  script: string,
  variables: Record<string, string>,
  cwd = root,
) {
  const { PATH, HOME } = process.env;
  return spawn([process.execPath, ...script.split(" ")], {
    cwd,
    env: { PATH, HOME, ...variables },
    stdout: "pipe",
    stderr: "pipe",
  });
}
