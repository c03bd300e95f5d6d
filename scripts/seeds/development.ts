// The rows that a developer starts with. What is there already is left alone.
import { eq, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/postgres-js";
import type { Sql } from "postgres";
import * as schema from "../../src/infrastructure/database/schema";
import {
  builds,
  type NewBuild,
  tenantMembers,
  tenants,
  users,
} from "../../src/infrastructure/database/schema";
import { pollLock, tryLockTransaction } from "../lib/lock";

/** Rows for each table. */
type Counts = Record<string, number>;

/** What a seed has done: rows that it made, and rows that were there. */
export interface Seeded {
  seed: string;
  inserted: Counts;
  unchanged: Counts;
  /** Rows that it took away, where it did. */
  removed?: Counts;
}

const exampleBuilds: Omit<NewBuild, "tenantId">[] = [
  {
    number: 1,
    name: "Build the API",
    status: "succeeded",
    repository: "example/api",
  },
  {
    number: 2,
    name: "Build the website",
    status: "failed",
    repository: "example/website",
  },
  {
    number: 3,
    name: "Build the API",
    status: "running",
    repository: "example/api",
  },
];

/**
 * Makes the development user, the tenant that it owns, and a few builds, in one
 * transaction under the migration lock. Safe to run again, also at once.
 *
 * @throws with exit code 75 when the lock was not free within `waitSeconds`.
 */
export async function seedDevelopment(
  client: Sql,
  waitSeconds: number,
): Promise<Seeded> {
  const seeded: Seeded = { seed: "dev", inserted: {}, unchanged: {} };
  const count = (table: string, inserted: number, of: number) => {
    seeded.inserted[table] = inserted;
    seeded.unchanged[table] = of - inserted;
  };
  await pollLock(client, waitSeconds, () =>
    drizzle(client, { schema }).transaction(async (db) => {
      const [lock] = await db.execute<{ locked: boolean }>(tryLockTransaction);
      if (!lock?.locked) return false;

      const newUsers = await db
        .insert(users)
        .values({
          name: "Developer",
          email: "dev@example.com",
          emailVerified: true,
        })
        .onConflictDoNothing()
        .returning();
      count("users", newUsers.length, 1);
      const newTenants = await db
        .insert(tenants)
        .values({ name: "Development Team", slug: "development-team" })
        .onConflictDoNothing()
        .returning();
      count("tenants", newTenants.length, 1);

      const [user] = await db
        .select()
        .from(users)
        .where(eq(sql`lower(${users.email})`, "dev@example.com"));
      const [tenant] = await db
        .select()
        .from(tenants)
        .where(eq(tenants.slug, "development-team"));
      if (!user || !tenant)
        throw new Error("the seed did not find its own rows");

      const newMembers = await db
        .insert(tenantMembers)
        .values({ tenantId: tenant.id, userId: user.id, role: "owner" })
        .onConflictDoNothing()
        .returning();
      count("tenant_members", newMembers.length, 1);
      const newBuilds = await db
        .insert(builds)
        .values(
          exampleBuilds.map((build) => ({
            ...build,
            tenantId: tenant.id,
            createdBy: user.id,
          })),
        )
        .onConflictDoNothing()
        .returning();
      count("builds", newBuilds.length, exampleBuilds.length);
      return true;
    }),
  );
  return seeded;
}

/** One line on what a seed has done. */
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
    : `Nothing to seed: ${seed} is there (${list(unchanged)})`;
}
