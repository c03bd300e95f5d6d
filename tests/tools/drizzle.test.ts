// db:push and db:pull, without a terminal, on a copy of the project.
import { describe, expect } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { pulledRelations, pulledSchema } from "../lib/pulled";
import { image, schemaFile } from "../lib/schema-file";
import { test } from "../lib/test";

describe("db:push", () => {
  test(
    "makes the schema, also what drizzle-kit does not see, and brings it up to date; finds nothing the second time, and refuses NODE_ENV=production",
    "empty",
    async ({ run, change, sql, database, project }) => {
      const filter = '"public", "lab", "labs"';
      project.replace("drizzle.config.ts", '"public"', filter);
      change(
        'index("builds_created_by_idx").on(table.createdBy)',
        `index("builds_created_by_idx").on(table.createdBy).where(sql\`number > 5\`),
    uniqueIndex("builds_mixed_key").on(table.tenantId, sql\`lower(\${table.name})\`).where(sql\`number > 0\`)`,
      );
      change(
        "export const users =",
        `export const people = pgView("people", { number: integer("number") }).as(sql\`select 1 as number\`);
        export const theirs = pgView("theirs", { id: integer("id") }).existing();
        export const lab = pgSchema("lab");
        export const logs = lab.table("logs", { id: integer("id") });
        export const seen = lab.materializedView("seen").as((query) => query.select().from(logs));
        export const users =`,
      );
      change(
        "import {\n",
        "import {\n  pgMaterializedView, pgSchema, pgView,\n",
      );
      const refused = await run(`db:push --confirm ${database.name}`, {
        NODE_ENV: "production",
      });
      const untouched = await sql`
        select from pg_tables where schemaname = 'public'`;
      const pushed = await run("db:push");
      change("number > 5", "number > 6");
      change("number > 0", "number > 1");
      change("'canceled'", "'canceled', 'other'");
      change("select 1 as number", "select 2 as number");
      // No snapshot has the views, the schema and its table.
      change("pgView(", "pgMaterializedView(");
      change("lab.materializedView(", "lab.view(");
      change('pgSchema("lab")', 'pgSchema("labs")');
      await sql`insert into lab.logs values (1)`;
      await sql`create view theirs as select 1 as id`;
      const changed = await run("db:push --rename lab=labs");
      const again = await run("db:push");
      const unused = await run("db:push --rename users.name=title");
      const seeded = await run("db:seed");
      const tested = await run("db:test");
      await sql`drop table sessions`;
      const partial = await run("db:test");

      expect(partial.exitCode).toBe(3);
      expect(refused.exitCode).toBe(2);
      expect(untouched).toHaveLength(0);
      expect(pushed).toMatchObject({ exitCode: 0, stderr: "" });
      expect(pushed.stdout).toEndWith(
        `Pushed: schema.ts to ${database.name} (27 statements)\n`,
      );
      expect(changed).toMatchObject({ exitCode: 0, stderr: "" });
      expect(await sql`select from labs.seen, theirs`).toHaveLength(1);
      expect(again).toEqual({
        exitCode: 0,
        stdout: `Nothing to push: ${database.name} is current\n`,
        stderr: "",
      });
      expect(unused).toMatchObject({ exitCode: 2, stdout: "" });
      expect(unused.stderr).toStartWith(
        "Error: --rename users.name=title matches nothing that was removed and added\n",
      );
      const [row] = await sql`
        select pg_get_indexdef('builds_created_by_idx'::regclass) as index,
          pg_get_indexdef('builds_mixed_key'::regclass) as mixed,
          pg_get_viewdef('people'::regclass) as view`;
      expect(row?.index).toEndWith("WHERE (number > 6)");
      expect(row?.mixed).toEndWith("WHERE (number > 1)");
      expect(row?.view).toContain("SELECT 2 AS number");
      expect(seeded.exitCode).toBe(0);
      expect(tested.exitCode).toBe(0);
    },
  );

  test(
    "needs confirmation of a loss, which it names, and shows it with --dry-run; then applies all or nothing, and never empties a table",
    "seeded",
    async ({ run, change, sql, database }) => {
      // What others have made stays, and row security that a migration has by hand.
      await sql.unsafe(`
        create policy own on users using (true); alter table users enable row level security;
        create policy p1 on users; create policy p2 on users; create policy p3 on users; create policy p4 on users; create policy p5 on users;
        create schema jobs; create table jobs.job (id int)`);
      change('repository: text("repository").notNull(),', "");
      const dry = await run("db:push --dry-run");
      const refused = await run("db:push");
      const before = await sql`select repository from builds`;
      const confirmed = await run(`db:push --json --confirm ${database.name}`);
      const nothing = await run("db:push");
      change(
        image,
        'image: text("image"),\n    extra: text("extra"),\n    phone: text("phone").notNull(),',
      );
      change(
        'number: integer("number").notNull(),',
        'number: integer("number").notNull(),\n    extra: text("extra"),',
      );
      const full = await run(`db:push --confirm ${database.name}`);
      change('\n    phone: text("phone").notNull(),', "");
      // Fails at the second statement, once both have been tried twice.
      await sql.unsafe(`
        create sequence calls;
        create function fail_later() returns event_trigger language plpgsql as
          'begin if nextval(''calls'') > 5 then raise ''later''; end if; end';
        create event trigger later on ddl_command_end when tag in ('ALTER TABLE') execute function fail_later()`);
      const later = await run("db:push");
      change(
        'number: integer("number").notNull(),',
        'number: integer("number").notNull(),\n    state: pgEnum("build_state", ["on"])("state"),',
      );
      change("  pgTable,\n", "  pgEnum,\n  pgTable,\n");
      const unknown = await run("db:push");

      expect(dry).toMatchObject({
        exitCode: 0,
        stdout: 'ALTER TABLE "builds" DROP COLUMN "repository";\n',
        stderr: expect.stringContaining("Data would be lost: "),
      });
      expect(refused.exitCode).toBe(2);
      expect(refused.stdout).toBe("");
      expect(refused.stderr).toContain(
        "Data would be lost: drops builds.repository: 3 values\n",
      );
      expect(refused.stderr).toContain(`\`--confirm ${database.name}\``);
      expect(before).toHaveLength(3);
      const left =
        "policy own on public.users, policy p1 on public.users, policy p2 on public.users, policy p3 on public.users, policy p4 on public.users and 2 more: neither schema.ts nor a snapshot has it";
      const alone = "Left alone: 1 schema in which nothing is ours: jobs\n";
      expect(confirmed).toEqual({
        exitCode: 0,
        stdout: expect.any(String),
        stderr: [
          `${alone}Data would be lost: drops builds.repository: 3 values`,
          "Hint: also write the migration, with `bun run db:generate`, and record it here with `bun run db:baseline`",
          `Left unchanged: ${left}`,
          "",
        ].join("\n"),
      });
      expect(JSON.parse(confirmed.stdout)).toEqual({
        database: database.name,
        statements: ['ALTER TABLE "builds" DROP COLUMN "repository";'],
        losses: ["drops builds.repository: 3 values"],
        left: [left],
        pushed: true,
      });
      expect(nothing).toEqual({
        exitCode: 0,
        stdout: `Nothing to push: what differs is left unchanged in ${database.name}\n`,
        stderr: `${alone}Left unchanged: ${left}\n`,
      });
      expect(full.exitCode).toBe(1);
      expect(full.stderr).toContain("\nNothing was changed\n");
      expect(full.stderr).toContain(
        'column "phone" of relation "users" contains null values',
      );
      expect(later.stderr).toContain("\nError: later\n");
      expect(unknown.stderr).toContain(
        'cannot be created: type "build_state" does not exist',
      );
      expect(unknown.stderr).toContain(
        "Hint: export the enum `build_state` from schema.ts; ",
      );
      expect(
        await sql`
          select column_name from information_schema.columns
          where table_schema = 'public' and column_name in ('extra', 'phone', 'repository')`,
      ).toHaveLength(0);
      expect(await sql`select from users`).toHaveLength(1);
      expect(
        await sql`
          select from pg_policy join pg_class on pg_class.oid = polrelid where relrowsecurity`,
      ).toHaveLength(6);
    },
  );

  test(
    "asks on a terminal what was renamed, while nothing is locked",
    "seeded",
    async ({ run, change, sql, attend, database }) => {
      await sql`update users set image = 'a.png'`;
      change(image, 'portrait: text("portrait"),');
      change('repository: text("repository").notNull(),', "");
      await using terminal = attend("db:push");

      await terminal.shows("rename column");
      const meanwhile = await run("db:migrate:repair --wait 0");
      terminal.types("\x1b[B\r"); // the second answer
      await terminal.shows("Type the database's name");
      terminal.types(`${database.name}\r`);
      const { exitCode, screen } = await terminal.ends();

      expect(meanwhile).toMatchObject({ exitCode: 0, stderr: "" });
      expect(screen).toContain(
        `Pushed: schema.ts to ${database.name} (2 statements)`,
      );
      // What was confirmed is shown once, before the question.
      for (const text of ["DROP COLUMN", "Data would be lost"])
        expect(screen.split(text)).toHaveLength(2);
      expect(screen.indexOf("DROP COLUMN")).toBeLessThan(
        screen.indexOf("Type the database's name"),
      );
      expect(exitCode).toBe(0);
      expect(await sql`select portrait from users`).toMatchObject([
        { portrait: "a.png" },
      ]);
    },
  );
});

describe("db:pull", () => {
  test("writes a schema.ts that loads and says what the database is, and names the rest", async ({
    run,
    sql,
    project,
    database,
  }) => {
    await sql.unsafe(`
      create schema platform;
      create table platform.owners (id int primary key);
      create table platform.accounts (id int primary key, mail text, owner int references platform.owners);
      create table "class" (id int primary key, tags text[] default '{}', raw tsvector,
        account int references platform.accounts (id), note text default 'O''Brien \\ \`\${x}');
      create index by_note on "class" (note) include (tags);
      create table parts (id int primary key, whole int references "class" (id)) partition by range (id);
      create table parts_low partition of parts for values from (0) to (9);
      create table "Teams" (id int primary key, "bossId" int references "Teams", lead int, grid int[][]);
      create table people (id int primary key, team_id int references "Teams");
      create schema drizzle; create index on platform.accounts (mail); create policy p on platform.accounts;
      alter table platform.accounts add check (id > 0); create sequence platform.seq;
      create view platform.v as select 1 as one; create function platform.f() returns int language sql return 1;
      create type platform.mood as enum ('sad'); create table moods (mood platform.mood);
      create table pg_stat_theirs (id int); create table "2fa" (id int);
      create table slots (during int4range, number int, exclude using gist (during with &&), check (number > 0) no inherit);
      create domain mail as text; create function act() returns trigger language plpgsql as 'begin end';
      create trigger acted before insert on slots execute function act();
      create rule skipped as on delete to slots do instead nothing;
      alter table "Teams" add foreign key (lead) references people;
      create function twice(n int) returns int language sql return n * 2;
      create type pair as (a int, b int);
      create unlogged table drafts (a int, b int, c text collate "C", unique (a, b),
        foreign key (a, b) references drafts (a, b) match full on delete cascade deferrable);
      create index by_c on drafts (c collate "POSIX", lower(c collate "C")) where c > 'a' collate "C";
      alter table drafts enable row level security, force row level security;
      create table kept (d int) inherits (drafts);
      create extension dblink; create schema theirs; create type thing as enum ('x'); create table things (id int);
      alter extension dblink add schema theirs; alter extension dblink add type thing; alter extension dblink add table things;
      alter table slots add constraint later check (number < 9) not valid;
      create sequence numbers increment -2 minvalue -9 maxvalue 9 start 5 cache 3 cycle;
      create table counted (id serial, small smallserial, big bigserial, n int default nextval('numbers'),
        own int generated by default as identity (start 5), kinds platform.mood[]);
      create view few with (security_barrier = on, check_option = local) as select id from counted where n > 0;
      create materialized view many with (fillfactor = 70, autovacuum_enabled = off) as select id from counted;
      create policy gone on counted as restrictive for delete to pg_monitor, pg_signal_backend using (id > 1); alter table counted enable row level security;
      create unique index on counted (n desc, lower(own::text) text_pattern_ops nulls first) with (fillfactor = 50) where n > 1`);
    project.replace(
      "drizzle.config.ts",
      'schemaFilter: ["public"]',
      'schemaFilter: ["public"], tablesFilter: ["!pg_stat_*"]',
    );
    const first = await run("db:pull");
    await sql`drop table drafts cascade; create table other (id int primary key)`.simple();
    const second = await run("db:pull --json");
    const pulled = project.read("pulled/schema.ts");
    const relations = project.read("pulled/relations.ts");
    project.write(schemaFile, pulled);
    await sql`
      drop index by_note; alter table "Teams" add later int;
      alter view few set (security_barrier = true); alter materialized view many set (autovacuum_enabled = false)`.simple();
    const pushed = await run("db:push --dry-run --json");
    await sql`drop table people, "Teams", parts, "class"`.simple();
    const third = await run("db:pull --json");
    const left = existsSync(join(project.folder, "pulled/relations.ts"));

    expect(first).toEqual({
      exitCode: 0,
      stdout: "Pulled: pulled/schema.ts\nPulled: pulled/relations.ts\n",
      stderr:
        "Not pulled: the partitions of table public.parts\n" +
        "Not pulled: constraint slots_during_excl on public.slots\n" +
        "Not pulled: UNLOGGED of table public.drafts\n" +
        "Not pulled: FORCE ROW LEVEL SECURITY of table public.drafts\n" +
        'Not pulled: COLLATE "C" of column public.drafts.c\n' +
        'Not pulled: COLLATE "C" of column public.kept.c\n' +
        "Not pulled: NO INHERIT of constraint slots_number_check on public.slots\n" +
        "Not pulled: MATCH FULL, DEFERRABLE of constraint drafts_a_b_fkey on public.drafts\n" +
        "Not pulled: NOT VALID of constraint later on public.slots\n" +
        "Not pulled: INCLUDE (tags) of index public.by_note\n" +
        'Not pulled: COLLATE "POSIX" of index public.by_c\n' +
        "Not pulled: INHERITS (drafts) of table public.kept\n" +
        "Not pulled: domain public.mail\n" +
        "Not pulled: composite type public.pair\n" +
        "Not pulled: function public.act()\n" +
        "Not pulled: function public.twice(n integer)\n" +
        "Not pulled: trigger acted on public.slots\n" +
        "Not pulled: rule skipped on public.slots\n" +
        "Not pulled, except what others refer to: platform: not in `schemaFilter` of drizzle.config.ts\n",
    });
    expect(JSON.parse(second.stdout)).toEqual({
      files: ["pulled/schema.ts", "pulled/relations.ts"],
    });
    expect(JSON.parse(third.stdout)).toEqual({ files: ["pulled/schema.ts"] });
    expect(left).toBe(false);
    expect(readdirSync(project.folder).join()).not.toContain("partial");
    // Before version 16, PostgreSQL named the table of each column in a view.
    expect(pulled.replaceAll("counted.", "")).toBe(pulledSchema);
    expect(relations).toBe(pulledRelations);
    expect(JSON.parse(pushed.stdout)).toEqual({
      database: database.name,
      // The index and the check without what drizzle cannot describe, and a column of a quoted name.
      statements: [
        'ALTER TABLE "slots" DROP CONSTRAINT "later";',
        'ALTER TABLE "slots" DROP CONSTRAINT "slots_number_check";',
        'ALTER TABLE "Teams" DROP COLUMN "later";',
        'CREATE INDEX "by_note" ON "class" USING btree ("note");',
        'ALTER TABLE "slots" ADD CONSTRAINT "later" CHECK (number < 9);',
        'ALTER TABLE "slots" ADD CONSTRAINT "slots_number_check" CHECK (number > 0);',
      ],
      losses: [],
      left: [
        expect.stringContaining("slots_during_excl"),
        expect.stringContaining("PARTITION BY RANGE (id), not "),
      ],
      pushed: false,
    });
  });
});
