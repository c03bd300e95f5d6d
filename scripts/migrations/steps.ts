// Divides a migration into steps: statements in one transaction, or one statement
// that PostgreSQL runs only outside a transaction. The words of a statement do not
// always show this; then the server's error does, and is noted in `Refusals`.
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
  /** Its path from the project's root, for messages. */
  file: string;
  text: string;
  statements: Statement[];
  /** Returns the bare hash of its first `count` statements. */
  hashBeginning(count: number): string | undefined;
  /** True when its first line is `-- no-transaction`: each statement runs by itself,
   * but those from a BEGIN to its COMMIT together. */
  isWithoutTransaction: boolean;
  /** True when it may release the migration lock. */
  mayUnlock: boolean;
  /** True when it may change the tables of the records and the log. */
  touchesRecords: boolean;
  /** True when it may change the role of the session. */
  mayChangeRole: boolean;
}

/** The statements from index `from` up to, but not including, `until`. */
export interface Step {
  from: number;
  until: number;
  /** True for a single statement outside a transaction. */
  isAlone: boolean;
  /** True when it ends with a ROLLBACK that is in the file. */
  isRolledBack: boolean;
}

/** What errors of the server have shown about statements, by their index. */
export interface Refusals {
  /** Statements that cannot run inside a transaction. */
  alone: Set<number>;
  /** Statements that need everything before them to be committed. */
  committedBefore: Set<number>;
}

/** Splits a migration's file, or its down file, into statements. */
export function toScript(
  { tag, file, text, hash }: Pick<Migration, "tag" | "file" | "text" | "hash">,
  direction: Script["direction"],
): Script {
  const statements = splitStatements(text);
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
    isWithoutTransaction: isWithoutTransaction(text),
    mayUnlock: /advisory/i.test(text),
    touchesRecords: touchesRecords(text),
    mayChangeRole: /role|authorization/i.test(text),
  };
}

/** True when the first line is `-- no-transaction`. */
export function isWithoutTransaction(text: string): boolean {
  return /^\uFEFF?--[^\S\n]*no-transaction\s*?(\n|$)/.test(text);
}

/** Returns the step that begins with statement `from`; an empty one at the end. */
export function nextStep(
  { statements, isWithoutTransaction }: Script,
  from: number,
  { alone, committedBefore }: Refusals,
): Step {
  const kindOf = (index: number) =>
    alone.has(index) ? "alone" : statements[index]?.kind;
  const until = Math.min(from + 1, statements.length);
  const step = { from, until, isAlone: false, isRolledBack: false };
  const first = kindOf(from);
  if (first === "alone") return { ...step, isAlone: true };
  if (first === "commit" || first === "rollback") return step; // ends nothing
  const isTogether = !isWithoutTransaction || first === "begin";
  for (let index = from + 1; index < statements.length; index += 1) {
    const kind = kindOf(index);
    const isSeparate = !isTogether || committedBefore.has(index);
    if (kind === "alone" || isSeparate) break;
    step.until = index + 1;
    if (kind === "rollback") return { ...step, isRolledBack: true };
    if (kind === "commit") break;
  }
  return step;
}
