// How errors, hints, JSON and exit codes look, for every command. What
// a command throws ends up here, so that a command has nothing to say about it.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../src/env";
import { isCleaningUp, listenForSignals, settle } from "./interrupt";

/** It tried and could not. */
export const FAILED = 1;
/** It touched nothing: a bad flag, missing configuration, no consent. */
export const REFUSED = 2;
/** It worked, and what it found is not clean. */
export const FINDINGS = 3;
/** Another run held the lock for longer than `--wait`. */
export const BUSY = 75;

/** What an error may carry for the person who typed the command. */
export interface FailureFields {
  code?: string;
  exitCode?: number;
  /** An instruction, with its command in backticks. */
  hint?: string;
  /** Lines for the terminal, below the message. */
  lines?: string[];
  /** Fields for the error's JSON. */
  details?: object;
  /** The JSON document that the error stands in, where it is not alone. */
  document?: object;
  /** Puts the question of a refusal that a person at a terminal can answer. */
  ask?: () => Promise<void>;
}

let isJson = false;

/** Has results go to stdout as one JSON document, and nothing else there. */
export function showJson(): void {
  isJson = true;
}

/** An error for the person at the keyboard: lower case, no full stop. */
export function failure(message: string, fields: FailureFields = {}): Error {
  return Object.assign(new Error(message), {
    code: "FAILED",
    exitCode: FAILED,
    ...fields,
  });
}

/** Like `failure`, for what is refused before anything was touched. */
export function refusal(message: string, fields: FailureFields = {}): Error {
  return failure(message, { code: "REFUSED", exitCode: REFUSED, ...fields });
}

const listening = new Set<"stdout" | "stderr">();

/** Where the disk is full, the other stream says so, once. */
function write(name: "stdout" | "stderr", text: string): void {
  const stream = process[name];
  if (!listening.has(name))
    stream.on("error", ({ code, message }: Error & { code?: string }) => {
      if (code === "EPIPE") return; // whoever read it has left
      process.exitCode = FAILED;
      if (name === "stdout") note(`Error: no output: ${message}`);
    });
  listening.add(name);
  stream.write(text);
}

/** Prints a line of the result on stdout, unless JSON was asked for. */
export function print(line: string): void {
  showProgress("");
  if (!isJson) write("stdout", `${line}\n`);
}

/** Prints a line of the result that is to be read beside a document, too. */
export function announce(line: string): void {
  if (isJson) note(line);
  else print(line);
}

/**
 * Prints the one JSON document on stdout, where it was asked for. With it the
 * command is done: a signal that comes later changes nothing.
 */
export function printJson(document: object): void {
  settle();
  writeJson(document);
}

function writeJson(document: object): void {
  showProgress("");
  if (isJson) write("stdout", `${JSON.stringify(document)}\n`);
}

/** Prints a hint on stderr: an instruction, with its command in backticks. */
export function advise(text: string): void {
  const hint = keepKnownCommands(text);
  if (hint) note(`Hint: ${hint}`);
}

/**
 * Returns a hint without the parts, between semicolons, that name a command
 * which package.json does not have: where a file was copied, others were not.
 */
function keepKnownCommands(hint: string): string {
  if (!hint.includes("`bun run ")) return hint;
  const file = readFileSync(join(root, "package.json"), "utf8");
  const { scripts = {} } = JSON.parse(file);
  return hint
    .split("; ")
    .filter((part) =>
      [...part.matchAll(/`bun run ([\w-]+:[\w:-]+)/g)].every(
        ([, name = ""]) => name in scripts,
      ),
    )
    .join("; ")
    .replace(/^or /, "")
    .replace(/`bun run ([\w:-]+)( -)?/g, callScript);
}

/** As the package manager of an application on Node calls it. */
function callScript(call: string, name: string, flag = ""): string {
  if (process.versions.bun) return call;
  const { npm_config_user_agent: agent = "npm" } = process.env;
  const [manager = "npm"] = /^\w+/.exec(agent) ?? [];
  return `\`${manager} run ${name}${flag && manager === "npm" ? " --" : ""}${flag}`;
}

/** Prints progress or a warning on stderr. */
export function note(line: string): void {
  showProgress("");
  write("stderr", `${line}\n`);
}

let shown = "";

/**
 * Shows a line on stderr until the next one takes its place; an empty one takes
 * it away.
 *
 * @returns false where there is no terminal, and nothing is shown.
 */
export function showProgress(line: string): boolean {
  const { isTTY, columns = 80 } = process.stderr;
  if (!isTTY || process.env.NO_COLOR || process.env.CI) return false;
  if (line === shown) return true;
  shown = line;
  write("stderr", `\r\x1b[K${line.slice(0, columns - 1)}`);
  return true;
}

/** Shows what `describe` says, five times a second, as long as `work` takes. */
export async function withProgress<T>(
  describe: () => string,
  work: () => Promise<T>,
): Promise<T> {
  const timer = setInterval(() => showProgress(describe()), 200);
  try {
    return await work();
  } finally {
    clearInterval(timer);
    showProgress("");
  }
}

/** An error as JSON documents carry it. */
export function describeError(error: Error & FailureFields) {
  const { code = "UNEXPECTED", message, details } = error;
  const hint = keepKnownCommands(error.hint ?? "");
  return { code, message, ...(hint && { hint }), ...details };
}

/** What postgres.js calls a connection that ended under a query. */
const LOST = /^(CONNECTION_(CLOSED|ENDED|DESTROYED)|ECONNRESET|EPIPE)$/;

/** Whether the session is gone: an error of a statement leaves it in place. */
export function isLost(error: unknown): boolean {
  const { code = "" } = error as { code?: string };
  return !/^(?=.*\d)[0-9A-Z]{5}$/.test(code) || code.startsWith("57P");
}

function report(thrown: Error & FailureFields & { usage?: string }): void {
  // `await using` met an error in closing, after the one that counts.
  if (thrown.name === "SuppressedError" && "suppressed" in thrown)
    return report(thrown.suppressed as Error);
  if (isCleaningUp()) return; // what it cleans up was in use
  // postgres.js writes to a socket that is gone; the query's own error follows.
  if (thrown instanceof TypeError && thrown.message.includes("socket.write")) {
    process.exitCode ||= FAILED;
    return;
  }
  process.exitCode = thrown.exitCode ?? FAILED;
  if (thrown.usage) return write("stdout", `${thrown.usage}\n`);

  // Drizzle's own message is only "Failed query": the reason is the cause.
  const error = thrown.cause instanceof Error ? thrown.cause : thrown;
  if (LOST.test((error as FailureFields).code ?? "")) {
    error.message = "the connection to the server was lost";
    thrown.hint ??=
      "run it again once `bun run db:status` shows that the server is there";
  }
  if (isJson)
    return writeJson({ ...thrown.document, error: describeError(error) });
  note(`Error: ${error.message}`);
  for (const line of thrown.lines ?? []) note(line);
  advise(thrown.hint ?? "");
  if (!("code" in error)) note(error.stack ?? "");
}

// A rejected top-level await arrives here after the command's own `finally`.
process.on("uncaughtException", report);
process.on("unhandledRejection", report);
listenForSignals(report);
