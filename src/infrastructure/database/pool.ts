// A pool of connections to one database that keeps time: opening a connection,
// waiting for a free one, and every answer have a limit.
import pg, { type PoolClient, type QueryResult } from "pg";
import type { DatabaseAddress } from "../../database-url";
import type { ClientSettings } from "../../env";
import { Connection, type Statement } from "./connection";
import { databaseError } from "./errors";
import {
  explainRefusal,
  listAttempts,
  nextAttempt,
  requireRole,
  type Role,
  wantedRole,
} from "./hosts";
import { makeTypes, SELECT_ARRAY_TYPES } from "./values";

/** A connection that its taker has alone until it is released. */
export interface Lease {
  /**
   * Runs one statement.
   *
   * @throws PostgreSQL's own error; one with the code CONNECTION_LOST or
   * NO_ANSWER, after which the connection is closed.
   */
  query(statement: Statement, values: unknown[]): Promise<QueryResult>;
  /** True once nothing can be sent any more. */
  isLost(): boolean;
  /** True while a transaction is open on it. */
  isInTransaction(): boolean;
  /** Gives it back. It is closed where it is lost, or still in a transaction. */
  release(): void;
}

/** The connections to one database. */
export interface Pool {
  /**
   * Takes a connection, an open one or a new one.
   *
   * @throws PostgreSQL's refusal; an error with the code CANNOT_CONNECT,
   * POOL_BUSY or CLOSED.
   */
  acquire(): Promise<Lease>;
  /** Runs a statement on any connection. @throws like `acquire` and `Lease.query`. */
  query(statement: Statement, values: unknown[]): Promise<QueryResult>;
  /** When one was last in use, as a time in milliseconds: now, while one is. */
  usedAt(): number;
  /** Ends every connection; who waits for an answer is told that it is lost. */
  drop(): void;
  /** Lets nobody in any more, and ends every connection. */
  close(): void;
}

/** PostgreSQL's own limit strikes first, where it can. In milliseconds. */
const GRACE_MS = 1000;
/** A connection that has been idle for so long is closed. In milliseconds. */
const IDLE_MS = 30_000;
const KEEPALIVE_MS = 10_000;
const GOODBYE_MS = 1000;

/**
 * Opens a pool; it connects with the first statement.
 *
 * @param size how many connections it may have.
 * @param ofSeveral which server to take where the address names several.
 * @throws like `readEnv` where a file of certificates cannot be read.
 */
export function openPool(
  address: DatabaseAddress,
  settings: ClientSettings,
  size: number,
  ofSeveral: Role = "any",
): Pool {
  const { user, password, database } = address;
  const given = address.settings ?? {};
  const connectMs =
    Math.max(Number(given.connect_timeout ?? 0), 0) * 1000 ||
    settings.connectMs;
  const answerMs = settings.statementMs + GRACE_MS;
  const attempts = listAttempts(address);
  const wanted = wantedRole(address, ofSeveral);
  const startup = {
    user,
    database,
    application_name: "app",
    // A pooler refuses what it cannot keep apart for each of its clients.
    ...(!settings.isPooled && {
      statement_timeout: String(settings.statementMs),
      idle_in_transaction_session_timeout: String(settings.idleTransactionMs),
    }),
    ...address.parameters,
  };
  let current = attempts[0];
  let types = makeTypes([]);
  let hasTypes = false;
  let isClosed = false;
  let releasedAt = 0;
  const connections = new Set<Connection>();
  const greeted = new WeakSet<Connection>();
  const waiting = new Set<(error: Error) => void>();

  class CurrentConnection extends Connection {
    constructor() {
      super(
        {
          ...current,
          user,
          database,
          password: () => password, // an empty one pg would look for elsewhere
          sslnegotiation: given.sslnegotiation ?? "postgres",
          enableChannelBinding: given.channel_binding === "require",
          connectionTimeoutMillis: connectMs,
          keepAlive: given.keepalives !== "0",
          keepAliveInitialDelayMillis: KEEPALIVE_MS,
        },
        startup,
      );
      connections.add(this);
      this.once("end", () => connections.delete(this));
    }
  }
  const pool = new pg.Pool({
    Client: CurrentConnection,
    max: size,
    idleTimeoutMillis: IDLE_MS,
  });
  pool.on("error", () => {}); // an idle connection was lost, and is removed

  /** Looks at a new connection. @throws where it is not to be used. */
  async function greet(connection: Connection, isStrict: boolean) {
    if (greeted.has(connection)) return;
    if (wanted && isStrict) await requireRole(connection, wanted, connectMs);
    if (!hasTypes) {
      const { rows } = await connection.ask(
        { text: SELECT_ARRAY_TYPES, rowMode: "array" },
        [],
        types,
        connectMs,
      );
      types = makeTypes(rows);
      hasTypes = true;
    }
    greeted.add(connection);
  }

  async function connect(): Promise<PoolClient & Connection> {
    const rounds = wanted === "prefer-standby" ? 2 : 1;
    for (let tried = 1; ; tried++) {
      const attempt = current;
      let client: PoolClient | undefined;
      try {
        client = await pool.connect();
        if (!(client instanceof Connection))
          throw new Error("not of this pool");
        await greet(client, tried <= attempts.length);
        return client;
      } catch (error) {
        client?.release(true);
        const next = nextAttempt(attempts, attempt, error);
        if (next && current === attempt) current = next;
        if (!next || isClosed || tried >= attempts.length * rounds)
          throw explainRefusal(error, attempt, connectMs);
      }
    }
  }

  /** `connect`, for as long as one may wait. */
  function connectInTime() {
    return new Promise<PoolClient & Connection>((resolve, reject) => {
      const giveUp = (error: Error) => {
        clearTimeout(timer);
        if (waiting.delete(giveUp)) reject(error);
      };
      const timer = setTimeout(
        () =>
          giveUp(
            databaseError(
              "POOL_BUSY",
              `no connection to the database was free within ${settings.acquireMs / 1000} s, of ${size}`,
            ),
          ),
        settings.acquireMs,
      );
      waiting.add(giveUp);
      connect().then((connection) => {
        clearTimeout(timer);
        if (waiting.delete(giveUp)) resolve(connection);
        else connection.release();
      }, giveUp);
    });
  }

  async function acquire(): Promise<Lease> {
    if (isClosed) throw closedError();
    const connection = await connectInTime();
    return {
      query: ({ text, name, rowMode }, values) =>
        connection.ask(
          { text, name: settings.canPrepare ? name : undefined, rowMode },
          values,
          types,
          answerMs,
        ),
      isLost: () => connection.loss !== undefined,
      isInTransaction: () => connection.isInTransaction(),
      release: () => {
        releasedAt = Date.now();
        connection.release(connection.loss ?? connection.isInTransaction());
      },
    };
  }

  function drop() {
    for (const connection of connections) connection.destroy();
  }

  return {
    acquire,
    query: async (statement, values) => {
      const lease = await acquire();
      try {
        const result = await lease.query(statement, values);
        if (!lease.isInTransaction()) return result;
        throw databaseError(
          "UNSAFE_TRANSACTION",
          "BEGIN was sent as a statement of its own, and is rolled back: the next statement may run on another connection",
          undefined,
          "use `db.transaction()`",
        );
      } finally {
        lease.release();
      }
    },
    usedAt: () =>
      waiting.size > 0 || pool.totalCount > pool.idleCount
        ? Date.now()
        : releasedAt,
    drop,
    close: () => {
      if (isClosed) return;
      isClosed = true;
      const isIdle = pool.totalCount === pool.idleCount;
      for (const giveUp of waiting) giveUp(closedError());
      void pool.end(); // idle connections say goodbye
      if (isIdle) setTimeout(drop, GOODBYE_MS).unref();
      else drop();
    },
  };
}

function closedError(): Error {
  return databaseError(
    "CLOSED",
    "the connections to the database are closed: closeDatabase() was called",
  );
}
