// bun run db:migrate:status: which migrations are applied, pending, edited or
// missing? Reads only. Exits 3 unless all are applied, 1 when it cannot tell.
import { readEnv } from "../src/env";
import { openConnection } from "./lib/connection";
import { jsonFlag, readOptions } from "./lib/options";
import { FINDINGS, note, print, printJson } from "./lib/report";
import { findElsewhere } from "./migrations/elsewhere";
import { readLog } from "./migrations/log";
import { listPartial, readPlan, stateOf } from "./migrations/plan";

const usage = `bun run db:migrate:status [--json]

Lists every migration and its state.`;

readOptions(usage, {
  ...jsonFlag,
});

const env = readEnv();
await using sql = await openConnection(env.direct, "db:migrate:status", "any");
const plan = await readPlan(sql);
const elsewhere = await findElsewhere(sql, plan);
const log = await readLog(sql);
const known = plan.migrations.map((migration) => {
  const { tag, when } = migration;
  const run = log.findLast(
    ({ tag: of, ms, error }) => of === tag && ms !== null && error === null,
  );
  const isKnown = plan.applied.has(migration) && run?.direction !== "down";
  return {
    tag,
    when,
    state: stateOf(plan, migration),
    outOfOrder: plan.outOfOrder.includes(migration),
    appliedAt: isKnown ? (run?.startedAt ?? null) : null,
    ms: isKnown ? (run?.ms ?? null) : null,
  };
});
const unknown = plan.unknown.map(({ when }) => ({
  tag: null,
  when,
  state: "missing",
  outOfOrder: false,
  appliedAt: null,
  ms: null,
}));
const migrations = [...known, ...unknown];
const problems = [
  ...(elsewhere
    ? [
        {
          code: "records_elsewhere",
          message: `${elsewhere.message}: ${elsewhere.hint}`,
        },
      ]
    : []),
  ...plan.modified.map(({ tag, file }) => ({
    code: "modified",
    tag,
    message: `${file} was edited after it was applied`,
  })),
  ...listPartial(plan).map(({ tag, message, hint }) => ({
    code: "partial",
    tag,
    message: `${message}: ${hint}`,
  })),
  ...plan.warnings.filter(({ code }) => !isHarmless(code)),
];

for (const { tag, when, state, outOfOrder } of migrations)
  print(
    `${state.padEnd(8)}  ${tag ?? `record of ${when}`}${outOfOrder ? "  (out of order)" : ""}`,
  );
for (const { code, message } of plan.warnings)
  if (isHarmless(code)) note(`Warning: ${message}`);
for (const { message } of problems) print(`Problem: ${message}`);
if (migrations.length === 0) print("No migrations");
printJson({
  database: env.direct.database,
  head: plan.head?.tag ?? null,
  migrations,
  problems,
});
const isClean =
  problems.length === 0 && migrations.every(({ state }) => state === "applied");
if (!isClean) process.exitCode = FINDINGS;

/** True for warnings that need no repair, such as a number used twice in the journal. */
function isHarmless(code: string): boolean {
  return (
    code.startsWith("duplicate_") ||
    code === "respaced" ||
    code === "down_left_behind"
  );
}
