// db:seed and db:test.
import { describe, expect } from "bun:test";
import { ownMigrations } from "../lib/migrations";
import { schemaFile } from "../lib/schema-file";
import { CROWD } from "../lib/sample";
import { test } from "../lib/test";

const ownTags = ownMigrations.map(({ tag }) => tag);

describe("db:seed", () => {
  test(
    "makes the development rows, and leaves them alone the second time",
    "migrated",
    async ({ run, sql }) => {
      const first = await run("db:seed");
      const rows = await sql`select to_jsonb(users.*) as user from users`;
      const second = await run("db:seed --json");
      const rowsAfter = await sql`select to_jsonb(users.*) as user from users`;
      const [owner] = await sql`
      select email, slug, role from tenant_members
      join users on users.id = user_id join tenants on tenants.id = tenant_id`;

      expect(first).toEqual({
        exitCode: 0,
        stdout:
          "Seeded: dev (users 1, tenants 1, tenant_members 1, builds 3)\n",
        stderr: "",
      });
      expect(JSON.parse(second.stdout)).toEqual({
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
    },
  );

  test(
    "makes its rows once when many run at once",
    "migrated",
    async ({ run, sql }) => {
      const all = await Promise.all(
        Array.from({ length: CROWD }, () => run("db:seed")),
      );

      expect(all.map(({ exitCode }) => exitCode)).toEqual(Array(CROWD).fill(0));
      expect(
        all.filter(({ stdout }) => stdout.startsWith("Seeded")),
      ).toHaveLength(1);
      const [counts] = await sql`
      select (select count(*)::int from users) as users, (select count(*)::int from builds) as builds`;
      expect(counts).toEqual({ users: 1, builds: 3 });
    },
  );

  test("refuses while the schema is behind, and an unknown seed, whose neighbours it names", async ({
    run,
  }) => {
    const behind = await run("db:seed");
    const unknown = await run("db:seed prod");

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
  });

  test(
    "takes any file of scripts/seeds, for development unless it says otherwise",
    "migrated",
    async ({ run, sql, project }) => {
      const rows = `import { users } from "../../src/infrastructure/database/schema";
export const rows = [{ table: users, rows: [{ name: "Ada", email: "ada@example.com" }] }];\n`;
      project.write("scripts/seeds/demo.ts", rows);
      const planted = await run("db:seed demo --json");
      await run("db:migrate", { NODE_ENV: "production" });
      const refused = await run("db:seed demo");
      project.write(
        "scripts/seeds/demo.ts",
        `${rows}export const isForProduction = true;\n`,
      );
      const allowed = await run("db:seed demo");

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
      const reset = await run("db:reset");

      expect(dev).toEqual({
        exitCode: 1,
        stdout: "",
        stderr:
          "Error: the seed scripts/seeds/development.ts cannot be loaded: src/infrastructure/database/schema.ts does not export `builds`\n" +
          "Hint: remove `builds` from `scripts/seeds/development.ts`, or import its new name\n",
      });
      expect([rbac, tested, admin, reset].map((o) => o.exitCode)).toEqual([
        0, 0, 0, 0,
      ]);
      expect(tested.stdout).toContain(
        "Counted: users 0, tenants –, memberships –\n",
      );
      expect(reset.stdout).toStartWith(`Reset: ${name}, at `);
      expect(reset.stderr).toStartWith(
        "Warning: not seeded: the seed scripts/seeds/development.ts cannot be loaded: ",
      );
    },
  );

  test(
    "refuses with NODE_ENV=production, whatever is confirmed",
    "migrated",
    async ({ run, name, sql }) => {
      const { exitCode, stderr } = await run(`db:seed --confirm ${name}`, {
        NODE_ENV: "production",
      });

      expect(exitCode).toBe(2);
      expect(stderr).toStartWith(
        `Error: db:seed is for development, and ${name} is not: NODE_ENV is production\n`,
      );
      expect(await sql`select from users`).toHaveLength(0);
    },
  );

  test(
    "waits for the lock of another command, and gives up with 75",
    "migrated",
    async ({ run, sql }) => {
      const { exitCode, stderr } = await sql.begin(async (holder) => {
        await holder`select pg_advisory_xact_lock(28273295023041637)`;
        return await run("db:seed --wait 0");
      });

      expect(exitCode).toBe(75);
      expect(stderr).toMatch(
        /^Error: another command \(pid \d+, .*\) holds the migration lock\nHint: /,
      );
    },
  );
});

describe("db:test", () => {
  test(
    "reports version, latency and counts, and exits 3 while the schema is behind",
    "empty",
    async ({ run }) => {
      const behind = await run("db:test --json");
      await run("db:migrate");
      await run("db:seed");
      const current = await run("db:test --json");
      const text = await run("db:test");

      expect(behind.exitCode).toBe(3);
      expect(JSON.parse(behind.stdout)).toMatchObject({
        connected: true,
        counts: { users: null, tenants: null, memberships: null },
        pending: ownTags,
      });
      expect(current.exitCode).toBe(0);
      expect(JSON.parse(current.stdout)).toEqual({
        connected: true,
        latencyMs: expect.any(Number),
        role: "primary",
        lagSeconds: null,
        serverVersion: expect.stringMatching(/^\d+\.\d+$/),
        counts: { users: 1, tenants: 1, memberships: 1 },
        pending: [],
      });
      expect(text.stdout).toContain(
        "Counted: users 1, tenants 1, memberships 1\nCompared: no migration is pending\n",
      );
    },
  );
});
