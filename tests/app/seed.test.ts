// db:seed and db:test, on a database of their own.
import { describe, expect } from "bun:test";
import { testDatabase as test } from "../lib/database";
import { readMigrations } from "../../scripts/migrations/journal";

const ownTags = readMigrations().map(({ tag }) => tag);

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
    "makes its rows once when ten run at once",
    "migrated",
    async ({ run, sql }) => {
      const all = await Promise.all(
        Array.from({ length: 10 }, () => run("db:seed")),
      );

      expect(all.map(({ exitCode }) => exitCode)).toEqual(Array(10).fill(0));
      expect(
        all.filter(({ stdout }) => stdout.startsWith("Seeded")),
      ).toHaveLength(1);
      const [counts] = await sql`
      select (select count(*)::int from users) as users, (select count(*)::int from builds) as builds`;
      expect(counts).toEqual({ users: 1, builds: 3 });
    },
  );

  test(
    "refuses while the schema is behind, and an unknown seed",
    "empty",
    async ({ run }) => {
      const behind = await run("db:seed");
      const unknown = await run("db:seed prod");

      expect(behind).toEqual({
        exitCode: 2,
        stdout: "",
        stderr: `Error: the schema is behind: ${ownTags.join(", ")} pending\nHint: run \`bun run db:migrate\` first\n`,
      });
      expect(unknown.exitCode).toBe(2);
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
