// Runs one file of SQL in steps. A step in a transaction commits together with the
// progress of the run, the last step together with the record. If a run is
// interrupted at any point, the next run continues from there.
import { setTimeout as sleep } from "node:timers/promises";
import type { Sql } from "postgres";
import { onNotice } from "../lib/connection";
import { keepMigrationLock, lockOnceMore, lockTransaction } from "../lib/lock";
import { failure, note } from "../lib/report";
import {
  explainFailure,
  findCause,
  type PostgresError,
  refuseClientPart,
} from "./failure";
import {
  createTables,
  type LogEntry,
  logDone,
  logError,
  logProgress,
} from "./log";
import { checkWhetherDone, readName, type Resumed } from "./resume";
import { readWords, type Statement } from "./statements";
import { type Refusals, nextStep, type Script, type Step } from "./steps";

/** How to run it. */
export interface RunOptions {
  /** SQL that writes the record, for the transaction of the last step. */
  record: string;
  /** The log entry of an earlier run that did not finish. */
  unfinished: LogEntry | undefined;
  /** How many milliseconds a statement waits for a lock; 0 means for ever. */
  lockTimeout: number;
  /** Returns which sessions hold a lock that a statement could not get. */
  nameBlockers?: () => string | undefined;
  /** Called for each warning that the file raises; with `isVerbose` also for notices. */
  onRaised?: (raised: Raised) => void;
  isVerbose?: boolean;
}

/** A message of RAISE, or of the server itself, while a file runs. */
export interface Raised {
  tag: string;
  severity: "WARNING" | "NOTICE";
  message: string;
}

/** A file to run, and the session to run it on. */
interface Job {
  sql: Sql;
  script: Script;
  options: RunOptions;
}

/** An error of the server, with the index of the statement that caused it;
 * undefined when the end of the transaction failed. */
interface StepFailure {
  error: PostgresError;
  statement: number | undefined;
}

/** Makes the server notice that a client was killed, and release its lock, on
 * systems that support it. */
const noticeLostClient = `
  do $$ begin
    set client_connection_check_interval = 1000;
  exception when others then null;
  end $$`;

const RETRIES = 5;
/** How many statements of a transaction are sent together. */
const AT_ONCE = 1000;
/** lock_not_available, deadlock_detected. */
const LOCKED = ["55P03", "40P01"];
/** active_sql_transaction, invalid_transaction_termination. */
const NOT_IN_TRANSACTION = ["25001", "2D000"];
const ISOLATION =
  /(?<=^(begin|start)\s[^]*)isolation\s+level\s+(serializable|repeatable\s+read|read\s+(un)?committed)/i;
/** unsafe_new_enum_value_usage */
const UNCOMMITTED_VALUE = "55P04";
/** no_active_sql_transaction: a ROLLBACK of ours, to be certain. */
const NOTHING_TO_ROLL_BACK = "25P01";

/** Write the record as the login role, whatever SET ROLE the file ran. `to
 * default`, not `none`: ALTER ROLE … SET ROLE may be in use. */
const asOurselves = ({ mayChangeRole }: Script) =>
  mayChangeRole
    ? "set local session authorization default; set local role to default;"
    : "";

/** The word before the table, in statements for which an autovacuum is in the way. */
const BEFORE_TABLE: [start: RegExp, before: string][] = [
  [/^ALTER TABLE/, "TABLE"],
  [/^(CREATE|DROP) TRIGGER/, "ON"],
  [/^ANALYZE/, "ANALYZE"],
];

/** Undoes what a file has set, and what it has left in the session. */
const forgetSettings = "reset session authorization; reset role; reset all;";
const forgetSession = `${forgetSettings}
  close all; unlisten *; discard temp; discard sequences;
  do $$ declare prepared text; begin
    for prepared in select name from pg_prepared_statements where from_sql loop
      execute format('deallocate %I', prepared);
    end loop;
  end $$;`;

const setUp = ({ lockTimeout, isVerbose }: RunOptions) => `
  set lock_timeout = ${lockTimeout};
  set client_min_messages = ${isVerbose ? "notice" : "warning"};
  ${noticeLostClient}`;

/**
 * Runs the rest of a file, on the one session of `sql`, which holds the migration
 * lock.
 *
 * @returns how long it took, in milliseconds.
 * @throws when a statement fails, with its place in the file, after its
 * transaction was rolled back.
 */
export async function runScript(
  sql: Sql,
  script: Script,
  options: RunOptions,
): Promise<number> {
  const job = { sql, script, options };
  const start = performance.now();
  const refusals: Refusals = { alone: new Set(), committedBefore: new Set() };
  let { done, resumed } = readResumption(script, options.unfinished);
  if (resumed && !resumed.isEdited) refusals.alone.add(done);
  refuseClientPart(script);
  await prepareSession(job, done);
  using _listener = listen(job);

  let retries = 0;
  for (;;) {
    const step = nextStep(script, done, refusals);
    const failed = step.isAlone
      ? await runAlone(job, step, resumed)
      : await runTransaction(job, step);
    if (!failed) {
      if (isRecorded(step, script))
        return Math.round(performance.now() - start);
      done = step.until;
      resumed = undefined;
      retries = 0;
      continue;
    }
    if (script.mayUnlock) await keepMigrationLock(sql);
    if (noteRefusal(failed, step, refusals)) continue;
    if (retries === RETRIES || !isWorthRetrying(failed, step, script))
      throw await logAndExplain(job, failed, step, performance.now() - start);
    retries += 1;
    await pause(job, retries, failed.error);
    await endVacuum(job, step);
    if (step.isAlone) resumed = { hasFailed: true, isEdited: false };
  }
}

/** Prints a message that a file raises, on stderr. */
export function noteRaised({ tag, severity, message }: Raised): void {
  note(`${severity === "WARNING" ? "Warning" : "Notice"}: ${tag}: ${message}`);
}

/** Passes the messages of the session on, with the tag of the file. */
function listen({ sql, script, options }: Job): Disposable {
  const { onRaised, isVerbose } = options;
  const { tag } = script;
  return onNotice(sql, ({ severity, code, message = "" }) => {
    if (code === NOTHING_TO_ROLL_BACK) return;
    if (severity === "WARNING") onRaised?.({ tag, severity, message });
    else if (isVerbose) onRaised?.({ tag, severity: "NOTICE", message });
  });
}

/** True when the step was the last one, whose transaction writes the record. */
function isRecorded({ until, isAlone }: Step, { statements }: Script): boolean {
  return until === statements.length && !isAlone;
}

/** True when the step may succeed later: a lock may be free then. What a procedure
 * has committed is not undone, so it is run again only if it says that it can. */
function isWorthRetrying(
  { error, statement = -1 }: StepFailure,
  { isAlone }: Step,
  { statements }: Script,
): boolean {
  const { mayCommit, isResumable } = statements[statement] ?? {};
  const mayHaveCommitted = isAlone && mayCommit && !isResumable;
  return LOCKED.includes(error.code ?? "") && !mayHaveCommitted;
}

/** @throws an error that did not come from the server, such as one of ours. */
function failedAt(thrown: unknown, statement: number | undefined): StepFailure {
  const error = thrown as PostgresError;
  if (!("code" in error) || "exitCode" in error) throw error;
  return { error, statement };
}

async function runTransaction(
  { sql, script, options }: Job,
  { from, until, isRolledBack }: Step,
): Promise<StepFailure | undefined> {
  const { statements } = script;
  const { record, unfinished } = options;
  const isLast = until === statements.length;
  // A rollback also removes the progress of an older run, which would be resumed.
  const hasProgress =
    from > 0 || unfinished !== undefined || script.direction === "down";
  const written = isLast
    ? `${record}; ${logDone(script, statements.length, hasProgress)}`
    : `${script.touchesRecords ? `${createTables()};` : ""}
        ${logProgress(script, progressAt(script, until))}`;
  // Keep the isolation level of a BEGIN in the file; the record needs READ WRITE.
  const [level = ""] = statements[from]?.text.match(ISOLATION) ?? [];
  const begin = { text: `begin ${level} read write`, index: from };
  const end = [
    ...(script.mayUnlock ? [lockOnceMore] : []),
    ...(isRolledBack ? ["rollback", "begin read write"] : []),
    `${asOurselves(script)} ${written}; commit`,
  ].map((text) => ({ text, index: undefined }));
  for (let at = from; ;) {
    const next = Math.min(at + AT_ONCE, until);
    const own = statements.slice(at, next).flatMap((statement, count) =>
      textsOf(statement, options).map((text) => ({
        text,
        index: at + count,
      })),
    );
    const texts = [
      ...(at === from ? [begin] : []),
      ...own,
      ...(next === until ? end : []),
    ];
    const failed = await sendTogether(sql, texts);
    if (failed || next === until) return failed;
    at = next;
  }
}

/** Sends all texts at once: the server runs them one after the other. */
async function sendTogether(
  sql: Sql,
  texts: { text: string; index: number | undefined }[],
): Promise<StepFailure | undefined> {
  const outcomes = await Promise.allSettled(
    texts.map(({ text }) => sql.unsafe(text)),
  );
  const at = outcomes.findIndex(({ status }) => status === "rejected");
  if (at === -1) return undefined;
  await sql.unsafe("rollback").catch(() => {}); // the session may be lost
  const { reason } = outcomes[at] as PromiseRejectedResult;
  return failedAt(reason, texts[at]?.index);
}

/** Returns the SQL that is sent for a statement in a transaction. */
function textsOf(statement: Statement, options: RunOptions): string[] {
  const { text, kind, isSetting } = statement;
  // DISCARD ALL would also release the migration lock.
  if (kind === "discard") return [forgetSession, setUp(options)];
  if (!["plain", "alone"].includes(kind)) return [];
  if (isSetting && readWords(statement.tokens, 2).join(" ") === "RESET ALL")
    return [text, setUp(options)];
  return /advisory/i.test(text) ? [lockTransaction, text] : [text];
}

async function runAlone(
  { sql, script }: Job,
  { from }: Step,
  resumed: Resumed | undefined,
): Promise<StepFailure | undefined> {
  const statement = script.statements[from];
  if (!statement) return undefined;
  const write = (until: number, underWay?: number) => {
    const progress = logProgress(script, progressAt(script, until, underWay));
    return sql.unsafe(
      `begin read write; ${asOurselves(script)} ${progress}; commit`,
    );
  };
  const work = async () => {
    if ((await checkWhetherDone(sql, statement, resumed)) === "done") return;
    await write(from, from);
    await sql.unsafe(statement.text);
    if (script.mayUnlock) await keepMigrationLock(sql);
  };
  try {
    await (statement.isConcurrent ? withoutLockTimeout(sql, work) : work());
    await write(from + 1);
    return undefined;
  } catch (error) {
    return failedAt(error, from);
  }
}

/** Runs `work` without a lock timeout: it would include the wait for transactions
 * of other sessions. */
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
    // If the session is lost, that error was already thrown.
    await sql
      .unsafe(`set lock_timeout = '${row?.before}'`)
      .catch(() => undefined);
  }
}

function progressAt(
  script: Script,
  until: number,
  underWay: number | null = null,
) {
  return {
    statementsDone: until,
    doneHash: script.hashBeginning(until) ?? "",
    statementUnderWay: underWay,
  };
}

/**
 * Returns how many statements are done, and what is known of one that was started.
 *
 * @throws when the committed part of the file was edited since.
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
  if (doneHash !== script.hashBeginning(done))
    throw failure(
      `the first ${done} statements of ${script.file} are committed, and were edited since`,
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

/** The settings of sessions in which nothing has changed since. */
const prepared = new WeakMap<Sql, string>();
/** SQL that may change the session, by itself or in what it calls. */
const SETTING =
  /\b(set|reset|set_config|select|call|do|temp|temporary|pg_temp|declare|listen|prepare)\b/i;

/** Resets the session before a file, and repeats the settings of its done part. */
async function prepareSession(
  { sql, script, options }: Job,
  done: number,
): Promise<void> {
  const settings = setUp(options);
  if (prepared.get(sql) !== settings)
    await sql.unsafe(forgetSession + settings);
  if (SETTING.test(script.text)) prepared.delete(sql);
  else prepared.set(sql, settings);
  for (const statement of script.statements.slice(0, done))
    if (statement.isSetting)
      for (const text of textsOf(statement, options)) await sql.unsafe(text);
}

/** Undoes what the last file has set, including roles. */
export async function resetSession(sql: Sql): Promise<void> {
  await sql.unsafe(forgetSettings);
}

/** Notes what an error says about a statement; true when the step can then be
 * divided differently. */
function noteRefusal(
  { error, statement }: StepFailure,
  step: Step,
  { alone, committedBefore }: Refusals,
): boolean {
  if (step.isAlone || statement === undefined) return false;
  const { code = "" } = error;
  if (NOT_IN_TRANSACTION.includes(code)) alone.add(statement);
  else if (code === UNCOMMITTED_VALUE && statement > step.from)
    committedBefore.add(statement);
  else return false;
  return true;
}

/** Waits before the next attempt, longer each time; nothing is locked meanwhile. */
async function pause(
  { script, options }: Job,
  retry: number,
  { code }: PostgresError,
): Promise<void> {
  const ms = (options.lockTimeout / 10) * 2 ** (retry - 1);
  const blockers = options.nameBlockers?.();
  const met = code === "40P01" ? "met a deadlock" : "could not get a lock";
  note(
    `Waiting: ${script.tag} ${met}${blockers ? ` held by ${blockers}` : ""}; retry ${retry} of ${RETRIES} in ${ms} ms`,
  );
  await sleep(ms);
}

/**
 * Makes an autovacuum give up on the tables that a step changes. It does so for
 * whoever waits longer than deadlock_timeout, which may be longer than the file's
 * lock_timeout. This lock makes no writer wait.
 */
async function endVacuum(
  { sql, script, options }: Job,
  { from, until }: Step,
): Promise<void> {
  for (const { tokens } of script.statements.slice(from, until)) {
    const words = readWords(tokens, 2).join(" ");
    const [, before] = BEFORE_TABLE.find(([start]) => start.test(words)) ?? [];
    if (before === undefined) continue;
    const table = readName(tokens, before);
    await sql
      .unsafe(
        `begin; set local lock_timeout = ${options.lockTimeout};
        lock table ${table} in share update exclusive mode; rollback`,
      )
      .catch(() => sql.unsafe("rollback"))
      .catch(() => {}); // the step itself says what is wrong
  }
}

async function logAndExplain(
  { sql, script }: Job,
  { error, statement }: StepFailure,
  { from, isAlone }: Step,
  ms: number,
): Promise<Error> {
  // The error matters more than the log, and the session may be lost.
  const text = logError(script, error.message, Math.round(ms));
  const cause = await findCause(sql, script, error);
  await sql
    .unsafe(
      `begin read write; reset session authorization; reset role; ${text}; commit`,
    )
    .catch(() => {});
  return explainFailure(error, script, statement, from, isAlone, cause);
}
