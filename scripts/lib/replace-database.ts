// What db:reset and db:restore have in common: both put a new database in the
// place of the old one, which is kept, and both can be undone.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { openConnection, patient } from "./connection";
import { tryReadPlan } from "./migrations";
import {
  isProtected,
  nameReason,
  type Protection,
  stampProduction,
} from "./protection";
import { failure, print, printJson, refusal } from "./report";
import { previousOf, swapBack } from "./swap-databases";

/** @throws when there is nothing to go back to. */
export function requirePrevious(hasPrevious: boolean, previous: string): void {
  if (hasPrevious) return;
  throw failure(`there is no ${previous} to go back to`, {
    hint: "`db:reset` and `db:restore` keep one from their first run on",
  });
}

/**
 * What a protected database wants to hear besides its name.
 *
 * @param given the command's flags.
 * @param wanted further flags that it wants.
 * @throws with exit code 2, and names all that are missing.
 */
export function requireFlags(
  protection: Protection,
  address: DatabaseAddress,
  hasPrevious: boolean,
  given: { "drop-previous"?: boolean; "no-seed"?: boolean; confirm?: string },
  wanted: "no-seed"[] = [],
): void {
  if (!isProtected(protection)) return;
  const { database } = address;
  const missing = [
    ...wanted.map((flag) => !given[flag] && `--${flag}`),
    hasPrevious && !given["drop-previous"] && "--drop-previous",
    given.confirm === undefined &&
      !process.stdin.isTTY &&
      `--confirm ${database}`,
  ].filter(Boolean);
  if (missing.length === 0) return;
  throw refusal(
    `${database} is protected: ${nameReason(protection, address)}`,
    { hint: `if you mean it, add \`${missing.join(" ")}\`` },
  );
}

/** Swaps back to the database that was kept, and says so. */
export async function undoSwap(
  server: Sql,
  address: DatabaseAddress,
  protection: Protection,
): Promise<void> {
  const { database } = address;
  const previous = previousOf(database);
  const sql = await openConnection(
    { ...address, database: previous },
    "db:swap",
  );
  let head: string | null;
  try {
    await sql.unsafe(patient);
    if (protection.isStamped || protection.isProduction)
      await stampProduction(sql);
    head = (await tryReadPlan(sql))?.head?.tag ?? null;
  } finally {
    await sql.end({ timeout: 5 });
  }
  await swapBack(server, address);
  print(`Restored: ${database} from ${previous}`);
  print(`Kept: ${previous}, the database until now`);
  printJson({ database, previous, head });
}
