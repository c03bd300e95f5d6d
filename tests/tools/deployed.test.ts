// What db:check says of a schema on which the deployed code fails.
import { expect, test as bunTest } from "bun:test";
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { $ } from "bun";
import { sql as S } from "drizzle-orm";
import * as pg from "drizzle-orm/pg-core";
import { openConnection } from "../../scripts/lib/connection";
import { describeExports } from "../../scripts/schema/describe-schema";
import { BREAKPOINT, diffRenamed } from "../../scripts/schema/down-file";
import { prepareQueries } from "../../scripts/schema/old-queries";
import { emptySnapshot } from "../../scripts/schema/snapshots";
import { withDatabase } from "../lib/database";
import { commit } from "../lib/git";
import { addMigration, migrations } from "../lib/migrations";
import { image } from "../lib/schema-file";
import { test } from "../lib/test";

const mood = pg.pgEnum("mood", ["sad", "happy"]);
const people = pg.pgTable("people", {
  id: pg.uuid().primaryKey().defaultRandom(),
  name: pg.text().notNull(),
  mood: mood().notNull(),
  age: pg.integer(),
  role: pg.text().notNull().default("user"),
  tags: pg.text().array(),
  at: pg.timestamp({ withTimezone: true }).notNull(),
  born: pg.timestamp(),
  ended: pg.timestamp({ mode: "string" }),
  paid: pg.numeric({ precision: 8, scale: 2 }).notNull().default("0"),
  isAdmin: pg.boolean("is_admin").default(false),
  seen: pg.bigint({ mode: "bigint" }),
  data: pg.jsonb(),
  nickName: pg.text(),
  base: pg.integer(),
  twice: pg
    .integer()
    .notNull()
    .generatedAlwaysAs(S`coalesce(base, 1) * 2`),
});
const lab = pg.pgSchema("lab");
/** In a schema of its own, with the name of another table. */
const others = lab.table("people", {
  id: pg.integer("Id;").primaryKey(),
  note: pg.text().notNull(),
});
const posts = pg.pgTable("posts", {
  id: pg.integer().primaryKey().generatedAlwaysAsIdentity(),
  author: pg.uuid().references(() => people.id),
  heading: pg.text().notNull(),
  parent: pg.integer().references((): pg.AnyPgColumn => posts.id),
});

/** Schema changes, and what the deployed code can no longer do after each. Those of a
 * group are made together, for they leave each other alone. */
const GROUPS: Record<string, string[]>[] = [
  {
    // First: it would fail on a row that the queries before it have left.
    "alter table people add phone text not null": ["people.phone"],
    "alter table people drop column age": ["people.age"],
    "alter table people drop column twice": ["people.twice"],
    "alter table people drop column nick_name": ["people.nick_name"],
    "alter table people alter role drop default": ["people.role"],
    "alter table people alter tags type text using tags[1]": ["people.tags"],
    "alter table posts alter id drop identity": ["posts.id"],
    "alter table people alter born type timestamptz": ["people.born"],
    "alter table people alter ended type date": ["people.ended"],
    "alter table people alter paid drop default; alter table people alter paid type int":
      ["people.paid"],
    "alter table people alter is_admin drop default; alter table people alter is_admin type int using is_admin::int":
      ["people.is_admin"],
    "alter table people alter seen type text": ["people.seen"],
    "alter table people alter data type text": ["people.data"],
    "alter table people alter name type uuid using name::uuid": ["people.name"],
  },
  {
    "drop table posts": ["posts.null"],
    "alter table lab.people rename to persons": ["lab.people.null"],
    "alter table people rename name to title": ["people.name", "people.title"],
    "alter table people alter age set not null": ["people.age"],
    "alter table people alter at type timestamp": ["people.at"],
    "alter table people alter is_admin drop default; alter table people alter is_admin type text":
      ["people.is_admin"],
    "alter table people alter data type json": ["people.data"],
    "alter type mood rename value 'sad' to 'unhappy'": ["people.mood"],
  },
  {
    "alter table people rename age to years": ["people.age"],
    "alter table people alter name type int using name::int": ["people.name"],
    "alter table people alter mood type text; drop type mood; create type mood as enum ('happy'); alter table people alter mood type mood using mood::mood":
      ["people.mood"],
    "alter table posts drop constraint posts_author_people_id_fk; alter table people alter id drop default; alter table people alter id type text":
      ["people.id", "posts.author"],
  },
  {
    "alter table people alter age type text": ["people.age"],
    "alter table people drop name; alter table people add name text generated always as ('x') stored":
      ["people.name"],
  },
  { "alter table people rename to persons": ["people.null"] },
  {
    "create view other as select 1; alter table people rename to persons; create view people as select distinct * from persons":
      ["people.null"],
  },
  {
    "alter table people rename to persons; create view people as select id, upper(name) as name, mood, age, role, tags, at, born, ended, paid, is_admin, seen, data, nick_name, base, twice from persons":
      ["people.name"],
    "alter table lab.people drop note": ["lab.people.note"],
  },
  {
    "alter table people add phone text": [],
    "create type role as enum ('user', 'admin'); alter table people alter role drop default; alter table people alter role type role using role::role; alter table people alter role set default 'user'":
      [],
    "alter table people alter age type numeric; alter table people alter seen type numeric":
      [],
    "alter table people alter paid type numeric(12, 4)": [],
    "alter table people alter name type char(90)": [],
    "alter table people alter mood type text": [],
    "alter table posts drop constraint posts_author_people_id_fk": [],
    "create index on people (name); create table other (id int)": [],
    "alter table people add check (name <> '' and age > 7)": [],
  },
  {
    "alter table people alter paid type double precision": [],
    "alter table people add phone text not null default ''": [],
    "alter table people alter age type bigint": [],
    "alter table people alter name type varchar(9)": [],
    "alter table people alter name drop not null": [],
    "alter type mood add value 'calm'": [],
    "create view other as select * from posts; alter table posts rename constraint posts_pkey to again":
      [],
  },
  {
    "alter table people rename to persons; create view people as select * from persons":
      [],
  },
];

const convert =
  "add a column of the new type, write to both, and drop this one in a later deploy";

bunTest(
  "what the deployed code does is tried on the schema to come",
  async () => {
    const exported = { mood, people, posts, lab, others };
    const schema = await describeExports(exported, "", "snake_case");
    const made = (await diffRenamed(emptySnapshot, schema, [])).join(
      BREAKPOINT,
    );
    await withDatabase("empty", async ({ address }) => {
      await using sql = await openConnection(address, "tests");
      await using old = await openConnection(address, "tests");
      await sql.unsafe(made);
      // What failed before is not told.
      const absent = pg.pgTable("absent", { id: pg.integer() });
      const run = await prepareQueries(
        old,
        { ...exported, absent },
        "snake_case",
      );
      const listed: { changes: string[]; breaks: string[] }[] = [];
      const said = new Set<string>();
      for (const group of GROUPS) {
        const changes = Object.keys(group);
        await sql.unsafe(changes.join(";"));
        const breaks = await run();
        for (const { what, way } of breaks)
          if (!/no longer (?!boolean)|^is text/.test(what))
            said.add(`${what}: ${way}`);
        listed.push({
          changes,
          breaks: breaks
            .map(({ table, column }) => `${table}.${column}`)
            .sort(),
        });
        await sql.unsafe(
          "drop schema public, lab cascade; create schema public",
        );
        await sql.unsafe(made);
      }

      expect([...said].sort()).toEqual([
        "cannot be written any more: stop writing it in one deploy, and change it in the next",
        `does not compare with people any more: ${convert}`,
        `does not take all values of mood any more: ${convert}`,
        "has to be written, and is not: give it a default or leave it nullable, and require it in the deploy after the one that writes it",
        "is gone: add what takes its place, and drop it in the deploy after the one that stops using it",
        "is gone: stop using it in one deploy, and drop it in the next",
        `is integer, no longer boolean: ${convert}`,
      ]);
      expect(listed).toEqual(
        GROUPS.map((group) => ({
          changes: Object.keys(group),
          breaks: Object.values(group).flat().sort(),
        })),
      );
    });
  },
  300_000,
);

test(
  "db:check compares with the default branch, and calls it an error where it was asked to",
  "migrated",
  async ({ run, project, change }) => {
    await commit(project.folder, "main");
    const commitAll = $`git add drizzle.config.ts && git -c user.name=test -c user.email=test@localhost commit --quiet --amend --no-edit`;
    await commitAll.cwd(project.folder);
    change(image, "");
    await run("db:generate next");
    const accepted = `-- breaks-deployed: nobody uses it
alter table "users" drop column "name"`;
    addMigration(project, "0002_accepted", accepted);
    const own = await run("db:check --json --rows 0 --strict");
    await commit(project.folder, "work");
    const warned = await run("db:check --json");
    await $`git update-ref refs/remotes/origin/released main`.cwd(
      project.folder,
    );
    const TMPDIR = join(project.folder, "temporary");
    mkdirSync(TMPDIR);
    const asked = await run("db:check --deployed released --rows 0", {
      TMPDIR,
    });
    const unknown = await run("db:check --deployed nowhere --rows 0");
    const offline = await run("db:check --offline --deployed main");

    const broken = (output: string) =>
      JSON.parse(output).problems.filter(
        ({ code }: { code: string }) => code === "breaks_deployed",
      );
    expect(broken(own.stdout)).toEqual([]);
    expect(own.exitCode).toBe(3); // for warnings
    expect(broken(warned.stdout)).toMatchObject([
      { severity: "warning", file: `${migrations}/0001_next.sql` },
    ]);
    expect(warned.exitCode).toBe(0);
    expect(asked.stdout.match(/^Error: .*/gm)).toEqual([
      expect.stringMatching(
        /^Error: breaks_deployed: .*0001_next\.sql:1: users\.image is gone, which breaks the code of released/,
      ),
    ]);
    expect(asked.exitCode).toBe(3);
    expect(asked.stdout).toEndWith("\nChecked: 1 error, 5 warnings\n");
    expect(readdirSync(TMPDIR)).toEqual([]);
    expect(unknown.stderr).toContain("Not compared: git has no nowhere\n");
    expect(offline.exitCode).toBe(2);
  },
);
