// Row security by tenant, as the role that the application logs in with: it owns no
// table. The owner, superusers and roles with BYPASSRLS see every row.
import { afterAll, beforeAll, expect } from "bun:test";
import { eq, sql } from "drizzle-orm";
import { readEnv } from "../../src/env";
import { makeClient } from "../../src/infrastructure/database/client";
import { codeOf } from "../../src/infrastructure/database/errors";
import { openPools } from "../../src/infrastructure/database/pools";
import { builds, tenants } from "../../src/infrastructure/database/schema";
import { withTenant } from "../../src/infrastructure/database/with-tenant";
import { TIMEOUT_MS, useDatabase } from "../lib/database";

/** Tables with a tenant_id that are read before a tenant is chosen, by user or email. */
const WITHOUT_POLICY = ["invitations", "tenant_members"];

const role = `app_serve_${crypto.randomUUID().slice(0, 8)}`;
let client: ReturnType<typeof makeClient>;
let ours = "";
let theirs = "";

// Before the database is dropped, for which useDatabase registers the next one.
afterAll(async () => {
  await client.closeDatabase();
  await database.sql.unsafe(`drop owned by ${role}; drop role ${role}`);
});

const { database, test } = useDatabase("migrated");

beforeAll(async () => {
  const { stdout } = await database.run(
    `db:bootstrap:roles --app-role ${role} --json`,
  );
  const address = {
    ...database.address,
    user: role,
    password: JSON.parse(stdout).password,
  };
  // Every statement below runs on one of two connections.
  const limits = { ...readEnv().client, isPooled: false, poolSize: 2 };
  client = makeClient(
    openPools({ database: address, replicas: [], client: limits }),
  );
  const rows = await database.db
    .insert(tenants)
    .values(["ours", "theirs"].map((slug) => ({ name: slug, slug })))
    .returning();
  [ours = "", theirs = ""] = rows.map(({ id }) => id);
  await database.db
    .insert(builds)
    .values(
      [1, 2].flatMap((number) => [build(ours, number), build(theirs, number)]),
    );
}, TIMEOUT_MS);

function build(tenantId: string, number: number) {
  return { tenantId, number, name: "Build", repository: "example/api" };
}

/** Lists the tenants whose builds a statement reaches. */
async function readTenants(
  database: Pick<typeof client.db, "select">,
): Promise<string[]> {
  const rows = await database.select().from(builds);
  return rows.map(({ tenantId }) => tenantId).sort();
}

async function codeOfFailure(work: () => Promise<unknown>) {
  try {
    await work();
  } catch (error) {
    return codeOf(error);
  }
}

const asTenant = <T>(
  tenantId: string,
  work: Parameters<typeof withTenant<T>>[2],
) => withTenant(client.db.transaction, tenantId, work);

test("a tenant reads, changes and deletes its own rows and no others", async () => {
  const changed = await asTenant(ours, async (tx) => {
    await tx.insert(builds).values(build(ours, 3));
    const updated = await tx.update(builds).set({ name: "New" }).returning();
    const deleted = await tx.delete(builds).where(eq(builds.number, 3));
    return { seen: await readTenants(tx), updated, deleted };
  });

  expect(changed.seen).toEqual([ours, ours]);
  expect(changed.updated).toHaveLength(3);
  expect(changed.deleted.rowCount).toBe(1);
  expect(await readTenants(database.db)).toEqual(
    [ours, ours, theirs, theirs].sort(),
  );
  expect(
    await database.sql`select from builds where name = 'New'`,
  ).toHaveLength(2);
});

test("it cannot write a row into another tenant, or move one there", async () => {
  const inserted = await codeOfFailure(() =>
    asTenant(ours, (tx) => tx.insert(builds).values(build(theirs, 9))),
  );
  const moved = await codeOfFailure(() =>
    asTenant(ours, (tx) => tx.update(builds).set({ tenantId: theirs })),
  );

  expect([inserted, moved]).toEqual(["42501", "42501"]);
});

test("outside withTenant there is nothing, also where a connection had a tenant", async () => {
  const failed = await codeOfFailure(() =>
    asTenant(ours, (tx) => tx.execute(sql`select 1 / 0`)),
  );
  const thrown = await codeOfFailure(() =>
    asTenant(ours, async (tx) => {
      await tx.insert(builds).values(build(ours, 8));
      throw Object.assign(new Error("it ends"), { code: "OWN_ERROR" });
    }),
  );
  await asTenant(theirs, readTenants);
  // More at once than there are connections.
  const all = await Promise.all(
    Array.from({ length: 8 }, () => readTenants(client.db)),
  );
  const inserted = await codeOfFailure(() =>
    client.db.insert(builds).values(build(ours, 9)),
  );

  expect([failed, thrown, inserted]).toEqual(["22012", "OWN_ERROR", "42501"]);
  expect(all.flat()).toEqual([]);
});

test("tenants that share two connections never see each other's rows", async () => {
  const seen = await Promise.all(
    Array.from({ length: 100 }, async (_, index) => {
      const tenantId = index % 3 === 0 ? ours : theirs;
      const rows = await asTenant(tenantId, async (tx) => {
        if (index % 5 === 0) await tx.execute(sql`select pg_sleep(0.002)`);
        const found = await readTenants(tx);
        if (index % 7 === 0) throw new Error("it ends");
        return found;
      }).catch(() => [tenantId]);
      return rows.every((id) => id === tenantId);
    }),
  );

  expect(seen).toEqual(Array(100).fill(true));
});

test("the policy holds for this role, and uses the index on tenant_id", async () => {
  const plan = await asTenant(ours, async (tx) => {
    await tx.execute(sql`set local enable_seqscan = off`);
    return await tx.execute(sql`explain select * from builds`);
  });

  expect(
    await client.db.execute(sql`select row_security_active('builds')`),
  ).toMatchObject([{ row_security_active: true }]);
  expect(JSON.stringify(plan)).toContain("Index Cond: (tenant_id = ");
});

test("every table with a tenant_id has a policy, but for those that are named", async () => {
  const rows = await database.sql`
    select relname as table from pg_class
    join pg_attribute on attrelid = pg_class.oid
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
      and attname = 'tenant_id' and not attisdropped and not relrowsecurity
    order by relname`;

  expect(rows.map(({ table }) => table)).toEqual(WITHOUT_POLICY);
});
