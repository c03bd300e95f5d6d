// One connection to PostgreSQL: pg's client with a limit for every answer, and
// with a memory of what ended it.
import pg, { type ClientConfig, type QueryResult } from "pg";
import { databaseError } from "./errors";
import { encodeValues, type makeTypes, typesOf } from "./values";

/** One statement, as drizzle hands it to a driver. */
export interface Statement {
  text: string;
  /** The name under which it is prepared; without one it is not. */
  name?: string;
  /** Rows as arrays, which drizzle maps; without it, as objects. */
  rowMode?: "array";
}

/** PostgreSQL ends the session with these: shut down, crashed, idle for too long. */
const ENDS_SESSION = /^(57P0|08|25P0[34]$)/;

/** A class, for pg's pool makes its clients with `new`. */
export class Connection extends pg.Client {
  /** The error with the code CONNECTION_LOST or NO_ANSWER, once it has ended. */
  loss: Error | undefined;

  /** @param startup every startup parameter; pg would add some from PG… variables. */
  constructor(
    config: ClientConfig,
    private readonly startup: Record<string, string>,
  ) {
    super(config);
    // Without a listener the process would end.
    this.on("error", (error) => this.lose(error));
  }

  /** Called by pg when it connects. */
  getStartupConf(): Record<string, string> {
    return this.startup;
  }

  /**
   * Runs one statement.
   *
   * @param limitMs after which the connection is closed, in milliseconds.
   * @throws PostgreSQL's own error, or `loss`.
   */
  async ask(
    { text, name, rowMode }: Statement,
    values: unknown[],
    types: ReturnType<typeof makeTypes>,
    limitMs: number,
  ): Promise<QueryResult> {
    if (this.loss) throw this.loss;
    const timer = setTimeout(() => {
      this.loss = databaseError(
        "NO_ANSWER",
        `the database did not answer within ${limitMs / 1000} s, and the connection was closed; whether the statement took effect is unknown`,
      );
      this.destroy();
    }, limitMs);
    try {
      return await this.query({
        text,
        values: encodeValues(values),
        // pg looks for the declared oids in the property that has the parsers.
        types: Object.assign(typesOf(values), types),
        ...(name && { name }),
        ...(rowMode && { rowMode }),
      });
    } catch (error) {
      if (
        error instanceof pg.DatabaseError &&
        ENDS_SESSION.test(error.code ?? "")
      )
        this.lose(error);
      throw this.loss ?? error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** True while a transaction is open, also a failed one. */
  isInTransaction(): boolean {
    return (
      this.getTransactionStatus() === "T" || this.getTransactionStatus() === "E"
    );
  }

  /** Ends it at once, whatever the network does. */
  destroy(): void {
    this.connection.stream.destroy();
  }

  private lose(error: Error): void {
    this.loss ??= databaseError(
      "CONNECTION_LOST",
      `the connection to the database was lost: ${error.message}`,
      error,
    );
  }
}
