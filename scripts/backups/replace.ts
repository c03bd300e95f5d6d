// The common part of db:reset and db:restore: both replace the database with a new
// one and keep the old one, and both can be undone.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import type { Env } from "../../src/env";
import { openConnection, liftTimeouts } from "../lib/connection";
import {
  askBetween,
  type Consent,
  refuseOtherName,
  requireConsent,
} from "../lib/consent";
import { holdInterrupt } from "../lib/interrupt";
import { withLock } from "../lib/lock";
import {
  isProductionDatabase,
  isProtected,
  isStamped,
  nameReason,
  type Protection,
  readProtection,
  stampProduction,
} from "../lib/protection";
import { failure, print, printJson, refusal } from "../lib/report";
import { databaseExists, previousOf } from "./databases";
import { swapBack, withSwapLock } from "./swap";

/** The flags of both commands, and `--no-seed` of db:reset. */
interface Flags {
  undo?: boolean;
  confirm?: string;
  "drop-previous"?: boolean;
  "no-seed"?: boolean;
}

/**
 * Runs `replace` with consent and under both locks; with `--undo`, swaps back to
 * the database that was kept.
 *
 * @param command the name for pg_stat_activity and for questions.
 * @param wanted further flags that a protected database requires.
 * @param readHead returns the tag of the newest applied migration, or null.
 * @param replace gets a connection to another database of the server.
 * @throws with exit code 2 without consent, with 75 when another command held
 * the locks for longer than `waitSeconds`.
 */
export async function replaceDatabase(
  command: string,
  env: Env,
  flags: Flags,
  waitSeconds: number,
  wanted: "no-seed"[],
  readHead: (sql: Sql) => Promise<string | null>,
  replace: (server: Sql, protection: Protection) => Promise<void>,
): Promise<void> {
  const address = env.direct;
  const previous = previousOf(address.database);
  const consent: Consent = {
    command,
    address,
    confirmed: flags.confirm,
    accepted: [],
  };
  refuseOtherName(address.database, flags.confirm);
  const guard = async (server: Sql, sql: Sql): Promise<Protection> => {
    const hasPrevious = await databaseExists(server, previous);
    const protection = await readProtection(sql, env, address);
    if (flags.undo) requirePrevious(hasPrevious, previous);
    else {
      requireFlags(protection, address, hasPrevious, flags, wanted);
      if (hasPrevious && !flags["drop-previous"])
        await refuseStamped({ ...address, database: previous });
    }
    requireConsent(consent, protection);
    return protection;
  };
  await askBetween(() =>
    withSwapLock(address, waitSeconds, async (server) => {
      await using sql = await openConnection(address, command);
      await sql.unsafe(liftTimeouts);
      await guard(server, sql);
      await withLock(sql, waitSeconds, async () => {
        // The database may have become production during the wait.
        const protection = await guard(server, sql);
        if (flags.undo) await undoSwap(server, address, protection, readHead);
        else await replace(server, protection);
      });
    }),
  );
}

/** Refuses to drop a `__previous` that is stamped production, without its flag. */
async function refuseStamped(previous: DatabaseAddress): Promise<void> {
  await using sql = await openConnection(previous, "db:swap");
  if (!(await isStamped(sql))) return;
  throw refusal(
    `${previous.database} would be dropped, and is stamped production`,
    { hint: "to go ahead, add `--drop-previous`" },
  );
}

function requirePrevious(hasPrevious: boolean, previous: string): void {
  if (hasPrevious) return;
  throw failure(`there is no ${previous} to go back to`, {
    hint: "each `db:reset` and `db:restore` makes one",
  });
}

/** Requires the flags of a protected database, and names all missing ones at once. */
function requireFlags(
  protection: Protection,
  address: DatabaseAddress,
  hasPrevious: boolean,
  given: Flags,
  wanted: "no-seed"[],
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
    {
      lines: hasPrevious ? [`Would be dropped: ${previousOf(database)}`] : [],
      hint: `to go ahead, add \`${missing.join(" ")}\``,
    },
  );
}

/** Swaps back to the database that was kept, and says so. */
async function undoSwap(
  server: Sql,
  address: DatabaseAddress,
  protection: Protection,
  readHead: (sql: Sql) => Promise<string | null>,
): Promise<void> {
  const { database } = address;
  const previous = previousOf(database);
  const kept = { ...address, database: previous };
  const head = await prepareKept(kept, protection, readHead);
  await holdInterrupt(async () => {
    await swapBack(server, address);
    print(`Restored: ${database} from ${previous}`);
    print(
      `Kept: ${previous}, the database until now; \`--undo\` once more swaps back`,
    );
    printJson({ database, previous, head });
  });
}

/** Stamps the kept database, if needed. @returns its newest applied migration. */
async function prepareKept(
  address: DatabaseAddress,
  protection: Protection,
  readHead: (sql: Sql) => Promise<string | null>,
): Promise<string | null> {
  await using sql = await openConnection(address, "db:swap");
  await sql.unsafe(liftTimeouts);
  if (isProductionDatabase(protection)) await stampProduction(sql);
  return await readHead(sql);
}
