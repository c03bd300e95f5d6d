// Transactions that are all or nothing: one connection from BEGIN to COMMIT,
// nothing sent once it is lost, and no word of success that is not known.
import type { PgTransactionConfig } from "drizzle-orm/pg-core";
import type { QueryResult } from "pg";
import type { ClientSettings } from "../../env";
import { causesOf, codeOf, databaseError } from "./errors";
import type { Statement } from "./connection";
import type { Query } from "./database";
import type { Lease, Pool } from "./pool";

/** Errors after which a transaction is rolled back for certain, and may succeed again. */
const repeatable = new WeakSet<object>();

/** Serialization failure, deadlock, connection lost or never opened. */
const REPEATABLE_CODES = [
  "40001",
  "40P01",
  "CONNECTION_LOST",
  "CANNOT_CONNECT",
];

/** Causes for which the same would happen again, as slowly: idle for too long, a silent server. */
const HOPELESS_CODES = ["25P03", "CONNECT_TIMEOUT"];

const FIRST_PAUSE_MS = 50;
const QUOTED = /"(?:[^"]|"")*"|'(?:[^']|'')*'/g;

/**
 * Runs the statements of one transaction, BEGIN and COMMIT included, on one
 * connection.
 *
 * @param run is handed what runs a statement, and sends `begin`, then what it
 * likes, then `commit` or `rollback`.
 * @throws what `run` throws; an error with the code COMMIT_UNKNOWN where COMMIT
 * was sent and not answered, ROLLED_BACK where it was answered with ROLLBACK.
 */
export async function transact<T>(
  pool: Pool,
  settings: ClientSettings,
  run: (query: Query) => Promise<T>,
): Promise<T> {
  const failures: unknown[] = [];
  let verdict: Error | undefined;
  let isOver = false;
  let last: Promise<unknown> = Promise.resolve();
  const lease = await pool.acquire().catch((error: unknown) => {
    throw markRepeatable(error, [error]);
  });

  const send = async (statement: Statement, values: unknown[]) => {
    const { text } = statement;
    if (isOver)
      throw databaseError(
        "TRANSACTION_OVER",
        "the transaction has ended: await every statement inside of it",
      );
    // A lost connection has rolled back, and must not hide what lost it.
    if (/^rollback\b/i.test(text) && lease.isLost()) return rolledBack();
    const wasLost = lease.isLost();
    try {
      const result = await lease.query(withLimits(statement, settings), values);
      if (text === "commit" && result.command === "ROLLBACK")
        throw (verdict = databaseError(
          "ROLLED_BACK",
          "the transaction was rolled back at COMMIT: one of its statements had failed",
          failures.findLast((failure) => codeOf(failure) !== "25P02"),
        ));
      return result;
    } catch (error) {
      if (error !== verdict) failures.push(error);
      if (text === "rollback") return rolledBack(); // lost by now
      const mayCommit = /\bcommit\b/i.test(text.replace(QUOTED, ""));
      if (mayCommit && !wasLost && lease.isLost())
        verdict = databaseError(
          "COMMIT_UNKNOWN",
          "the connection was lost after COMMIT was sent: whether the transaction is committed is unknown",
          error,
        );
      throw verdict ?? error;
    }
  };
  /** One after the other, each with its own limit. */
  const query: Query = (statement, values) => {
    const result = last.then(() => send(statement, values));
    last = result.catch(() => {});
    return result;
  };

  try {
    return await run(query);
  } catch (error) {
    throw markRepeatable(verdict ?? error, failures);
  } finally {
    isOver = true;
    lease.release();
  }
}

/**
 * Repeats a transaction that is known to be rolled back: after a serialization
 * failure, a deadlock, or a connection that was lost before COMMIT. Never where
 * it may be committed.
 *
 * @param attempts how often it is tried at most.
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
      // Jittered, so that those who collided do not collide again.
      const pause = FIRST_PAUSE_MS * 2 ** (attempt - 1);
      await new Promise((resolve) =>
        setTimeout(resolve, pause * (0.5 + Math.random())),
      );
    }
}

/** How a transaction may be tried. */
export interface RetryConfig extends PgTransactionConfig {
  /** How often at most; 5 where it is not said. */
  attempts?: number;
}

/** What `rollback` answers where there is nothing to roll back any more. */
function rolledBack(): QueryResult {
  return { command: "ROLLBACK", rowCount: null, oid: 0, fields: [], rows: [] };
}

/** Behind a pooler the limits hold for one transaction; elsewhere the session has them. */
function withLimits(statement: Statement, settings: ClientSettings): Statement {
  if (!settings.isPooled || !/^begin\b/i.test(statement.text)) return statement;
  const text = `${statement.text};
    set local statement_timeout = ${settings.statementMs};
    set local idle_in_transaction_session_timeout = ${settings.idleTransactionMs}`;
  return { ...statement, text };
}

/** Only an error that comes from the transaction's own connection says what became of it. */
function markRepeatable(error: unknown, failures: unknown[]): unknown {
  const chain = causesOf(error);
  const own = chain.find((cause) => failures.includes(cause));
  const [outermost] = chain;
  if (!own || !outermost || codeOf(error) === "COMMIT_UNKNOWN") return error;
  const isHopeless = chain.some((cause) =>
    HOPELESS_CODES.includes(String((cause as { code?: unknown }).code)),
  );
  if (!isHopeless && REPEATABLE_CODES.includes(codeOf(own) ?? ""))
    repeatable.add(outermost);
  return error;
}
