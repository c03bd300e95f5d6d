// What each role of a tenant may do. The application reads it from the table;
// this list is where it is decided.
import { and, inArray, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/postgres-js";
import type { Sql } from "postgres";
import * as schema from "../../src/infrastructure/database/schema";
import { rolePermissions } from "../../src/infrastructure/database/schema";
import { pollLock, tryLockTransaction } from "../lib/lock";
import type { Seeded } from "./development";

const member = ["tenant:read", "member:read", "build:read", "build:create"];
const admin = [
  ...member,
  "tenant:update",
  "member:create",
  "member:update",
  "member:delete",
  "invitation:create",
  "invitation:cancel",
  "build:cancel",
  "build:delete",
];
const permissions = { owner: [...admin, "tenant:delete"], admin, member };

/**
 * Gives owner, admin and member the permissions above, and takes away what is
 * no longer among them, in one transaction under the migration lock. Other
 * roles are left alone. Safe to run again, also at once.
 *
 * @throws with exit code 75 when the lock was not free within `waitSeconds`.
 */
export async function seedRbac(
  client: Sql,
  waitSeconds: number,
): Promise<Seeded> {
  const roles = Object.keys(permissions);
  const granted = Object.entries(permissions).flatMap(([role, names]) =>
    names.map((permission) => ({ role, permission })),
  );
  let inserted = 0;
  let removed = 0;
  await pollLock(client, waitSeconds, () =>
    drizzle(client, { schema }).transaction(async (db) => {
      const [lock] = await db.execute<{ locked: boolean }>(tryLockTransaction);
      if (!lock?.locked) return false;
      const pairs = granted.map(
        ({ role, permission }) => sql`(${role}, ${permission})`,
      );
      const gone = await db
        .delete(rolePermissions)
        .where(
          and(
            inArray(rolePermissions.role, roles),
            sql`(${rolePermissions.role}, ${rolePermissions.permission}) not in (${sql.join(pairs, sql`, `)})`,
          ),
        )
        .returning();
      const rows = await db
        .insert(rolePermissions)
        .values(granted)
        .onConflictDoNothing()
        .returning();
      inserted = rows.length;
      removed = gone.length;
      return true;
    }),
  );
  return {
    seed: "rbac",
    inserted: { role_permissions: inserted },
    unchanged: { role_permissions: granted.length - inserted },
    ...(removed > 0 && { removed: { role_permissions: removed } }),
  };
}
