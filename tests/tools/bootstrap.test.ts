// db:seed rbac and db:bootstrap, on databases of their own.
import { describe, expect } from "bun:test";
import type { Sql } from "postgres";
import { openConnection } from "../../scripts/lib/connection";
import { stampProduction } from "../../scripts/lib/protection";
import { CROWD } from "../lib/sample";
import { test } from "../lib/test";

const email = "admin@example.com";

async function readAdmins(sql: Sql) {
  return await sql`
    select email, accounts.password, provider_id, account_id = users.id::text as linked,
      slug, role, email_verified
    from users join accounts on accounts.user_id = users.id
      join tenant_members on tenant_members.user_id = users.id
      join tenants on tenants.id = tenant_id`;
}

test(
  "db:seed rbac gives each role its permissions and takes away what is no longer granted, in production without a question, but not while the schema is behind",
  "migrated",
  async ({ run, sql }) => {
    const production = { NODE_ENV: "production" };
    await stampProduction(sql);
    await sql`
      insert into role_permissions (role, permission)
      values ('member', 'everything'), ('auditor', 'build:read')`;
    await sql`update drizzle.__drizzle_migrations set created_at = -created_at, hash = 'x' || hash`;
    const behind = await run("db:seed rbac", production);
    const bootstrap = await run(`db:bootstrap --email ${email}`, production);
    await sql`update drizzle.__drizzle_migrations set created_at = -created_at, hash = substr(hash, 2)`;
    const first = await run("db:seed rbac", production);
    const rows = await sql`select * from role_permissions order by 1, 2`;
    const second = await run("db:seed:rbac --json", production);

    for (const refused of [behind, bootstrap]) {
      expect(refused.exitCode).toBe(2);
      expect(refused.stderr).toStartWith("Error: the schema is behind: ");
    }
    expect(first.exitCode).toBe(0);
    expect(first.stdout).toMatch(
      /^Seeded: rbac \(role_permissions \d+; removed role_permissions 1\)\n$/,
    );
    expect(JSON.parse(second.stdout)).toEqual({
      seed: "rbac",
      inserted: { role_permissions: 0 },
      unchanged: { role_permissions: rows.length - 1 },
    });
    const roles = new Set(rows.map(({ role }) => role));
    expect([...roles]).toEqual(["admin", "auditor", "member", "owner"]);
  },
);

describe("db:bootstrap", () => {
  test(
    "makes the permissions and one administrator, by many at once too",
    "migrated",
    async ({ run, sql }) => {
      const runs = await Promise.all(
        Array.from({ length: CROWD }, () =>
          run(`db:bootstrap --email ${email} --json`, {
            NODE_ENV: "production",
          }),
        ),
      );
      const documents = runs.map(({ stdout }) => JSON.parse(stdout));
      const [created, ...others] = documents.sort(
        (a, b) => b.created - a.created,
      );
      const [admin, ...more] = await readAdmins(sql);

      expect(runs.map(({ exitCode }) => exitCode)).toEqual(runs.map(() => 0));
      expect(others).toEqual(others.map(() => ({ email, created: false })));
      expect(more).toEqual([]);
      expect(admin).toMatchObject({
        email,
        provider_id: "credential",
        linked: true,
        slug: "administration",
        role: "owner",
        email_verified: true,
      });
      expect(created.password.length).toBeGreaterThanOrEqual(22);
      expect(admin?.password).toStartWith("$argon2id$");
      expect(await Bun.password.verify(created.password, admin?.password)).toBe(
        true,
      );
      expect(
        await sql`select distinct role from role_permissions order by 1`,
      ).toMatchObject([
        { role: "admin" },
        { role: "member" },
        { role: "owner" },
      ]);
    },
  );

  test(
    "leaves an administrator alone, gives a new password when asked, but to nobody who is not there, and says who is no administrator",
    "migrated",
    async ({ run, sql }) => {
      const unknown = await run(
        `db:bootstrap:admin --email ${email} --reset-password`,
      );
      const nobody = await sql`select from users`;
      const first = await run(`db:bootstrap:admin --email ${email} --name Ada`);
      await sql`
        insert into sessions (user_id, token, expires_at)
        select id, 'token', now() + interval '1 day' from users`;
      const [before] = await readAdmins(sql);
      const again = await run(`db:bootstrap:admin --email ADMIN@example.com`);
      const [left] = await readAdmins(sql);
      const reset = await run(
        `db:bootstrap:admin --email ${email} --reset-password`,
      );
      const [after] = await readAdmins(sql);
      const unnamed = await run("db:bootstrap");
      await sql`
        with dev as (insert into users (name, email) values ('Dev', 'dev@example.com') returning id)
        insert into tenant_members (tenant_id, user_id, role)
        select tenants.id, dev.id, 'member' from tenants, dev`;
      const member = await run("db:bootstrap:admin --email dev@example.com");

      expect(unknown).toMatchObject({
        exitCode: 1,
        stderr: `Error: there is no user ${email}\nHint: create it with \`bun run db:bootstrap:admin --email ${email}\`\n`,
      });
      expect(nobody).toHaveLength(0);
      const password = /^Password: (.+)$/m.exec(first.stdout)?.[1] ?? "";
      expect(first.stdout).toBe(
        `Created: the administrator ${email}\nPassword: ${password}\n`,
      );
      expect(await sql`select from role_permissions`).toHaveLength(0);
      expect(again.stdout).toBe(
        "Nothing to create: ADMIN@example.com already exists\n",
      );
      expect(left).toEqual(before);
      const next = /^Password: (.+)$/m.exec(reset.stdout)?.[1] ?? "";
      expect(next).not.toBe(password);
      expect(await Bun.password.verify(next, after?.password)).toBe(true);
      expect(await sql`select from sessions`).toHaveLength(0);
      expect(unnamed).toMatchObject({ exitCode: 2, stdout: "" });
      expect(unnamed.stderr).toContain("`--email <email>`");
      expect(member.stdout).toBe(
        "Nothing to create: dev@example.com already exists\n",
      );
      expect(member.stderr).toStartWith(
        "Warning: dev@example.com does not own the tenant Administration\n",
      );
      expect(await sql`select from users`).toHaveLength(2);
    },
  );
});

test(
  "db:bootstrap:roles makes a role that serves and cannot drop what it serves",
  "migrated",
  async ({ run, sql, address }) => {
    const name = `serve_${crypto.randomUUID().slice(0, 8)}`;
    try {
      const made = await run(`db:bootstrap:roles --app-role ${name} --json`);
      const again = await run(`db:bootstrap:roles --app-role ${name}`);
      const own = await run(`db:bootstrap:roles --app-role ${address.user}`);
      const powers = {
        superuser: "is a superuser",
        nosuperuser: "is a member of the role that migrates",
      };
      const refused: Record<string, string> = {};
      for (const power of Object.keys(powers)) {
        const role = `${name}_${power}`;
        await sql.unsafe(
          `create role ${role} ${power}; grant ${address.user} to ${role}`,
        );
        const { stderr } = await run(`db:bootstrap:roles --app-role ${role}`);
        await sql.unsafe(`drop role ${role}`);
        refused[power] = /_\w+ (is .*): it could/.exec(stderr)?.[1] ?? stderr;
      }
      await sql`create table later (id serial)`;
      const { password } = JSON.parse(made.stdout);
      const login = { ...address, user: name, password };
      await using served = await openConnection(login, "tests");
      await served`insert into later default values`;

      expect(made).toMatchObject({ exitCode: 0 });
      expect(JSON.parse(made.stdout)).toMatchObject({
        role: name,
        created: true,
      });
      expect(again.stdout).toBe(`Granted: rows of public to ${name}\n`);
      expect(own.exitCode).toBe(2);
      expect(own.stderr).toContain("is the role that migrates");
      expect(refused).toEqual(powers);
      for (const text of [
        "drop table users",
        "truncate users",
        "delete from drizzle.__drizzle_migrations",
      ])
        await expect((async () => await served.unsafe(text))()).rejects.toThrow(
          /must be owner|permission denied/,
        );
      expect(
        await served`select id from drizzle.__drizzle_migrations`,
      ).not.toBeEmpty();
    } finally {
      await sql.unsafe(`drop owned by ${name}; drop role ${name}`);
    }
  },
);
