// Reads and writes drizzle.__migration_log. It is a table of this project, because
// drizzle's own table must stay as it is. Each run of a migration has a row; a row
// whose `ms` is null is of a run that has not finished. All SQL here is sent as
// simple queries, so that it can be sent together with a migration's statements.
import { hostname, userInfo } from "node:os";
import type { Sql } from "postgres";
import { readProject } from "../../src/project";
import { hasTable } from "../lib/has-table";
import { quoteIdentifier, quoteLiteral } from "../lib/quote";

/** The kind of run that a row is for. */
export type Direction = "up" | "down" | "baseline" | "repair";

/** The fields of a row that later runs read. */
export interface LogEntry {
  tag: string;
  hash: string;
  /** The hash of the statements without comments and blanks. */
  bareHash: string;
  direction: Direction;
  /** ISO 8601. */
  startedAt: string;
  /** Milliseconds; null until it has finished. */
  ms: number | null;
  /** How many statements are committed, and their bare hash. */
  statementsDone: number;
  doneHash: string | null;
  /** The index of the statement that was started outside a transaction. */
  statementUnderWay: number | null;
  error: string | null;
}

/** A run, as it is written to the log. */
export interface Run {
  tag: string;
  hash: string;
  bareHash: string;
  direction: Direction;
}

/** How far an unfinished run has come. */
export interface Progress {
  statementsDone: number;
  doneHash: string;
  statementUnderWay: number | null;
}

/** True when SQL may change the tables of the records or the log. */
export function touchesRecords(text: string): boolean {
  return /drizzle/i.test(text) || text.includes(readProject().records.table);
}

/** Returns SQL that creates the missing tables, drizzle's table as drizzle-orm 0.45
 * does. It tests first: CREATE … IF NOT EXISTS needs the CREATE privilege even when
 * the object exists. */
export function createTables(): string {
  const { schema, sql } = readProject().records;
  return `do $create$ begin
  if to_regnamespace('drizzle') is null then create schema drizzle; end if;
  if not exists (select from pg_namespace where nspname = ${quoteLiteral(schema)}) then
    create schema ${quoteIdentifier(schema)};
  end if;
  if to_regclass(${quoteLiteral(sql)}) is null then
    create table ${sql} (
      id serial primary key,
      hash text not null,
      created_at bigint
    );
  end if;
  if to_regclass('drizzle.__migration_log') is null then
    create table drizzle.__migration_log (
      id bigint generated always as identity primary key,
      tag text not null,
      hash text not null,
      bare_hash text not null,
      direction text not null check (direction in ('up', 'down', 'baseline', 'repair')),
      started_at timestamptz not null default now(),
      ms integer,
      statements_done integer not null default 0,
      done_hash text,
      statement_under_way integer,
      role text not null default session_user,
      run_by text not null,
      client inet default inet_client_addr(),
      error text
    );
    create unique index __migration_log_unfinished
      on drizzle.__migration_log (tag, direction) where ms is null;
  end if;
end $create$`;
}

/** Returns the rows that match `condition`, oldest first; none without the table. */
export async function readLog(
  sql: Sql,
  condition = "true",
): Promise<LogEntry[]> {
  if (!(await hasTable(sql, "drizzle.__migration_log"))) return [];
  return await sql.unsafe<LogEntry[]>(`
    select tag, hash, bare_hash as "bareHash", direction, ms, error,
      to_char(started_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as "startedAt",
      statements_done as "statementsDone", done_hash as "doneHash",
      statement_under_way as "statementUnderWay"
    from drizzle.__migration_log where ${condition} order by id`);
}

/** Returns SQL that writes how far an unfinished run has come. */
export function logProgress(run: Run, progress: Progress): string {
  const { statementsDone, doneHash, statementUnderWay } = progress;
  return `
    insert into drizzle.__migration_log
      (tag, hash, bare_hash, direction, run_by,
        statements_done, done_hash, statement_under_way)
    values (${describeRun(run)}, ${statementsDone}, ${quoteLiteral(doneHash)}, ${statementUnderWay})
    on conflict (tag, direction) where ms is null do update set
      hash = excluded.hash, bare_hash = excluded.bare_hash, error = null,
      statements_done = excluded.statements_done, done_hash = excluded.done_hash,
      statement_under_way = excluded.statement_under_way`;
}

/**
 * Returns SQL that writes that a run is done, for the transaction that ends it.
 *
 * @param hasProgress true when its progress was written before.
 */
export function logDone(
  run: Run,
  statements: number,
  hasProgress: boolean,
): string {
  const unfinished = `drizzle.__migration_log where tag = ${quoteLiteral(run.tag)} and ms is null`;
  const start = hasProgress
    ? `coalesce((select started_at from ${unfinished} and direction = '${run.direction}'), now())`
    : "now()";
  const insert = `
    insert into drizzle.__migration_log
      (tag, hash, bare_hash, direction, run_by, statements_done, started_at, ms)
    select ${describeRun(run)}, ${statements}, started_at,
      extract(epoch from clock_timestamp() - started_at) * 1000
    from ${start} as started_at`;
  return hasProgress ? `${insert}; delete from ${unfinished}` : insert;
}

/** Returns SQL that writes why a run failed, after `ms`. An unfinished run stays
 * unfinished. */
export function logError(run: Run, error: string, ms: number): string {
  const unfinished = `tag = ${quoteLiteral(run.tag)} and direction = '${run.direction}' and ms is null`;
  return `
    update drizzle.__migration_log
      set error = ${quoteLiteral(error)} where ${unfinished};
    insert into drizzle.__migration_log
      (tag, hash, bare_hash, direction, run_by, started_at, ms, error)
    select ${describeRun(run)}, now() - interval '${ms} ms', ${ms}, ${quoteLiteral(error)}
    where not exists (select from drizzle.__migration_log where ${unfinished})`;
}

/** Returns SQL that removes the unfinished runs of a migration from the log. */
export function logForgotten(tag: string): string {
  return `delete from drizzle.__migration_log where tag = ${quoteLiteral(tag)} and ms is null`;
}

/** The user and machine of this process, looked up at the first run. */
let runBy: string | undefined;

function describeRun({ tag, hash, bareHash, direction }: Run): string {
  runBy ??= `${readUser()}@${hostname()}`;
  const run = [tag, hash, bareHash, direction, runBy];
  return run.map(quoteLiteral).join(", ");
}

function readUser(): string {
  const { username, uid } = userInfo();
  return username === "unknown" ? `uid ${uid}` : username;
}
