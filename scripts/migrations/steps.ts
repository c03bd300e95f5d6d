// Divides a migration into steps: a run of statements in one transaction, or a
// statement that PostgreSQL runs only outside of one. What the words do not tell
// the server does: a statement that it refuses inside a transaction, or a new
// enum value that is used too early, is put into `learned`.
import type { Run } from "./log";
import { readWords, type Statement } from "./statements";

/** A file to run. */
export interface Script extends Run {
  /** The path from the project's root, for messages. */
  file: string;
  text: string;
  statements: Statement[];
}

/** Statements `from` (included) to `until` (not), by their index in the file. */
export interface Step {
  from: number;
  until: number;
  /** Outside of a transaction: always a single statement. */
  isAlone: boolean;
  /** It ends with a ROLLBACK of the file's own. */
  isRolledBack: boolean;
}

/** What the server has said about statements, by their index. */
export interface Learned {
  /** Refused inside a transaction. */
  alone: Set<number>;
  /** Needs what comes before it to be committed. */
  committedBefore: Set<number>;
}

/** What a statement means for the transaction around it. */
export type Kind =
  "plain" | "alone" | "begin" | "commit" | "rollback" | "discard";

/** PostgreSQL runs these outside of a transaction only, and some more. */
const ALONE =
  /^(VACUUM|ALTER SYSTEM|(CREATE|DROP) (DATABASE|TABLESPACE)|(CREATE|DROP)( UNIQUE)? INDEX CONCURRENTLY|REINDEX( \(.*\bCONCURRENTLY\b.*\)| (INDEX|TABLE|SCHEMA) CONCURRENTLY| (DATABASE|SYSTEM|SCHEMA)\b)|ALTER TABLE .* DETACH PARTITION .* CONCURRENTLY)( |$)/;

/** Told by its first words. */
export function classify({ tokens }: Statement): Kind {
  const words = readWords(tokens, 24);
  const [first, second = "", third = ""] = words;
  if (first === "BEGIN" || (first === "START" && second === "TRANSACTION"))
    return "begin";
  if (first === "COMMIT" || first === "END")
    return second === "PREPARED" ? "alone" : "commit";
  if (first === "ABORT") return "rollback";
  if (first === "ROLLBACK") {
    if (second === "PREPARED") return "alone";
    const isWhole = ![second, third].includes("TO");
    return isWhole ? "rollback" : "plain";
  }
  if (first === "DISCARD" && second === "ALL") return "discard";
  return ALONE.test(words.join(" ")) ? "alone" : "plain";
}

/** A procedure or block: outside of a transaction it may commit a part. */
export function mayCommit({ tokens }: Statement): boolean {
  return ["CALL", "DO"].includes(readWords(tokens, 1)[0] ?? "");
}

/** Whether it changes the session for the statements after it. */
export function isSetting({ tokens }: Statement): boolean {
  const [first, second = "", ...words] = readWords(tokens, 8);
  if (first === "SET")
    return !["LOCAL", "TRANSACTION", "CONSTRAINTS"].includes(second);
  const isCall =
    first === "SELECT" && [second, ...words].includes("SET_CONFIG");
  return isCall || first === "RESET" || first === "DISCARD";
}

/** Whether the first line asks for a transaction around no two statements. */
export function isWithoutTransaction(text: string): boolean {
  const [first = ""] = text.replace(/^\uFEFF/, "").split(/\r?\n/);
  return /^--\s*no-transaction\s*$/.test(first);
}

/** The step that begins with statement `from`; `from` is within the file. */
export function nextStep(
  statements: Statement[],
  from: number,
  isSingle: boolean,
  { alone, committedBefore }: Learned,
): Step {
  const kindOf = (index: number) => {
    const statement = statements[index];
    if (!statement) return undefined;
    return alone.has(index) ? "alone" : classify(statement);
  };
  const step = { from, until: from + 1, isAlone: false, isRolledBack: false };
  const first = kindOf(from);
  if (first === "alone") return { ...step, isAlone: true };
  if (first === "commit" || first === "rollback") return step; // of nothing
  for (let index = from + 1; index < statements.length; index += 1) {
    const kind = kindOf(index);
    if (kind === "alone" || committedBefore.has(index) || isSingle) break;
    step.until = index + 1;
    if (kind === "rollback") return { ...step, isRolledBack: true };
    if (kind === "commit") break;
  }
  return step;
}
