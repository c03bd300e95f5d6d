// bun run db:migrate: applies the migrations that have no record yet, each in
// its own transaction. Needs a direct connection. Exits 1 when one fails (it
// is rolled back), 2 for a bad flag, 75 when another run held the lock.
import { readEnv } from "../src/env";
import { openConnection } from "./lib/connection";
import {
  jsonFlag,
  lockTimeoutFlag,
  readLockTimeout,
  readOptions,
  readWhole,
  verboseFlag,
  waitFlag,
} from "./lib/options";
import { requireDirect } from "./lib/pooler";
import { isStamped, stampProduction } from "./lib/protection";
import { announce, note, print, printJson } from "./lib/report";
import type { Applied } from "./migrations/apply";
import { type Migration, refuseOtherEncoding } from "./migrations/journal";
import {
  listNameless,
  type Plan,
  readPlan,
  refuseModified,
  refusePartial,
  selectPending,
  type Warning,
} from "./migrations/plan";
import { skipStatements } from "./migrations/statements";
import type { Watch } from "./migrations/watch";

const usage = `bun run db:migrate [flags]

Applies pending migrations, in the order of the journal.`;

const { values } = readOptions(usage, {
  "dry-run": { type: "boolean", help: "print the SQL and change nothing" },
  to: { type: "string", value: "<tag>", help: "stop after this migration" },
  ...waitFlag,
  ...lockTimeoutFlag,
  ...verboseFlag,
  "wait-for-server": {
    type: "string",
    value: "<seconds>",
    default: "0",
    help: "how long to wait for a server that is starting",
  },
  ...jsonFlag,
});
const serverSeconds = readWhole(values["wait-for-server"], "--wait-for-server");
const waitSeconds = readWhole(values.wait, "--wait");
const lockTimeout = readLockTimeout(values["lock-timeout"]);

const env = readEnv();
const { database } = env.direct;
if (serverSeconds > 0)
  await (
    await import("./lib/wait-for-server")
  ).waitForServer(env.direct, serverSeconds);

/** The warnings that the migrations have raised. */
const warned: Warning[] = [];
await using sql = await openConnection(env.direct, "db:migrate");
await (values["dry-run"] ? showPending() : migrate());

async function migrate(): Promise<void> {
  const first = await readPlan(sql);
  const isCurrent =
    selectPending(first, values.to).length === 0 &&
    listNameless(first).length === 0;
  const isStampMissing = env.isProduction && !(await isStamped(sql));
  if (isCurrent && !isStampMissing) {
    refuseModified(first);
    refusePartial(first, "db:migrate");
    return finish(first, []);
  }
  await requireDirect(sql, env.direct);
  // Loaded only now: most runs have nothing to do.
  const { withLock } = await import("./lib/lock");
  const { watchSession } = await import("./migrations/watch");
  await using watch = await watchSession(sql, env.direct);
  const { migrations } = first;
  await withLock(sql, waitSeconds, () => applyUnderLock(migrations, watch));
}

/** Reads the records again: another run may have applied some in the meantime. */
async function applyUnderLock(
  migrations: Migration[],
  watch: Watch,
): Promise<void> {
  const { applyPending } = await import("./migrations/apply");
  const { refuseElsewhere } = await import("./migrations/elsewhere");
  const { noteRaised } = await import("./migrations/run");
  const plan = await readPlan(sql, migrations);
  await refuseElsewhere(sql, plan);
  const applied: Applied[] = [];
  const onApplied = (migration: Applied) => {
    applied.push(migration);
    print(`Applied: ${migration.tag} (${migration.ms} ms)`);
  };
  try {
    await applyPending(sql, plan, {
      to: values.to,
      lockTimeout,
      nameBlockers: watch.nameBlockers,
      onStart: watch.setTitle,
      onApplied,
      isVerbose: values.verbose,
      onRaised: (raised) => {
        noteRaised(raised);
        const { tag, severity, message } = raised;
        if (severity === "WARNING")
          warned.push({ code: "raised", tag, message });
      },
    });
    if (env.isProduction && (await stampProduction(sql)))
      announce(`Stamped: ${database} as production`);
  } catch (error) {
    throw Object.assign(error as Error, {
      document: toDocument(plan, applied),
    });
  }
  finish(plan, applied);
}

function finish(plan: Plan, applied: Applied[]): void {
  for (const { message } of plan.warnings) note(`Warning: ${message}`);
  const at = plan.head ? `is at ${plan.head.tag}` : "has no migrations";
  if (applied.length === 0) print(`Nothing to migrate: ${database} ${at}`);
  printJson(toDocument(plan, applied));
}

async function showPending(): Promise<void> {
  const { refuseElsewhere } = await import("./migrations/elsewhere");
  const plan = await readPlan(sql);
  refuseModified(plan);
  refusePartial(plan, "db:migrate");
  await refuseElsewhere(sql, plan);
  const wanted = selectPending(plan, values.to);
  for (const migration of wanted) refuseOtherEncoding(migration);
  for (const migration of wanted) {
    const { tag, text } = migration;
    const done = plan.partial.get(migration)?.statementsDone ?? 0;
    if (done > 0) note(`Warning: ${done} statements of ${tag} are committed`);
    print(`-- ${tag}\n${skipStatements(text, done).trimEnd()}`);
  }
  if (wanted.length === 0) print(`Nothing to migrate: ${database}`);
  printJson(toDocument(plan, []));
}

function toDocument({ pending, warnings }: Plan, applied: Applied[]) {
  const left = pending
    .map(({ tag }) => tag)
    .filter((tag) => !applied.some((done) => done.tag === tag));
  return {
    database,
    applied,
    pending: left,
    warnings: [...warnings, ...warned],
  };
}
