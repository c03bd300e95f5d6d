// bun run tenants: lists the tenants, makes one, migrates all, drops one. Exits 1 when
// a tenant could not be migrated (it is as it was, and the others are done), 2 for a
// wrong slug or without --confirm, 3 when the list has pending migrations.
import { asc, eq, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/postgres-js";
import { readEnv } from "../src/env";
import {
  dropTenant,
  migrateTenant,
  readTenant,
} from "../src/infrastructure/database/migrate-tenant";
import { type Tenant, tenants } from "../src/infrastructure/database/schema";
import { schemaOf } from "../src/infrastructure/database/tenant-tables";
import { openConnection } from "./lib/connection";
import {
  lockTimeoutFlag,
  readLockTimeout,
  readOptions,
  usageError,
} from "./lib/options";
import { failure, FINDINGS, note, print, refusal } from "./lib/report";

const usage = `bun run tenants [verb] [flags]

Without a verb lists the tenants. The verbs are create <slug>, migrate, drop <slug>.`;

const { values, positionals } = readOptions(
  usage,
  {
    name: {
      type: "string",
      value: "<name>",
      help: "of a new tenant (its slug)",
    },
    confirm: {
      type: "string",
      value: "<slug>",
      help: "confirms that all rows of this tenant are dropped",
    },
    ...lockTimeoutFlag,
  },
  { allowPositionals: true },
);
const lockTimeout = readLockTimeout(values["lock-timeout"]);
const [verb = "list", slug = "", ...others] = positionals;
const verbs = { list, create, migrate, drop };
if (!Object.hasOwn(verbs, verb) || others.length > 0)
  throw usageError(`the verbs are ${Object.keys(verbs).join(", ")}`);
if (["create", "drop"].includes(verb) !== Boolean(slug))
  throw usageError(
    `${verb} ${slug ? "takes no slug" : "takes the tenant's slug"}`,
  );

await using connection = await openConnection(readEnv().direct, "tenants");
const db = drizzle(connection);
await verbs[verb as keyof typeof verbs]();

async function list(): Promise<void> {
  for (const { id, slug } of await listTenants()) {
    const { applied, pending } = await readTenant(db, id);
    print(`${slug}: ${schemaOf(id)}, ${applied} applied, ${pending} pending`);
    if (pending > 0) process.exitCode = FINDINGS;
  }
}

async function create(): Promise<void> {
  const { name = slug } = values;
  await transact(async (tx) => {
    const [tenant] = await tx
      .insert(tenants)
      .values({ name, slug })
      .onConflictDoNothing()
      .returning();
    if (!tenant) throw refusal(`there is a tenant ${slug} already`);
    await migrateTenant(tx, tenant.id);
  });
  print(`Created: ${slug}`);
}

async function migrate(): Promise<void> {
  const all = await listTenants();
  const failed: string[] = [];
  for (const tenant of all)
    try {
      const count = await transact((tx) => migrateTenant(tx, tenant.id));
      if (count > 0) print(`Migrated: ${tenant.slug} (${count})`);
    } catch (error) {
      const { cause = error } = error as Error;
      note(`Failed: ${tenant.slug}: ${(cause as Error).message}`);
      failed.push(tenant.slug);
    }
  if (failed.length > 0)
    throw failure(
      `${failed.length} of ${all.length} tenants could not be migrated: ${failed.join(", ")}`,
      { hint: "fix what is wrong there, and run it again" },
    );
  print(`Current: ${all.length} tenants`);
}

async function drop(): Promise<void> {
  const found = await db.select().from(tenants).where(eq(tenants.slug, slug));
  const [tenant] = found;
  if (!tenant) throw refusal(`there is no tenant ${slug}`);
  if (values.confirm !== slug)
    throw refusal(
      `dropping ${slug} needs confirmation: its rows would be lost`,
      {
        hint: `to go ahead, add \`--confirm ${slug}\``,
      },
    );
  await transact(async (tx) => {
    await dropTenant(tx, tenant.id);
    await tx.delete(tenants).where(eq(tenants.id, tenant.id));
  });
  print(`Dropped: ${slug}`);
}

function listTenants(): Promise<Tenant[]> {
  return db.select().from(tenants).orderBy(asc(tenants.slug));
}

function transact<T>(
  work: (tx: Parameters<Parameters<typeof db.transaction>[0]>[0]) => Promise<T>,
): Promise<T> {
  return db.transaction(async (tx) => {
    await tx.execute(sql.raw(`set local lock_timeout = ${lockTimeout}`));
    return await work(tx);
  });
}
