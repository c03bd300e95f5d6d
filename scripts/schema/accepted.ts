// Keeps the list of accepted problems. A problem of applied history cannot be fixed
// any more; it is accepted once, with a reason, in a file beside the migrations.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../src/env";
import type { Problem } from "../lib/problem";
import { failure, refusal } from "../lib/report";
import { nameFolder } from "../migrations/journal";

interface Acceptance {
  code: string;
  tag: string;
  reason: string;
}

/** The codes of problems that neither a new migration nor another run can fix. */
const ACCEPTABLE = (
  "journal_unordered journal_duplicate snapshot_chain snapshot_missing " +
  "modified missing down_missing lint not_replayed"
).split(" ");

/** Returns the path of the file, from the project's root. */
const nameAccepted = () => join(nameFolder(), "accepted.json");

/**
 * Leaves out the problems that were accepted.
 *
 * @throws when the file cannot be read.
 */
export function leaveOutAccepted(problems: Problem[]): Problem[] {
  const accepted = readAccepted();
  return problems.filter(
    ({ code, tag }) =>
      !accepted.some((one) => one.code === code && one.tag === tag),
  );
}

/**
 * Adds a problem to the list, so that it is left out from now on.
 *
 * @returns the path of the file with the list.
 * @throws with exit code 2 when there is no such problem, or it can be fixed.
 */
export function accept(
  problems: Problem[],
  { code, tag, reason }: Acceptance,
): string {
  if (!ACCEPTABLE.includes(code))
    throw refusal(`${code} cannot be accepted`, {
      code: "USAGE",
      hint: `these codes can be accepted: ${ACCEPTABLE.join(", ")}`,
    });
  if (!problems.some((one) => one.code === code && one.tag === tag))
    throw refusal(`there is no problem ${code} of ${tag}`, {
      code: "USAGE",
      hint: "`bun run db:check` lists the problems",
    });
  const entries = [...readAccepted(), { code, tag, reason }];
  const file = nameAccepted();
  writeFileSync(join(root, file), `${JSON.stringify(entries, null, 2)}\n`);
  return file;
}

function readAccepted(): Acceptance[] {
  const file = nameAccepted();
  if (!existsSync(join(root, file))) return [];
  try {
    const entries: unknown = JSON.parse(readFileSync(join(root, file), "utf8"));
    if (Array.isArray(entries)) return entries;
    throw new Error("it is not a list");
  } catch (error) {
    throw failure(`${file} cannot be read: ${(error as Error).message}`, {
      hint: `restore \`${file}\` from git`,
    });
  }
}
