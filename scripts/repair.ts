// bun run db:migrate:repair: changes the records to match the files. Use it once
// you know that the files are right. Shows before and after, and asks. Exits 2
// without consent, 75 when another run held the lock.
import { readEnv } from "../src/env";
import { readProject } from "../src/project";
import { openConnection } from "./lib/connection";
import { askBetween, type Consent, requireName } from "./lib/consent";
import { withLock } from "./lib/lock";
import {
  confirmFlag,
  jsonFlag,
  readOptions,
  readWhole,
  waitFlag,
} from "./lib/options";
import { requireDirect } from "./lib/pooler";
import { quoteLiteral } from "./lib/quote";
import { note, print, printJson } from "./lib/report";
import {
  createTables,
  logDone,
  logForgotten,
  readLog,
  type LogEntry,
} from "./migrations/log";
import { type Plan, readPlan } from "./migrations/plan";
import { toScript } from "./migrations/steps";

const usage = `bun run db:migrate:repair [flags]

Records the hash of an edited file, deletes the record of a migration that no
longer exists, and clears an interrupted run.`;

const { values } = readOptions(usage, {
  ...confirmFlag("the changes"),
  ...waitFlag,
  ...jsonFlag,
});
const waitSeconds = readWhole(values.wait, "--wait");

interface Repair {
  code: "modified" | "missing" | "partial";
  tag: string | null;
  before: string;
  after: string;
  /** The SQL of the repair. */
  text: string;
}

const env = readEnv();
const address = env.direct;
const { database } = address;
const consent: Consent = {
  command: "db:migrate:repair",
  address,
  confirmed: values.confirm,
  accepted: [],
};
await using sql = await openConnection(address, "db:migrate:repair");
await requireDirect(sql, address);
await askBetween(() => withLock(sql, waitSeconds, repair));

async function repair(): Promise<void> {
  const plan = await readPlan(sql);
  const repairs = [
    ...findEdited(plan),
    ...findMissing(plan),
    ...findPartial(await readLog(sql, "ms is null")),
  ];
  const lines = repairs.map(
    ({ code, tag, before, after }) =>
      `${code}: ${tag ?? "no migration"}, ${before} -> ${after}`,
  );
  if (repairs.length > 0) {
    for (const line of lines) if (!consent.accepted.includes(line)) note(line);
    const reason = "the records are about to be changed as above";
    requireName(consent, [reason], lines);
    const texts = repairs.map(({ text }) => text);
    await sql.unsafe(`begin; ${[createTables(), ...texts].join(";")}; commit`);
    for (const line of lines) print(`Repaired: ${line}`);
  } else print(`Nothing to repair: ${database}`);
  const repaired = repairs.map(({ text: _text, ...shown }) => shown);
  printJson({ database, repaired });
}

function findEdited({ applied }: Plan): Repair[] {
  return [...applied]
    .filter(([migration, record]) => migration.hash !== record.hash)
    .map(([migration, record]) => ({
      code: "modified",
      tag: migration.tag,
      before: `hash ${record.hash.slice(0, 12)}`,
      after: `hash ${migration.hash.slice(0, 12)}`,
      text: `
        update ${readProject().records.sql}
        set hash = ${quoteLiteral(migration.hash)} where id = ${record.id};
        ${logDone(toScript(migration, "repair"), 0, false)}`,
    }));
}

function findMissing({ unknown }: Plan): Repair[] {
  return unknown.map(({ id, hash, when }) => ({
    code: "missing",
    tag: null,
    before: `record ${id} of ${when}, hash ${hash.slice(0, 12)}`,
    after: "no record",
    text: `delete from ${readProject().records.sql} where id = ${id}`,
  }));
}

function findPartial(unfinished: LogEntry[]): Repair[] {
  return unfinished.map(({ tag, direction, statementsDone }) => ({
    code: "partial",
    tag,
    before: `${statementsDone} statements of its ${direction} file are committed`,
    after: "its next run begins with the first statement",
    text: logForgotten(tag),
  }));
}
