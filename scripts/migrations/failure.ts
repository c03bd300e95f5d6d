// Says where in a file a statement failed, in PostgreSQL's own words, what is
// committed, and what to type next.
import { type FailureFields, failure } from "../lib/report";
import { mayCommit, type Script } from "./steps";

/** What the server sends of an error. */
export interface PostgresError extends Error {
  code?: string;
  detail?: string;
  hint?: string;
  /** Characters from the start of the statement, from 1. */
  position?: string;
  /** What a command adds: lines for the terminal. */
  lines?: string[];
}

const SHOWN_LINES = 12;
const WIDTH = 200;
/** A relation, object, schema or database that is there already. */
const EXISTS = ["42P07", "42710", "42P06", "42701"];
/** A lost connection, a conflict, no lock, no room, a shutdown: not the file's. */
const PASSING = /^(08|40|53|55P03|57P)/;

/**
 * The error of a migration that failed.
 *
 * @param index of the statement that failed, from 0; none where it was the end
 * of the transaction, as for a deferred constraint.
 * @param done how many statements of the file are committed.
 * @param isAlone it ran outside of a transaction.
 */
export function explainFailure(
  error: PostgresError,
  script: Script,
  index: number | undefined,
  done: number,
  isAlone = false,
): Error {
  // What this project says itself has its own hint and place.
  if ("exitCode" in error) return error;
  const { tag, file, direction } = script;
  const statement = script.statements[index ?? -1];
  const place = index !== undefined && {
    statement: index + 1,
    ...locateStatement(script, index, error.position),
  };
  const command = direction === "down" ? "db:rollback" : "db:migrate";
  const isLost = !/^[0-9A-Z]{5}$/.test(error.code ?? "");
  const { detail, hint } = error;
  const own = isAlone && statement && mayCommit(statement);
  const before = done > 0 ? `its first ${done} statements are committed` : "";
  const committed = own
    ? ["what it has committed itself stays", before].filter(Boolean).join("; ")
    : before || "nothing of it is committed";
  return failure(
    isLost
      ? `the connection to the server was lost in ${tag}`
      : `${tag} failed: ${error.message}`,
    {
      code: "MIGRATION_FAILED",
      hint: isLost
        ? `run \`bun run ${command}\` again: it goes on from what is committed`
        : PASSING.test(error.code ?? "")
          ? `nothing is wrong with the file: run \`bun run ${command}\` again later`
          : EXISTS.includes(error.code ?? "") &&
              done === 0 &&
              direction === "up"
            ? `mend \`${file}\` and run \`bun run ${command}\` again; where the database has this schema already, as after \`db:push\`, record it with \`bun run db:baseline\``
            : `mend \`${file}\` and run \`bun run ${command}\` again`,
      lines: [
        `  at ${place ? `${file}:${place.line}:${place.column}, statement ${place.statement}` : `the end of a transaction of ${file}`}${isLost ? "" : ` (SQLSTATE ${error.code})`}`,
        ...(statement ? showStatement(statement.text) : []),
        ...(detail ? [`  Detail: ${detail}`] : []),
        ...(hint ? [`  Postgres' hint: ${hint}`] : []),
        ...(error.lines ?? []),
        isLost
          ? "  Whether it was committed, nobody has heard."
          : `  It ${isAlone ? "ran outside of a transaction" : "was rolled back"}; ${committed}.`,
      ],
      details: {
        tag,
        file,
        ...place,
        ...(!isLost && { sqlstate: error.code }),
        ...(detail && { detail }),
        ...(hint && { hint }),
      },
    } satisfies FailureFields,
  );
}

/**
 * Line and column of the file, both from 1.
 *
 * @param index of the statement, from 0.
 * @param position in it: characters, from 1.
 */
export function locateStatement(
  { text, statements }: Script,
  index: number,
  position?: string,
): { line: number; column: number } {
  const statement = statements[index];
  const start = statement?.offset ?? 0;
  // Postgres counts characters, JavaScript halves of some.
  const before = position
    ? [...(statement?.text ?? "")].slice(0, Number(position) - 1).join("")
    : "";
  const lines = text.slice(0, start + before.length).split("\n");
  const last = (lines.at(-1) ?? "").replace(/^\uFEFF/, "");
  return { line: lines.length, column: last.length + 1 };
}

function showStatement(text: string): string[] {
  const lines = hidePasswords(text).split(/\r?\n/);
  const shown = lines
    .slice(0, SHOWN_LINES)
    .map((line) => (line.length > WIDTH ? `${line.slice(0, WIDTH)}…` : line))
    .map((line) => `  | ${line}`);
  const more = lines.length - SHOWN_LINES;
  return more > 0 ? [...shown, `  | … ${more} more lines`] : shown;
}

/** As in CREATE ROLE, CREATE USER MAPPING and CREATE SUBSCRIPTION. */
function hidePasswords(text: string): string {
  return text
    .replace(
      /(\bpassword\s+)(e?'(?:[^'\\]|''|\\[^])*'?|\$(\w*)\$[^]*?\$\3\$)/gi,
      "$1'…'",
    )
    .replace(/(\bpassword\s*=\s*)[^\s']+/gi, "$1…");
}
