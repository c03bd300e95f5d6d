// Compares the journal with the records in the database, and decides which
// migrations are applied: each by its own record, not by the newest record
// (drizzle-orm#5769). It writes nothing.
import { join } from "node:path";
import type { Sql } from "postgres";
import { root } from "../../src/env";
import { readProject } from "../../src/project";
import { hasTable } from "../lib/has-table";
import { failure, note, refusal } from "../lib/report";
import { findLeftDownFiles, nameInFolders } from "./folders";
import {
  hashText,
  type Migration,
  nameFolder,
  readMigrations,
} from "./journal";
import { type LogEntry, readLog } from "./log";
import { hashStatements, splitStatements } from "./statements";

/** A row of drizzle's table, `drizzle.__drizzle_migrations` unless the config says otherwise. */
export interface MigrationRecord {
  id: number;
  hash: string;
  when: number;
  /** The migration's folder, in a table that drizzle-orm 1.0 has upgraded; empty
   * when it is missing there. */
  name?: string | null;
}

/** A remark about a migration that does not stop a command. */
export interface Warning {
  code: string;
  tag?: string;
  message: string;
}

/** The result of comparing journal and records. */
export interface Plan {
  migrations: Migration[];
  /** The migrations that have a record, with the record. */
  applied: Map<Migration, MigrationRecord>;
  /** The migrations without a record, in the order of the journal. */
  pending: Migration[];
  /** Pending migrations that come before an applied one. */
  outOfOrder: Migration[];
  /** Migrations whose run, up or down, was interrupted after part of it was
   * committed, with the entry of the log. */
  partial: Map<Migration, LogEntry>;
  /** Applied migrations whose file was edited since. */
  modified: Migration[];
  /** Records whose migration is not in the journal. */
  unknown: MigrationRecord[];
  /** The newest applied migration, in the order of the journal. */
  head: Migration | undefined;
  warnings: Warning[];
}

/** Returns the rows of drizzle's table, oldest first; none when there is no table. */
export async function readRecords(sql: Sql): Promise<MigrationRecord[]> {
  const table = readProject().records.sql;
  if (!(await hasTable(sql, table))) return [];
  return await sql.unsafe<MigrationRecord[]>(`
    select id, hash, created_at::float8 as when, 
        case when to_jsonb(record) ? 'name' then coalesce(to_jsonb(record) ->> 'name', '') end as name
    from ${table} as record order by id`);
}

/**
 * Compares journal, records and log. Each migration is paired with one record: by
 * folder name, then by time stamp and hash, by time stamp, and by hash alone.
 */
export function planMigrations(
  migrations: Migration[],
  records: MigrationRecord[],
  log: LogEntry[] = [],
): Plan {
  const { applied, unknown } = pairRecords(migrations, records);
  const head = migrations.findLast((migration) => applied.has(migration));
  const pending = migrations.filter((migration) => !applied.has(migration));
  const newest = head ? migrations.indexOf(head) : -1;
  const outOfOrder = migrations
    .slice(0, Math.max(newest, 0))
    .filter((migration) => !applied.has(migration));
  const edited = [...applied].filter(([m, r]) => m.hash !== r.hash);
  const harmless = edited.filter(
    ([m, r]) => isSpacing(m.text, r.hash) || isComment(m, r.hash, log),
  );
  const partial = new Map<Migration, LogEntry>();
  for (const migration of migrations) {
    const unfinished = log.filter(
      ({ tag, ms }) => tag === migration.tag && ms === null,
    );
    const entry = unfinished.find(({ direction }) => direction === "down");
    // With a record it counts as applied: another tool has finished it.
    const half = entry ?? (applied.has(migration) ? undefined : unfinished[0]);
    if (half) partial.set(migration, half);
  }
  return {
    migrations,
    applied,
    pending,
    outOfOrder,
    partial,
    modified: edited
      .filter((entry) => !harmless.includes(entry))
      .map(([migration]) => migration),
    unknown,
    head,
    warnings: [
      ...findRepeated(migrations, "idx"),
      ...findRepeated(migrations, "when"),
      ...outOfOrder.map(({ tag }) => ({
        code: "out_of_order",
        tag,
        message: `${tag} is older than ${head?.tag}, which is applied`,
      })),
      ...harmless.map(([{ tag }]) => ({
        code: "respaced",
        tag,
        message: `${tag} was edited after it was applied, in comments or blanks only`,
      })),
      ...unknown.map(({ id }) => ({
        code: "missing",
        message: `the database has a migration (record ${id}) that this checkout does not have`,
      })),
    ],
  };
}

/** Pairs in rounds; each round uses what the rounds before it have left. */
function pairRecords(migrations: Migration[], records: MigrationRecord[]) {
  const applied = new Map<Migration, MigrationRecord>();
  const left = new Set(records);
  type Key = Omit<MigrationRecord, "id"> & { tag?: string };
  const toSecond = (when: number) => Math.floor(when / 1000);
  const rounds = [
    ({ name, tag = "", when }: Key) => name || nameInFolders({ tag, when }),
    ({ when, hash }: Key) => `${when} ${hash}`,
    ({ when }: Key) => String(when),
    // `drizzle-kit up` keeps only the seconds of a time stamp.
    ({ when, hash }: Key) => `${toSecond(when)} ${hash}`,
    ({ hash }: Key) => hash,
  ];
  for (const keyOf of rounds) {
    const byKey = Map.groupBy(left, keyOf);
    for (const migration of migrations) {
      if (applied.has(migration)) continue;
      const record = byKey.get(keyOf(migration))?.shift();
      if (!record) continue;
      applied.set(migration, record);
      left.delete(record);
    }
  }
  return { applied, unknown: [...left] };
}

/** Compares the project's migrations with the database's records and log. */
export async function readPlan(
  sql: Sql,
  migrations = readMigrations(),
): Promise<Plan> {
  const [records, unfinished] = await Promise.all([
    readRecords(sql),
    readLog(sql, "ms is null"),
  ]);
  const plan = planMigrations(migrations, records, unfinished);
  // The whole log is needed only to judge an edit.
  const whole =
    plan.modified.length === 0
      ? plan
      : planMigrations(migrations, records, await readLog(sql));
  return { ...whole, warnings: [...whole.warnings, ...warnOfDownFiles()] };
}

function warnOfDownFiles(): Warning[] {
  const folder = nameFolder();
  return findLeftDownFiles(join(root, folder)).map(({ tag, from, to }) => ({
    code: "down_left_behind",
    tag,
    message: `\`drizzle-kit up\` has left ${from} behind: \`git mv ${join(folder, from)} ${join(folder, to)}\``,
  }));
}

/** Lists records without a name, with the name that they need: drizzle-orm 1.0
 * would not find them and would run their migrations again. */
export function listNameless({ applied }: Plan): Omit<MigrationRecord, "id">[] {
  return [...applied]
    .filter(([, { name }]) => name === "")
    .map(([migration, { hash, when }]) => {
      return { hash, when, name: nameInFolders(migration) };
    });
}

/** Returns the state of a migration. */
export function stateOf(
  { applied, modified, partial }: Plan,
  migration: Migration,
): "applied" | "pending" | "modified" | "partial" {
  if (partial.has(migration)) return "partial";
  if (!applied.has(migration)) return "pending";
  return modified.includes(migration) ? "modified" : "applied";
}

/** Lists interrupted migrations, with the command that finishes each, and the
 * message and hint that say so. */
export function listPartial({ partial, applied }: Plan) {
  return [...partial].map(([migration, { direction }]) => {
    const { tag, file } = migration;
    if (direction === "up")
      return {
        tag,
        file,
        command: "db:migrate",
        message: `${tag} was interrupted after part of it was committed`,
        hint: "finish it with `bun run db:migrate`; or undo that part by hand and run `bun run db:migrate:repair`",
      };
    const isRecorded = applied.has(migration);
    return {
      tag,
      file,
      command: isRecorded ? "db:rollback" : "db:migrate:repair",
      message: `the rollback of ${tag} was interrupted after part of it was undone${isRecorded ? "" : ", and its record was removed since"}`,
      hint: isRecorded
        ? "finish it with `bun run db:rollback`"
        : "undo the rest of it by hand and run `bun run db:migrate:repair`",
    };
  });
}

/** @throws when a migration was interrupted and another command must finish it. */
export function refusePartial(plan: Plan, command: string): void {
  const other = listPartial(plan).find((one) => one.command !== command);
  if (!other) return;
  const { tag, file, message, hint } = other;
  throw failure(`${message}, and nothing was changed`, {
    code: "PARTIAL",
    hint,
    details: { tag, file },
  });
}

/** Reads the plan; prints a warning and returns undefined when that fails. */
export async function tryReadPlan(sql: Sql): Promise<Plan | undefined> {
  try {
    return await readPlan(sql);
  } catch (error) {
    const { message } = error as Error;
    note(`Warning: cannot tell which migration is the newest: ${message}`);
  }
}

/** Returns the tag of the newest applied migration; null when there is none, or it
 * cannot be read. */
export async function readHead(sql: Sql): Promise<string | null> {
  return (await tryReadPlan(sql))?.head?.tag ?? null;
}

/**
 * Returns the pending migrations up to and including a tag, or all of them.
 *
 * @throws with exit code 2 when no migration has the tag.
 */
export function selectPending(plan: Plan, to?: string): Migration[] {
  if (to === undefined) return plan.pending;
  const last = plan.migrations.findIndex(({ tag }) => tag === to);
  if (last === -1)
    throw refusal(`there is no migration ${to}`, {
      hint: "`bun run db:migrate:status` lists them",
    });
  const wanted = plan.migrations.slice(0, last + 1);
  return plan.pending.filter((migration) => wanted.includes(migration));
}

/** @throws when an applied file was edited. */
export function refuseModified({ modified }: Plan): void {
  const [first] = modified;
  if (!first) return;
  throw failure(`${first.file} was edited after it was applied`, {
    code: "MODIFIED",
    lines: modified.slice(1).map(({ file }) => `  so was ${file}`),
    hint: "restore it from git, and put the change into a new migration with `bun run db:generate`",
    details: { tag: first.tag, file: first.file },
  });
}

function findRepeated(
  migrations: Migration[],
  field: "idx" | "when",
): Warning[] {
  const first = new Map<number, string>();
  return migrations.flatMap(({ tag, [field]: value }) => {
    const earlier = first.get(value);
    if (earlier === undefined) {
      first.set(value, tag);
      return [];
    }
    const message = `${tag} has the same ${field} as ${earlier}: ${value}`;
    return [{ code: `duplicate_${field}`, tag, message }];
  });
}

/** True when the log shows that the file with that hash had the same statements. */
function isComment(
  { tag, text }: Migration,
  hash: string,
  log: LogEntry[],
): boolean {
  const known = log.findLast(
    (entry) => entry.tag === tag && entry.hash === hash,
  );
  return (
    known !== undefined &&
    known.bareHash === hashStatements(splitStatements(text))
  );
}

/** True when the text has that hash with other line endings, another end, or with
 * or without a byte-order mark. */
function isSpacing(text: string, hash: string): boolean {
  const lines = text
    .replace(/^\uFEFF/, "")
    .replaceAll("\r\n", "\n")
    .trimEnd();
  return [lines, lines.replaceAll("\n", "\r\n")].some((body) =>
    ["", "\n", "\r\n"].some((end) =>
      ["", "\uFEFF"].some((mark) => hashText(mark + body + end) === hash),
    ),
  );
}
