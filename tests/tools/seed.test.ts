// db:seed and db:test.
import { describe, expect, test as plainTest } from "bun:test";
import { stampProduction } from "../../scripts/lib/protection";
import { describeSeed, type Seeded } from "../../scripts/lib/seed";
import { ownMigrations } from "../lib/migrations";
import { schemaFile } from "../lib/schema-file";
import { withRoles } from "../lib/roles";
import { CROWD } from "../lib/sample";
import { test } from "../lib/test";

const ownTags = ownMigrations.map(({ tag }) => tag);

test(
  "db:seed waits for the lock of another command, is refused in production, makes the development rows once when many run, and db:test counts them",
  "migrated",
  async ({ run, sql, name }) => {
    const busy = await sql.begin(async (holder) => {
      await holder`select pg_advisory_xact_lock(28273295023041637)`;
      return await run("db:seed --wait 0");
    });
    const refused = await run(`db:seed --confirm ${name}`, {
      NODE_ENV: "production",
    });
    const none = await sql`select from users`;
    const all = await Promise.all(
      Array.from({ length: CROWD }, () => run("db:seed")),
    );
    const rows = await sql`select to_jsonb(users.*) as user from users`;
    const again = await run("db:seed --json");
    const rowsAfter = await sql`select to_jsonb(users.*) as user from users`;
    const [owner] = await sql`
      select email, slug, role from tenant_members
      join users on users.id = user_id join tenants on tenants.id = tenant_id`;
    const document = await run("db:test --json");
    const text = await run("db:test");

    expect(busy.exitCode).toBe(75);
    expect(busy.stderr).toMatch(
      /^Error: another command \(pid \d+, .*\) holds the migration lock\nHint: /,
    );
    expect(refused.exitCode).toBe(2);
    expect(refused.stderr).toBe(
      `Error: db:seed is for development, and ${name} is not: NODE_ENV is production\nHint: docs/DATABASE_SETUP.md lists the commands for production\n`,
    );
    expect(none).toHaveLength(0);
    const seeded = {
      exitCode: 0,
      stdout: "Seeded: dev (users 1, tenants 1, tenant_members 1, builds 3)\n",
      stderr: "",
    };
    expect(all.map(({ exitCode }) => exitCode)).toEqual(Array(CROWD).fill(0));
    expect(all.filter(({ stdout }) => stdout.startsWith("Seeded"))).toEqual([
      seeded,
    ]);
    expect(JSON.parse(again.stdout)).toEqual({
      seed: "dev",
      inserted: { users: 0, tenants: 0, tenant_members: 0, builds: 0 },
      unchanged: { users: 1, tenants: 1, tenant_members: 1, builds: 3 },
    });
    expect([...rowsAfter]).toEqual([...rows]);
    expect(owner).toEqual({
      email: "dev@example.com",
      slug: "development-team",
      role: "owner",
    });
    expect(document.exitCode).toBe(0);
    expect(JSON.parse(document.stdout)).toEqual({
      connected: true,
      latencyMs: expect.any(Number),
      role: "primary",
      lagSeconds: null,
      serverVersion: expect.stringMatching(/^\d+\.\d+$/),
      counts: { users: 1, tenants: 1, memberships: 1 },
      pending: [],
    });
    expect(text.stdout).toMatch(
      new RegExp(
        `^Connected: ${name} on .+:\\d+ \\(primary\\), PostgreSQL \\d+\\.\\d+, [\\d.]+ ms a query\n`,
      ),
    );
    expect(text.stdout).toContain(
      "Counted: users 1, tenants 1, memberships 1\nCompared: no migration is pending\n",
    );
    const [counts] = await sql`select count(*)::int as builds from builds`;
    expect(counts).toEqual({ builds: 3 });
  },
);

test("db:test and db:seed refuse a schema that is behind; db:test also one that search_path hides; an unknown seed is refused with its neighbours", async ({
  run,
  sql,
  name,
}) => {
  const tested = await run("db:test --json");
  const behind = await run("db:seed");
  const unknown = await run("db:seed prod");
  await run("db:migrate");
  await sql.unsafe(`alter database ${name} set search_path = elsewhere`);
  const hidden = await run("db:test");
  await sql.unsafe(`
    alter database ${name} reset search_path;
    alter database ${name} set default_transaction_read_only = on`);
  const seeded = await run("db:seed");
  const admin = await run("db:bootstrap:admin --email ada@example.com");

  expect(tested.exitCode).toBe(3);
  expect(tested.stderr).toBe("Hint: run `bun run db:migrate`\n");
  expect(JSON.parse(tested.stdout)).toMatchObject({
    connected: true,
    counts: { users: null, tenants: null, memberships: null },
    pending: ownTags,
  });
  expect(behind).toEqual({
    exitCode: 2,
    stdout: "",
    stderr: `Error: the schema is behind: ${ownTags.join(", ")} pending\nHint: run \`bun run db:migrate\` first\n`,
  });
  expect(unknown).toEqual({
    exitCode: 2,
    stdout: "",
    stderr:
      'Error: there is no seed "prod"\nHint: the seeds are `bun run db:seed dev` and `bun run db:seed rbac`\n',
  });
  expect(hidden.exitCode).toBe(3);
  expect(hidden.stdout).toEndWith(
    "Compared: no migration is pending\nMissing: users, tenants, memberships: the client does not find the table\n",
  );
  expect(hidden.stderr).toStartWith("Hint: `show search_path` in ");
  const readOnly =
    "cannot execute INSERT in a read-only transaction\nHint: let the session write: ";
  expect(seeded.stderr).toStartWith(
    `Error: the seed dev failed at users: ${readOnly}`,
  );
  expect(admin.stderr).toStartWith(`Error: ${readOnly}`);
});

test(
  "db:test reads the records where it may not read the log, and takes the tables for the schema where there are no records",
  "migrated",
  async ({ run, sql, project, read, database }) => {
    await withRoles(database, 1, async ({ name: role, variables }) => {
      await sql.unsafe(`
        grant select on all tables in schema public to ${role}; grant usage on schema drizzle to ${role};
        grant select on drizzle.__drizzle_migrations to ${role}`);
      const found: Record<string, [exitCode: number, line: string]> = {};
      const look = async (what: string, of?: Record<string, string>) => {
        const { exitCode, stdout, stderr } = await run("db:test", of);
        const line = /^(Compared|Pending|Error): .*$/m.exec(stdout + stderr);
        found[what] = [exitCode, line?.[0] ?? ""];
      };
      await look("no log", variables);
      await sql.unsafe(
        `revoke select on drizzle.__drizzle_migrations from ${role}`,
      );
      await look("no records", variables);
      project.write(
        schemaFile,
        `${read(schemaFile)}import * as pg from "drizzle-orm/pg-core";
export const own = pg.pgSchema("Own").table("It's \\"own\\"", { id: pg.integer() });\n`,
      );
      await sql.unsafe(
        `create schema "Own"; create table "Own"."It's ""own""" ()`,
      );
      const unknown =
        await sql`update drizzle.__drizzle_migrations set hash = 'x', created_at = 1 returning id`;
      await look("another record");
      await sql`drop schema drizzle cascade`;
      await look("every table");
      await sql`alter table users rename to people`;
      await look("all but one");
      await sql`alter table people rename to users`;
      await sql`drop schema "Own" cascade`;
      await look("all but that of a schema");
      project.write(schemaFile, "export const none = 1;");
      await look("none");

      const pending = `Pending: ${ownTags.join(", ")}`;
      expect(unknown).toHaveLength(1);
      expect(found).toEqual({
        "no log": [0, "Compared: no migration is pending"],
        "no records": [
          1,
          "Error: permission denied for table __drizzle_migrations",
        ],
        "another record": [3, pending],
        "every table": [
          0,
          "Compared: the tables are there, and no migration is recorded",
        ],
        "all but one": [3, pending],
        "all but that of a schema": [3, pending],
        none: [3, pending],
      });
    });
  },
);

plainTest(
  "a seed is described by the rows that it inserted and removed, or by those that were there",
  () => {
    const described = [
      { inserted: { a: 1, b: 0, c: 2 }, unchanged: { a: 0, b: 3, c: 0 } },
      { inserted: { a: 1 }, unchanged: {}, removed: { a: 2, b: 1 } },
      { inserted: { a: 0 }, unchanged: { a: 3 }, removed: { b: 1 } },
      { inserted: { a: 0, b: 0 }, unchanged: { a: 3, b: 1 } },
    ].map((counts) => describeSeed({ seed: "dev", ...counts } as Seeded));

    expect(described).toEqual([
      "Seeded: dev (a 1, c 2)",
      "Seeded: dev (a 1; removed a 2, b 1)",
      "Seeded: dev (removed b 1)",
      "Nothing to seed: the dev rows are already there (a 3, b 1)",
    ]);
  },
);

describe("db:seed", () => {
  test(
    "takes any file of scripts/seeds, for development unless it says otherwise",
    "migrated",
    async ({ run, sql, project }) => {
      const rows = `import { users } from "../../src/infrastructure/database/schema";
export const rows = [{ table: users, rows: [{ name: "Ada", email: "ada@example.com" }] }];\n`;
      const twice =
        "rows.push({ table: users, rows: [...rows[0].rows, { name: 'B', email: 'b@example.com' }] });";
      project.write("scripts/seeds/demo.ts", rows);
      const planted = await run("db:seed demo --json");
      project.write("scripts/seeds/demo.ts", `${rows}${twice}`);
      const added = await run("db:seed demo --json");
      await sql`delete from users where name = 'B'`;
      await stampProduction(sql);
      const refused = await run("db:seed demo");
      project.write(
        "scripts/seeds/demo.ts",
        `${rows}export const isForProduction = true;\n`,
      );
      const allowed = await run("db:seed demo");
      project.write("scripts/seeds/odd.ts", "export const rows = 1;");
      const odd = await run("db:seed odd");
      project.write(
        "scripts/seeds/odd.ts",
        `${rows.replace('"Ada"', "null")}export const isForProduction = true;\n`,
      );
      const broken = await run("db:seed odd");
      const missing = await run("db:seed none");

      expect(odd).toEqual({
        exitCode: 1,
        stdout: "",
        stderr:
          "Error: the seed scripts/seeds/odd.ts cannot be loaded: it does not export an array `rows`\nHint: fix `scripts/seeds/odd.ts`\n",
      });
      expect(broken).toEqual({
        exitCode: 1,
        stdout: "",
        stderr:
          'Error: the seed odd failed at users: null value in column "name" of relation "users" violates not-null constraint\nHint: fix `scripts/seeds/odd.ts`\n',
      });
      expect(missing.stderr).toBe(
        'Error: there is no seed "none"\nHint: the seeds are `bun run db:seed dev` and `bun run db:seed demo` and `bun run db:seed odd` and `bun run db:seed rbac`\n',
      );
      expect(JSON.parse(added.stdout)).toEqual({
        seed: "demo",
        inserted: { users: 1 },
        unchanged: { users: 2 },
      });
      expect(JSON.parse(planted.stdout)).toEqual({
        seed: "demo",
        inserted: { users: 1 },
        unchanged: { users: 0 },
      });
      expect(refused.exitCode).toBe(2);
      expect(refused.stderr).toContain("it is stamped production");
      expect(allowed.stdout).toBe(
        "Nothing to seed: the demo rows are already there (users 1)\n",
      );
      expect(await sql`select from users`).toHaveLength(1);
    },
  );

  test(
    "names the file and the export where a table is gone, which stops no other command",
    "migrated",
    async ({ run, project, sql, name }) => {
      const text = project.read(schemaFile);
      project.write(
        schemaFile,
        text
          .replaceAll("tenantMembers", "members")
          .replaceAll("tenants", "teams")
          .replaceAll(/\bbuilds\b/g, "jobs"),
      );
      const dev = await run("db:seed");
      const rbac = await run("db:seed rbac");
      const tested = await run("db:test");
      const admin = await run("db:bootstrap --email ada@example.com");
      await sql`drop table sessions`;
      const renewed = await run(
        "db:bootstrap:admin --email ada@example.com --reset-password",
      );
      const reset = await run("db:reset");

      expect(dev).toEqual({
        exitCode: 1,
        stdout: "",
        stderr:
          "Error: the seed scripts/seeds/development.ts cannot be loaded: src/infrastructure/database/schema.ts does not export `builds`\n" +
          "Hint: remove `builds` from `scripts/seeds/development.ts`, or import its new name\n",
      });
      for (const { exitCode } of [rbac, tested, admin, renewed, reset])
        expect(exitCode).toBe(0);
      const leftOut = "Left out: a tenant for the administrator, because ";
      expect(admin.stderr).toStartWith(leftOut);
      expect(renewed.stderr).toStartWith(leftOut);
      expect(renewed.stderr).toContain(
        "\nWarning: no session was ended, because there is no table sessions with a user_id\n",
      );
      expect(tested.stdout).toContain(
        "Counted: users 0, tenants –, memberships –\n",
      );
      expect(reset.stdout).toStartWith(`Reset: ${name}, at `);
      expect(reset.stderr).toStartWith(
        "Warning: not seeded: the seed scripts/seeds/development.ts cannot be loaded: ",
      );
    },
  );
});
