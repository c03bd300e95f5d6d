// The first administrator of a deployment: a user with a password that nobody
// chose, who owns a tenant.
import { and, eq, sql } from "drizzle-orm";
import { drizzle, type PostgresJsDatabase } from "drizzle-orm/postgres-js";
import type { Sql } from "postgres";
import * as schema from "../../src/infrastructure/database/schema";
import {
  accounts,
  sessions,
  tenantMembers,
  tenants,
  users,
} from "../../src/infrastructure/database/schema";
import { pollLock, tryLockTransaction } from "./lock";
import { failure, note } from "./report";

/** better-auth's name for a sign-in with email and password. */
const CREDENTIAL = "credential";
const TENANT = { name: "Administration", slug: "administration" };

/** What became of the administrator. */
export interface Bootstrapped {
  email: string;
  created: boolean;
  /** Where it was made now; it is stored nowhere. */
  password?: string;
}

/**
 * Makes the administrator, as the owner of the tenant `administration`, unless
 * the email has a user already, of whom it is said when it is no owner; in one
 * transaction under the migration lock.
 * Safe to run at once: the first makes it, the others find it.
 *
 * @param isReset gives a user that is there a new password, and ends its
 * sessions.
 * @throws where a password is to be reset and there is no such user; with exit
 * code 75 when the lock was not free within `waitSeconds`.
 */
export async function bootstrapAdmin(
  client: Sql,
  waitSeconds: number,
  { email, name }: { email: string; name: string },
  isReset: boolean,
): Promise<Bootstrapped> {
  const password = Buffer.from(
    crypto.getRandomValues(new Uint8Array(20)),
  ).toString("base64url");
  let hash: string | undefined;
  let done: Bootstrapped = { email, created: false };
  await pollLock(client, waitSeconds, () =>
    drizzle(client, { schema }).transaction(async (db) => {
      const [lock] = await db.execute<{ locked: boolean }>(tryLockTransaction);
      if (!lock?.locked) return false;

      const [known] = await db
        .select()
        .from(users)
        .where(eq(sql`lower(${users.email})`, email.toLowerCase()));
      if (!known && isReset)
        throw failure(`there is no user ${email}`, {
          hint: `\`bun run db:bootstrap:admin --email ${email}\` makes one`,
        });
      if (known && !(await isOwner(db, known.id)))
        note(`Warning: ${email} is no owner of the tenant ${TENANT.name}`);
      if (known && !isReset) return true;
      hash ??= await Bun.password.hash(password, "argon2id");
      done = { email, created: !known, password };
      if (known) {
        const own = and(
          eq(accounts.userId, known.id),
          eq(accounts.providerId, CREDENTIAL),
        );
        await db.delete(accounts).where(own);
        await db.delete(sessions).where(eq(sessions.userId, known.id));
      }
      const user =
        known ??
        (
          await db
            .insert(users)
            .values({ name, email: email.toLowerCase(), emailVerified: true })
            .returning()
        )[0];
      if (!user) throw new Error("the user that was made is not there");
      await db.insert(accounts).values({
        userId: user.id,
        providerId: CREDENTIAL,
        accountId: user.id,
        password: hash,
      });
      if (known) return true;

      await db.insert(tenants).values(TENANT).onConflictDoNothing();
      const [tenant] = await db
        .select()
        .from(tenants)
        .where(eq(tenants.slug, TENANT.slug));
      if (!tenant) throw new Error("the tenant that was made is not there");
      await db
        .insert(tenantMembers)
        .values({ tenantId: tenant.id, userId: user.id, role: "owner" });
      return true;
    }),
  );
  return done;
}

async function isOwner(
  db: Pick<PostgresJsDatabase<typeof schema>, "select">,
  userId: string,
): Promise<boolean> {
  const owners = await db
    .select({ id: tenantMembers.userId })
    .from(tenantMembers)
    .innerJoin(tenants, eq(tenants.id, tenantMembers.tenantId))
    .where(
      and(
        eq(tenants.slug, TENANT.slug),
        eq(tenantMembers.userId, userId),
        eq(tenantMembers.role, "owner"),
      ),
    );
  return owners.length > 0;
}
