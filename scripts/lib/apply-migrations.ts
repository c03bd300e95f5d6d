// Applies pending migrations: each is one transaction with its own record in
// drizzle's table, so that drizzle's own migrator can take over at any time.
import type { Sql, TransactionSql } from "postgres";
import {
  BREAKPOINT,
  type Migration,
  type Plan,
  readPlan,
  refuseModified,
  selectPending,
} from "./migrations";
import { failure } from "./report";

/** A migration that was applied, and how long that took. */
export interface Applied {
  tag: string;
  ms: number;
}

/**
 * Applies what the plan has pending, in the order of the journal, and proves
 * it. The caller read the plan while holding the migration lock, on the one
 * session of `sql`.
 *
 * @param to the tag of the last one to apply; all without it.
 * @param onApplied called for each one once it is committed.
 * @throws before the first one where an applied file was edited; for one that
 * fails, with its place in the file: it is rolled back, those before it stay.
 */
export async function applyPending(
  sql: Sql,
  plan: Plan,
  { to, onApplied }: { to?: string; onApplied?: (done: Applied) => void } = {},
): Promise<Applied[]> {
  refuseModified(plan);
  const wanted = selectPending(plan, to);
  if (wanted.length === 0) return [];

  await createRecordsTable(sql);
  const applied: Applied[] = [];
  for (const migration of wanted) {
    const start = performance.now();
    await sql.begin((transaction) => applyOne(transaction, migration, applied));
    const ms = Math.round(performance.now() - start);
    applied.push({ tag: migration.tag, ms });
    onApplied?.({ tag: migration.tag, ms });
  }
  await proveRecorded(sql, wanted);
  return applied;
}

async function proveRecorded(sql: Sql, wanted: Migration[]): Promise<void> {
  const tags = wanted.map(({ tag }) => tag);
  const { pending } = await readPlan(sql);
  const missing = pending.filter(({ tag }) => tags.includes(tag));
  if (missing.length > 0)
    throw failure(
      `applied without a record: ${missing.map(({ tag }) => tag).join(", ")}`,
      { hint: "look at drizzle.__drizzle_migrations with `bun run db:shell`" },
    );
}

async function applyOne(
  sql: TransactionSql,
  migration: Migration,
  before: Applied[],
): Promise<void> {
  let offset = 0;
  for (const [index, statement] of migration.text.split(BREAKPOINT).entries()) {
    try {
      await sql.unsafe(statement);
    } catch (error) {
      throw explain(error as PostgresError, migration, index, offset, before);
    }
    offset += statement.length + BREAKPOINT.length;
  }
  await sql`
    insert into drizzle.__drizzle_migrations (hash, created_at)
    values (${migration.hash}, ${migration.when})`;
}

/** As drizzle-orm makes it: https://github.com/drizzle-team/drizzle-orm/blob/main/drizzle-orm/src/pg-core/dialect.ts */
async function createRecordsTable(sql: Sql): Promise<void> {
  // Asked first: IF NOT EXISTS wants the right to create even where it exists.
  const [row] = await sql<{ exists: boolean }[]>`
    select to_regclass('drizzle.__drizzle_migrations') is not null as exists`;
  if (row?.exists) return;
  await sql.begin(async (transaction) => {
    await transaction`create schema if not exists drizzle`;
    await transaction`
      create table if not exists drizzle.__drizzle_migrations (
        id serial primary key,
        hash text not null,
        created_at bigint
      )`;
  });
}

interface PostgresError extends Error {
  code?: string;
  detail?: string;
  hint?: string;
  /** Characters from the start of the statement, from 1. */
  position?: string;
}

function explain(
  error: PostgresError,
  { tag, file, text }: Migration,
  index: number,
  offset: number,
  before: Applied[],
): Error {
  const chunk = text.slice(offset).split(BREAKPOINT)[0] ?? "";
  const blank = chunk.length - chunk.trimStart().length;
  // Postgres counts characters, JavaScript halves of some.
  const ahead = [...chunk].slice(0, Number(error.position) - 1).join("");
  const at = offset + (error.position ? ahead.length : blank);
  const lines = text.slice(0, at).split("\n");
  const line = lines.length;
  const column = (lines.at(-1)?.length ?? 0) + 1;
  const statement = index + 1;
  const committed =
    before.length > 0
      ? `${before.length} before it ${before.length > 1 ? "are" : "is"} applied`
      : "nothing was applied";
  return failure(`${tag} failed: ${error.message}`, {
    code: "MIGRATION_FAILED",
    hint: `mend \`${file}\` and run \`bun run db:migrate\` again`,
    lines: [
      `  at ${file}:${line}:${column}, statement ${statement} (SQLSTATE ${error.code})`,
      ...chunk
        .trim()
        .split("\n")
        .slice(0, 12)
        .map((text) => `  | ${text}`),
      ...(error.detail ? [`  Detail: ${error.detail}`] : []),
      ...(error.hint ? [`  Postgres' hint: ${error.hint}`] : []),
      `  It was rolled back; ${committed}.`,
    ],
    details: {
      tag,
      file,
      statement,
      line,
      column,
      sqlstate: error.code,
      ...(error.detail && { detail: error.detail }),
      ...(error.hint && { hint: error.hint }),
    },
  });
}
