// Finds pending migrations that fail only on existing rows. Read-only queries look
// in whole tables for rows that break the new constraints. These rows, and a sample
// of the others, are copied to the scratch database, and the migration runs there.
// Only that run decides, because the migration may fix the rows first. Rows do not
// leave the server: elsewhere the migration runs with made ones.
import type { Sql } from "postgres";
import { readProject } from "../../src/project";
import { type Problem, problem } from "../lib/problem";
import { quoteIdentifier, quoteLiteral } from "../lib/quote";
import { note } from "../lib/report";
import { type Catalog, readCatalog } from "./catalog";
import type { Migration } from "./journal";
import { makeRows } from "./made-rows";
import type { Reaching } from "./reach";
import { readWords, splitStatements, type Statement } from "./statements";
import {
  findRows,
  findSuspects,
  listConditions,
  mentions,
  QUERY_MS,
  SUSPECTS,
} from "./suspects";
import type { Trial } from "./take-over";

/** How many sets of made rows a migration may fail with. */
const VARIANTS = 4;

/** A table of the real database, by its name in SQL, and the rows to copy (ctid). */
interface Sample {
  table: string;
  rows: Set<string>;
}

interface Reference {
  name: string;
  from: string;
  columns: string[];
  to: string;
  targets: string[];
}

/** The words that add a value to an enum; rows can have it only when it is committed. */
export const ADDED_VALUE = /\badd\s+value\s+(if\s+not\s+exists\s+)?(?=')/i;

/**
 * Tries pending migrations with rows, in a scratch database in which the applied
 * migrations have run. It rolls back what it does there, but for new values of enums.
 *
 * @param reaches how far their statements reach; a statement that reaches beyond
 * the database is left out.
 * @param most how many rows of each table that a migration mentions are copied.
 * @param before the catalog of the scratch database, when it is known.
 */
export async function tryRows(
  trial: Trial,
  pending: Migration[],
  reaches: Map<Migration, Reaching[]>,
  most: number,
  before?: Catalog,
): Promise<Problem[]> {
  const { real, scratch } = trial;
  if (pending.length === 0 || most === 0) return [];
  const all = pending.flatMap((migration) =>
    listSteps(migration, reaches.get(migration) ?? []),
  );
  await addValues(scratch, all);
  before ??= await readCatalog(scratch);
  const reached = await runEmpty(scratch, all);
  if (!reached) return []; // it also fails without rows, which db:check reports
  const { steps, catalog: empty } = reached;
  const text = pending.map((migration) => migration.text).join("\n");
  const samples = listTables(before, trial.found, text);
  const conditions = listConditions(before, empty, text).filter(({ table }) =>
    trial.found.has(`table ${table}`),
  );
  await real.unsafe(
    `begin isolation level repeatable read read only; set local statement_timeout = ${QUERY_MS}`,
  );
  try {
    const answers = await findSuspects(real, conditions);
    const answered = answers.map(({ object }) => object);
    const suspected = answers.filter(({ rows }) => rows.length > 0);
    for (const { table, rows } of suspected) {
      const sample = samples.find((one) => one.table === table);
      for (const row of rows) sample?.rows.add(row);
    }
    // Rows must not leave the server.
    if (trial.isScratchServer) {
      const early =
        suspected.length > 0 &&
        (await runEmpty(scratch, listBeforeChange(steps)));
      const certain = suspected.filter(
        ({ object }) =>
          early && early.catalog.get(object)?.sql === empty.get(object)?.sql,
      );
      if (certain.length > 0) return [describeElsewhere(pending, certain)];
      const filled: string[] = [];
      for (const { table } of samples)
        if ((await findRows(real, `select ctid from ${table} limit 1`))[0])
          filled.push(table);
      const unfilled = listReferences(empty)
        .filter(({ to }) => !before.has(`table ${to}`))
        .map(({ name }) => name);
      return await tryMadeRows(scratch, steps, filled, answered, unfilled);
    }
    for (const sample of samples)
      for (const row of await findRows(
        real,
        `select ctid from ${sample.table} limit ${most}`,
      ))
        sample.rows.add(row);
    const deadline = Date.now() + QUERY_MS;
    for (const { sample, query } of listUnusual(before, samples, text)) {
      if (Date.now() > deadline) {
        note(`Not looked for within ${QUERY_MS / 1000} s: all unusual rows`);
        break;
      }
      for (const row of await findRows(real, query)) sample.rows.add(row);
    }
    await addReferencedRows(real, samples, [
      ...listReferences(before),
      ...listReferences(empty),
    ]);
    return await inTransaction(scratch, async () => {
      const copied = await copyRows(real, scratch, samples);
      if (!copied) return [];
      const failed = await runSteps(scratch, steps);
      if (failed && isUncommitted(failed)) noteRest(failed);
      noteTables(
        "Tried with rows of",
        samples.filter(({ rows }) => rows.size > 0).map(({ table }) => table),
      );
      return failed && !isUncommitted(failed)
        ? [describeFailure(failed, "on rows of this database")]
        : [];
    });
  } finally {
    await real.unsafe("rollback");
  }
}

/**
 * Tries the migrations with made rows. A failure counts where no other rows could
 * do better: with each set of values, before any statement that changes rows, and
 * not by a condition that the real rows satisfy.
 *
 * @param answered the objects whose conditions the whole tables have answered.
 * @param unfilled the foreign keys to tables that the migrations create.
 */
async function tryMadeRows(
  scratch: Sql,
  steps: Step[],
  tables: string[],
  answered: string[],
  unfilled: string[],
): Promise<Problem[]> {
  if (tables.length === 0) return [];
  const failures: FailedStep[] = [];
  for (let variant = 0; variant < VARIANTS; variant += 1) {
    const { made, refused, failed } = await inTransaction(
      scratch,
      async () => ({
        ...(await makeRows(scratch, tables, variant)),
        failed: await runSteps(scratch, steps),
      }),
    );
    if (variant === 0)
      for (const [table, reason] of refused)
        note(
          `Not tried with rows of ${nameTable(table)}: none could be made: ${reason}`,
        );
    if (!failed || isUncommitted(failed)) {
      if (failed) noteRest(failed);
      noteTables("Tried with made rows of", made);
      return [];
    }
    failures.push(failed);
  }
  const [first] = failures;
  if (!first) return [];
  const { code, constraint_name, column_name } = first.error;
  const name = constraint_name ?? column_name;
  const isCertain =
    (/^(23502|23505|23514)$/.test(code ?? "") ||
      unfilled.includes(name ?? "")) &&
    failures.every(
      ({ number, migration }) =>
        number === first.number && migration === first.migration,
    ) &&
    steps.findIndex(({ statement }) => statement === first.statement) <=
      listBeforeChange(steps).length &&
    !answered.some((object) => name && mentions(object, name));
  if (isCertain)
    return [describeFailure(first, "on any row, also on made ones")];
  noteRest(first, "made ones do not fit: ");
  return [];
}

/** Runs the statements without rows.
 *
 * @returns those that can run in one transaction, and the catalog after them. */
async function runEmpty(
  sql: Sql,
  steps: Step[],
): Promise<{ steps: Step[]; catalog: Catalog } | undefined> {
  const { failed, catalog } = await inTransaction(sql, async () => {
    const failed = await runSteps(sql, steps);
    return { failed, catalog: failed ? undefined : await readCatalog(sql) };
  });
  if (catalog) return { steps, catalog };
  // All run in one transaction here, which may take too many locks.
  if (failed?.error.code === "53200")
    note(`Not tried with rows: ${failed.error.message}`);
  if (!failed || !isUncommitted(failed)) return undefined;
  noteRest(failed);
  return await runEmpty(
    sql,
    steps.slice(
      0,
      steps.findIndex(({ statement }) => statement === failed.statement),
    ),
  );
}

/** True when a new value of an enum has to be committed first. */
const isUncommitted = ({ error }: FailedStep) => error.code === "55P04";

function noteRest({ number, migration, error }: FailedStep, why = ""): void {
  note(
    `Not tried with rows from statement ${number} of ${migration.file} on: ${why}${error.message}`,
  );
}

const nameTable = (table: string) => table.replace(/^public\./, "");

function noteTables(what: string, tables: string[]): void {
  if (tables.length > 0) note(`${what} ${tables.map(nameTable).join(", ")}`);
}

/** A statement of a pending migration. */
export interface Step {
  migration: Migration;
  statement: Statement;
  /** The number of the statement, from 1. */
  number: number;
  text: string;
}

interface FailedStep extends Step {
  error: Error & {
    code?: string;
    constraint_name?: string;
    column_name?: string;
  };
}

/** Commits the values that are added to enums that exist before the migrations. */
async function addValues(sql: Sql, steps: Step[]): Promise<void> {
  for (const { statement, text } of steps)
    if (isAddedValue(statement))
      // It is tried again in its place, where it may find what it needs.
      await sql.unsafe(text).catch(() => {});
}

const isAddedValue = ({ text }: Statement) =>
  /^alter\s+type\s/i.test(text) && ADDED_VALUE.test(text);

/** Lists the statements of a migration that can run inside a transaction. */
export function listSteps(migration: Migration, reaches: Reaching[]): Step[] {
  const far = reaches
    .filter(({ reach }) => reach !== "database")
    .map(({ statement }) => statement.offset);
  return splitStatements(migration.text).flatMap((statement, index) => {
    const { kind, isConcurrent, isResumable, offset, clientOffset } = statement;
    if (far.includes(offset) || clientOffset !== undefined) return [];
    if (kind !== "plain" && !isConcurrent && !isResumable) return [];
    const text = isConcurrent
      ? statement.text.replace(/\s+concurrently\b/i, "")
      : isResumable
        ? statement.text.replace(/\bcommit\s*;/gi, "null;")
        : isAddedValue(statement)
          ? statement.text.replace(ADDED_VALUE, "add value if not exists ")
          : statement.text;
    return [{ migration, statement, number: index + 1, text }];
  });
}

async function runSteps(
  sql: Sql,
  steps: Step[],
): Promise<FailedStep | undefined> {
  for (const step of steps)
    try {
      await sql.unsafe(step.text);
    } catch (error) {
      return { ...step, error: error as Error };
    }
  try {
    await sql.unsafe("set constraints all immediate");
  } catch (error) {
    const last = steps.at(-1);
    return last && { ...last, error: error as Error };
  }
}

async function inTransaction<T>(sql: Sql, work: () => Promise<T>): Promise<T> {
  await sql.unsafe("begin");
  try {
    return await work();
  } finally {
    await sql.unsafe("rollback");
  }
}

/** Lists the tables of both databases that the migrations mention. */
function listTables(scratch: Catalog, real: Catalog, text: string): Sample[] {
  return [...scratch].flatMap(([object, { name, sql }]) => {
    const isTable = object.startsWith("table ") && real.has(object);
    const isWhole = !/ PARTITION (BY|OF) |^CREATE FOREIGN /.test(sql);
    if (!isTable || !isWhole || !mentions(text, name)) return [];
    return [{ table: object.slice("table ".length), rows: new Set<string>() }];
  });
}

/** Lists queries for rows that a sample may lack: in each column that is mentioned,
 * the first and the last value and a missing one; and, as this takes longer, two that
 * are the same. */
function listUnusual(
  catalog: Catalog,
  samples: Sample[],
  text: string,
): { sample: Sample; query: string }[] {
  const columns = [...catalog].flatMap(([object, { parent }]) => {
    const sample = samples.find(({ table }) => `table ${table}` === parent);
    if (!sample || !object.startsWith(`column ${sample.table}.`)) return [];
    const column = object.slice(`column ${sample.table}.`.length);
    return mentions(text, column.replaceAll('"', ""))
      ? [{ sample, column }]
      : [];
  });
  const extremes = columns.map(({ sample, column }) => {
    const from = `select ctid from ${sample.table}`;
    return {
      sample,
      query: `(${from} order by ${column} limit 1) union all (${from} where ${column} is not null order by ${column} desc limit 1)
        union all (${from} where ${column} is null limit 1)`,
    };
  });
  const repeated = columns.map(({ sample, column }) => ({
    sample,
    query: `select unnest((array_agg(ctid))[1:2]) as ctid from ${sample.table} group by ${column} having count(*) > 1 limit ${SUSPECTS}`,
  }));
  return [...extremes, ...repeated];
}

function listReferences(catalog: Catalog): Reference[] {
  return [...catalog].flatMap(([object, { sql, parent }]) => {
    const [, columns, to, targets] =
      / FOREIGN KEY \((.*?)\) REFERENCES (.*?)\((.*?)\)/.exec(sql) ?? [];
    return parent && columns && to && targets
      ? [
          {
            name: object.split(" ")[1] ?? "",
            from: parent.replace(/^table /, ""),
            columns: columns.split(", "),
            to,
            targets: targets.split(", "),
          },
        ]
      : [];
  });
}

/** Adds the rows that the rows of the samples refer to. */
async function addReferencedRows(
  real: Sql,
  samples: Sample[],
  references: Reference[],
): Promise<void> {
  for (let changed = true; changed;) {
    changed = false;
    for (const { from, columns, to, targets } of references) {
      const child = samples.find(({ table }) => table === from);
      if (!child || child.rows.size === 0) continue;
      let parent = samples.find(({ table }) => table === to);
      if (!parent) samples.push((parent = { table: to, rows: new Set() }));
      const known = parent.rows.size;
      const found = await findRows(
        real,
        `select ctid from ${to} as parent where (${targets.map((name) => `parent.${name}`).join(", ")}) in (
          select ${columns.join(", ")} from ${from} where ctid = any (${printPlaces(child)}))`,
      );
      for (const row of found) parent.rows.add(row);
      if (parent.rows.size > known) changed = true;
    }
  }
}

function printPlaces({ rows }: Sample): string {
  return `'{${[...rows].map((row) => `"${row}"`).join(",")}}'::tid[]`;
}

/** @returns false when the rows cannot be copied to the scratch database. */
async function copyRows(
  real: Sql,
  scratch: Sql,
  samples: Sample[],
): Promise<boolean> {
  await scratch.unsafe("savepoint role");
  const isOff = await scratch
    .unsafe("set local session_replication_role = replica")
    .then(() => true)
    .catch(() =>
      scratch.unsafe("rollback to savepoint role").then(() => false),
    );
  let left = samples.filter(({ rows }) => rows.size > 0);
  while (left.length > 0) {
    const waiting: Sample[] = [];
    let reason = "";
    for (const sample of left) {
      await scratch.unsafe("savepoint sample");
      try {
        if (!isOff)
          await scratch.unsafe(
            `alter table ${sample.table} disable trigger user`,
          );
        await copyTable(real, scratch, sample);
        if (!isOff)
          await scratch.unsafe(
            `alter table ${sample.table} enable trigger user`,
          );
      } catch (error) {
        await scratch.unsafe("rollback to savepoint sample");
        reason = `${sample.table}: ${(error as Error).message}`;
        waiting.push(sample); // it may need rows of a later table
      }
    }
    if (waiting.length === left.length) {
      note(`Not tried with rows: ${reason}`);
      return false;
    }
    left = waiting;
  }
  if (isOff)
    await scratch.unsafe("set local session_replication_role = origin");
  await copyCounts(real, scratch);
  return true;
}

async function copyTable(
  real: Sql,
  scratch: Sql,
  sample: Sample,
): Promise<void> {
  const { table } = sample;
  const columns = await scratch.unsafe<{ name: string }[]>(
    `select attname as name from pg_attribute where attrelid = ${quoteLiteral(table)}::regclass
      and attnum > 0 and not attisdropped and attgenerated = ''`,
  );
  const names = columns.map(({ name }) => quoteIdentifier(name)).join(", ");
  const rows = await real.unsafe<{ row: string }[]>(
    `select to_jsonb(whole)::text as row from ${table} as whole where ctid = any (${printPlaces(sample)})`,
  );
  const document = `[${rows.map(({ row }) => row).join(",")}]`;
  await scratch.unsafe(
    `insert into ${table} (${names}) overriding system value
      select ${names} from jsonb_populate_recordset(null::${table}, ${quoteLiteral(document)}::jsonb)`,
  );
}

/** Copies how far sequences have counted, or new rows would get used numbers. Those of
 * the records stay: the scratch database has records of its own, and a rollback
 * does not take this back. */
async function copyCounts(real: Sql, scratch: Sql): Promise<void> {
  const records = quoteLiteral(readProject().records.sql);
  const rows = await real.unsafe<{ name: string; last: string }[]>(`
    select * from (select format('%I.%I', nspname, relname) as name,
        case when has_sequence_privilege(seqrelid, 'select') then pg_sequence_last_value(seqrelid) end as last
      from pg_sequence join pg_class on pg_class.oid = seqrelid join pg_namespace on pg_namespace.oid = relnamespace
      where not exists (select from pg_depend where objid = seqrelid
        and refobjid in (to_regclass(${records}), to_regclass('drizzle.__migration_log')))) as counts
    where last is not null`);
  for (const { name, last } of rows)
    await scratch.unsafe(
      `select setval(to_regclass(${quoteLiteral(name)}), ${last}) where to_regclass(${quoteLiteral(name)}) is not null`,
    );
}

/** Lists the statements before the first that may fix rows. */
export function listBeforeChange(steps: Step[]): Step[] {
  const change = steps.findIndex(({ statement }) =>
    /^(INSERT|UPDATE|DELETE|MERGE|TRUNCATE|DO|SELECT|WITH|CALL)$/.test(
      readWords(statement.tokens, 1)[0] ?? "",
    ),
  );
  return change === -1 ? steps : steps.slice(0, change);
}

function describeFailure(
  { migration, statement, number, error }: FailedStep,
  where: string,
): Problem {
  const { tag, file, text } = migration;
  const line = text.slice(0, statement.offset).split("\n").length;
  return problem(
    "fails_on_rows",
    `statement ${number} fails ${where}: ${error.message}; fix the rows before it in the file, or in an earlier migration`,
    { tag, file, line },
  );
}

function describeElsewhere(
  pending: Migration[],
  suspected: { table: string }[],
): Problem {
  const [first] = pending;
  const tables = new Set(suspected.map(({ table }) => table));
  return problem(
    "fails_on_rows",
    `rows of ${[...tables].join(", ")} do not fit what the migrations create: fix them first`,
    { tag: first?.tag, file: first?.file },
  );
}
