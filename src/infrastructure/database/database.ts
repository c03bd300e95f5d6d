// drizzle's client on the pools of this folder, instead of pg's pool: with our own
// transactions, and with `execute` returning rows as an array.
import type { Assume, ExtractTablesWithRelations } from "drizzle-orm";
import { drizzle, NodePgSession } from "drizzle-orm/node-postgres";
import {
  type PgDatabase,
  PgDialect,
  type PgQueryResultHKT,
  type PgTransaction,
} from "drizzle-orm/pg-core";
import type { Client, FieldDef, QueryResult } from "pg";
import type { Statement } from "./connection";
import * as schema from "./schema";

/** Runs one statement. */
export type Query = (
  statement: Statement,
  values: unknown[],
) => Promise<QueryResult>;

/**
 * Runs a transaction on one connection: `run` gets the function that sends to it, and
 * one that makes the transaction fail for a statement that could not be sent.
 */
export type Transact = <T>(
  run: (query: Query, fail: (error: unknown) => void) => Promise<T>,
) => Promise<T>;

/** The result of `execute`: an array of rows, with PostgreSQL's other fields. */
export type Rows<Row> = Row[] & {
  rows: Row[];
  /** How many rows were read or changed; null for other commands. */
  rowCount: number | null;
  count: number | null;
  command: string;
  fields: FieldDef[];
};

interface RowsHKT extends PgQueryResultHKT {
  type: Rows<Assume<this["row"], Record<string, unknown>>>;
}

/** drizzle's client for the application. */
export type Database = PgDatabase<RowsHKT, typeof schema>;

/** The argument that `transaction` passes on. */
export type Transaction = PgTransaction<
  RowsHKT,
  typeof schema,
  ExtractTablesWithRelations<typeof schema>
>;

/** Returns drizzle's client for the schema, which runs statements with `query`. */
export function openDatabase(query: Query, transact: Transact): Database {
  const database = drizzle({ client: asClient(query), schema });
  const { schema: tables, fullSchema, tableNamesMap } = database._;
  const relations = tables && { schema: tables, fullSchema, tableNamesMap };
  // drizzle's own, on a pool, sends ROLLBACK to a lost connection and keeps it.
  const transaction: typeof database.transaction = (work, config) =>
    transact((run, fail) =>
      new NodePgSession<typeof schema, NonNullable<typeof tables>>(
        asClient(run),
        new WatchedDialect(fail),
        relations,
      ).transaction(work, config),
    );
  const counting = drizzle({
    client: asClient((statement, values) =>
      query({ ...statement, isCount: true }, values),
    ),
  });
  const $count = counting.$count.bind(counting);
  // Only the type of `execute` differs from that of drizzle on pg.
  return Object.assign(database, {
    transaction,
    $count,
  }) as unknown as Database;
}

/** Reports a statement that drizzle cannot write: a column refuses its value. */
class WatchedDialect extends PgDialect {
  constructor(private readonly onError: (error: unknown) => void) {
    super();
  }
  override sqlToQuery(...statement: Parameters<PgDialect["sqlToQuery"]>) {
    try {
      return super.sqlToQuery(...statement);
    } catch (error) {
      this.onError(error);
      throw error;
    }
  }
}

/** Returns a client for drizzle, which uses only `query`. */
function asClient(query: Query): Client {
  const client = {
    query: async (statement: Statement, values: unknown[]) => {
      const result = await query(statement, values);
      if (statement.rowMode === "array") return result;
      return Array.isArray(result) ? result.map(toRows) : toRows(result);
    },
  };
  return client as unknown as Client;
}

function toRows({ rows, rowCount, command, fields }: QueryResult) {
  const extra = { rows, rowCount, count: rowCount, command, fields };
  for (const [name, value] of Object.entries(extra))
    Object.defineProperty(rows, name, { value });
  return rows;
}
