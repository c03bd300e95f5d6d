// A schema for each tenant: rows apart, one failing tenant, several at once.
import { expect } from "bun:test";
import { eq } from "drizzle-orm";
import { tenants } from "../../src/infrastructure/database/schema";
import {
  schemaOf,
  tablesOf,
} from "../../src/infrastructure/database/tenant-tables";
import {
  type ApplicationDatabase,
  openDatabase,
  testDatabase as test,
} from "../lib/database";
import { withRoles } from "../lib/roles";

async function idOf({ db }: ApplicationDatabase, slug: string) {
  const [tenant] = await db
    .select()
    .from(tenants)
    .where(eq(tenants.slug, slug));
  return tenant?.id ?? "";
}

test("the rows of two tenants are apart", "migrated", async (database) => {
  const { db, run, sql } = database;
  const created = [
    await run("tenants create acme"),
    await run("tenants create zenith"),
  ];
  const [acme, zenith] = [
    await idOf(database, "acme"),
    await idOf(database, "zenith"),
  ];

  const { projects, documents } = tablesOf(acme);
  const [project] = await db
    .insert(projects)
    .values({ name: "Own" })
    .returning();
  await db
    .insert(documents)
    .values({ projectId: project?.id ?? "", title: "One" });
  const others = await db.select().from(tablesOf(zenith).documents);
  const again = await run("tenants create acme");
  const unconfirmed = await run("tenants drop acme");
  const other = await run("tenants drop acme --confirm zenith");
  const kept = await db.select().from(documents);
  const dropped = await run("tenants drop acme --confirm acme");

  expect(created.map(({ exitCode }) => exitCode)).toEqual([0, 0]);
  expect(others).toEqual([]);
  expect(kept).toHaveLength(1);
  expect([again, unconfirmed, other].map(({ exitCode }) => exitCode)).toEqual([
    2, 2, 2,
  ]);
  expect(dropped).toMatchObject({ exitCode: 0, stdout: "Dropped: acme\n" });
  expect(
    await sql`
    select nspname from pg_namespace where starts_with(nspname, 'tenant_')`,
  ).toMatchObject([{ nspname: schemaOf(zenith) }]);
});

test(
  "one that fails is named and unchanged, and the others are migrated",
  "migrated",
  async (database) => {
    const { run, sql } = database;
    for (const slug of ["acme", "broken", "zenith"]) {
      await run(`tenants create ${slug}`);
      const schema = schemaOf(await idOf(database, slug));
      // As it was before the second migration, 0001_archive; one has its column already.
      await sql.unsafe(`delete from "${schema}".__migrations where id > 1`);
      if (slug !== "broken")
        await sql.unsafe(`alter table "${schema}".documents drop archived_at`);
    }
    const broken = schemaOf(await idOf(database, "broken"));

    const listed = await run("tenants");
    const failed = await run("tenants migrate");
    await sql.unsafe(`alter table "${broken}".documents drop archived_at`);
    const crowd = await Promise.all(
      Array.from({ length: 3 }, () => run("tenants migrate")),
    );
    const after = await run("tenants");

    expect(listed).toMatchObject({ exitCode: 3 });
    expect(listed.stdout).toContain(
      `broken: ${broken}, 1 applied, 1 pending\n`,
    );
    expect(failed).toEqual({
      exitCode: 1,
      stdout: "Migrated: acme (1)\nMigrated: zenith (1)\n",
      stderr: [
        'Failed: broken: column "archived_at" of relation "documents" already exists',
        "Error: 1 of 3 tenants could not be migrated: broken",
        "Hint: fix what is wrong there, and run it again",
        "",
      ].join("\n"),
    });
    expect(crowd.map(({ exitCode }) => exitCode)).toEqual([0, 0, 0]);
    expect(crowd.map(({ stdout }) => stdout).sort()).toEqual([
      "Current: 3 tenants\n",
      "Current: 3 tenants\n",
      "Migrated: broken (1)\nCurrent: 3 tenants\n",
    ]);
    expect(after.exitCode).toBe(0);
  },
);

test(
  "a role that owns nothing reaches the schemas of new tenants",
  "migrated",
  async (database) => {
    await withRoles(database, 1, async ({ name }) => {
      await database.sql.unsafe(`
      alter default privileges grant usage on schemas to ${name};
      alter default privileges grant select, insert, update, delete on tables to ${name}`);
      await database.run("tenants create acme");
      const schema = schemaOf(await idOf(database, "acme"));

      const sql = openDatabase({
        ...database.address,
        user: name,
        password: name,
      });
      await sql`insert into ${sql(schema)}.projects (name) values ('Own')`;
      const rows = await sql`select name from ${sql(schema)}.projects`;
      await sql.end();

      expect(rows).toHaveLength(1);
    });
  },
);
