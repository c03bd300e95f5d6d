// Runs migrations in a scratch database. A statement that must not or cannot run
// there is left out and reported.
import { isLost } from "../lib/report";
import { recordOf, type Recorded } from "./apply";
import { type Migration, refuseOtherEncoding } from "./journal";
import { type LogEntry, readLog } from "./log";
import { planMigrations } from "./plan";
import type { Reaching } from "./reach";
import { readWords, splitStatements, type Statement } from "./statements";
import { toScript } from "./steps";
import { resetSession, runScript } from "./run";
import { isMissing, takeOver, type Trial } from "./take-over";

/** A statement that was not run in the scratch database. */
export interface LeftOut {
  migration: Migration;
  statement: Statement;
  /** The line in the file, from 1. */
  line: number;
  reason: string;
  /** True when the schema may differ without it. */
  changesSchema: boolean;
  /** True when it was tried and failed. */
  hasFailed: boolean;
}

/** foreign_key_violation, not_null_violation, what a block raises itself, a null for
 * a name, and division by zero (`select 1 / count(*)`). */
const NEEDS_ROWS = /^(23503|23502|P000[1-4]|21000|22004|22012)$/;
/** insufficient_privilege, and a file of an extension that is not there. */
const NOT_ALLOWED = /^(42501|58P01)$/;

/**
 * Applies migrations to the scratch database.
 *
 * @param reaches how far the statements of each migration reach.
 * @param isApplied true for migrations that the real database has applied; a
 * failure here is then not an error of the file.
 * @returns the statements that were left out.
 * @throws when a pending migration fails, with the place in its file.
 */
export async function replayMigrations(
  trial: Trial,
  migrations: Migration[],
  reaches: Map<Migration, Reaching[]>,
  isApplied: boolean,
): Promise<LeftOut[]> {
  const leftOut: LeftOut[] = [];
  const recorded: Recorded[] = [];
  for (const migration of migrations) {
    if (!isApplied) refuseOtherEncoding(migration);
    recorded.push(migration);
    const far = (reaches.get(migration) ?? []).filter((reaching) =>
      mustSkip(trial, reaching, isApplied),
    );
    const out = far
      .filter(({ isNoSchema }) => !isApplied || !isNoSchema)
      .map(({ statement, reach, isNoSchema }) => ({
        ...locate(migration, statement),
        reason:
          reach === "outside"
            ? "it reaches outside the server"
            : "it changes the server, not only the database",
        changesSchema: !isNoSchema,
        hasFailed: false,
      }));
    leftOut.push(...out);
    trial.isIncomplete ||= out.some(({ changesSchema }) => changesSchema);
    const text = blankOut(
      migration,
      far.map(({ statement }) => statement),
    );
    leftOut.push(
      ...(await runRest(trial, migration, text, recorded, isApplied)),
    );
  }
  if (isApplied) await resetSession(trial.scratch);
  return leftOut;
}

/** Runs a migration. When a statement fails as expected, it is left out and the
 * rest runs again. */
async function runRest(
  trial: Trial,
  migration: Migration,
  text: Migration,
  recorded: Recorded[],
  isApplied: boolean,
): Promise<LeftOut[]> {
  const { scratch } = trial;
  const leftOut: LeftOut[] = [];
  let rest = text;
  let unfinished: LogEntry | undefined;
  for (;;)
    try {
      await runScript(scratch, toScript(rest, "up"), {
        record: recordOf(rest, recorded),
        unfinished,
        lockTimeout: 5000,
      });
      return leftOut;
    } catch (thrown) {
      const error = thrown as MigrationError;
      const { sqlstate = "", statement: number = 0 } = error.details ?? {};
      if (isLost({ code: sqlstate })) throw error;
      unfinished = planMigrations(
        [rest],
        [],
        await readLog(scratch),
      ).partial.get(rest);
      const statements = splitStatements(rest.text);
      const failed = statements[number - 1];
      const missing = failed && isMissing({ code: sqlstate });
      if (missing && (await takeOver(trial, failed.text))) continue;
      const isExpected =
        isApplied ||
        ((missing || sqlstate === "42703") && trial.isIncomplete) ||
        NEEDS_ROWS.test(sqlstate) ||
        NOT_ALLOWED.test(sqlstate) ||
        (failed && lacksExtension(failed, sqlstate)) ||
        (sqlstate === "42704" && /role "/.test(error.message));
      if (!isExpected) throw error;
      // Without a number the commit failed: a deferred constraint.
      const out = failed ? [failed] : statements;
      rest = blankOut(rest, out);
      for (const statement of out) {
        if (isApplied && isHarmless(trial, statement, sqlstate)) continue;
        const changesSchema = !isData(statement);
        trial.isIncomplete ||= changesSchema;
        leftOut.push({
          ...locate(migration, statement),
          reason: error.message.replace(/^\S+ failed: /, ""),
          changesSchema,
          hasFailed: true,
        });
      }
    }
}

const locate = (migration: Migration, statement: Statement) => ({
  migration,
  statement,
  line: countLines(migration.text, statement.offset),
});

type MigrationError = Error & {
  details?: { tag?: string; statement?: number; sqlstate?: string };
};

/** True when a statement must not run here, or need not: the server already has
 * the effect of an applied migration. */
function mustSkip(
  { isScratchServer }: Trial,
  { reach, isNoSchema }: Reaching,
  isApplied: boolean,
): boolean {
  if (reach === "database") return false;
  return reach === "outside" || !isScratchServer || (isApplied && isNoSchema);
}

/** True when the server has no such extension. Of other statements the same code,
 * feature_not_supported, is certain to come again. */
function lacksExtension({ tokens }: Statement, sqlstate: string): boolean {
  return (
    sqlstate === "0A000" &&
    readWords(tokens, 2).join(" ") === "CREATE EXTENSION"
  );
}

/** True when the failed statement of an applied migration changes nothing that is
 * compared, such as an owner. */
function isHarmless(
  { found }: Trial,
  { tokens }: Statement,
  sqlstate: string,
): boolean {
  if (!/^(42501|0A000|58P01)$/.test(sqlstate)) return false;
  const text = readWords(tokens, 40).join(" ");
  const [, extension] =
    /^CREATE EXTENSION (?:IF NOT EXISTS )?(\S+)/.exec(text) ?? [];
  if (extension)
    return found.has(
      `extension ${extension.replaceAll('"', "").toLowerCase()}`,
    );
  return /^(ALTER .* OWNER TO|(COMMENT ON|CREATE|ALTER|DROP) EXTENSION|CREATE EVENT TRIGGER)\b/.test(
    text,
  );
}

/** True when a statement changes rows only, not the schema. */
function isData({ tokens, text }: Statement): boolean {
  const [verb = ""] = readWords(tokens, 1);
  if (/^(INSERT|UPDATE|DELETE|MERGE|TRUNCATE|SELECT|WITH|VALUES)$/.test(verb))
    return true;
  return (
    verb === "DO" && !/\b(create|alter|drop|grant|revoke|comment)\b/i.test(text)
  );
}

/** Replaces statements with blanks, so that lines and columns stay the same. */
function blankOut(migration: Migration, statements: Statement[]): Migration {
  let { text } = migration;
  for (const { offset, text: statement } of statements) {
    const end = offset + statement.length;
    const spaces = statement.replace(/[^\n]/g, " ");
    text = text.slice(0, offset) + spaces + text.slice(end);
  }
  return { ...migration, text };
}

const countLines = (text: string, offset: number) =>
  text.slice(0, offset).split("\n").length;
