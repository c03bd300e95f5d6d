// bun run db:reset: a fresh database, migrated and seeded, in the place of the
// old one, which is kept; --undo swaps back. Needs an owner with CREATEDB. Exits
// 1 with the old one in place when it fails, 2 without consent, 75 when busy.
import type { Sql } from "postgres";
import { readEnv } from "../src/env";
import { applyPending } from "./lib/apply-migrations";
import { openConnection } from "./lib/connection";
import { withMigrationLock } from "./lib/migration-lock";
import { readPlan } from "./lib/migrations";
import {
  isProtected,
  nameReason,
  type Protection,
  readProtection,
  requireConsent,
  stampProduction,
} from "./lib/protection";
import {
  failure,
  print,
  printJson,
  readOptions,
  readWhole,
  refusal,
} from "./lib/report";
import { describeSeed, type Seeded, seedDevelopment } from "./lib/seed-dev";
import {
  databaseExists,
  makeNext,
  previousOf,
  swapBack,
  swapIn,
  withSwapLock,
} from "./lib/swap-databases";

const usage = `bun run db:reset [flags]

Puts a fresh database, migrated and seeded, in the place of the old one, which
is kept as <database>__previous.
  --undo                 swap back to <database>__previous
  --no-seed              migrate only; a protected database wants this
  --confirm <database>   answers for a protected database
  --drop-previous        drop an older <database>__previous of a protected one
  --wait <seconds>       how long to wait for another command (60)
  --json                 one JSON document on stdout`;

const { values } = readOptions(usage, {
  options: {
    undo: { type: "boolean" },
    "no-seed": { type: "boolean" },
    confirm: { type: "string" },
    "drop-previous": { type: "boolean" },
    wait: { type: "string", default: "60" },
    json: { type: "boolean" },
  },
});
const waitSeconds = readWhole(values.wait, "--wait");

const env = readEnv();
const address = env.direct;
const { database } = address;
const previous = previousOf(database);

await withSwapLock(address, waitSeconds, async (server) => {
  const hasPrevious = await databaseExists(server, previous);
  const sql = await openConnection(address, "db:reset");
  try {
    const protection = await readProtection(sql, env, address);
    if (values.undo) requirePrevious(hasPrevious);
    else requireFlags(protection, hasPrevious);
    await requireConsent("db:reset", protection, address, values.confirm);
    await withMigrationLock(sql, waitSeconds, () =>
      values.undo ? undo(server, protection) : reset(server, protection),
    );
  } finally {
    await sql.end({ timeout: 5 });
  }
});

async function reset(server: Sql, protection: Protection): Promise<void> {
  let head: string | null = null;
  let seeded: Seeded | undefined;
  await makeNext(server, address, async (next) => {
    const sql = await openConnection(next, "db:reset");
    try {
      const plan = await readPlan(sql);
      await applyPending(sql, plan);
      if (protection.isStamped || protection.isProduction)
        await stampProduction(sql);
      if (!values["no-seed"]) seeded = await seedDevelopment(sql, waitSeconds);
      head = plan.migrations.at(-1)?.tag ?? null;
    } finally {
      await sql.end({ timeout: 5 });
    }
  });
  const hasDropped = await swapIn(server, address);
  if (hasDropped) print(`Dropped: the older ${previous}`);
  print(`Reset: ${database}, at ${head ?? "no migration"}`);
  if (seeded) print(describeSeed(seeded));
  print(`Kept: ${previous}, which \`bun run db:reset --undo\` brings back`);
  printJson({ database, previous, head, seeded: seeded ?? null });
}

async function undo(server: Sql, protection: Protection): Promise<void> {
  const sql = await openConnection(
    { ...address, database: previous },
    "db:reset",
  );
  let head: string | null;
  try {
    if (protection.isStamped || protection.isProduction)
      await stampProduction(sql);
    head = (await readPlan(sql)).head?.tag ?? null;
  } finally {
    await sql.end({ timeout: 5 });
  }
  await swapBack(server, address);
  print(`Restored: ${database} from ${previous}`);
  print(`Kept: ${previous}, the database until now`);
  printJson({ database, previous, head });
}

function requirePrevious(hasPrevious: boolean): void {
  if (hasPrevious) return;
  throw failure(`there is no ${previous} to go back to`, {
    hint: "`db:reset` keeps one from its first run on",
  });
}

/** What a protected database wants to hear besides its name. */
function requireFlags(protection: Protection, hasPrevious: boolean): void {
  if (!isProtected(protection)) return;
  const missing = [
    !values["no-seed"] && "--no-seed",
    hasPrevious && !values["drop-previous"] && "--drop-previous",
    values.confirm === undefined &&
      !process.stdin.isTTY &&
      `--confirm ${database}`,
  ].filter(Boolean);
  if (missing.length === 0) return;
  throw refusal(
    `${database} is protected: ${nameReason(protection, address)}`,
    {
      hint: `if you mean it, add \`${missing.join(" ")}\``,
    },
  );
}
