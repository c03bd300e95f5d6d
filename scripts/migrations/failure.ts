// Says where in a file a statement failed, what PostgreSQL's error is, what is
// committed, and which command to run next.
import type { Sql } from "postgres";
import { failure, READ_ONLY } from "../lib/report";
import type { Statement } from "./statements";
import type { Script } from "./steps";

/** An error as the server sends it. */
export interface PostgresError extends Error {
  code?: string;
  detail?: string;
  hint?: string;
  /** The place in the statement, in characters from 1. */
  position?: string;
}

const SHOWN_LINES = 12;
const WIDTH = 200;
/** A relation, object, schema or column that already exists. */
const EXISTS = ["42P07", "42710", "42P06", "42701"];
/** A table, column or object that does not exist. */
const ABSENT = ["42P01", "42703", "42704"];
/** SQL that takes a name away. */
const TAKES_AWAY = /^(DROP|ALTER\s[^]*\s(DROP|RENAME))\s/i;
/** A lost connection, a conflict, no lock, no space, a shutdown: the file is not
 * the cause. */
const PASSING = /^(08|40|53|55P03|57P)/;
/** Errors that a setting may cause: query_canceled; and an object that is not found,
 * or cannot be created, in the schemas of search_path. */
const SETTINGS: Record<string, string> = {
  "57014": "statement_timeout",
  "3F000": "search_path",
  "42P01": "search_path",
  "42704": "search_path",
  "42883": "search_path",
};

/** Returns the SQLSTATE; undefined where the connection was lost. */
function readSqlstate({ code = "" }: PostgresError): string | undefined {
  return /^(?=.*\d)[0-9A-Z]{5}$/.test(code) ? code : undefined;
}

/**
 * Returns the error of a migration that failed.
 *
 * @param index the statement that failed, from 0; undefined when the commit
 * itself failed, as for a deferred constraint.
 * @param done how many statements of the file are committed.
 * @param isAlone true when the statement ran outside a transaction.
 * @param cause the setting that caused it, with what to do about it.
 */
export function explainFailure(
  error: PostgresError,
  script: Script,
  index: number | undefined,
  done: number,
  isAlone = false,
  cause?: string,
): Error {
  const { tag, file } = script;
  const { detail, hint } = error;
  const sqlstate = readSqlstate(error);
  const statement = index === undefined ? undefined : script.statements[index];
  const place = index !== undefined && {
    statement: index + 1,
    ...locateStatement(script, index, error.position),
  };
  const where = place
    ? `${file}:${place.line}:${place.column}, statement ${place.statement}`
    : `the end of a transaction of ${file}`;
  return failure(
    sqlstate
      ? `${tag} failed: ${error.message}`
      : `the connection to the server was lost in ${tag}`,
    {
      code: "MIGRATION_FAILED",
      hint: nameNextStep(sqlstate, script, statement, done, cause),
      lines: [
        `  at ${where}${sqlstate ? ` (SQLSTATE ${sqlstate})` : ""}`,
        ...(statement ? showStatement(statement.text) : []),
        ...(detail ? [`  Detail: ${detail}`] : []),
        ...(hint ? [`  Postgres' hint: ${hint}`] : []),
        `  ${describeState(sqlstate, statement, done, isAlone)}`,
      ],
      details: { tag, file, ...place, sqlstate, detail, postgresHint: hint },
    },
  );
}

/** Returns the hint: what to fix, and which command to run. */
function nameNextStep(
  sqlstate: string | undefined,
  { file, direction, text }: Script,
  statement: Statement | undefined,
  done: number,
  cause: string | undefined,
): string {
  const command = direction === "down" ? "db:rollback" : "db:migrate";
  const again = `run \`bun run ${command}\` again`;
  if (cause) return `${cause}, and ${again}`;
  if (!sqlstate) return `${again}: it continues after what is committed`;
  if (sqlstate === "25006") return `${READ_ONLY}, and ${again}`;
  // Without a timeout, someone has cancelled it.
  const isCancelled = sqlstate === "57014" && !/statement_timeout/i.test(text);
  if (isCancelled || PASSING.test(sqlstate))
    return `nothing is wrong with the file: ${again} later`;
  const fix = `fix \`${file}\` and ${again}`;
  const isDone =
    EXISTS.includes(sqlstate) ||
    (ABSENT.includes(sqlstate) && TAKES_AWAY.test(statement?.text ?? ""));
  return isDone && done === 0 && direction === "up"
    ? `${fix}; where the database has this schema already, as after \`db:push\`, record it with \`bun run db:baseline\``
    : fix;
}

/** Says what is committed, and what is not. */
function describeState(
  sqlstate: string | undefined,
  statement: Statement | undefined,
  done: number,
  isAlone: boolean,
): string {
  if (!sqlstate) return "It is not known whether this was committed.";
  const first = done === 1 ? "statement is" : `${done} statements are`;
  const before = done > 0 ? `its first ${first} committed` : "";
  const own = isAlone && statement?.mayCommit;
  const committed = own
    ? ["the part that it committed itself stays", before]
        .filter(Boolean)
        .join("; ")
    : before || "nothing of it is committed";
  const how = isAlone ? "ran outside of a transaction" : "was rolled back";
  return `It ${how}; ${committed}.`;
}

/**
 * Looks for a setting of the role, the database or the server that caused an
 * error, unless the file sets it itself.
 *
 * @returns the setting, where it is set, and what to do; undefined when no setting
 * is the cause.
 */
export async function findCause(
  sql: Sql,
  { text, file }: Script,
  error: PostgresError,
): Promise<string | undefined> {
  if (error.hint?.includes("max_locks_per_transaction"))
    return await explainLocks(sql, file);
  const name = SETTINGS[error.code ?? ""];
  if (!name || text.toLowerCase().includes(name)) return undefined;
  // A setting is not the cause when a user cancelled, or the name has a schema.
  if (/user request|\w\.\w/.test(error.message)) return undefined;
  const [row] = await sql
    .unsafe<{ value: string; isInTheWay: boolean; place: string | null }[]>(
      `
      select current_setting(name) as value,
        case source when 'user' then format('for the role %I', session_user)
          when 'database' then format('for the database %I', current_database())
          when 'database user' then format('for the role %I in %I', session_user, current_database())
          when 'client' then 'in the connection string'
          when 'default' then null else 'by the server' end as place,
        case name when 'search_path' then not 'public' = any(current_schemas(false))
          else setting <> '0' end as "isInTheWay"
      from pg_settings where name = '${name}'`,
    )
    .catch(() => []); // the session may be lost
  if (!row?.isInTheWay || row.place === null) return undefined;
  const value = name === "search_path" ? "public" : "0";
  return `${name} is set to ${row.value || "nothing"} ${row.place}: put \`SET ${name} = ${value};\` before the statement in \`${file}\`, or change it there`;
}

/** Each table, index and type that a transaction creates or drops takes a lock. */
async function explainLocks(sql: Sql, file: string): Promise<string> {
  const rows = await sql
    .unsafe<{ value: string }[]>(
      "select current_setting('max_locks_per_transaction') as value",
    )
    .catch(() => []); // the session may be lost
  return `the transaction took more locks than the server has room for: make \`-- no-transaction\` the first line of \`${file}\`, which runs each statement by itself, or raise max_locks_per_transaction${rows[0] ? ` (${rows[0].value})` : ""} and restart the server`;
}

const AS_INSERT = "write its rows as an INSERT, as `pg_dump --inserts` does";
/** Commands of psql, and what to do about each. */
const PSQL: [command: RegExp, hint: string][] = [
  [/^\\c(onnect)?$/, "delete it, and the SQL for the other database"],
  [/^\\ir?$/, "put the SQL of that file in its place"],
  [/^\\copy$/, AS_INSERT],
  [/^\\/, "delete the line: only psql knows it"],
  [/^$/, AS_INSERT],
];

/**
 * Refuses what only psql can run: its own commands, which begin with a backslash,
 * and a COPY that reads its rows from the text.
 *
 * @throws with the place in the file.
 */
export function refuseClientPart(script: Script): void {
  const { statements, tag, file, text } = script;
  const index = statements.findIndex((one) => one.clientOffset !== undefined);
  const statement = statements[index];
  if (statement?.clientOffset === undefined) return;
  const [command = ""] =
    /^\\[^\s]*/.exec(text.slice(statement.clientOffset)) ?? [];
  const { line, column } = locateOffset(text, statement.clientOffset);
  throw failure(
    command
      ? `${file} has a command of psql, \`${command}\`, which is not SQL`
      : `${file} has a COPY that reads from or writes to a client`,
    {
      code: "MIGRATION_FAILED",
      hint: PSQL.find(([pattern]) => pattern.test(command))?.[1],
      lines: [`  at ${file}:${line}:${column}, statement ${index + 1}`],
      details: { tag, file, statement: index + 1, line, column },
    },
  );
}

/**
 * Returns line and column in the file, both from 1.
 *
 * @param index the statement, from 0.
 * @param position the place in the statement, in characters from 1.
 */
function locateStatement(
  { text, statements }: Script,
  index: number,
  position?: string,
): { line: number; column: number } {
  let offset = statements[index]?.offset ?? 0;
  // Postgres counts characters; JavaScript counts UTF-16 units.
  for (let count = 1; count < Number(position ?? 1); count += 1)
    offset += (text.codePointAt(offset) ?? 0) > 0xffff ? 2 : 1;
  return locateOffset(text, offset);
}

/** @param offset the place in the file, in UTF-16 units. */
function locateOffset(text: string, offset: number) {
  const lines = text.slice(0, offset).split("\n");
  const last = (lines.at(-1) ?? "").replace(/^\uFEFF/, "");
  return { line: lines.length, column: last.length + 1 };
}

function showStatement(text: string): string[] {
  const lines = text.split(/\r?\n/);
  const shown = hidePasswords(lines.slice(0, SHOWN_LINES).join("\n"))
    .split("\n")
    .map((line) => (line.length > WIDTH ? `${line.slice(0, WIDTH)}…` : line))
    .map((line) => `  | ${line}`);
  const more = lines.length - SHOWN_LINES;
  return more > 0 ? [...shown, `  | … ${more} more lines`] : shown;
}

/** Hides passwords, as in CREATE ROLE, CREATE USER MAPPING and CREATE SUBSCRIPTION. */
export function hidePasswords(text: string): string {
  return text
    .replace(
      /(\bpassword\s+)(e?'(?:[^'\\]|''|\\[^])*'?|\$(\w*)\$[^]*?\$\3\$)/gi,
      "$1'…'",
    )
    .replace(/(\bpassword\s*=\s*)[^\s']+/gi, "$1…");
}
