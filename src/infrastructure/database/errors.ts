// The errors of the application's client. drizzle wraps the error of a statement:
// use `codeOf`, which reads `error.cause` as well as `error`.
import pg from "pg";
import type { Refusal } from "../../database-socket";
import type { DatabaseAddress } from "../../database-url";

/** The codes of errors between the application and its database. */
export type DatabaseErrorCode =
  /** No connection could be opened: nothing listens, or it takes no more sessions. */
  | "CANNOT_CONNECT"
  /** Every connection of the pool was in use for the whole time limit. */
  | "POOL_BUSY"
  /** An open connection ended before the answer came. */
  | "CONNECTION_LOST"
  /** The answer did not come within the limit; the connection was closed. */
  | "NO_ANSWER"
  /** COMMIT was sent and not answered: the transaction may be committed. */
  | "COMMIT_UNKNOWN"
  /** A statement of the transaction had failed, and COMMIT rolled it back. */
  | "ROLLED_BACK"
  /** BEGIN was sent without `db.transaction()`. */
  | "UNSAFE_TRANSACTION"
  /** The transaction has ended; its `tx` cannot be used any more. */
  | "TRANSACTION_OVER"
  /** A pooler does not keep prepared statements. */
  | "NOT_PREPARED"
  /** closeDatabase() was called. */
  | "CLOSED";

/** Returns an error with a code of the client, and a hint if there is one. */
export function databaseError(
  code: DatabaseErrorCode,
  message: string,
  cause?: unknown,
  hint?: string,
): Error {
  return Object.assign(new Error(message, { cause }), {
    code,
    ...(hint && { hint }),
  });
}

/**
 * Returns the first code of an error and its causes: one of the client's, an
 * SQLSTATE such as `40001`, or one of the system's such as `ECONNREFUSED`.
 */
export function codeOf(error: unknown): string | undefined {
  return causesOf(error)
    .map((cause) => (cause as { code?: unknown }).code)
    .find((code) => typeof code === "string");
}

/** Returns the error and the causes below it, the outermost first. */
export function causesOf(error: unknown): object[] {
  const chain: object[] = [];
  for (let at = error; at instanceof Object; at = (at as Error).cause) {
    if (chain.includes(at)) break;
    chain.push(at);
  }
  return chain;
}

/**
 * Returns the error for a connection that could not be opened. An error of the
 * configuration, or PostgreSQL's own refusal, is returned unchanged; any other gets
 * the code CANNOT_CONNECT.
 */
export function explainRefusal(
  error: unknown,
  { variable }: DatabaseAddress,
): unknown {
  const message = error instanceof Error ? error.message : String(error);
  const [, parameter] =
    /unsupported startup parameter(?: in options)?: (\w+)/.exec(message) ?? [];
  if (parameter)
    return databaseError(
      "CANNOT_CONNECT",
      `${variable} leads to a pooler, which refuses the startup parameter ${parameter}`,
      error,
      parameter === "options"
        ? "leave `options` out of the URL: a pooler cannot keep it apart for each of its clients"
        : "set `DATABASE_URL_UNPOOLED` to the server itself, or `DATABASE_PREPARE=false`",
    );
  const code = codeOf(error) ?? "";
  const isAnswer =
    error instanceof pg.DatabaseError && !/^(57P|53|08)/.test(code);
  if (isAnswer || code === "CONFIGURATION") return error;
  const refusals = (error as { refusals?: Refusal[] }).refusals ?? [];
  const reasons = refusals.map(
    ({ host: { host, port }, error }) => `${host}:${port}: ${error.message}`,
  );
  return databaseError(
    "CANNOT_CONNECT",
    `cannot connect to ${reasons.join("; ") || message}`,
    error,
  );
}
