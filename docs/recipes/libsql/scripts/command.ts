// What the commands share, imported first: strict flags, and how they fail: 2 for a
// refusal before anything was changed, else 1.
import { parseArgs } from "node:util";
import { name } from "../src/address";

process.on(
  "uncaughtException",
  (error: Error & { exitCode?: number; hint?: string }) => {
    console.error(`Error: ${error.message}`);
    if (error.hint) console.error(`Hint: ${error.hint}`);
    process.exitCode = error.exitCode ?? 1;
  },
);

const { confirm: confirmed } = readFlags();

/** Returns an error for a refusal, with what to do. */
export function refusal(message: string, hint?: string): Error {
  return Object.assign(new Error(message), { exitCode: 2, hint });
}

/** @throws unless `--confirm` names the database, or a person at the terminal agrees. */
export function requireConsent(reason: string): void {
  if (confirmed === name) return;
  if (process.stdin.isTTY && confirm(`${reason}. Go on?`)) return;
  throw refusal(
    `this needs confirmation: ${reason}`,
    `to go ahead, add \`--confirm ${name}\``,
  );
}

function readFlags() {
  try {
    return parseArgs({ options: { confirm: { type: "string" } } }).values;
  } catch (error) {
    throw refusal((error as Error).message);
  }
}
