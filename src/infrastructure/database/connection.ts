// One session of pg's client, with a time limit for every answer and a record of
// the error that ended it.
import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import pg, { type QueryResult } from "pg";
import type { DatabaseAddress } from "../../database-url";
import { databaseError } from "./errors";
import { encodeValues, type makeTypes, typesOf } from "./values";

/** One statement, as drizzle passes it to a driver. */
export interface Statement {
  text: string;
  /** The name of the prepared statement; without a name it is not prepared. */
  name?: string;
  /** Rows as arrays, which drizzle maps; as objects when undefined. */
  rowMode?: "array";
  /** True for `$count`: its text alone does not show that it is a read. */
  isCount?: boolean;
}

/** A session that is logged in. */
export interface Connection {
  /**
   * Runs one statement.
   *
   * @param types the parsers of the columns.
   * @param limitMs PostgreSQL's own limit, in milliseconds. The connection is closed
   * a second after it.
   * @throws PostgreSQL's own error, or the `loss`.
   */
  ask(
    statement: Statement,
    values: unknown[],
    types: ReturnType<typeof makeTypes>,
    limitMs: number,
  ): Promise<QueryResult>;
  /** The error that ended it, with the code CONNECTION_LOST or NO_ANSWER. */
  loss(): Error | undefined;
  /** True while a transaction is open, also a failed one. */
  isInTransaction(): boolean;
  /**
   * True once it should be replaced: a write was refused as read-only, so the
   * server may be a standby, or a prepared statement cannot be used any more.
   */
  isOutdated(): boolean;
  /** Says goodbye to the server. */
  end(): Promise<void>;
  /** Ends it at once, whatever the network does. */
  destroy(): void;
}

/** The codes of errors that end a session: shutdown, crash, idle for too long. */
const ENDS_SESSION = /^(57P0|08|25P0[34]$)/;
/** The codes of errors that a prepared statement would get again: its result type changed, or it is gone. */
const NOT_AS_PREPARED = ["0A000", "26000"];

/** Added to a limit, so that PostgreSQL's own limit comes first. In milliseconds. */
const GRACE_MS = 1000;
/** How long the server has to close the connection. In milliseconds. */
const GOODBYE_MS = 1000;
const WITH_CHANNEL = "SCRAM-SHA-256-PLUS";

/**
 * Logs in through a connected socket, which is already encrypted if TLS is used.
 *
 * @param startup all startup parameters.
 * @param onLoss called once, when the connection is lost.
 * @throws PostgreSQL's refusal.
 */
export async function logIn(
  socket: Socket,
  { user, password, database, settings }: DatabaseAddress,
  startup: Record<string, string>,
  onLoss: () => void,
): Promise<Connection> {
  let loss: Error | undefined;
  const lose = (error: Error) => {
    if (loss) return;
    loss = error;
    onLoss();
  };
  const loseTo = (error: Error) =>
    lose(
      databaseError(
        "CONNECTION_LOST",
        `the connection to the database was lost: ${error.message}`,
        error,
      ),
    );

  let isOutdated = false;
  let goOn = () => {};
  const bindsChannel = settings?.channel_binding === "require";
  let isBound = false;
  // pg would read any value that is left out or empty from libpq's variables.
  const client = new pg.Client({
    stream: () => adopt(socket),
    ssl: false, // the socket is encrypted already
    sslnegotiation: "postgres",
    user,
    database,
    password: () => password,
    enableChannelBinding: bindsChannel,
  });
  client.connection.once("authenticationSASL", ({ mechanisms }) => {
    isBound = socket instanceof TLSSocket && mechanisms.includes(WITH_CHANNEL);
  });
  // pg's own would add more parameters.
  Object.assign(client, { getStartupConf: () => startup });
  client.on("error", loseTo); // without a listener, the error ends the process
  await client.connect();
  client.connection.on("readyForQuery", () => goOn());
  client.on("end", () => goOn());
  if (bindsChannel && !isBound)
    throw new Error("it offers no channel binding, which the URL requires");

  /** The types of each prepared statement: those of its first values. */
  const declared = new Map<string, string>();

  const connection: Connection = {
    loss: () => loss,
    isInTransaction: () => (client.getTransactionStatus() ?? "I") !== "I",
    isOutdated: () => isOutdated,
    end: async () => {
      setTimeout(() => socket.destroy(), GOODBYE_MS).unref();
      await client.end();
    },
    destroy: () => socket.destroy(),
    ask: async (statement, values, types, limitMs) => {
      if (loss) throw loss;
      const { text, rowMode } = statement;
      let { name } = statement;
      const encoded = encodeValues(values);
      const oids = typesOf(values);
      // A prepared statement would refuse values of other types.
      if (name && !declared.has(name)) declared.set(name, String(oids));
      if (name && declared.get(name) !== String(oids)) name = undefined;
      const giveUp = () => {
        lose(
          databaseError(
            "NO_ANSWER",
            `the database did not answer within ${(limitMs + GRACE_MS) / 1000} s, and the connection was closed; whether the statement took effect is unknown`,
          ),
        );
        socket.destroy();
      };
      // Two steps: after a suspension of this process the first is late, and the
      // answer may be there already.
      let timer = setTimeout(
        () => (timer = setTimeout(giveUp, GRACE_MS)),
        limitMs,
      );
      const ready = Promise.withResolvers<void>();
      goOn = ready.resolve;
      try {
        return await client.query({
          text,
          values: encoded,
          // pg reads declared oids from the same property as the parsers.
          types: Object.assign(oids, types),
          ...(name && { name }),
          ...(rowMode && { rowMode }),
        });
      } catch (error) {
        if (error instanceof pg.DatabaseError) {
          const { code = "" } = error;
          // A function may raise class 08 for a connection of its own.
          const isOwn = error.severity !== "ERROR";
          if (isOwn && ENDS_SESSION.test(code)) loseTo(error);
          const isStale = !!name && NOT_AS_PREPARED.includes(code);
          isOutdated ||= code === "25006" || isStale;
          // Only now does the server say whether a transaction is open.
          if (!loss) await ready.promise;
          // It has not run: an error inside a function has a context, `where`.
          if (isStale && !error.where && !connection.isInTransaction())
            return connection.ask({ text, rowMode }, values, types, limitMs);
        }
        throw loss ?? (name ? explainPrepared(error) : error);
      } finally {
        clearTimeout(timer);
      }
    },
  };
  return connection;
}

/** Explains an error about a prepared statement: a pooler does not keep those. */
function explainPrepared(error: unknown): unknown {
  const isPooler =
    error instanceof pg.DatabaseError &&
    ["26000", "42P05"].includes(error.code ?? "");
  if (!isPooler) return error;
  return databaseError(
    "NOT_PREPARED",
    `DATABASE_URL leads to a transaction pooler, which does not keep prepared statements: ${error.message}`,
    error,
    "set `DATABASE_PREPARE=false`, or `DATABASE_URL_UNPOOLED` to the server itself",
  );
}

/** Makes pg use a connected socket: pg calls `connect` and waits for the event. */
function adopt(socket: Socket): Socket {
  const connect = () => {
    queueMicrotask(() => socket.emit("connect"));
    return socket;
  };
  return Object.assign(socket, { connect });
}
