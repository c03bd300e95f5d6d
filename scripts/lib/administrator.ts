// The first administrator of a deployment: a user with a random password, who
// owns a tenant where there are tenants. It requires the tables users and
// accounts; it uses sessions, and the tables of tenants that counted.ts names, where
// they exist.
import { and, eq, sql } from "drizzle-orm";
import { getTableConfig, type PgTable } from "drizzle-orm/pg-core";
import type { Sql } from "postgres";
import * as known from "../../src/infrastructure/database/counted";
import { accounts, users } from "../../src/infrastructure/database/schema";
import { quoteIdentifier } from "./quote";
import { failure, note } from "./report";
import { type Transaction, transactLocked } from "./seed";

/** better-auth's name for a sign-in with email and password. */
const CREDENTIAL = "credential";
const TENANT = { name: "Administration", slug: "administration" };

type Tenancy = Required<typeof known.tenancy>;

/** The administrator, and whether this run created it. */
export interface Bootstrapped {
  email: string;
  created: boolean;
  /** The new password, where this run set one; it is stored nowhere. */
  password?: string;
}

/**
 * Creates the administrator, as the owner of the tenant `administration`, in one
 * transaction under the migration lock. A user that already has the email is
 * kept; a warning says so where that user does not own the tenant.
 * Safe to run concurrently: the first run creates it, the others find it.
 *
 * @param isReset gives an existing user a new password, and ends its sessions.
 * @param hashPassword returns the text to store for a password.
 * @throws when the password is to be reset and the user does not exist; with
 * exit code 75 when the lock was not free within `waitSeconds`.
 */
export async function bootstrapAdmin(
  client: Sql,
  waitSeconds: number,
  { email, name }: { email: string; name: string },
  isReset: boolean,
  hashPassword: (password: string) => Promise<string>,
): Promise<Bootstrapped> {
  return await transactLocked(client, waitSeconds, async (db) => {
    const [known] = await db
      .select()
      .from(users)
      .where(eq(sql`lower(${users.email})`, email.toLowerCase()));
    if (!known && isReset)
      throw failure(`there is no user ${email}`, {
        hint: `create it with \`bun run db:bootstrap:admin --email ${email}\``,
      });
    const tenants = await findTenants(db);
    if (known && tenants && !(await isOwner(db, tenants, known.id)))
      note(`Warning: ${email} does not own the tenant ${TENANT.name}`);
    if (known && !isReset) return { email, created: false };

    const password = Buffer.from(
      crypto.getRandomValues(new Uint8Array(20)),
    ).toString("base64url");
    const hash = await hashPassword(password);
    const user =
      known ??
      (
        await db
          .insert(users)
          .values({ name, email: email.toLowerCase(), emailVerified: true })
          .returning()
      )[0];
    if (!user) throw new Error("the insert returned no user");
    if (known) {
      const isOwn = eq(accounts.userId, user.id);
      const isPassword = eq(accounts.providerId, CREDENTIAL);
      await db.delete(accounts).where(and(isOwn, isPassword));
      await endSessions(db, user.id);
    }
    await db.insert(accounts).values({
      userId: user.id,
      providerId: CREDENTIAL,
      accountId: user.id,
      password: hash,
    });
    if (!known && tenants) await makeOwner(db, tenants, user.id);
    return { email, created: !known, password };
  });
}

async function endSessions(db: Transaction, userId: string): Promise<void> {
  if (await hasColumns(db, "sessions", ["user_id"]))
    await db.execute(sql`delete from sessions where user_id = ${userId}`);
  else
    note(
      "Warning: no session was ended, because there is no table sessions with a user_id",
    );
}

/** Returns the tables of tenants where they exist with the columns of the example. */
async function findTenants(db: Transaction): Promise<Tenancy | undefined> {
  // A clone from before has a counted.ts without it.
  const { tenant, member } = known.tenancy ?? {};
  if (
    tenant &&
    member &&
    (await hasColumns(db, nameTable(tenant), ["id", "name", "slug"])) &&
    (await hasColumns(db, nameTable(member), ["tenant_id", "user_id", "role"]))
  )
    return { tenant, member };
  note(
    "Left out: a tenant for the administrator, because counted.ts names no tables of tenants (id, name, slug) and members (tenant_id, user_id, role) that exist",
  );
  return undefined;
}

async function makeOwner(
  db: Transaction,
  { tenant, member }: Tenancy,
  userId: string,
): Promise<void> {
  await db.execute(sql`
    insert into ${tenant} (name, slug) values (${TENANT.name}, ${TENANT.slug})
    on conflict do nothing`);
  await db.execute(sql`
    insert into ${member} (tenant_id, user_id, role)
    select id, ${userId}, 'owner' from ${tenant} where slug = ${TENANT.slug}`);
}

async function isOwner(
  db: Transaction,
  { tenant, member }: Tenancy,
  userId: string,
): Promise<boolean> {
  const owners = await db.execute(sql`
    select from ${member} join ${tenant} on ${tenant}.id = tenant_id
    where slug = ${TENANT.slug} and user_id = ${userId} and role = 'owner'`);
  return owners.length > 0;
}

function nameTable(table: PgTable): string {
  const { schema, name } = getTableConfig(table);
  return (schema ? [schema, name] : [name]).map(quoteIdentifier).join(".");
}

async function hasColumns(
  db: Transaction,
  table: string,
  columns: string[],
): Promise<boolean> {
  const found = await db.execute(sql`
    select from pg_attribute
    where attrelid = to_regclass(${table}) and not attisdropped
      and attname in ${columns}`);
  return found.length === columns.length;
}
