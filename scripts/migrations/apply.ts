// Applies pending migrations, each with its own record in drizzle's table, so
// that drizzle's own migrator can take over at any time; and proves it.
import type { Sql } from "postgres";
import { readProject } from "../../src/project";
import { quoteLiteral } from "../lib/quote";
import { failure } from "../lib/report";
import { nameInFolders } from "./folders";
import { type Migration, refuseOtherEncoding } from "./journal";
import { createTables, touchesRecords } from "./log";
import {
  listNameless,
  type MigrationRecord,
  type Plan,
  planMigrations,
  readRecords,
  refuseModified,
  refusePartial,
  selectPending,
} from "./plan";
import { resetSession, type RunOptions, runScript } from "./run";
import { splitStatements } from "./statements";
import { toScript } from "./steps";

/** A migration that was applied, and how long that took. */
export interface Applied {
  tag: string;
  ms: number;
}

/** How to apply. */
export interface ApplyOptions extends Partial<
  Omit<RunOptions, "record" | "unfinished">
> {
  /** The tag of the last one to apply; all without it. */
  to?: string;
  /** Called before each one, and once it is committed. */
  onStart?: (tag: string) => void;
  onApplied?: (done: Applied) => void;
}

/**
 * Applies what the plan has pending, in the order of the journal, and proves
 * it. The caller read the plan while holding the migration lock, on the one
 * session of `sql`.
 *
 * @throws before the first one where an applied file was edited, or a pending one
 * is not in UTF-8; for one that fails, with its place in the file: those before it stay.
 */
export async function applyPending(
  sql: Sql,
  plan: Plan,
  options: ApplyOptions = {},
): Promise<Applied[]> {
  const { to, onStart, onApplied, ...others } = options;
  refuseModified(plan);
  refusePartial(plan, "db:migrate");
  const nameless = listNameless(plan);
  if (nameless.length > 0) await sql.unsafe(fillNames(nameless));
  const wanted = selectPending(plan, to);
  if (wanted.length === 0) return [];
  for (const migration of wanted) refuseOtherEncoding(migration);

  await sql.unsafe(createTables());
  const invalid = await listInvalidIndexes(sql);
  const applied: Applied[] = [];
  const recorded: Recorded[] = [...plan.applied.values()];
  for (const migration of wanted) {
    const script = toScript(migration, "up");
    onStart?.(migration.tag);
    recorded.push(migration);
    const ms = await runScript(sql, script, {
      record: recordOf(migration, recorded),
      unfinished: plan.partial.get(migration),
      lockTimeout: 5000,
      ...others,
    });
    applied.push({ tag: migration.tag, ms });
    onApplied?.({ tag: migration.tag, ms });
  }
  await resetSession(sql);
  await proveRecorded(sql, plan, wanted);
  await proveValid(sql, invalid, wanted);
  return applied;
}

/** What a record holds: a migration's, or what was recorded before an edit. */
export type Recorded = Pick<MigrationRecord, "hash" | "when" | "name"> & {
  tag?: string;
};

/**
 * SQL that adds the record of a migration, unless its file has done so itself.
 * A file that touches drizzle's table gets those of the others put back too.
 *
 * @param recorded the records that are to be there afterwards.
 */
export function recordOf(migration: Migration, recorded: Recorded[]): string {
  const { sql: table } = readProject().records;
  const isMeddling = touchesRecords(migration.text);
  const entries = isMeddling ? recorded : [migration];
  const inserts = entries.map(({ when, hash }) => {
    const twins = recorded.filter(
      (other) => other.when === when && other.hash === hash,
    );
    return `
      insert into ${table} (hash, created_at)
      select ${quoteLiteral(hash)}, ${when} where ${twins.length} > (
        select count(*) from ${table}
        where hash = ${quoteLiteral(hash)}
          and created_at is not distinct from ${when})`;
  });
  return [
    ...(isMeddling ? [createTables()] : []),
    ...inserts,
    fillNames(entries),
  ].join(";");
}

/** SQL for a table that drizzle-orm 1.0 has upgraded: it runs a migration again
 * whose record has no name. */
function fillNames(recorded: Recorded[]): string {
  const { sql } = readProject().records;
  const updates = recorded.map(({ tag, hash, when, name }) => {
    const folder = tag ? nameInFolders({ tag, when }) : name;
    return folder
      ? `update ${sql} set name = ${quoteLiteral(folder)}
      where name is null and hash = ${quoteLiteral(hash)} and created_at = ${when};`
      : "";
  });
  return `do $name$ begin
    if exists (
      select from pg_catalog.pg_attribute
      where attrelid = ${quoteLiteral(sql)}::regclass and attname = 'name' and not attisdropped
    ) then
      ${updates.join("\n      ")}
    end if;
  end $name$`;
}

async function proveRecorded(
  sql: Sql,
  { migrations }: Plan,
  wanted: Migration[],
): Promise<void> {
  const { pending } = planMigrations(migrations, await readRecords(sql));
  const missing = pending.filter((migration) => wanted.includes(migration));
  if (missing.length > 0)
    throw failure(
      `applied without a record: ${missing.map(({ tag }) => tag).join(", ")}`,
      {
        hint: `look at ${readProject().records.sql} with \`bun run db:shell\``,
      },
    );
}

/** Those that were invalid before count where this run's files name them. */
async function proveValid(
  sql: Sql,
  before: string[],
  wanted: Migration[],
): Promise<void> {
  const invalid = (await listInvalidIndexes(sql)).filter(
    (name) =>
      !before.includes(name) || wanted.some(({ text }) => names(text, name)),
  );
  if (invalid.length > 0)
    throw failure(`left invalid: the index ${invalid.join(", ")}`, {
      code: "INVALID_INDEX",
      hint: `build it again with \`REINDEX INDEX CONCURRENTLY ${invalid[0]}\` in \`bun run db:shell\``,
    });
}

/** Whether one of its words is the name, of which a schema's does not count. */
function names(text: string, name: string): boolean {
  const tokens = splitStatements(name)[0]?.tokens ?? [];
  const bare = tokens.at(-1)?.text.replaceAll('"', "").toLowerCase();
  return splitStatements(text).some((statement) =>
    statement.tokens.some(
      (token) => token.text.replaceAll('"', "").toLowerCase() === bare,
    ),
  );
}

async function listInvalidIndexes(sql: Sql): Promise<string[]> {
  const rows = await sql.unsafe<{ name: string }[]>(`
    select indexrelid::regclass::text as name
    from pg_index join pg_class on pg_class.oid = indexrelid
    where not indisvalid and relkind = 'i' and not exists (
      select from pg_stat_progress_create_index
      where index_relid = indexrelid and datname = current_database())`);
  return rows.map(({ name }) => name);
}
