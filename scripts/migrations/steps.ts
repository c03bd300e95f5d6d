// Divides a migration into steps: a run of statements in one transaction, or a
// statement that PostgreSQL runs only outside of one. What the words do not tell
// the server does: a statement that it refuses inside a transaction, or a new
// enum value that is used too early, is put into `learned`.
import type { Migration } from "./journal";
import { type Run, touchesRecords } from "./log";
import {
  hashBeginnings,
  hashStatements,
  splitStatements,
  type Statement,
} from "./statements";

/** A file to run. */
export interface Script extends Run {
  /** The path from the project's root, for messages. */
  file: string;
  text: string;
  statements: Statement[];
  /** Returns the bare hash of its first statements. */
  hashBeginning(count: number): string | undefined;
  /** True when its first line asks for a transaction around no two statements. */
  isWithoutTransaction: boolean;
  /** True when it may release the migration lock. */
  mayUnlock: boolean;
  /** True when it may change the tables of the records and the log. */
  touchesRecords: boolean;
  /** True when it may change the role of the session. */
  mayChangeRole: boolean;
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

/** A migration's file, or its down file, cut into statements. */
export function toScript(
  { tag, file, text, hash }: Pick<Migration, "tag" | "file" | "text" | "hash">,
  direction: Script["direction"],
): Script {
  const statements = splitStatements(text);
  const [first = ""] = text
    .slice(0, 80)
    .replace(/^\uFEFF/, "")
    .split(/\r?\n/);
  let hashes: string[] | undefined;
  return {
    tag,
    file,
    text,
    hash,
    bareHash: hashStatements(statements),
    direction,
    statements,
    hashBeginning: (count) => (hashes ??= hashBeginnings(statements)).at(count),
    isWithoutTransaction: /^--\s*no-transaction\s*$/.test(first),
    mayUnlock: /advisory/i.test(text),
    touchesRecords: touchesRecords(text),
    mayChangeRole: /role|authorization/i.test(text),
  };
}

/** The step that begins with statement `from`; an empty one after the last. */
export function nextStep(
  { statements, isWithoutTransaction }: Script,
  from: number,
  { alone, committedBefore }: Learned,
): Step {
  const kindOf = (index: number) =>
    alone.has(index) ? "alone" : statements[index]?.kind;
  const until = Math.min(from + 1, statements.length);
  const step = { from, until, isAlone: false, isRolledBack: false };
  const first = kindOf(from);
  if (first === "alone") return { ...step, isAlone: true };
  if (first === "commit" || first === "rollback") return step; // of nothing
  for (let index = from + 1; index < statements.length; index += 1) {
    const kind = kindOf(index);
    const isSeparate = isWithoutTransaction || committedBefore.has(index);
    if (kind === "alone" || isSeparate) break;
    step.until = index + 1;
    if (kind === "rollback") return { ...step, isRolledBack: true };
    if (kind === "commit") break;
  }
  return step;
}
