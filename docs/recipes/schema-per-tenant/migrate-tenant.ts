// Creates, migrates and drops a tenant's schema. Everything is in the transaction of
// the caller, and every name is qualified: no search_path is set, so that no pooled
// connection can be in the schema of another tenant.
import { join } from "node:path";
import { type SQL, sql } from "drizzle-orm";
import { readMigrationFiles } from "drizzle-orm/migrator";
import { schemaOf, TEMPLATE } from "./tenant-tables";

/** A transaction of the application's client, or of drizzle on postgres.js. */
interface Transaction {
  execute(query: SQL): PromiseLike<Record<string, unknown>[]>;
}

const migrations = readMigrationFiles({
  migrationsFolder: join(import.meta.dirname, "tenant-migrations"),
});

/** How many migrations a tenant's schema has, and how many it lacks. */
export interface TenantState {
  applied: number;
  pending: number;
}

/** Counts a tenant's migrations; changes nothing. */
export async function readTenant(
  tx: Transaction,
  tenantId: string,
): Promise<TenantState> {
  const applied = (await readRecords(tx, tenantId)).length;
  const pending = (await findPending(tx, tenantId)).length;
  return { applied, pending };
}

/**
 * Applies the migrations that the tenant's schema lacks, each with its record. The
 * first one creates the schema. Of two at once, one waits for the other.
 *
 * @returns how many were applied.
 * @throws when one fails: the caller's transaction has to be rolled back.
 */
export async function migrateTenant(
  tx: Transaction,
  tenantId: string,
): Promise<number> {
  const schema = schemaOf(tenantId);
  const records = nameRecords(tenantId);
  await tx.execute(
    sql`select pg_advisory_xact_lock(hashtextextended(${schema}, 0))`,
  );
  const pending = await findPending(tx, tenantId);
  for (const { sql: statements, hash, folderMillis } of pending) {
    for (const statement of statements)
      await tx.execute(
        sql.raw(statement.replaceAll(`"${TEMPLATE}"`, () => `"${schema}"`)),
      );
    await tx.execute(sql`
      create table if not exists ${records} (
        id serial primary key,
        hash text not null,
        created_at bigint not null unique,
        applied_at timestamptz not null default now()
      )`);
    await tx.execute(
      sql`insert into ${records} (hash, created_at) values (${hash}, ${folderMillis})`,
    );
  }
  return pending.length;
}

/** Drops a tenant's schema, with everything in it. */
export async function dropTenant(
  tx: Transaction,
  tenantId: string,
): Promise<void> {
  await tx.execute(
    sql`drop schema if exists ${sql.identifier(schemaOf(tenantId))} cascade`,
  );
}

function nameRecords(tenantId: string): SQL {
  const schema = sql.identifier(schemaOf(tenantId));
  return sql`${schema}.${sql.identifier("__migrations")}`;
}

async function readRecords(tx: Transaction, tenantId: string) {
  const [found] = await tx.execute(
    sql`select to_regclass(${`"${schemaOf(tenantId)}".__migrations`}) is not null as is_there`,
  );
  if (!found?.is_there) return [];
  return await tx.execute(
    sql`select hash, created_at::text as when from ${nameRecords(tenantId)}`,
  );
}

/** @throws when a migration that the tenant has was edited since. */
async function findPending(tx: Transaction, tenantId: string) {
  const records = await readRecords(tx, tenantId);
  return migrations.filter(({ hash, folderMillis }) => {
    const record = records.find(({ when }) => when === String(folderMillis));
    if (record && record.hash !== hash)
      throw new Error(`the migration of ${folderMillis} was edited since`);
    return !record;
  });
}
