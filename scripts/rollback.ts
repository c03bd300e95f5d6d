// bun run db:rollback: undoes the newest applied migrations through their down
// files, newest first, each in a transaction with its record. Exits 1 when one
// fails (it is rolled back), 2 without consent to a loss, 75 when busy.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { readEnv, root } from "../src/env";
import { readProject } from "../src/project";
import { openConnection } from "./lib/connection";
import { askBetween, type Consent, requireConsent } from "./lib/consent";
import { withLock } from "./lib/lock";
import {
  confirmFlag,
  jsonFlag,
  lockTimeoutFlag,
  readLockTimeout,
  readOptions,
  readWhole,
  verboseFlag,
  waitFlag,
} from "./lib/options";
import { requireDirect } from "./lib/pooler";
import { readProtection } from "./lib/protection";
import { failure, note, print, printJson, refusal } from "./lib/report";
import type { Applied } from "./migrations/apply";
import { refuseElsewhere } from "./migrations/elsewhere";
import { refuseClientPart } from "./migrations/failure";
import {
  hashText,
  type Migration,
  nameDownFile,
  refuseOtherEncoding,
} from "./migrations/journal";
import { createTables, type LogEntry } from "./migrations/log";
import { countLosses } from "./migrations/losses";
import { type Plan, readPlan, refusePartial } from "./migrations/plan";
import { noteRaised, resetSession, runScript } from "./migrations/run";
import { skipStatements } from "./migrations/statements";
import { type Script, toScript } from "./migrations/steps";
import { watchSession } from "./migrations/watch";

const usage = `bun run db:rollback [flags]

Undoes applied migrations through <tag>.down.sql, the newest first.`;

const { values } = readOptions(usage, {
  steps: { type: "string", value: "<number>", help: "how many (1)" },
  to: {
    type: "string",
    value: "<tag>",
    help: "back to this migration, which is kept",
  },
  "dry-run": {
    type: "boolean",
    help: "print the SQL and what would be lost, change nothing",
  },
  ...confirmFlag("a loss, or a protected database"),
  ...waitFlag,
  ...lockTimeoutFlag,
  ...verboseFlag,
  ...jsonFlag,
});
const steps = readWhole(values.steps ?? "1", "--steps");
const waitSeconds = readWhole(values.wait, "--wait");
const lockTimeout = readLockTimeout(values["lock-timeout"]);
if (values.steps !== undefined && values.to !== undefined)
  throw refusal("use either --steps or --to", {
    code: "USAGE",
  });

const env = readEnv();
const address = env.direct;
const { database } = address;
const consent: Consent = {
  command: "db:rollback",
  address,
  confirmed: values.confirm,
  accepted: [],
};
await using sql = await openConnection(address, "db:rollback");
await requireDirect(sql, address);
await askBetween(() => withLock(sql, waitSeconds, rollBack));

/** A migration to undo, by its down file. */
interface Undo {
  migration: Migration;
  script: Script;
  /** The progress that an interrupted run has left. */
  unfinished: LogEntry | undefined;
}

async function rollBack(): Promise<void> {
  const plan = await readPlan(sql);
  await refuseElsewhere(sql, plan);
  refusePartial(plan, "db:rollback");
  for (const { code, message } of plan.warnings)
    if (code === "missing") note(`Warning: ${message}`);
  const undos = selectApplied(plan).map((migration) => ({
    migration,
    script: readDownScript(migration),
    unfinished: plan.partial.get(migration),
  }));
  const rolledBack: Applied[] = [];
  const document = () => ({
    database,
    rolledBack,
    head: nameHead(plan, rolledBack),
  });
  if (undos.length === 0) {
    print(`Nothing to roll back: ${database} ${nameState(plan)}`);
    return printJson(document());
  }
  await seekConsent(undos);
  if (!values["dry-run"]) {
    try {
      await run(plan, undos, rolledBack);
    } catch (error) {
      throw Object.assign(error as Error, { document: document() });
    }
  }
  printJson(document());
}

/** Returns the migrations to undo: an interrupted one first, then the newest. */
function selectApplied({ migrations, applied, partial }: Plan): Migration[] {
  const newestFirst = migrations
    .filter((migration) => applied.has(migration))
    .reverse()
    .sort((a, b) => Number(partial.has(b)) - Number(partial.has(a)));
  if (values.to === undefined) {
    if (values.steps !== undefined && steps > newestFirst.length)
      note(`Warning: only ${newestFirst.length} are applied`);
    return newestFirst.slice(0, steps);
  }
  const kept = newestFirst.findIndex(
    (migration) => migration.tag === values.to && !partial.has(migration),
  );
  if (kept === -1)
    throw refusal(`there is no applied migration ${values.to}`, {
      hint: "`bun run db:migrate:status` lists them",
    });
  return newestFirst.slice(0, kept);
}

function readDownScript({ tag }: Migration): Script {
  const down = nameDownFile(tag);
  let text: string;
  try {
    text = readFileSync(join(root, down), "utf8");
  } catch {
    throw failure(`${down} is missing, and nothing was undone`, {
      code: "FILE_MISSING",
      hint: `write the SQL that undoes ${tag} into \`${down}\``,
      details: { tag, file: down },
    });
  }
  refuseOtherEncoding({ tag, file: down, text });
  const hash = hashText(text);
  const script = toScript({ tag, file: down, text, hash }, "down");
  refuseClientPart(script);
  if (script.statements.length > 0) return script;
  throw failure(`${down} has no statement in it, and nothing was undone`, {
    code: "FILE_MISSING",
    hint: `write the SQL that undoes ${tag} into it, or \`select 1;\` if there is nothing to undo`,
    details: { tag, file: down },
  });
}

/** Says what would be lost, and requires consent if anything would be. */
async function seekConsent(undos: Undo[]): Promise<void> {
  const losses = await findLosses(undos);
  for (const loss of losses)
    if (!consent.accepted.includes(loss)) note(`Data would be lost: ${loss}`);
  if (values["dry-run"])
    for (const { script, unfinished } of undos) {
      const rest = skipStatements(script.text, unfinished?.statementsDone ?? 0);
      print(`-- ${script.tag}\n${rest.trimEnd()}`);
    }
  else requireConsent(consent, await readProtection(sql, env, address), losses);
}

async function findLosses(undos: Undo[]): Promise<string[]> {
  await using watch = await watchSession(sql, address);
  watch.setTitle("db:rollback");
  const scripts = undos.map(({ script }) => script);
  const done = undos.map(({ unfinished }) => unfinished?.statementsDone ?? 0);
  return await countLosses(sql, scripts, lockTimeout, done);
}

async function run(
  plan: Plan,
  undos: Undo[],
  rolledBack: Applied[],
): Promise<void> {
  await sql.unsafe(createTables());
  await using watch = await watchSession(sql, address);
  for (const { migration, script, unfinished } of undos) {
    const { tag } = migration;
    watch.setTitle(tag);
    const ids = selectRecords(plan, migration).map(({ id }) => id);
    const ms = await runScript(sql, script, {
      record: `delete from ${readProject().records.sql} where id in (${ids})`,
      unfinished,
      lockTimeout,
      nameBlockers: watch.nameBlockers,
      onRaised: noteRaised,
      isVerbose: values.verbose,
    });
    rolledBack.push({ tag, ms });
    print(`Rolled back: ${tag} (${ms} ms)`);
  }
  await resetSession(sql);
  await proveForgotten(undos.map(({ migration }) => migration));
}

/** Returns its record, and any other with the same stamp or hash: the plan would pair it next. */
function selectRecords({ applied, unknown }: Plan, migration: Migration) {
  const { when, hash } = migration;
  const others = unknown.filter(
    (record) => record.when === when || record.hash === hash,
  );
  return [applied.get(migration), ...others].filter(
    (record) => record !== undefined,
  );
}

async function proveForgotten(wanted: Migration[]): Promise<void> {
  const { applied } = await readPlan(sql);
  const tags = [...applied.keys()].map(({ tag }) => tag);
  const left = wanted.filter(({ tag }) => tags.includes(tag));
  if (left.length > 0)
    throw failure(
      `undone, but still recorded: ${left.map(({ tag }) => tag).join(", ")}`,
      {
        hint: `look at ${readProject().records.sql} with \`bun run db:shell\``,
      },
    );
}

function nameHead({ migrations, applied }: Plan, undone: Applied[]) {
  const tags = undone.map(({ tag }) => tag);
  const isLeft = (m: Migration) => applied.has(m) && !tags.includes(m.tag);
  return migrations.findLast(isLeft)?.tag ?? null;
}

function nameState({ head }: Plan): string {
  return head ? `is at ${head.tag}` : "has no migrations";
}
