// bun run db:baseline: records migrations as applied without running them, in a
// database that already has their schema. When its schema differs, records nothing
// and exits 3 with the differences. Exits 75 when another run held the lock.
import { readEnv } from "../src/env";
import { openConnection } from "./lib/connection";
import { withLock } from "./lib/lock";
import { jsonFlag, readOptions, readWhole, waitFlag } from "./lib/options";
import { requireDirect } from "./lib/pooler";
import {
  advise,
  failure,
  FINDINGS,
  note,
  print,
  printJson,
} from "./lib/report";
import { type Recorded, recordOf } from "./migrations/apply";
import { type Difference, describeDifference } from "./migrations/catalog";
import { refuseElsewhere } from "./migrations/elsewhere";
import type { Migration } from "./migrations/journal";
import { createTables, logDone, logForgotten } from "./migrations/log";
import { findDifferences, listMade } from "./migrations/ours";
import {
  type Plan,
  readPlan,
  refuseModified,
  refusePartial,
  selectPending,
} from "./migrations/plan";
import { readReaches } from "./migrations/reach";
import { replayMigrations } from "./migrations/replay";
import { choosePlace, withTrial } from "./migrations/trial";
import { toScript } from "./migrations/steps";

const usage = `bun run db:baseline [flags]

Records migrations as applied in a database that already has their schema.`;

const { values } = readOptions(usage, {
  to: { type: "string", value: "<tag>", help: "the last one to record" },
  ...waitFlag,
  ...jsonFlag,
});
const waitSeconds = readWhole(values.wait, "--wait");

const env = readEnv();
const address = env.direct;
const { database } = address;
await using sql = await openConnection(address, "db:baseline");
await requireDirect(sql, address);
await withLock(sql, waitSeconds, recordPending);

async function recordPending(): Promise<void> {
  const plan = await readPlan(sql);
  refuseModified(plan);
  refusePartial(plan, "db:migrate");
  await refuseElsewhere(sql, plan);
  const wanted = selectPending(plan, values.to);
  const differences = wanted.length > 0 ? await compare(plan, wanted) : [];
  for (const difference of differences) print(describeDifference(difference));
  const isSame = differences.length === 0;
  if (isSame && wanted.length > 0) await record(plan, wanted);
  if (!isSame) {
    process.exitCode = FINDINGS;
    print(
      `Not recorded: the schema of ${database} differs from the migrations`,
    );
    advise(
      "make the two the same: change the migrations that are in no database yet, or the database in `bun run db:shell`; `--to <tag>` records the first ones only",
    );
  }
  if (wanted.length === 0) print(`Nothing to record: ${database}`);
  const recorded = isSame ? wanted.map(({ tag }) => tag) : [];
  printJson({ database, recorded, differences });
}

/** Compares the database with a scratch database made from the same migrations. */
async function compare(plan: Plan, wanted: Migration[]): Promise<Difference[]> {
  const applied = plan.migrations.filter(
    (migration) => plan.applied.has(migration) || wanted.includes(migration),
  );
  const made = listMade(plan.migrations);
  return await withTrial(
    sql,
    await choosePlace(sql, address, env.test),
    "db:baseline",
    made,
    applied.map(({ text }) => text),
    async (trial) => {
      const reaches = readReaches(applied);
      const leftOut = await replayMigrations(trial, applied, reaches, true);
      for (const { migration, line, reason } of leftOut)
        note(`Not compared: ${migration.file}:${line}: ${reason}`);
      const unknown = leftOut.find((out) => out.changesSchema && out.hasFailed);
      if (unknown)
        throw failure(
          `cannot tell which schema ${unknown.migration.tag} makes: ${unknown.reason}`,
          {
            lines: ["Nothing was recorded"],
            hint: "change the database or the migration so that it can be compared; `--to <tag>` records the ones before it",
          },
        );
      return await findDifferences(trial, made, leftOut);
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
