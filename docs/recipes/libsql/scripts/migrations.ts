// The migrations of the folder, and which of them the database has. The records are
// those of drizzle's own migrator, which can take over at any time; the log is ours.
import { existsSync, readFileSync } from "node:fs";
import type { InStatement } from "@libsql/client";
import { integer, sqliteTable, text } from "drizzle-orm/sqlite-core";
import { readMigrationFiles } from "drizzle-orm/migrator";
import { file } from "../src/address";
import { client } from "../src/database";

export interface Migration {
  tag: string;
  hash: string;
  /** Milliseconds: drizzle's key for its record. */
  when: number;
  statements: string[];
}

/** The log's table, for db:push, which drops what it does not know. */
export const log = sqliteTable("__migration_log", {
  tag: text("tag").primaryKey(),
  startedAt: integer("started_at").notNull(), // milliseconds
  ms: integer("ms"),
});

const TABLES = [
  `create table if not exists __drizzle_migrations (
    id SERIAL PRIMARY KEY, hash text NOT NULL, created_at numeric)`,
  `create table if not exists __migration_log (
    tag text primary key not null, started_at integer not null, ms integer)`,
];
const NOW = "cast(unixepoch('subsec') * 1000 as integer)";
/** Fails where a foreign key points to a row that is missing. */
const CHECK_KEYS = `insert into __migration_log (tag, started_at)
  select 'a broken key', null from pragma_foreign_key_check limit 1`;

/** Reads the folder that db:generate writes to, in the order of its journal. */
export function readFolder(): Migration[] {
  const journal = "drizzle/meta/_journal.json";
  if (!existsSync(journal)) return [];
  const { entries } = JSON.parse(readFileSync(journal, "utf8"));
  return readMigrationFiles({ migrationsFolder: "drizzle" }).map(
    ({ sql, hash, folderMillis }, index) => ({
      tag: entries[index].tag,
      hash,
      when: folderMillis,
      statements: sql,
    }),
  );
}

/**
 * Pairs the migrations of the folder with the records of the database.
 *
 * @returns the pending ones, those that were edited since they were applied, and the
 * number of records of which the folder has no file.
 */
export async function readState(migrations: Migration[]) {
  const { rows } = await client.execute(
    "select count(*) as tables from sqlite_master where name = '__drizzle_migrations'",
  );
  const records = rows[0]?.tables
    ? await client.execute("select hash, created_at from __drizzle_migrations")
    : { rows: [] };
  const applied = new Map(
    records.rows.map(({ hash, created_at }) => [Number(created_at), hash]),
  );
  return {
    pending: migrations.filter(({ when }) => !applied.has(when)),
    edited: migrations.filter(
      ({ when, hash }) => applied.has(when) && applied.get(when) !== hash,
    ),
    unknown: [...applied.keys()].filter(
      (key) => !migrations.some(({ when }) => when === key),
    ).length,
  };
}

/** Creates the tables of the records and the log. */
export async function createTables(): Promise<void> {
  await client.batch(TABLES, "write");
}

/**
 * Runs statements in one transaction. Foreign keys are off until it is committed:
 * SQLite changes a column by copying its table and dropping the old one, which would
 * delete the rows that refer to it. They are checked at the end, where the database is
 * a file.
 *
 * @throws when one fails: all of it is rolled back.
 */
export async function runTransaction(statements: InStatement[]): Promise<void> {
  try {
    await client.migrate([...statements, ...(file ? [CHECK_KEYS] : [])]);
  } catch (error) {
    const message = (error as Error).message.replace(/^(SQLITE_\w+: )+/, "");
    throw new Error(
      message.endsWith("failed: __migration_log.started_at")
        ? "a foreign key would point to a row that is missing"
        : message,
    );
  }
}

/**
 * Applies a migration with its record.
 *
 * @returns false when another process has applied it meanwhile.
 * @throws when it fails; it is rolled back.
 */
export async function applyMigration(migration: Migration): Promise<boolean> {
  try {
    await runTransaction(toStatements(migration));
    return true;
  } catch (error) {
    const { pending } = await readState([migration]);
    if (pending.length === 0) return false;
    throw new Error(`${migration.tag}: ${(error as Error).message}`);
  }
}

/** Returns the statements of a migration, between those that keep its record. */
export function toStatements(migration: Migration): InStatement[] {
  const { tag, hash, when, statements } = migration;
  return [
    // First: of two processes, one waits here for the other, and then fails.
    {
      sql: `insert into __migration_log (tag, started_at) values (?, ${NOW})`,
      args: [tag],
    },
    ...statements,
    {
      sql: "insert into __drizzle_migrations (hash, created_at) values (?, ?)",
      args: [hash, when],
    },
    {
      sql: `update __migration_log set ms = ${NOW} - started_at where tag = ?`,
      args: [tag],
    },
  ];
}

/** Returns the statements that drop everything, and create the empty tables again. */
export async function listDrops(): Promise<InStatement[]> {
  const { rows } = await client.execute(`
    select type, name from sqlite_master
    where type in ('table', 'view') and name not like 'sqlite\\_%' escape '\\'
      and name not like 'libsql\\_%' escape '\\'
    order by type = 'table', sql like 'create virtual%' desc`);
  const drops = rows.map(
    ({ type, name }) =>
      `drop ${type} if exists "${String(name).replaceAll('"', '""')}"`,
  );
  return [...drops, ...TABLES];
}
