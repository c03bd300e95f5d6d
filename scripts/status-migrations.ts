// bun run db:migrate:status: which migrations are applied, pending, edited or
// missing? Reads only. Exits 3 unless all are applied, 1 when it cannot tell.
import { readEnv } from "../src/env";
import { openConnection } from "./lib/connection";
import { readPlan } from "./lib/migrations";
import { FINDINGS, print, printJson, readOptions } from "./lib/report";

const usage = `bun run db:migrate:status [--json]

Lists every migration and its state.
  --json   one JSON document on stdout`;

readOptions(usage, { options: { json: { type: "boolean" } } });

const env = readEnv();
const sql = await openConnection(env.direct, "db:migrate:status");
try {
  const plan = await readPlan(sql);
  const known = plan.migrations.map((migration) => ({
    tag: migration.tag,
    when: migration.when,
    state: plan.pending.includes(migration)
      ? "pending"
      : plan.modified.includes(migration)
        ? "modified"
        : "applied",
    outOfOrder: plan.outOfOrder.includes(migration),
    appliedAt: null,
    ms: null,
  }));
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
    ...plan.modified.map(({ tag, file }) => ({
      code: "modified",
      tag,
      message: `${file} was edited after it was applied`,
    })),
    ...plan.warnings,
  ];

  for (const { tag, when, state, outOfOrder } of migrations)
    print(
      `${state.padEnd(8)}  ${tag ?? `record of ${when}`}${outOfOrder ? "  (out of order)" : ""}`,
    );
  for (const { message } of problems) print(`Problem: ${message}`);
  if (migrations.length === 0) print("No migrations");
  printJson({
    database: env.direct.database,
    head: plan.head?.tag ?? null,
    migrations,
    problems,
  });
  const isClean =
    problems.length === 0 &&
    migrations.every(({ state }) => state === "applied");
  if (!isClean) process.exitCode = FINDINGS;
} finally {
  await sql.end({ timeout: 5 });
}
