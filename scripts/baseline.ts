// bun run db:baseline: records migrations as applied without running them, in a
// database whose schema is the one that they make. Exits 3 with the differences,
// and nothing recorded, where it is another; 75 when another run held the lock.
import { readEnv } from "../src/env";
import { openConnection } from "./lib/connection";
import { withMigrationLock } from "./lib/lock";
import { requireDirect } from "./lib/pooler";
import {
  FINDINGS,
  note,
  print,
  printJson,
  readOptions,
  readWhole,
} from "./lib/report";
import { withScratchDatabase } from "./lib/scratch-database";
import { type Recorded, recordOf, toScript } from "./migrations/apply";
import {
  compareCatalogs,
  type Difference,
  describeDifference,
  readCatalog,
  respell,
} from "./migrations/catalog";
import type { Migration } from "./migrations/journal";
import { createTables, logDone, logForgotten } from "./migrations/log";
import {
  type Plan,
  readPlan,
  refuseModified,
  selectPending,
} from "./migrations/plan";
import { copyDefaultPrivileges, replayMigrations } from "./migrations/replay";

const usage = `bun run db:baseline [flags]

Records migrations as applied in a database that has their schema already.
  --to <tag>         the last one to record
  --wait <seconds>   how long to wait for another run (60)
  --json             one JSON document on stdout`;

const { values } = readOptions(usage, {
  options: {
    to: { type: "string" },
    wait: { type: "string", default: "60" },
    json: { type: "boolean" },
  },
});
const waitSeconds = readWhole(values.wait, "--wait");

const env = readEnv();
const address = env.direct;
const { database } = address;
const sql = await openConnection(address, "db:baseline");
try {
  await requireDirect(sql, address);
  await withMigrationLock(sql, waitSeconds, recordPending);
} finally {
  await sql.end({ timeout: 5 });
}

async function recordPending(): Promise<void> {
  const plan = await readPlan(sql);
  refuseModified(plan);
  const wanted = selectPending(plan, values.to);
  const differences = wanted.length > 0 ? await compare(plan, wanted) : [];
  for (const difference of differences) print(describeDifference(difference));
  const isSame = differences.length === 0;
  if (isSame && wanted.length > 0) await record(plan, wanted);
  if (!isSame) {
    process.exitCode = FINDINGS;
    print(`Recorded: nothing, for ${database} has another schema`);
    note(
      "Hint: make the two the same, or `bun run db:reset` for a fresh database",
    );
  }
  if (wanted.length === 0) print(`Nothing to record: ${database}`);
  const recorded = isSame ? wanted.map(({ tag }) => tag) : [];
  printJson({ database, recorded, differences });
}

/** With a database that is made from the same migrations. */
async function compare(plan: Plan, wanted: Migration[]): Promise<Difference[]> {
  const found = await readCatalog(sql);
  const made = plan.migrations.filter(
    (migration) => plan.applied.has(migration) || wanted.includes(migration),
  );
  return await withScratchDatabase(
    env.test ?? address,
    "db:baseline",
    async (scratch) => {
      await copyDefaultPrivileges(sql, scratch);
      await replayMigrations(scratch, made);
      const expected = await readCatalog(scratch);
      return await respell(scratch, compareCatalogs(expected, found), found);
    },
  );
}

async function record(plan: Plan, wanted: Migration[]): Promise<void> {
  const recorded: Recorded[] = [...plan.applied.values()];
  const texts = wanted.flatMap((migration) => {
    recorded.push(migration);
    const run = toScript(migration, "baseline");
    return [
      recordOf(migration, recorded),
      logForgotten(migration.tag),
      logDone(run, 0, false),
    ];
  });
  await sql.unsafe(`begin; ${[createTables(), ...texts].join(";")}; commit`);
  for (const { tag } of wanted) print(`Recorded: ${tag}`);
}
