import { AsyncLocalStorage } from "node:async_hooks";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawn } from "bun";
import type { DatabaseAddress } from "../../src/database-url";
import { root } from "../../src/env";

/** Where commands look for a server of their own: there is none. */
export const emptyDataDir = join(tmpdir(), `starter-none-${process.pid}`);

/** What a command left behind. */
export interface Outcome {
  exitCode: number;
  stdout: string;
  stderr: string;
}

/** The commands that a test has run, as lines to be printed where it fails. */
const commandLog = new AsyncLocalStorage<string[]>();

/** Runs a test's body; where it throws, prints what its commands have said. */
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
 * Runs a command as a person does, as `bun run <command>`, without a terminal.
 *
 * @param command split at its blanks: `db:migrate --json`.
 * @param variables on top of PATH and HOME; nothing else is handed on.
 * @param cwd the project, or a copy of it.
 */
export async function run(
  command: string,
  variables: Record<string, string> = {},
  cwd = root,
  stdin = "",
): Promise<Outcome> {
  const { PATH, HOME } = process.env;
  const child = spawn([process.execPath, "run", ...command.split(" ")], {
    cwd,
    env: { PATH, HOME, DB_DATA_DIR: emptyDataDir, ...variables },
    stdin: Buffer.from(stdin),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr, exitCode] = await Promise.all([
    child.stdout.text(),
    child.stderr.text(),
    child.exited,
  ]);
  commandLog
    .getStore()
    ?.push(`$ bun run ${command} (exit code ${exitCode})\n${stderr}`.trim());
  return { exitCode, stdout, stderr };
}

/**
 * Starts a script without `bun run` before it, so that a signal is its own.
 *
 * @param script split at its blanks: `scripts/reset-db.ts --json`.
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

/** The address as a connection string. */
export function urlOf(address: DatabaseAddress): string {
  const { user, password, host, port, database, sslmode } = address;
  const login = [user, password].map(encodeURIComponent).join(":");
  return `postgres://${login}@${host}:${port}/${database}?sslmode=${sslmode}`;
}
