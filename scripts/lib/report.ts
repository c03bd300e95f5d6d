// Prints the results, errors, hints and JSON of every command, and sets the exit
// code. An error that a command throws is printed here: no command catches it.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../src/env";
import { isCleaningUp, listenForSignals, settle } from "./interrupt";

/** The command tried, and failed. */
export const FAILED = 1;
/** The command changed nothing: a bad flag, missing configuration, no consent. */
const REFUSED = 2;
/** The command worked, and what it found is not clean. */
export const FINDINGS = 3;
/** Another run held the lock for longer than `--wait`. */
export const BUSY = 75;

/** Fields of an error that this file prints. */
export interface FailureFields {
  code?: string;
  exitCode?: number;
  /** An instruction, with its command in backticks. */
  hint?: string;
  /** Lines for the terminal, printed below the message. */
  lines?: string[];
  /** Fields added to the error's JSON. */
  details?: object;
  /** The JSON document that the error is printed in, with its other fields. */
  document?: object;
  /** Asks the question that lifts this refusal, on a terminal. */
  ask?: () => Promise<void>;
}

let isJson = false;

/** Switches stdout to one JSON document, with nothing else there. */
export function showJson(): void {
  isJson = true;
}

/** Returns an error for the user: its message in lower case, no full stop. */
export function failure(message: string, fields: FailureFields = {}): Error {
  return Object.assign(new Error(message), {
    code: "FAILED",
    exitCode: FAILED,
    ...fields,
  });
}

/** Returns an error like `failure`, for a refusal before anything was changed. */
export function refusal(message: string, fields: FailureFields = {}): Error {
  return failure(message, { code: "REFUSED", exitCode: REFUSED, ...fields });
}

const listening = new Set<"stdout" | "stderr">();

/** Writes to a stream. When stdout fails, as on a full disk, stderr says so once. */
function write(name: "stdout" | "stderr", text: string): void {
  const stream = process[name];
  if (!listening.has(name))
    stream.on("error", ({ code, message }: Error & { code?: string }) => {
      if (code === "EPIPE") return; // the reader has ended
      process.exitCode = FAILED;
      if (name === "stdout")
        note(`Error: the output cannot be written: ${message}`);
    });
  listening.add(name);
  stream.write(text);
}

/** Prints a line of the result on stdout, unless JSON was asked for. */
export function print(line: string): void {
  showProgress("");
  if (!isJson) write("stdout", `${line}\n`);
}

/** Prints a line of the result; with JSON, prints it on stderr instead. */
export function announce(line: string): void {
  if (isJson) note(line);
  else print(line);
}

/**
 * Prints the JSON document on stdout, if JSON was asked for. The command is done
 * then: a later signal changes nothing.
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
 * Returns a hint without those of its parts, between semicolons, that name a
 * command missing from package.json: an application may have copied only some.
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

/** Writes a command as the package manager calls it, in an application on Node. */
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
 * Shows a line on stderr until the next one replaces it; an empty one removes it.
 *
 * @returns false when there is no terminal, and nothing is shown.
 */
export function showProgress(line: string): boolean {
  const { isTTY, columns = 80 } = process.stderr;
  if (!isTTY || process.env.NO_COLOR || process.env.CI) return false;
  if (line === shown) return true;
  shown = line;
  write("stderr", `\r\x1b[K${line.slice(0, columns - 1)}`);
  return true;
}

/** Shows the text of `describe`, updated five times a second, during `work`. */
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

/** Returns an error's fields for a JSON document. */
export function describeError(error: Error & FailureFields) {
  const { code = "UNEXPECTED", message, details } = error;
  const hint = keepKnownCommands(error.hint ?? "");
  return { code, message, ...(hint && { hint }), ...details };
}

/** The codes of postgres.js for a connection that ended during a query. */
const LOST = /^(CONNECTION_(CLOSED|ENDED|DESTROYED)|ECONNRESET|EPIPE)$/;

/** What to do about 25006, read_only_sql_transaction. */
export const READ_ONLY =
  "let the session write: `select source from pg_settings where name = 'default_transaction_read_only'` in `bun run db:shell` says what sets it (user, database, or the server)";

/** True when an error means that the session is lost, not that a statement failed. */
export function isLost(error: unknown): boolean {
  const { code = "" } = error as { code?: string };
  return !/^(?=.*\d)[0-9A-Z]{5}$/.test(code) || code.startsWith("57P");
}

function report(thrown: Error & FailureFields & { usage?: string }): void {
  // `await using` failed to close after an earlier error: that one is printed.
  if (thrown.name === "SuppressedError" && "suppressed" in thrown)
    return report(thrown.suppressed as Error);
  if (isCleaningUp()) return; // the clean-up closed what was in use
  // postgres.js wrote to a closed socket; the query's own error follows.
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
    thrown.hint ??= "run it again once `bun run db:status` reaches the server";
  }
  if ((error as FailureFields).code === "25006") thrown.hint ??= READ_ONLY;
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
