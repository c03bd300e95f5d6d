// db:seed rbac and db:bootstrap, on databases of their own.
import { describe, expect } from "bun:test";
import type { Sql } from "postgres";
import { openConnection } from "../../scripts/lib/connection";
import { stampProduction } from "../../scripts/lib/protection";
import { urlOf } from "../lib/command";
import { CROWD } from "../lib/sample";
import { test } from "../lib/test";

const email = "admin@example.com";

async function readAdmins(sql: Sql) {
  return await sql`
    select email, accounts.password, provider_id, account_id = users.id::text as linked,
      slug, role, email_verified
    from users join accounts on accounts.user_id = users.id
      join tenant_members on tenant_members.user_id = users.id
      join tenants on tenants.id = tenant_id
    order by provider_id`;
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
      await sql`insert into tenants (name, slug) values ('Other', 'other')`;
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
      const typed = "Admin@Example.com";
      const first = await run(
        `db:bootstrap:admin --email \t${typed} --name Ada`,
      );
      // A reset is for one password: not for another sign-in, nor for another user.
      await sql.unsafe(`
        insert into users (name, email) values ('Dev', 'dev@example.com');
        insert into sessions (user_id, token, expires_at)
        select id, email, now() + interval '1 day' from users;
        insert into accounts (user_id, provider_id, account_id)
        select id, case name when 'Ada' then 'github' else 'credential' end, id from users`);
      const [before] = await readAdmins(sql);
      const again = await run(`db:bootstrap:admin --email ADMIN@example.com`);
      const [left] = await readAdmins(sql);
      const reset = await run(
        `db:bootstrap:admin --email ${email} --reset-password`,
      );
      const [after] = await readAdmins(sql);
      const unnamed = await run("db:bootstrap");
      await sql`
        insert into tenant_members (tenant_id, user_id, role)
        select tenants.id, users.id, 'member' from tenants, users where email = 'dev@example.com'`;
      const member = await run("db:bootstrap:admin --email dev@example.com");
      // Tables of another meaning have these names.
      const others: string[] = [];
      for (const column of [
        "tenants rename slug",
        "tenant_members rename role",
      ]) {
        await sql.unsafe(`alter table ${column} to other`);
        const { stderr } = await run(
          `db:bootstrap:admin --email ${others.length}@example.com`,
        );
        await sql.unsafe(
          `alter table ${column.replace(/rename (.*)/, "rename other to $1")}`,
        );
        others.push(stderr);
      }

      expect(unknown).toMatchObject({
        exitCode: 1,
        stderr: `Error: there is no user ${email}\nHint: create it with \`bun run db:bootstrap:admin --email ${email}\`\n`,
      });
      expect(nobody).toHaveLength(0);
      const password = /^Password: (.+)$/m.exec(first.stdout)?.[1] ?? "";
      expect(first.stdout).toBe(
        `Created: the administrator ${typed}\nPassword: ${password}\n`,
      );
      const saved = "The password is not shown again: save it now\n";
      expect([first.stderr, reset.stderr]).toEqual([saved, saved]);
      const [named] = await sql`select name from users where email = ${email}`;
      expect(named).toEqual({ name: "Ada" });
      expect(before).toMatchObject({ email });
      expect(await sql`select from role_permissions`).toHaveLength(0);
      expect(again.stdout).toBe(
        "Nothing to create: ADMIN@example.com already exists\n",
      );
      expect(left).toEqual(before);
      expect(again.stderr).toBe(
        "Hint: to set a new password, add `--reset-password`\n",
      );
      const next = /^Password: (.+)$/m.exec(reset.stdout)?.[1] ?? "";
      expect(next).not.toBe(password);
      expect(reset.stdout).toBe(
        `Reset: the password of ${email}\nPassword: ${next}\n`,
      );
      expect(await Bun.password.verify(next, after?.password)).toBe(true);
      expect(await sql`select token from sessions`).toMatchObject([
        { token: "dev@example.com" },
      ]);
      expect(
        await sql`
          select email, provider_id from accounts join users on users.id = user_id
          where email !~ '^[01]' order by 1, 2`,
      ).toMatchObject([
        { email, provider_id: "credential" },
        { email, provider_id: "github" },
        { email: "dev@example.com", provider_id: "credential" },
      ]);
      expect(unnamed).toMatchObject({ exitCode: 2, stdout: "" });
      expect(unnamed.stderr).toContain("`--email <email>`");
      expect(member.stdout).toBe(
        "Nothing to create: dev@example.com already exists\n",
      );
      expect(member.stderr).toStartWith(
        "Warning: dev@example.com does not own the tenant Administration\n",
      );
      for (const stderr of others)
        expect(stderr).toStartWith(
          "Left out: a tenant for the administrator, because counted.ts names no tables",
        );
      expect(await sql`select from users`).toHaveLength(4);
    },
  );
});

test(
  "db:bootstrap:roles makes a role that serves and cannot drop what it serves",
  "migrated",
  async ({ run, sql, address }) => {
    const name = `serve_${crypto.randomUUID().slice(0, 8)}`;
    try {
      await sql.unsafe(
        `revoke connect on database ${address.database} from public`,
      );
      await sql`alter schema drizzle rename to hidden`;
      const early = await run(`db:bootstrap:roles --app-role ${name}`);
      await sql`alter schema hidden rename to drizzle`;
      const made = await run(`db:bootstrap:roles --app-role ${name} --json`);
      const again = await run(`db:bootstrap:roles --app-role ${name}`);
      const reset = await run(
        `db:bootstrap:roles --app-role ${name} --reset-password`,
      );
      const own = await run(`db:bootstrap:roles --app-role ${address.user}`);
      const powers = {
        "is a superuser": (role: string) => `alter role ${role} superuser`,
        "is a member of the role that migrates": (role: string) =>
          `grant ${address.user} to ${role}`,
        "owns tables of this database": (role: string) =>
          `create table owned (); alter table owned owner to ${role}`,
      };
      const refused: string[] = [];
      for (const grant of Object.values(powers)) {
        const role = `${name}_more`;
        await sql.unsafe(`create role ${role}; ${grant(role)}`);
        const { stderr } = await run(`db:bootstrap:roles --app-role ${role}`);
        await sql.unsafe(`drop owned by ${role}; drop role ${role}`);
        refused.push(/_more (.*): it could/.exec(stderr)?.[1] ?? stderr);
      }
      await sql`create table later (id serial)`;
      const password = /^Password: (.+)$/m.exec(reset.stdout)?.[1] ?? "";
      const login = { ...address, user: name, password };
      await using served = await openConnection(login, "tests");
      await served`insert into later default values`;
      const tested = await run("db:test", { DATABASE_URL: urlOf(login) });

      expect(made).toMatchObject({ exitCode: 0 });
      expect(JSON.parse(made.stdout)).toMatchObject({
        role: name,
        created: true,
        password: expect.not.stringContaining(password),
      });
      expect(reset).toMatchObject({
        stdout: `Reset: the password of ${name}\nGranted: rows of public to ${name}\nPassword: ${password}\n`,
        stderr: "The password is not shown again: save it now\n",
      });
      expect(again.stderr).toBe(
        "Hint: to set a new password, add `--reset-password`\n",
      );
      expect(tested).toMatchObject({ exitCode: 0, stderr: "" });
      expect(again.stdout).toBe(`Granted: rows of public to ${name}\n`);
      expect(own.exitCode).toBe(2);
      expect(own.stderr).toBe(
        `Error: the role ${address.user} is the role that migrates: it could drop tables\nHint: name another role with \`--app-role\`\n`,
      );
      expect(early).toEqual({
        exitCode: 2,
        stdout: "",
        stderr:
          "Error: no migration is recorded in this database\nHint: run `bun run db:migrate` first\n",
      });
      await served`update later set id = id`;
      await served`delete from later`;
      expect(refused).toEqual(Object.keys(powers));
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
