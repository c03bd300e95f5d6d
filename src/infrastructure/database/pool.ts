// A pool of connections to one database. Opening a connection, waiting for a free
// one, and every answer have a time limit.
import type { QueryResult } from "pg";
import {
  type Driver,
  openSession,
  type Role,
  ROLE,
  type Wanted,
} from "../../database-socket";
import { type DatabaseAddress, type Host, hostsOf } from "../../database-url";
import type { ClientSettings } from "../../env";
import { type Connection, logIn, type Statement } from "./connection";
import { codeOf, databaseError, explainRefusal } from "./errors";
import { makeTypes, SELECT_ARRAY_TYPES } from "./values";

/** A connection that only its taker uses until it is released. */
export interface Lease {
  /**
   * Runs one statement.
   *
   * @throws PostgreSQL's own error; one with the code CONNECTION_LOST or
   * NO_ANSWER, after which the connection is closed.
   */
  query(statement: Statement, values: unknown[]): Promise<QueryResult>;
  /** True once the connection is lost. */
  isLost(): boolean;
  /** True while a transaction is open on it. */
  isInTransaction(): boolean;
  /** Returns it to the pool, or closes it if it cannot be used again. */
  release(): void;
}

/** The connections to one database. */
export interface Pool {
  /**
   * Takes an open connection, or opens a new one.
   *
   * @throws PostgreSQL's refusal; an error with the code CANNOT_CONNECT,
   * POOL_BUSY or CLOSED.
   */
  acquire(): Promise<Lease>;
  /** Runs a statement on any connection. @throws like `acquire` and `Lease.query`. */
  query(statement: Statement, values: unknown[]): Promise<QueryResult>;
  /** Returns when a connection was last in use, in milliseconds; now, while one is. */
  usedAt(): number;
  /**
   * Closes every connection, also those that are being opened; statements in progress
   * fail with CONNECTION_LOST.
   */
  drop(): void;
  /** Refuses new statements, and closes every connection. */
  close(): void;
}

/** A call of `acquire` that waits for a connection. */
interface Waiter {
  take(connection: Connection): void;
  giveUp(error: unknown): void;
}

/** A connection that has been idle for this time is closed. In milliseconds. */
const IDLE_MS = 30_000;
/** PostgreSQL's code for a server that takes no more connections. */
const TOO_MANY = "53300";
/** After TOO_MANY, no new connection is tried for this time. In milliseconds. */
const FULL_MS = 1000;

/**
 * Opens a pool; it connects with the first statement.
 *
 * @param size how many connections it may have.
 * @param ofSeveral which server to take, if the address names several and has no
 * `target_session_attrs`.
 */
export function openPool(
  address: DatabaseAddress,
  settings: ClientSettings,
  size: number,
  ofSeveral: Wanted = "any",
): Pool {
  const startup = {
    user: address.user,
    database: address.database,
    application_name: "app",
    DateStyle: "ISO", // drizzle reads no other
    // A pooler refuses parameters that it cannot keep separate for each client.
    ...(!settings.isPooled && {
      statement_timeout: String(settings.statementMs),
      idle_in_transaction_session_timeout: String(settings.idleTransactionMs),
    }),
    ...address.parameters,
  };
  let target = withConnectLimit(address, settings.connectMs);
  const wanted = hostsOf(address).length > 1 ? ofSeveral : "any";
  const needsRole =
    (address.settings?.target_session_attrs ?? wanted) !== "any";
  let types = makeTypes([]);
  let hasTypes = false;
  let isClosed = false;
  let releasedAt = 0;
  let fullUntil = 0;
  let refusal: unknown = new Error("the database: it did not answer");
  const connections = new Set<Connection>();
  const idle: { connection: Connection; timer: Timer }[] = [];
  const waiters: Waiter[] = [];
  /** Connections that are being opened, each with those who waited when it began. */
  const openings = new Set<Waiter[]>();

  const driver: Driver<Connection & { role: Role }> = {
    logIn: async (socket) => {
      let opened: Connection | undefined; // it may be lost during the login
      const onLoss = () => opened && forget(opened);
      const connection = await logIn(socket, target, startup, onLoss);
      opened = connection;
      return Object.assign(connection, await greet(connection));
    },
    close: (connection) => connection.end(),
  };

  /** Reads the types and the role of the server of a new connection. */
  async function greet(connection: Connection): Promise<{ role: Role }> {
    const ask = (text: string) =>
      connection.ask({ text, rowMode: "array" }, [], types, settings.connectMs);
    if (!hasTypes) {
      types = makeTypes((await ask(SELECT_ARRAY_TYPES)).rows);
      hasTypes = true;
    }
    const [role = []] = needsRole ? (await ask(ROLE)).rows : [];
    return { role: { isStandby: role[0], isReadOnly: role[1] } };
  }

  /** Opens a connection for each waiter, up to the pool's size. */
  function open() {
    while (
      !isClosed &&
      Date.now() >= fullUntil &&
      waiters.length > openings.size &&
      connections.size + openings.size < size
    ) {
      const present = [...waiters];
      openings.add(present);
      openSession(target, driver, wanted)
        .then(({ session, way }) => {
          if (!openings.has(present)) return session.destroy(); // dropped
          target = withHostFirst(target, way);
          connections.add(session);
          giveBack(session);
        })
        .catch((error: unknown) => {
          refusal = error;
          const isFull = codeOf(error) === TOO_MANY;
          if (isFull && connections.size + openings.size > 1) {
            // The server is full: another connection will become free.
            fullUntil = Date.now() + FULL_MS;
            setTimeout(open, FULL_MS).unref();
            return;
          }
          // Who came later gets a new attempt: the network may be back.
          const [first] = waiters;
          if (!first || !present.includes(first)) return;
          waiters.shift();
          first.giveUp(explainRefusal(error, address));
        })
        .finally(() => {
          openings.delete(present);
          open();
        });
    }
  }

  function giveBack(connection: Connection) {
    const { loss, isInTransaction, isOutdated } = connection;
    if (isClosed || loss() || isInTransaction() || isOutdated()) {
      connection.destroy();
      forget(connection);
      return;
    }
    const waiter = waiters.shift();
    if (waiter) return waiter.take(connection);
    const timer = setTimeout(() => {
      forget(connection);
      void connection.end();
    }, IDLE_MS);
    idle.push({ connection, timer });
  }

  /** Removes a connection, and opens another if one is waited for. */
  function forget(connection: Connection) {
    connections.delete(connection);
    const index = idle.findIndex((item) => item.connection === connection);
    if (index >= 0) clearTimeout(idle.splice(index, 1)[0]?.timer);
    open();
  }

  function takeOrWait(): Promise<Connection> {
    const free = idle.pop();
    clearTimeout(free?.timer);
    if (free) return Promise.resolve(free.connection);
    return new Promise((resolve, reject) => {
      const waiter = {
        take: (connection: Connection) => {
          clearTimeout(timer);
          resolve(connection);
        },
        giveUp: (error: unknown) => {
          clearTimeout(timer);
          reject(error);
        },
      };
      const timer = setTimeout(() => {
        waiters.splice(waiters.indexOf(waiter), 1);
        const used = connections.size;
        reject(
          used === 0
            ? explainRefusal(refusal, address)
            : busyError(settings.acquireMs, used, size),
        );
      }, settings.acquireMs);
      waiters.push(waiter);
      open();
    });
  }

  async function acquire(): Promise<Lease> {
    if (isClosed) throw closedError();
    const connection = await takeOrWait();
    return {
      query: (statement, values) => {
        const name = settings.canPrepare ? statement.name : undefined;
        return connection.ask(
          { ...statement, name },
          values,
          types,
          settings.statementMs,
        );
      },
      isLost: () => connection.loss() !== undefined,
      isInTransaction: connection.isInTransaction,
      release: () => {
        releasedAt = Date.now();
        giveBack(connection);
      },
    };
  }

  function drop(
    reason = databaseError("CONNECTION_LOST", "the connections were closed"),
  ) {
    for (const waiter of waiters.splice(0)) waiter.giveUp(reason);
    openings.clear();
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
          "BEGIN was sent as a separate statement, and is rolled back: the next statement may run on another connection",
          undefined,
          "use `db.transaction()`",
        );
      } finally {
        lease.release();
      }
    },
    usedAt: () =>
      openings.size > 0 || connections.size > idle.length
        ? Date.now()
        : releasedAt,
    drop: () => drop(),
    close: () => {
      isClosed = true;
      for (const { connection, timer } of idle.splice(0)) {
        clearTimeout(timer);
        connections.delete(connection);
        void connection.end();
      }
      drop(closedError());
    },
  };
}

/** Sets `connect_timeout`, unless the address has one. */
function withConnectLimit(
  address: DatabaseAddress,
  connectMs: number,
): DatabaseAddress {
  const { settings } = address;
  if (Number(settings?.connect_timeout) > 0) return address;
  const connect_timeout = String(connectMs / 1000);
  return { ...address, settings: { ...settings, connect_timeout } };
}

/** Puts the host that answered last first: a dead one costs the whole time limit. */
function withHostFirst(
  address: DatabaseAddress,
  { host, port }: Host,
): DatabaseAddress {
  const isOther = (other: Host) => other.host !== host || other.port !== port;
  const otherHosts = hostsOf(address).filter(isOther);
  return { ...address, host, port, otherHosts };
}

function busyError(waitedMs: number, used: number, size: number): Error {
  return databaseError(
    "POOL_BUSY",
    `no connection to the database was free within ${waitedMs / 1000} s (${used} of ${size} are open)`,
    undefined,
    "raise `DATABASE_POOL_SIZE`, or look for transactions that wait for something else",
  );
}

function closedError(): Error {
  return databaseError(
    "CLOSED",
    "the connections to the database are closed: closeDatabase() was called",
  );
}
