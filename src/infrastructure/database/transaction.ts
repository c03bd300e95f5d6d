// Transactions on one connection from BEGIN to COMMIT. Nothing is sent once that is
// lost, and success is reported only when COMMIT was answered.
import type { PgTransactionConfig } from "drizzle-orm/pg-core";
import pg, { type QueryResult } from "pg";
import type { ClientSettings } from "../../env";
import { causesOf, codeOf, databaseError } from "./errors";
import type { Statement } from "./connection";
import type { Query } from "./database";
import type { Pool } from "./pool";

/** Errors after which a transaction is certainly rolled back, and may be repeated. */
const repeatable = new WeakSet<object>();

/** Serialization failure, deadlock, lost connection, connection never opened. */
const REPEATABLE_CODES = [
  "40001",
  "40P01",
  "CONNECTION_LOST",
  "CANNOT_CONNECT",
];

/** Causes that would only happen again: idle or open for too long, a silent server. */
const HOPELESS_CODES = ["25P03", "25P04", "CONNECT_TIMEOUT"];

const FIRST_PAUSE_MS = 50;
/** `end` is another name of COMMIT, and a word of other statements. */
const COMMITS = /\bcommit\b|\bprepare\s+transaction\b|(^|;)\s*end\b/i;
const QUOTED = /"[^"]*"|'[^']*'/g;
/** PostgreSQL refuses it: there is no such savepoint. */
const REFUSED = 'rollback to savepoint "a statement could not be sent"';

/**
 * Runs the statements of one transaction, BEGIN and COMMIT included, on one
 * connection.
 *
 * @param run gets the function that runs a statement, and `fail` for one that could
 * not be sent; sends `begin`, its statements, then `commit` or `rollback`.
 * @throws what `run` throws; an error with the code COMMIT_UNKNOWN when COMMIT was
 * sent and not answered, ROLLED_BACK when PostgreSQL answered it with ROLLBACK.
 */
export async function transact<T>(
  pool: Pool,
  settings: ClientSettings,
  run: (query: Query, fail: (error: unknown) => void) => Promise<T>,
): Promise<T> {
  const failures: unknown[] = [];
  let verdict: Error | undefined;
  let hasBegun = false;
  let isEnding = false;
  let isUndone = false;
  let isOver = false;
  let last: Promise<unknown> = Promise.resolve();
  const lease = await pool.acquire().catch((error: unknown) => {
    throw markRepeatable(error, [error]);
  });

  const send = async (statement: Statement, values: unknown[]) => {
    const { text } = statement;
    const isEnd = text === "commit" || text === "rollback";
    // PostgreSQL would commit a later statement by itself, even after a ROLLBACK.
    const hasEnded = isEnding || (hasBegun && !lease.isInTransaction());
    if (isOver || (hasEnded && !isEnd))
      throw databaseError(
        "TRANSACTION_OVER",
        "the transaction has ended: await every statement inside it",
      );
    isEnding ||= isEnd;
    // A lost connection has rolled back: an error here would hide the first one.
    if (text.startsWith("rollback") && lease.isLost()) return rolledBack();
    const wasLost = lease.isLost();
    try {
      const result = await lease.query(withLimits(statement, settings), values);
      // Without a transaction, PostgreSQL answers COMMIT with COMMIT.
      if (!isEnd && !lease.isInTransaction())
        isUndone = commandOf(result) === "ROLLBACK";
      if (text === "commit" && (isUndone || result.command === "ROLLBACK"))
        throw (verdict = databaseError(
          "ROLLED_BACK",
          isUndone
            ? "the transaction was rolled back by a statement of its own"
            : "the transaction was rolled back at COMMIT: one of its statements had failed",
          failures.findLast((failure) => codeOf(failure) !== "25P02"),
        ));
      hasBegun = true;
      return result;
    } catch (error) {
      if (error !== verdict) failures.push(error);
      if (text === "rollback") return rolledBack(); // lost by now
      const mayCommit = COMMITS.test(text.replace(QUOTED, ""));
      if (mayCommit && !wasLost && lease.isLost())
        verdict = databaseError(
          "COMMIT_UNKNOWN",
          "the connection was lost after COMMIT was sent: whether the transaction is committed is unknown",
          error,
        );
      const isRefused = error instanceof pg.DatabaseError;
      if (!isRefused && !verdict && !lease.isLost()) fail(error);
      throw verdict ?? error;
    }
  };
  /** Makes the transaction, or its savepoint, fail as after a refused statement. */
  const fail = (error: unknown) => {
    last = last
      .then(() => send({ text: REFUSED }, []))
      .catch(() => failures.push(error));
  };
  /** Sends statements one after the other, each with its own time limit. */
  const query: Query = (statement, values) => {
    const result = last.then(() => send(statement, values));
    last = result.catch(() => {});
    return result;
  };

  try {
    return await run(query, fail);
  } catch (error) {
    throw markRepeatable(verdict ?? error, failures);
  } finally {
    isOver = true;
    lease.release();
  }
}

/**
 * Runs a transaction, and repeats it when it is known to be rolled back: after a
 * serialization failure, a deadlock, or a connection that was lost before COMMIT.
 * Never repeats one that may be committed.
 *
 * @param attempts how many times it is tried at most.
 * @throws the last attempt's error.
 */
export async function repeat<T>(
  transaction: () => Promise<T>,
  attempts: number,
): Promise<T> {
  for (let attempt = 1; ; attempt++)
    try {
      return await transaction();
    } catch (error) {
      const canRepeat = error instanceof Object && repeatable.has(error);
      if (!canRepeat || attempt >= attempts) throw error;
      // A random pause, so that transactions that collided do not collide again.
      const pause = FIRST_PAUSE_MS * 2 ** (attempt - 1);
      await new Promise((resolve) =>
        setTimeout(resolve, pause * (0.5 + Math.random())),
      );
    }
}

/** The options of a transaction that may be repeated. */
export interface RetryConfig extends PgTransactionConfig {
  /** How many times at most; 5 by default. */
  attempts?: number;
}

/** Returns the result of a `rollback` when the transaction is rolled back already. */
function rolledBack(): QueryResult {
  return { command: "ROLLBACK", rowCount: null, oid: 0, fields: [], rows: [] };
}

/** Returns the command of the last statement that ran. */
function commandOf(result: QueryResult): string | undefined {
  return [result].flat().at(-1)?.command;
}

/** Adds the limits to BEGIN behind a pooler; elsewhere the session has them. */
function withLimits(statement: Statement, settings: ClientSettings): Statement {
  if (!settings.isPooled || !statement.text.startsWith("begin"))
    return statement;
  const text = `${statement.text};
    set local statement_timeout = ${settings.statementMs};
    set local idle_in_transaction_session_timeout = ${settings.idleTransactionMs}`;
  return { ...statement, text };
}

/**
 * Marks an error as repeatable. Only an error from the transaction's own connection
 * tells that it is rolled back.
 */
function markRepeatable(error: unknown, failures: unknown[]): unknown {
  const chain = causesOf(error);
  const own = chain.find((cause) => failures.includes(cause));
  const [outermost] = chain;
  // Another transaction, inside this one, may have marked it.
  if (outermost) repeatable.delete(outermost);
  if (!outermost || codeOf(error) === "COMMIT_UNKNOWN") return error;
  const isHopeless = chain.some((cause) =>
    HOPELESS_CODES.includes(String((cause as { code?: unknown }).code)),
  );
  if (!isHopeless && REPEATABLE_CODES.includes(codeOf(own) ?? ""))
    repeatable.add(outermost);
  return error;
}
