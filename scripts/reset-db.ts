// bun run db:reset: replaces the database with a new one, migrated and seeded, and
// keeps the old one; --undo swaps back. Needs an owner with CREATEDB. Exits 1 with
// the old one in place when it fails, 2 without consent, 75 when busy.
import type { Sql } from "postgres";
import { readEnv } from "../src/env";
import { previousOf } from "./backups/databases";
import { replaceDatabase } from "./backups/replace";
import { makeNext } from "./backups/successor";
import { swapIn } from "./backups/swap";
import { openConnection } from "./lib/connection";
import { holdInterrupt } from "./lib/interrupt";
import {
  confirmFlag,
  jsonFlag,
  readOptions,
  readWhole,
  waitFlag,
} from "./lib/options";
import {
  isProductionDatabase,
  type Protection,
  stampProduction,
} from "./lib/protection";
import {
  advise,
  announce,
  describeError,
  note,
  print,
  printJson,
} from "./lib/report";
import type { Seed, Seeded } from "./lib/seed";
import { applyPending } from "./migrations/apply";
import { readHead, readPlan } from "./migrations/plan";
import { noteRaised } from "./migrations/run";

const usage = `bun run db:reset [flags]

Replaces the database with a new one, migrated and seeded. The old one is kept as
<database>__previous.`;

const { values } = readOptions(usage, {
  undo: { type: "boolean", help: "swap back to <database>__previous" },
  "no-seed": {
    type: "boolean",
    help: "migrate only; required for a protected database",
  },
  ...confirmFlag("a protected database"),
  "drop-previous": {
    type: "boolean",
    help: "drop an older <database>__previous of a protected one",
  },
  ...waitFlag,
  ...jsonFlag,
});
const waitSeconds = readWhole(values.wait, "--wait");
// Imported only now: --help needs no drizzle-orm.
const { describeSeed, loadSeed, insertSeed } = await import("./lib/seed");

const env = readEnv();
const address = env.direct;
const { database } = address;
const previous = previousOf(database);

await replaceDatabase(
  "db:reset",
  env,
  values,
  waitSeconds,
  ["no-seed"],
  readHead,
  reset,
);

async function reset(server: Sql, protection: Protection): Promise<void> {
  let head: string | null = null;
  let seeded: Seeded | undefined;
  let others: string[] = [];
  let lost: string[] = [];
  const seed = values["no-seed"] ? undefined : await loadDevelopment();
  await makeNext(server, address, async (next) => {
    await using sql = await openConnection(next, "db:reset");
    const plan = await readPlan(sql);
    await applyPending(sql, plan, { onRaised: noteRaised }).catch(
      async (error: Error) => {
        if ((await listOthers(sql)).length > 0)
          Object.assign(error, {
            hint: `a new database has only what the migrations create, and ${database} has more: change it with \`bun run db:migrate\` and \`bun run db:rollback\` instead`,
          });
        throw error;
      },
    );
    others = await listOthers(sql);
    lost = await listLost(sql);
    if (isProductionDatabase(protection)) await stampProduction(sql);
    if (seed) seeded = await insertSeed(sql, seed, waitSeconds);
    head = plan.migrations.at(-1)?.tag ?? null;
  });
  await holdInterrupt(async () => {
    const hasDropped = await swapIn(server, address);
    if (hasDropped) announce(`Dropped: the older ${previous}`);
    print(`Reset: ${database}, at ${head ?? "no migration"}`);
    if (seeded) print(describeSeed(seeded));
    if (others.length > 0)
      announce(
        `Left behind: these schemas, which no migration creates, are only in ${previous}: ${others.join(", ")}`,
      );
    if (lost.length > 0)
      announce(`Left behind: only in ${previous}: ${lost.join(", ")}`);
    print(`Kept: ${previous}, which \`bun run db:reset --undo\` brings back`);
    printJson({ database, previous, head, seeded: seeded ?? null });
  });
}

/** Lists the schemas of the old database that the new one does not have. */
async function listOthers(sql: Sql): Promise<string[]> {
  return await listOld(
    sql,
    "select nspname as name from pg_namespace where nspname !~ '^pg_'",
  );
}

/** Lists what else the old database has and the new one does not. */
async function listLost(sql: Sql): Promise<string[]> {
  return await listOld(
    sql,
    `select format('the extension %I', extname) as name from pg_extension
    union all
    select format('the publication %I', pubname) from pg_publication
    union all
    select format('the grants to %I', pg_get_userbyid(grantee))
    from (
      select oid, relacl as acl, relowner as owner from pg_class
      union all select oid, nspacl, nspowner from pg_namespace
      union all select oid, proacl, proowner from pg_proc
      union all select oid, defaclacl, defaclrole from pg_default_acl
    ) as granted cross join lateral aclexplode(acl)
    where oid >= 16384 and grantee not in (0, owner)`,
  );
}

/** Returns the names that a query finds in the old database and not in the new one. */
async function listOld(sql: Sql, query: string): Promise<string[]> {
  await using old = await openConnection(address, "db:reset");
  const list = async (from: Sql) =>
    (await from.unsafe<{ name: string }[]>(query)).map(({ name }) => name);
  const fresh = await list(sql);
  const all = new Set(await list(old));
  return [...all].filter((name) => !fresh.includes(name)).sort();
}

/** Loads the seed; a seed that cannot be loaded is only a warning here. */
async function loadDevelopment(): Promise<Seed | undefined> {
  try {
    return await loadSeed("dev");
  } catch (error) {
    const { message, hint } = describeError(error as Error);
    note(`Warning: not seeded: ${message}`);
    if (hint) advise(hint);
  }
}
