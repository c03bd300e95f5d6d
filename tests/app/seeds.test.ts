// The rows of scripts/seeds.
import { expect } from "bun:test";
import { listSeeds, loadSeed, insertSeed } from "../../scripts/lib/seed";
import { testDatabase as test } from "../lib/database";

for (const name of listSeeds())
  test(
    `${name} inserts its rows, and finds them the second time`,
    "migrated",
    async ({ sql }) => {
      const seed = await loadSeed(name);

      const first = await insertSeed(sql, seed, 0);
      const second = await insertSeed(sql, seed, 0);

      expect(second.unchanged).toEqual(first.inserted);
      expect(Object.values(second.inserted).every((rows) => rows === 0)).toBe(
        true,
      );
    },
  );

test("dev makes the user that owns the team", "seeded", async ({ sql }) => {
  const owners = await sql`
    select email, slug, role from tenant_members
    join users on users.id = user_id join tenants on tenants.id = tenant_id`;

  expect([...owners]).toEqual([
    { email: "dev@example.com", slug: "development-team", role: "owner" },
  ]);
});
