// Compares a database with the migrations and lists the problems of its records,
// schema and indexes; and tries whether pending migrations can be rolled back.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { root } from "../../src/env";
import { readProject } from "../../src/project";
import { type Problem, problem } from "../lib/problem";
import {
  type Catalog,
  compareCatalogs,
  describeDifference,
  type Difference,
  listRoutines,
  prepareObjects,
} from "./catalog";
import { refuseElsewhere } from "./elsewhere";
import { hashText, type Migration, nameDownFile } from "./journal";
import { findDifferences, listMade, type Made } from "./ours";
import { listPartial, type Plan, readPlan } from "./plan";
import { followReach, readReaches, type Reaching } from "./reach";
import { type LeftOut, replayMigrations } from "./replay";
import { runScript } from "./run";
import { splitStatements } from "./statements";
import { openConnection } from "../lib/connection";
import { toScript } from "./steps";
import {
  foldName,
  isTakenOver,
  NAME,
  readMentions,
  takeOver,
  type Trial,
} from "./take-over";
import { choosePlace, type Place, readServer, withTrial } from "./trial";
import { ADDED_VALUE, tryRows } from "./try-rows";

/** A server that is started for the check, and stopped when it is disposed of. */
export type TemporaryServer = Pick<Place, "address"> & AsyncDisposable;

/** What is called before the pending migrations are tried, and after them. */
export interface Watched extends AsyncDisposable {
  finish(): Promise<Problem[]>;
}

/**
 * Compares a database with the migrations. It only reads the database: statements
 * are tried in a scratch database, which is dropped. A statement that acts beyond
 * one database is tried on a scratch server only.
 *
 * @param test the server of TEST_DATABASE_URL.
 * @param rows how many rows of each table a pending migration is tried with.
 * @param watch called before and after the pending migrations are tried.
 * @param startServer starts a server of that major version; returns undefined
 * when it cannot.
 */
export async function checkDatabase(
  sql: Sql,
  address: DatabaseAddress,
  test: DatabaseAddress | undefined,
  startServer: (major: number) => Promise<TemporaryServer | undefined>,
  rows: number,
  watch?: (
    scratch: DatabaseAddress,
    pending: Migration[],
  ) => Promise<Watched | undefined>,
): Promise<Problem[]> {
  const plan = await readPlan(sql);
  await refuseElsewhere(sql, plan);
  const records = checkRecords(plan);
  const isComparable = plan.unknown.length === 0 && plan.partial.size === 0;
  const applied = plan.migrations.filter((m) => plan.applied.has(m));
  const reaches = readReaches([...applied, ...plan.pending]);
  const chosen = await choosePlace(sql, address, test);
  const { major, maker } = await readServer(sql);
  // Also needed when the role may not create a database on the real server.
  await using temporary =
    !chosen.isScratchServer &&
    (needsServer(plan, reaches) || (!maker && chosen.address === address))
      ? await startServer(major)
      : undefined;
  const place = temporary
    ? { address: temporary.address, isScratchServer: true }
    : chosen;
  const made = listMade(plan.migrations);
  const texts = plan.migrations.map(({ text }) => text);
  const onTrial = (
    work: (trial: Trial, leftOut: LeftOut[]) => Promise<Problem[]>,
  ) =>
    withTrial(sql, place, "db:check", made, texts, async (trial) =>
      work(trial, await replayMigrations(trial, applied, reaches, true)),
    );
  // No row can have an enum's new value before that is committed, which stays.
  const isApart =
    rows > 0 && plan.pending.some(({ text }) => ADDED_VALUE.test(text));
  const takeAll = async (trial: Trial) => {
    for (const { text } of plan.pending) await takeOver(trial, text);
  };
  const tried = await onTrial(async (trial, leftOut) => {
    const drift = isComparable
      ? await findDrift(trial, plan, made, leftOut)
      : [];
    await takeAll(trial);
    await using watched = await watch?.(trial.address, plan.pending);
    return [
      ...leftOut.map(describeLeftOut("not_replayed")),
      ...drift,
      ...(isApart ? [] : await tryRows(trial, plan.pending, reaches, rows)),
      ...(await tryPending(trial, plan, reaches)),
      ...((await watched?.finish()) ?? []),
    ];
  });
  const apart = !isApart
    ? []
    : await onTrial(async (trial) => {
        await takeAll(trial);
        return await tryRows(trial, plan.pending, reaches, rows);
      });
  return [...records, ...(await listInvalid(sql)), ...tried, ...apart];
}

/** True when a trial would have to change the real server. */
export function needsServer(
  { applied }: Pick<Plan, "applied">,
  reaches: Map<Migration, Reaching[]>,
): boolean {
  return [...reaches].some(([migration, statements]) =>
    statements.some(
      ({ reach, isNoSchema }) =>
        reach === "server" && !(applied.has(migration) && isNoSchema),
    ),
  );
}

const describeLeftOut =
  (code: "not_replayed" | "not_tried") =>
  ({ migration: { tag, file }, line, reason }: LeftOut): Problem =>
    problem(
      code,
      code === "not_replayed"
        ? `a statement was left out of the comparison: ${reason}`
        : `a statement was not tried: ${reason}`,
      { tag, file, line },
    );

function checkRecords(plan: Plan): Problem[] {
  const modified = plan.modified.map(({ tag, file }) =>
    problem(
      "modified",
      `edited after it was applied: restore it from git, or accept the edit with \`bun run db:migrate:repair\``,
      { tag, file },
    ),
  );
  const missing = plan.unknown.map(({ id }) =>
    problem(
      "missing",
      `the database has a migration (record ${id}) that this checkout does not have: pull the newer checkout, or remove the record with \`bun run db:migrate:repair\``,
    ),
  );
  const partial = listPartial(plan).map(({ message, hint, tag, file }) =>
    problem("partial", `${message}: ${hint}`, { tag, file }),
  );
  const pending = plan.pending.map(({ tag, file }) =>
    problem("pending", "not applied: run `bun run db:migrate`", {
      tag,
      file,
    }),
  );
  const outOfOrder = plan.outOfOrder.map(({ tag, file }) =>
    problem(
      "out_of_order",
      `older than ${plan.head?.tag}, which is applied: \`bun run db:migrate\` applies it anyway`,
      { tag, file },
    ),
  );
  return [...modified, ...missing, ...partial, ...pending, ...outOfOrder];
}

async function listInvalid(sql: Sql): Promise<Problem[]> {
  const rows = await sql.unsafe<{ name: string }[]>(`
    select indexrelid::regclass::text as name
    from pg_index join pg_class on pg_class.oid = indexrelid
    where not indisvalid and relkind = 'i' and not exists (
      select from pg_stat_progress_create_index as building
      where building.datname = current_database() and index_relid = indexrelid)
    order by indexrelid`);
  return rows.map(({ name }) =>
    problem(
      "invalid_index",
      `the index ${name} is invalid, and no query uses it: \`REINDEX INDEX CONCURRENTLY ${name}\` in \`bun run db:shell\``,
    ),
  );
}

/** Lists the differences between the database and what the migrations create. */
async function findDrift(
  trial: Trial,
  plan: Plan,
  made: Made,
  leftOut: LeftOut[],
): Promise<Problem[]> {
  const differences = await findDifferences(trial, made, leftOut, plan.pending);
  const [first] = differences;
  if (first && plan.applied.size === 0)
    return [
      problem(
        "drift",
        `no migration is recorded, but the database is not empty (${describeDifference(first)}): adopt it with \`bun run db:baseline\``,
      ),
    ];
  return differences.map((difference) =>
    problem(
      "drift",
      `${describeDifference(difference)}; put it into a migration with \`bun run db:generate --custom\`, or undo it in \`bun run db:shell\``,
    ),
  );
}

/** Runs each pending migration up, down and up again, and compares the schemas:
 * the down file must restore the earlier one, the second up must give the same. */
async function tryPending(
  trial: Trial,
  plan: Plan,
  reaches: Map<Migration, Reaching[]>,
): Promise<Problem[]> {
  const { scratch } = trial;
  const problems: Problem[] = [];
  if (plan.pending.length === 0) return problems;
  await using reader = await openConnection(trial.address, "db:check");
  const readObjects = await prepareObjects(reader);
  const named = listNamed(plan.pending, await listRoutines(reader));
  /** The last reading of a migration, which is the first of the next. */
  let last: Catalog | undefined;
  for (const [index, migration] of plan.pending.entries()) {
    const { tag, file } = migration;
    const down = nameDownFile(tag);
    const mismatch = (message: string, of = down) =>
      problem("down_mismatch", message, { tag, file: of });
    const up = () => replayMigrations(trial, [migration], reaches, false);
    try {
      const text = readDown(down);
      const names = named[index];
      const next = named[index + 1];
      const read = () => readObjects(names);
      const before = text === undefined ? undefined : (last ?? (await read()));
      last = undefined;
      const taken = trial.tried.size;
      const leftOut = await up();
      problems.push(...leftOut.map(describeLeftOut("not_tried")));
      if (before === undefined || text === undefined) continue;
      const far = findFar(trial, text);
      if (far)
        problems.push(
          problem("not_tried", `the down file was not tried: ${far}`, {
            tag,
            file: down,
          }),
        );
      if (far || leftOut.length > 0) continue;
      const after = await read();
      await runDown(scratch, migration, down, text);
      const undone = await read();
      // An object that `up` copied from the real database stays.
      const left = compareObjects(before, undone, names).filter(
        ({ object }) => {
          const entry = undone.get(object);
          const isTaken = entry && isTakenOver(trial, object, entry);
          return !isTaken && !(isCount(object) && trial.tried.size > taken);
        },
      );
      problems.push(
        ...left.map((difference) =>
          mismatch(
            `after the down file: ${describeDifference(difference)}; fix \`${down}\``,
          ),
        ),
      );
      if (left.length > 0) break; // the ones after it start from another schema
      await up();
      const isReread = (names === undefined) !== (next === undefined);
      const again = await readObjects(
        isReread ? names : names?.concat(next ?? []),
      );
      if (!isReread) last = again;
      problems.push(
        ...compareObjects(after, again, names).map((difference) =>
          mismatch(
            `after down and up again: ${describeDifference(difference)}; fix \`${down}\``,
          ),
        ),
      );
    } catch (error) {
      const { message, hint, details } = error as Error & {
        hint?: string;
        details?: { file?: string; sqlstate?: string };
      };
      const failed = details?.file ?? file;
      // Too many locks: the hint names the setting.
      const [fix] =
        details?.sqlstate === "53200" && hint
          ? hint.split(", and run ")
          : [`fix \`${failed}\``];
      problems.push(
        mismatch(
          `up, down, up fails on a scratch database: ${message}; ${fix}`,
          failed,
        ),
      );
      break;
    }
  }
  return problems;
}

const isCount = (object: string) => object.startsWith("number ");

/**
 * Compares two catalogs; the counts matter only where nothing else differs.
 *
 * @param names the names that both were read with; either may have others, too.
 */
export function compareObjects(
  one: Catalog,
  other: Catalog,
  names: string[] | undefined,
): Difference[] {
  const differences = compareCatalogs(one, other).filter(({ object }) => {
    const { parent, name } = one.get(object) ?? other.get(object) ?? {};
    const whole = parent ?? object;
    const isInBoth = one.has(whole) && other.has(whole);
    return !names || isCount(object) || isInBoth || names.includes(name ?? "");
  });
  const named = differences.filter(({ object }) => !isCount(object));
  return named.length > 0 ? named : differences;
}

/** SQL with these words may change objects that its text does not name. */
const OPAQUE =
  /\b(execute(?!\s+(function|procedure|on)\b)|call|owned|import|extension|all\s+(tables|sequences|functions|routines|procedures)|drop\s+(type|domain|schema|function)\b[^;]*\bcascade)\b/i;
/** SQL with these words may call a routine, which may change any object. */
const CALLS = /\b(do|perform|select)\b/i;

/** The name of a routine, or a new name of anything. */
const ROUTINE = new RegExp(
  `\\b(?:function|procedure|routine|aggregate|rename\\s+to)\\s+(?:(?:${NAME})\\s*\\.\\s*)?(${NAME})`,
  "gi",
);

/** Returns, for each migration, the names of all that it and its down file may
 * change; undefined when that is unknown. */
function listNamed(migrations: Migration[], routines: Set<string>) {
  return migrations.map(({ tag, text }) =>
    listNames(`${text}\n${readDown(nameDownFile(tag)) ?? ""}`, routines),
  );
}

/**
 * Returns the names of all that the SQL may change; undefined when that is unknown.
 *
 * @param routines the routines known so far; those that the SQL creates are added.
 */
export function listNames(
  text: string,
  routines: Set<string>,
): string[] | undefined {
  const names = new Set(
    readMentions(text).flatMap(({ schema, name }) =>
      [schema ?? name, name].map(clipName),
    ),
  );
  for (const [, name = ""] of text.matchAll(ROUTINE))
    routines.add(foldName(name));
  const isOpaque =
    OPAQUE.test(text) || (CALLS.test(text) && !routines.isDisjointFrom(names));
  return isOpaque ? undefined : [...names];
}

/** Cuts a name at 63 bytes, as PostgreSQL does. */
function clipName(name: string): string {
  const clipped = Buffer.from(name).subarray(0, 63).toString();
  return clipped.replace(/\uFFFD+$/, "");
}

function readDown(file: string): string | undefined {
  const path = join(root, file);
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
}

/** Returns why a down file must not run in the trial; undefined when it may. */
export function findFar(
  { isScratchServer }: Pick<Trial, "isScratchServer">,
  text: string,
): string | undefined {
  const reaches = followReach()(splitStatements(text), text);
  if (reaches.some(({ reach }) => reach === "outside"))
    return "it reaches outside the server";
  if (!isScratchServer && reaches.some(({ reach }) => reach === "server"))
    return "it changes the server, not only the database";
  return undefined;
}

async function runDown(
  scratch: Sql,
  { tag, hash, when }: Migration,
  file: string,
  text: string,
): Promise<void> {
  const script = toScript({ tag, file, text, hash: hashText(text) }, "down");
  await runScript(scratch, script, {
    record: `delete from ${readProject().records.sql} where created_at = ${when} and hash = '${hash}'`,
    unfinished: undefined,
    lockTimeout: 5000,
  });
}
