// Every constraint of the schema, seen to hold on a real server.
import { beforeEach, describe, expect } from "bun:test";
import { useDatabase } from "../lib/database";

const { database, test } = useDatabase("migrated");
const { sql } = database;

let userId: string;
let tenantId: string;

beforeEach(async () => {
  await sql`truncate users, tenants, verification_tokens, role_permissions cascade`;
  userId = await insert("users", { name: "Ada", email: "ada@example.com" });
  tenantId = await insert("tenants", { name: "Team", slug: "team" });
});

/** Inserts a row and returns its id. */
async function insert(table: string, row: Record<string, unknown>) {
  const [inserted] = await sql`
    insert into ${sql(table)} ${sql(row)} returning *`;
  return inserted?.id;
}

/** The name of the constraint or index that refuses a row; the column of a null. */
async function refusal(table: string, row: Record<string, unknown>) {
  try {
    await insert(table, row);
  } catch (error) {
    const { constraint_name, column_name } = error as Record<string, string>;
    return constraint_name ?? column_name;
  }
}

async function count(table: string): Promise<number> {
  const [row] = await sql`select count(*)::int as rows from ${sql(table)}`;
  return row?.rows;
}

const tomorrow = new Date(Date.now() + 86_400_000);
const session = () => ({ user_id: userId, token: "t", expires_at: tomorrow });
const account = () => ({ user_id: userId, provider_id: "p", account_id: "a" });
const invitation = () => ({
  tenant_id: tenantId,
  email: "new@example.com",
  inviter_id: userId,
  expires_at: tomorrow,
});
const build = () => ({
  tenant_id: tenantId,
  created_by: userId,
  number: 1,
  name: "Build",
  repository: "example/api",
});

describe("unique", () => {
  test("one user for an e-mail address, whatever its case", async () => {
    const row = { name: "Ada", email: "ADA@example.com" };

    expect(await refusal("users", row)).toBe("users_email_key");
  });

  test("one session for a token", async () => {
    await insert("sessions", session());

    expect(await refusal("sessions", session())).toBe("sessions_token_key");
  });

  test("one account for a provider's account", async () => {
    await insert("accounts", account());

    expect(await refusal("accounts", account())).toBe(
      "accounts_provider_id_account_id_key",
    );
  });

  test("one tenant for a slug", async () => {
    const row = { name: "Other", slug: "team" };

    expect(await refusal("tenants", row)).toBe("tenants_slug_key");
  });

  test("one membership for a user in a tenant", async () => {
    const member = { tenant_id: tenantId, user_id: userId };
    await insert("tenant_members", member);

    expect(await refusal("tenant_members", member)).toBe(
      "tenant_members_tenant_id_user_id_key",
    );
  });

  test("one build for a number in a tenant, and the same number in another", async () => {
    const otherTenant = await insert("tenants", { name: "B", slug: "b" });
    await insert("builds", build());
    await insert("builds", { ...build(), tenant_id: otherTenant });

    expect(await refusal("builds", build())).toBe(
      "builds_tenant_id_number_key",
    );
  });

  test("a permission is granted to a role once", async () => {
    const row = { role: "owner", permission: "build:create" };
    await insert("role_permissions", row);

    expect(await refusal("role_permissions", row)).toBe(
      "role_permissions_pkey",
    );
  });

  test("an address can be invited again", async () => {
    await insert("invitations", invitation());
    await insert("invitations", invitation());

    expect(await count("invitations")).toBe(2);
  });
});

describe("check", () => {
  test("an invitation has one of four statuses", async () => {
    for (const status of ["pending", "accepted", "rejected", "canceled"])
      await insert("invitations", { ...invitation(), status });
    const wrong = { ...invitation(), status: "lost" };

    expect(await refusal("invitations", wrong)).toBe(
      "invitations_status_check",
    );
  });

  test("a build has one of five statuses", async () => {
    const statuses = ["queued", "running", "succeeded", "failed", "canceled"];
    for (const [number, status] of statuses.entries())
      await insert("builds", { ...build(), number, status });
    const wrong = { ...build(), number: 9, status: "lost" };

    expect(await refusal("builds", wrong)).toBe("builds_status_check");
  });

  test("a member's role may be a list", async () => {
    const member = {
      tenant_id: tenantId,
      user_id: userId,
      role: "admin,member",
    };

    expect(await refusal("tenant_members", member)).toBeUndefined();
  });
});

describe("on delete", () => {
  test("a user takes sessions, accounts, memberships and sent invitations along", async () => {
    await insert("sessions", session());
    await insert("accounts", account());
    await insert("tenant_members", { tenant_id: tenantId, user_id: userId });
    await insert("invitations", invitation());

    await sql`delete from users where id = ${userId}`;

    for (const table of [
      "sessions",
      "accounts",
      "tenant_members",
      "invitations",
    ])
      expect(await count(table)).toBe(0);
    expect(await count("tenants")).toBe(1);
  });

  test("a user's builds stay, without their maker", async () => {
    await insert("builds", build());

    await sql`delete from users where id = ${userId}`;

    const [row] = await sql`select created_by from builds`;
    expect(row).toEqual({ created_by: null });
  });

  test("a tenant takes memberships, invitations and builds along", async () => {
    await insert("tenant_members", { tenant_id: tenantId, user_id: userId });
    await insert("invitations", invitation());
    await insert("builds", build());

    await sql`delete from tenants where id = ${tenantId}`;

    for (const table of ["tenant_members", "invitations", "builds"])
      expect(await count(table)).toBe(0);
    expect(await count("users")).toBe(1);
  });

  test("a session of a deleted tenant stays, with none active", async () => {
    await insert("sessions", { ...session(), active_tenant_id: tenantId });

    await sql`delete from tenants where id = ${tenantId}`;

    const [row] = await sql`select active_tenant_id from sessions`;
    expect(row).toEqual({ active_tenant_id: null });
  });

  test("a row cannot name a user or tenant that is not there", async () => {
    const nobody = crypto.randomUUID();
    const member = { tenant_id: tenantId, user_id: userId };
    const rows: [table: string, column: string, row: object, to: string][] = [
      ["sessions", "user_id", session(), "users"],
      ["sessions", "active_tenant_id", session(), "tenants"],
      ["accounts", "user_id", account(), "users"],
      ["tenant_members", "tenant_id", member, "tenants"],
      ["tenant_members", "user_id", member, "users"],
      ["invitations", "tenant_id", invitation(), "tenants"],
      ["invitations", "inviter_id", invitation(), "users"],
      ["builds", "tenant_id", build(), "tenants"],
      ["builds", "created_by", build(), "users"],
    ];

    for (const [table, column, row, to] of rows)
      expect(await refusal(table, { ...row, [column]: nobody })).toBe(
        `${table}_${column}_${to}_id_fk`,
      );
  });
});
