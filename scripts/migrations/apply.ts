// Applies pending migrations and checks afterwards that each is recorded. The
// records are in drizzle's table, so drizzle's own migrator can take over.
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
import { mentionsName } from "./statements";
import { toScript } from "./steps";

/** A migration that was applied, and how many milliseconds it took. */
export interface Applied {
  tag: string;
  ms: number;
}

/** How to apply. */
export interface ApplyOptions extends Partial<
  Omit<RunOptions, "record" | "unfinished">
> {
  /** The tag of the last migration to apply; without it all are applied. */
  to?: string;
  /** Both are called for each migration: before it runs, and after its commit. */
  onStart?: (tag: string) => void;
  onApplied?: (done: Applied) => void;
}

/**
 * Applies the pending migrations of the plan, in the order of the journal, and
 * checks the records and indexes afterwards. The caller holds the migration lock
 * on the one session of `sql`, and has read the plan since it took the lock.
 *
 * @throws before anything runs, when an applied file was edited or a pending one
 * is not in UTF-8; when a migration fails, with the place in its file. The
 * migrations before it stay applied.
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

/** The content of a record. It differs from the migration when the file was edited. */
export type Recorded = Pick<MigrationRecord, "hash" | "when" | "name"> & {
  tag?: string;
};

/**
 * Returns SQL that adds the record of a migration, unless its file has added it.
 * If the file may change drizzle's table, the SQL also restores the other records.
 *
 * @param recorded the records that must exist afterwards.
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

/** Returns SQL that adds missing names in a table that drizzle-orm 1.0 has
 * upgraded. drizzle-orm runs a migration again if its record has no name. */
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

/** An index that was already invalid counts only if a file of this run mentions it. */
async function proveValid(
  sql: Sql,
  before: string[],
  wanted: Migration[],
): Promise<void> {
  const invalid = (await listInvalidIndexes(sql)).filter(
    (name) =>
      !before.includes(name) ||
      wanted.some(({ text }) => mentionsName(text, name)),
  );
  if (invalid.length > 0)
    throw failure(
      `the migrations left an invalid index: ${invalid.join(", ")}`,
      {
        code: "INVALID_INDEX",
        hint: `rebuild it with \`REINDEX INDEX CONCURRENTLY ${invalid[0]}\` in \`bun run db:shell\``,
      },
    );
}

async function listInvalidIndexes(sql: Sql): Promise<string[]> {
  const rows = await sql.unsafe<{ name: string }[]>(`
    select indexrelid::regclass::text as name
    from pg_index join pg_class on pg_class.oid = indexrelid
    where not indisvalid and relkind = 'i' and not exists (
      select from pg_stat_progress_create_index
      where index_relid = indexrelid and datname = current_database())
    order by indexrelid`);
  return rows.map(({ name }) => name);
}
