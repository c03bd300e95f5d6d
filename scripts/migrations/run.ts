// Runs one file of SQL, step by step: what can be in a transaction commits
// together with how far the run is, and the last step together with the record.
// Cut short at any point, the next run goes on from there.
import type { Sql } from "postgres";
import { keepMigrationLock, lockOnceMore, lockTransaction } from "../lib/lock";
import { failure, note } from "../lib/report";
import { explainFailure, locateStatement, type PostgresError } from "./failure";
import {
  createTables,
  type LogEntry,
  logDone,
  logError,
  logProgress,
  touchesRecords,
} from "./log";
import { lookAgain, type Resumed } from "./resume";
import { hashStatements, readWords, type Statement } from "./statements";
import {
  classify,
  isSetting,
  isWithoutTransaction,
  type Learned,
  mayCommit,
  nextStep,
  type Script,
  type Step,
} from "./steps";

/** How to run it. */
export interface RunOptions {
  /** SQL that records it, for the transaction of its last step. */
  record: string;
  /** What an earlier run has left unfinished. */
  unfinished: LogEntry | undefined;
  /** Milliseconds that a statement waits for a lock; 0 is for ever. */
  lockTimeout: number;
  /** Tells who is in the way, once a lock was not to be had. */
  nameBlockers?: () => string | undefined;
}

/** So that a run that was killed lets go of its lock; not every system can. */
const noticeLostClient = `
  do $$ begin
    set client_connection_check_interval = 1000;
  exception when others then null;
  end $$`;

const RETRIES = 5;
/** lock_not_available, deadlock_detected. */
const LOCKED = ["55P03", "40P01"];
/** active_sql_transaction, invalid_transaction_termination. */
const NOT_IN_TRANSACTION = ["25001", "2D000"];
const ISOLATION =
  /(?<=^(begin|start)\s[^]*)isolation\s+level\s+(serializable|repeatable\s+read|read\s+(un)?committed)/i;
/** unsafe_new_enum_value_usage */
const UNCOMMITTED_VALUE = "55P04";

/** What is written must not depend on a role that the file has set; the default
 * may be one that the administrator has set. */
const asOurselves = ({ text }: Script) =>
  /role|authorization/i.test(text)
    ? "set local session authorization default; set local role to default;"
    : "";

/** What a file has set, and what it has left in the session. */
const forgetSettings = "reset session authorization; reset role; reset all;";
const forgetSession = `${forgetSettings}
  close all; unlisten *; discard temp; discard sequences;
  do $$ declare prepared text; begin
    for prepared in select name from pg_prepared_statements where from_sql loop
      execute format('deallocate %I', prepared);
    end loop;
  end $$;`;

const setUp = (lockTimeout: number) => `
  set lock_timeout = ${lockTimeout}; set client_min_messages = warning;
  ${noticeLostClient}`;

/**
 * Runs what is left of a file, on the one session of `sql`, which holds the
 * migration lock.
 *
 * @returns milliseconds.
 * @throws for a statement that fails, with its place in the file, after what
 * it was in has been rolled back.
 */
export async function runScript(
  sql: Sql,
  script: Script,
  options: RunOptions,
): Promise<number> {
  const { statements } = script;
  const start = performance.now();
  const learned: Learned = { alone: new Set(), committedBefore: new Set() };
  const isSingle = isWithoutTransaction(script.text);
  let { done, resumed } = readResumption(script, options.unfinished);
  if (resumed && !resumed.isEdited) learned.alone.add(done);
  refuseCopy(script);
  await prepareSession(sql, script, done, options.lockTimeout);
  let retries = 0;
  while (true) {
    const step =
      done < statements.length
        ? nextStep(statements, done, isSingle, learned)
        : { from: done, until: done, isAlone: false, isRolledBack: false };
    try {
      if (step.isAlone) await runAlone(sql, script, step, resumed);
      else await runTransaction(sql, script, step, options);
    } catch (thrown) {
      const failed = thrown as StepFailure;
      const { error, statement } = failed;
      // What this project says itself is no answer of the server's to log.
      if ("exitCode" in error) throw error;
      if (isUnlocking(script)) await keepMigrationLock(sql);
      if (learn(error, statement, step, learned)) continue;
      const isLocked = LOCKED.includes(error.code ?? "");
      const failing = statements[statement ?? -1];
      const isRepeatable = !step.isAlone || !failing || !mayCommit(failing);
      if (isLocked && isRepeatable && retries < RETRIES) {
        retries += 1;
        await pause(script, options, retries, error);
        if (step.isAlone) resumed = { hasFailed: true, isEdited: false };
        continue;
      }
      throw await explain(sql, script, failed, step, start);
    }
    retries = 0;
    resumed = undefined;
    // The record is in the transaction that had the last statement.
    if (step.until === statements.length && !step.isAlone && !step.isRolledBack)
      return Math.round(performance.now() - start);
    done = step.until;
  }
}

/** An error of the server, with the index of the statement that met it; none
 * where it was the end of the transaction. */
interface StepFailure {
  error: PostgresError;
  statement: number | undefined;
}

async function runTransaction(
  sql: Sql,
  script: Script,
  { from, until, isRolledBack }: Step,
  { record, unfinished, lockTimeout }: RunOptions,
): Promise<void> {
  const { statements } = script;
  const own = statements.slice(from, until).flatMap((statement, index) =>
    textsOf(statement, lockTimeout).map((text) => ({
      text,
      index: from + index,
    })),
  );
  const isLast = until === statements.length;
  // A rollback also clears what is known of an older run: it would be resumed.
  const hasProgress =
    from > 0 || unfinished !== undefined || script.direction === "down";
  const written =
    isLast && !isRolledBack
      ? `${record}; ${logDone(script, statements.length, hasProgress)}`
      : `${touchesRecords(script.text) ? `${createTables()};` : ""}
        ${logProgress(script, progressAt(script, until))}`;
  // Of a BEGIN of the file's own; what is recorded has to be written.
  const [level = ""] = statements[from]?.text.match(ISOLATION) ?? [];
  const texts = [
    `begin ${level} read write`,
    ...own.map(({ text }) => text),
    ...(isUnlocking(script) ? [lockOnceMore] : []),
    ...(isRolledBack ? ["rollback", "begin"] : []),
    `${asOurselves(script)} ${written}; commit`,
  ];
  // All at once: a statement waits for the one before it, not for us.
  const outcomes = await Promise.allSettled(
    texts.map((text) => sql.unsafe(text)),
  );
  const at = outcomes.findIndex(({ status }) => status === "rejected");
  if (at === -1) return;
  await sql.unsafe("rollback").catch(() => {}); // of a session that may be lost
  const { reason } = outcomes[at] as PromiseRejectedResult;
  throw { error: reason, statement: at === 0 ? from : own[at - 1]?.index };
}

/** What is sent for a statement of a transaction. */
function textsOf(statement: Statement, lockTimeout: number): string[] {
  const { text, tokens } = statement;
  const kind = classify(statement);
  // Without the unlocking that DISCARD ALL does as well.
  if (kind === "discard") return [forgetSession, setUp(lockTimeout)];
  if (!["plain", "alone"].includes(kind)) return [];
  if (readWords(tokens, 2).join(" ") === "RESET ALL")
    return [text, setUp(lockTimeout)];
  return isUnlocking(statement) ? [lockTransaction, text] : [text];
}

/** Whether it may let go of the migration lock. */
function isUnlocking({ text }: { text: string }): boolean {
  return /advisory/i.test(text);
}

async function runAlone(
  sql: Sql,
  script: Script,
  { from }: Step,
  resumed: Resumed | undefined,
): Promise<void> {
  const statement = script.statements[from];
  if (!statement) return;
  const isConcurrent = readWords(statement.tokens, 24).includes("CONCURRENTLY");
  const write = (until: number, underWay?: number) => {
    const progress = logProgress(script, progressAt(script, until, underWay));
    return sql.unsafe(
      `begin read write; ${asOurselves(script)} ${progress}; commit`,
    );
  };
  const work = async () => {
    if ((await lookAgain(sql, statement, resumed)) === "done") return;
    await write(from, from);
    await sql.unsafe(statement.text);
    if (isUnlocking(script)) await keepMigrationLock(sql);
  };
  try {
    await (isConcurrent ? withoutLockTimeout(sql, work) : work());
    await write(from + 1);
  } catch (error) {
    throw { error, statement: from };
  }
}

/** It would count the wait for other people's transactions. */
async function withoutLockTimeout(
  sql: Sql,
  work: () => Promise<void>,
): Promise<void> {
  const [row] = await sql.unsafe<{ before: string }[]>(
    "select current_setting('lock_timeout') as before",
  );
  await sql.unsafe("set lock_timeout = 0");
  try {
    await work();
  } finally {
    // A session that was lost has said so already.
    await sql
      .unsafe(`set lock_timeout = '${row?.before}'`)
      .catch(() => undefined);
  }
}

function progressAt(
  { statements }: Script,
  until: number,
  underWay: number | null = null,
) {
  return {
    statementsDone: until,
    doneHash: hashStatements(statements.slice(0, until)),
    statementUnderWay: underWay,
  };
}

/**
 * Where to go on.
 *
 * @throws when what has run of the file was edited since.
 */
function readResumption(script: Script, unfinished: LogEntry | undefined) {
  if (!unfinished) return { done: 0, resumed: undefined };
  const {
    statementsDone: done,
    doneHash,
    statementUnderWay,
    hash,
    error,
  } = unfinished;
  const { doneHash: now } = progressAt(script, done);
  if (done > script.statements.length || doneHash !== now)
    throw failure(
      `${script.file} was edited in its first ${done} statements, which are committed already`,
      {
        code: "PARTIAL",
        hint: "restore it from git; or undo by hand what they did and run `bun run db:migrate:repair`",
        details: { tag: script.tag, file: script.file },
      },
    );
  const isUnderWay = statementUnderWay === done;
  return {
    done,
    resumed: isUnderWay
      ? { hasFailed: error !== null, isEdited: hash !== script.hash }
      : undefined,
  };
}

/**
 * For a COPY whose rows would follow in the text, where nobody sends them from.
 *
 * @throws with its place in the file.
 */
export function refuseCopy(script: Script): void {
  const { statements, tag, file } = script;
  for (const [index, { tokens }] of statements.entries()) {
    if (readWords(tokens, 1)[0] !== "COPY") continue;
    const words = readWords(tokens, tokens.length);
    const at = words.findIndex((word) => /^(STDIN|STDOUT)$/.test(word));
    if (!["FROM", "TO"].includes(words[at - 1] ?? "")) continue;
    const { line, column } = locateStatement(script, index);
    throw failure(`${file} has a COPY that needs a client at its other end`, {
      code: "MIGRATION_FAILED",
      hint: "write its rows as an INSERT",
      lines: [`  at ${file}:${line}:${column}, statement ${index + 1}`],
      details: { tag, file, statement: index + 1, line, column },
    });
  }
}

/** The lock timeout of sessions in which nothing else was set since. */
const prepared = new WeakMap<Sql, number>();
/** What may leave something in the session, by itself or in what it calls. */
const SETTING =
  /\b(set|reset|set_config|select|perform|call|do|discard|temp|temporary|pg_temp|declare|listen|prepare)\b/i;

/** Every file begins with a session as new, but for what it has set itself. */
async function prepareSession(
  sql: Sql,
  { statements, text }: Script,
  done: number,
  lockTimeout: number,
): Promise<void> {
  if (prepared.get(sql) !== lockTimeout)
    await sql.unsafe(forgetSession + setUp(lockTimeout));
  if (SETTING.test(text)) prepared.delete(sql);
  else prepared.set(sql, lockTimeout);
  for (const statement of statements.slice(0, done))
    if (isSetting(statement))
      for (const text of textsOf(statement, lockTimeout))
        await sql.unsafe(text);
}

/** Undoes what the last file has set, roles included. */
export async function resetSession(sql: Sql): Promise<void> {
  await sql.unsafe(forgetSettings);
}

/** Whether the step can be divided so that the statement fares better. */
function learn(
  { code = "" }: PostgresError,
  statement: number | undefined,
  step: Step,
  { alone, committedBefore }: Learned,
): boolean {
  if (step.isAlone || statement === undefined) return false;
  if (NOT_IN_TRANSACTION.includes(code)) alone.add(statement);
  else if (code === UNCOMMITTED_VALUE && statement > step.from)
    committedBefore.add(statement);
  else return false;
  return true;
}

/** Between two attempts nothing is locked, and the pauses grow. */
async function pause(
  { tag }: Script,
  { lockTimeout, nameBlockers }: RunOptions,
  retry: number,
  { code }: PostgresError,
): Promise<void> {
  const ms = (lockTimeout / 10) * 2 ** (retry - 1);
  const blockers = nameBlockers?.();
  const met = code === "40P01" ? "met a deadlock" : "got no lock";
  note(
    `Waiting: ${tag} ${met}${blockers ? `, held by ${blockers}` : ""}; again in ${ms} ms (${retry} of ${RETRIES})`,
  );
  await Bun.sleep(ms);
}

async function explain(
  sql: Sql,
  script: Script,
  { error, statement }: StepFailure,
  { from, isAlone }: Step,
  start: number,
): Promise<Error> {
  const ms = Math.round(performance.now() - start);
  // The log is the less important of the two, and the session may be lost.
  const text = logError(script, error.message, ms);
  await sql
    .unsafe(
      `begin read write; reset session authorization; reset role; ${text}; commit`,
    )
    .catch(() => {});
  return explainFailure(error, script, statement, from, isAlone);
}
