// The confirmation that a command needs before it loses data: the database's
// name, from --confirm or the keyboard. No lock is held during a question.
import type { DatabaseAddress } from "../../src/database-url";
import {
  isProductionDatabase,
  isProtected,
  nameReason,
  type Protection,
} from "./protection";
import { type FailureFields, note, refusal } from "./report";

/** What the user has confirmed so far. */
export interface Consent {
  /** Such as `db:reset`. */
  command: string;
  address: DatabaseAddress;
  /** The value of `--confirm`. */
  confirmed: string | undefined;
  /** The reasons and losses that were confirmed at the keyboard. */
  accepted: string[];
}

/**
 * Runs `attempt`. Where it is refused for a question that a terminal can answer,
 * asks that and runs it again from the start, so that it checks everything again.
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
 * Requires a development database, and consent like `requireConsent`.
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
      { hint: "docs/DATABASE_SETUP.md lists the commands for production" },
    );
  requireConsent(consent, protection);
}

/**
 * Requires consent when the database is protected, or when data would be lost.
 *
 * @param losses the data that would certainly be lost.
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
 * Requires the database's name as a confirmation of these reasons; without
 * reasons nothing is required.
 *
 * @param subjects what the reasons refer to, already shown to the user.
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
  if (wanted.every((reason) => consent.accepted.includes(reason))) return;
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
      consent.accepted.push(...wanted);
    },
  });
}

/** @throws with exit code 2 when `name` is given and is not the database's. */
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
  `to go ahead, add \`--confirm ${/^[\w.-]+$/.test(database) ? database : `'${database}'`}\``;

/** Asks on the terminal; returns the answer, empty when there is none. */
export async function askKeyboard(question: string): Promise<string> {
  const { createInterface } = await import("node:readline/promises");
  const terminal = createInterface({
    input: process.stdin,
    output: process.stderr,
  });
  terminal.once("SIGINT", () => {
    note(""); // ends the line of the question
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
