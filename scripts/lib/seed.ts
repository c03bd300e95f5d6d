// Inserts the rows of a seed. A seed is a file in scripts/seeds: it exports
// `rows`, and `isForProduction` when it is not for development only.
import { readdirSync } from "node:fs";
import { join, relative } from "node:path";
import {
  and,
  eq,
  getTableColumns,
  getTableName,
  not,
  or,
  type SQL,
  sql,
} from "drizzle-orm";
import type { PgInsertValue, PgTable } from "drizzle-orm/pg-core";
import { drizzle, type PostgresJsDatabase } from "drizzle-orm/postgres-js";
import type { Sql } from "postgres";
import { root } from "../../src/env";
import { pollLock, tryLockTransaction } from "./lock";
import {
  failure,
  type FailureFields,
  isLost,
  READ_ONLY,
  refusal,
} from "./report";

const folder = join(import.meta.dirname, "../seeds");
/** `db:seed dev` loads development.ts: a short name, because it is typed often. */
const DEVELOPMENT = { name: "dev", file: "development" };

/** Rows for one table. */
interface TableRows {
  table: PgTable;
  rows: PgInsertValue<PgTable>[];
  /** Rows that meet this condition and are not listed are removed. */
  removeOthers?: SQL;
}

/** A seed, as its file exports it. */
export interface Seed {
  name: string;
  /** Inserted in this order. */
  rows: TableRows[];
  /** False when it is for development, and refused on a production database. */
  isForProduction: boolean;
}

/** The part of drizzle's client that a seed uses in a transaction. */
export type Transaction = Pick<
  PostgresJsDatabase,
  "select" | "insert" | "delete" | "execute"
>;

/** Rows for each table. */
type Counts = Record<string, number>;

/** The rows that a seed inserted, left unchanged and removed. */
export interface Seeded {
  seed: string;
  inserted: Counts;
  /** Rows that already existed. */
  unchanged: Counts;
  removed?: Counts;
}

/**
 * Loads a seed by its name: `dev` is `development.ts`, any other name is a file
 * of that name.
 *
 * @throws with exit code 2 and the names of the seeds when there is no such seed;
 * with exit code 1 when its file cannot be loaded, for example because it imports
 * a table that schema.ts does not export.
 */
export async function loadSeed(name: string): Promise<Seed> {
  const names = listSeeds();
  if (!names.includes(name))
    throw refusal(`there is no seed "${name}"`, {
      code: "USAGE",
      hint: `the seeds are ${names.map((known) => `\`bun run db:seed ${known}\``).join(" and ")}`,
    });
  const path = join(root, nameFile(name));
  try {
    const { rows, isForProduction = false } = await import(path);
    if (!Array.isArray(rows))
      throw new Error("it does not export an array `rows`");
    return { name, rows, isForProduction };
  } catch (error) {
    throw explainImport("the seed ", relative(root, path), error);
  }
}

/** Explains why a file cannot be loaded: it may import what schema.ts lacks. */
export function explainImport(what: string, file: string, error: unknown) {
  const { message } = error as Error;
  const [, missing, module = ""] =
    /^Export named '(.+)' not found in module '(.+)'/.exec(message) ?? [];
  const reason = missing
    ? `${relative(root, module)} does not export \`${missing}\``
    : message;
  return failure(`${what}${file} cannot be loaded: ${reason}`, {
    code: "SEED_UNREADABLE",
    hint: missing
      ? `remove \`${missing}\` from \`${file}\`, or import its new name`
      : `fix \`${file}\``,
  });
}

/** Returns the path of a seed's file, from the root of the project. */
function nameFile(name: string): string {
  const file = name === DEVELOPMENT.name ? DEVELOPMENT.file : name;
  return relative(root, join(folder, `${file}.ts`));
}

/** Lists the names of the seeds: `dev` first, then the others in order. */
export function listSeeds(): string[] {
  const files = readdirSync(folder).filter((file) => file.endsWith(".ts"));
  const names = files.map((file) => file.slice(0, -".ts".length));
  const others = names.filter((name) => name !== DEVELOPMENT.file).sort();
  const hasDevelopment = others.length < names.length;
  return hasDevelopment ? [DEVELOPMENT.name, ...others] : others;
}

/**
 * Inserts the missing rows of a seed, in one transaction under the migration lock.
 * Safe to run again, and concurrently.
 *
 * @throws with exit code 75 when the lock was not free within `waitSeconds`.
 */
export async function insertSeed(
  client: Sql,
  { name, rows }: Seed,
  waitSeconds: number,
): Promise<Seeded> {
  return await transactLocked(client, waitSeconds, async (db) => {
    const seeded: Seeded = { seed: name, inserted: {}, unchanged: {} };
    for (const entry of rows)
      await insertRows(db, entry, seeded).catch((error: Error) => {
        const reason = error.cause instanceof Error ? error.cause : error;
        if (isLost(reason)) throw error;
        throw failure(
          `the seed ${name} failed at ${getTableName(entry.table)}: ${reason.message}`,
          {
            code: "SEED_FAILED",
            hint:
              (reason as FailureFields).code === "25006"
                ? READ_ONLY
                : `fix \`${nameFile(name)}\``,
          },
        );
      });
    return seeded;
  });
}

/**
 * Runs `work` in one transaction that holds the migration lock, also behind a
 * transaction pooler.
 *
 * @throws with exit code 75 when the lock was not free within `waitSeconds`.
 */
export async function transactLocked<T>(
  client: Sql,
  waitSeconds: number,
  work: (db: Transaction) => Promise<T>,
): Promise<T> {
  let done: { result: T } | undefined;
  await pollLock(client, waitSeconds, () =>
    drizzle({ client }).transaction(async (db) => {
      const [lock] = await db.execute<{ locked: boolean }>(tryLockTransaction);
      if (!lock?.locked) return false;
      done = { result: await work(db) };
      return true;
    }),
  );
  if (!done) throw new Error("the lock was not taken");
  return done.result;
}

async function insertRows(
  db: Transaction,
  { table, rows, removeOthers }: TableRows,
  seeded: Seeded,
): Promise<void> {
  const name = getTableName(table);
  const add = (counts: Counts, count: number) => {
    counts[name] = (counts[name] ?? 0) + count;
  };
  if (removeOthers) {
    const others = and(removeOthers, isNoneOf(table, rows));
    const removed = (await db.delete(table).where(others)).count;
    if (removed > 0) add((seeded.removed ??= {}), removed);
  }
  const inserted =
    rows.length > 0
      ? (await db.insert(table).values(rows).onConflictDoNothing()).count
      : 0;
  add(seeded.inserted, inserted);
  add(seeded.unchanged, rows.length - inserted);
}

/** SQL that is true for a row that none of `rows` describes. */
function isNoneOf(table: PgTable, rows: Record<string, unknown>[]): SQL {
  const isSame = rows.map((row) =>
    and(
      ...Object.entries(getTableColumns(table))
        .filter(([key]) => key in row)
        .map(([key, column]) => eq(column, row[key])),
    ),
  );
  return not(or(...isSame) ?? sql`false`);
}

/** Returns one line that says what a seed has done. */
export function describeSeed(seeded: Seeded): string {
  const { seed, inserted, unchanged, removed = {} } = seeded;
  const list = (counts: Counts) =>
    Object.entries(counts)
      .filter(([, rows]) => rows > 0)
      .map(([table, rows]) => `${table} ${rows}`)
      .join(", ");
  const changes = [list(inserted), list(removed) && `removed ${list(removed)}`];
  const changed = changes.filter(Boolean).join("; ");
  return changed
    ? `Seeded: ${seed} (${changed})`
    : `Nothing to seed: the ${seed} rows are already there (${list(unchanged)})`;
}
