// The consent that a command needs before it loses data: the database's name,
// by --confirm or from the keyboard. No lock is held while a question is open.
import type { DatabaseAddress } from "../../src/database-url";
import {
  isProductionDatabase,
  isProtected,
  nameReason,
  type Protection,
} from "./protection";
import { type FailureFields, note, refusal } from "./report";

/** What was agreed to so far. */
export interface Consent {
  /** Such as `db:reset`. */
  command: string;
  address: DatabaseAddress;
  /** What `--confirm` says. */
  confirmed: string | undefined;
  /** The reasons and losses that the keyboard has agreed to. */
  agreed: string[];
}

/**
 * Runs `attempt`, and where a terminal can answer what it was refused for, asks
 * and runs it again, which looks at everything again.
 */
export async function askBetween<T>(attempt: () => Promise<T>): Promise<T> {
  for (;;)
    try {
      return await attempt();
    } catch (error) {
      const { ask } = error as FailureFields;
      if (!ask || !process.stdin.isTTY) throw error;
      await ask();
    }
}

/**
 * For what is of use in development only.
 *
 * @throws with exit code 2 on a database that is stamped, or with
 * NODE_ENV=production, whatever was confirmed; else like `requireConsent`.
 */
export function requireDevelopment(
  consent: Consent,
  protection: Protection,
): void {
  const { command, address } = consent;
  if (isProductionDatabase(protection))
    throw refusal(
      `${command} is for development, and ${address.database} is not: ${nameReason(protection, address)}`,
      { hint: "docs/DATABASE_SETUP.md says what a production database takes" },
    );
  requireConsent(consent, protection);
}

/**
 * For what can lose data on a protected database, and for losses on any.
 *
 * @param losses what would be lost for certain.
 * @throws with exit code 2 without consent, for `askBetween`.
 */
export function requireConsent(
  consent: Consent,
  protection: Protection,
  losses: string[] = [],
): void {
  const { address } = consent;
  const reasons: string[] = [];
  if (isProtected(protection))
    reasons.push(
      `${address.database} is protected: ${nameReason(protection, address)}`,
    );
  if (losses.length > 0) reasons.push("data would be lost");
  requireName(consent, reasons, losses);
}

/**
 * Wants the database's name for reasons that are said; none need none.
 *
 * @param subjects what the reasons are about, which was shown before.
 * @throws with exit code 2 without it, for `askBetween`.
 */
export function requireName(
  consent: Consent,
  reasons: string[],
  subjects: string[] = [],
): void {
  const { command, address, confirmed } = consent;
  const { database } = address;
  refuseOtherName(database, confirmed);
  const wanted = [...reasons, ...subjects];
  if (wanted.every((reason) => consent.agreed.includes(reason))) return;
  if (confirmed === database) return;
  const reason = reasons.join("; ");
  const unanswered: Error & FailureFields = refusal(
    `${command} needs confirmation: ${reason}`,
    { hint: hintConfirm(database) },
  );
  throw Object.assign(unanswered, {
    ask: async () => {
      const typed = await askKeyboard(
        `${command} on ${database}: ${reason}. Type the database's name to go on: `,
      );
      if (!typed) throw Object.assign(unanswered, { ask: undefined });
      refuseOtherName(database, typed);
      consent.agreed.push(...wanted);
    },
  });
}

/** @throws with exit code 2 where what is named is another database. */
export function refuseOtherName(
  database: string,
  name: string | undefined,
): void {
  if (name === undefined || name === database) return;
  throw refusal(`"${name}" is not the name of the database`, {
    hint: hintConfirm(database),
  });
}

const hintConfirm = (database: string) =>
  `to go ahead, add \`--confirm ${database}\``;

/** The answer of the keyboard; empty where there is none. */
export async function askKeyboard(question: string): Promise<string> {
  const { createInterface } = await import("node:readline/promises");
  const terminal = createInterface({
    input: process.stdin,
    output: process.stderr,
  });
  terminal.once("SIGINT", () => {
    note(""); // past the question
    process.kill(process.pid, "SIGINT");
  });
  const closed = new Promise<undefined>((resolve) =>
    terminal.once("close", () => resolve(undefined)),
  );
  try {
    const answer = await Promise.race([terminal.question(question), closed]);
    if (answer === undefined) note("");
    return answer?.trim() ?? "";
  } finally {
    terminal.close();
  }
}
