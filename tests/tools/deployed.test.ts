// What db:check says of a schema on which the deployed code fails.
import { expect, test as bunTest } from "bun:test";
import { $ } from "bun";
import * as pg from "drizzle-orm/pg-core";
import { openConnection } from "../../scripts/lib/connection";
import { listBreaks } from "../../scripts/schema/deployed";
import { describeExports } from "../../scripts/schema/describe-schema";
import { BREAKPOINT, diffRenamed } from "../../scripts/schema/down-file";
import { emptySnapshot } from "../../scripts/schema/snapshots";
import { withDatabase } from "../lib/database";
import { commit } from "../lib/git";
import { migrations } from "../lib/migrations";
import { image, listMigrations } from "../lib/schema-file";
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
});
const posts = pg.pgTable("posts", {
  id: pg.integer().primaryKey().generatedAlwaysAsIdentity(),
  author: pg.uuid().references(() => people.id),
});

const BREAKS: Record<string, string[]> = {
  "alter table people drop column age": ["people.age"],
  "alter table people rename name to title": ["people.name", "people.title"],
  "alter table people rename age to years": ["people.age"],
  "alter table people rename to persons": ["people.null"],
  "drop table posts": ["posts.null"],
  "alter table people add phone text not null": ["people.phone"],
  "alter table people alter age set not null": ["people.age"],
  "alter table people alter role drop default": ["people.role"],
  "alter table people alter age type text": ["people.age"],
  "alter table people alter at type timestamp": ["people.at"],
  "alter table people alter tags type text using tags[1]": ["people.tags"],
  "alter table posts alter id drop identity": ["posts.id"],
  "alter table people add phone text": [],
  "alter table people add phone text not null default ''": [],
  "alter table people alter age type bigint": [],
  "alter table people alter name type varchar(9)": [],
  "alter table people alter mood type text": [],
  "alter table people alter name drop not null": [],
  "alter table posts drop constraint posts_author_people_id_fk": [],
  "alter type mood add value 'calm'": [],
  "create index on people (name); create table other (id int)": [],
  "alter table people add check (name <> '' and age > 7)": [],
  "alter table people rename to persons; create view people as select * from persons":
    [],
  "create view other as select * from posts; alter table posts rename constraint posts_pkey to again":
    [],
};

bunTest(
  "what the deployed code does is tried on the schema to come",
  async () => {
    const schema = await describeExports({ mood, people, posts }, "");
    const made = (await diffRenamed(emptySnapshot, schema, [])).join(
      BREAKPOINT,
    );
    await withDatabase("empty", async ({ address }) => {
      await using sql = await openConnection(address, "tests");
      const found: Record<string, string[]> = {};
      for (const text of Object.keys(BREAKS)) {
        await sql.unsafe("drop schema public cascade; create schema public");
        await sql.unsafe(made);
        expect(await listBreaks(sql, schema)).toEqual([]);
        await sql.unsafe(text);
        const breaks = await listBreaks(sql, schema);
        found[text] = breaks.map(({ table, column }) => `${table}.${column}`);
      }

      expect(found).toEqual(BREAKS);
    });
  },
  60_000,
);

test(
  "db:check compares with the default branch, and calls it an error where it was asked to",
  "migrated",
  async ({ run, change, project }) => {
    await commit(project.folder, "main");
    const commitAll = $`git add drizzle.config.ts && git -c user.name=test -c user.email=test@localhost commit --quiet --amend --no-edit`;
    await commitAll.cwd(project.folder);
    change(image, "");
    await run("db:generate next");
    await commit(project.folder, "work");
    const warned = await run("db:check --json");
    const asked = await run("db:check --deployed main --rows 0");
    const unknown = await run("db:check --deployed nowhere");
    const [file] = listMigrations(project).filter((name) =>
      name.endsWith("_next.sql"),
    );
    const text = project.read(`${migrations}/${file}`);
    project.write(
      `${migrations}/${file}`,
      `-- breaks-deployed: nobody uses it\n${text}`,
    );
    const accepted = await run("db:check --deployed main");

    const broken = (output: string) =>
      JSON.parse(output).problems.filter(
        ({ code }: { code: string }) => code === "breaks_deployed",
      );
    expect(broken(warned.stdout)).toMatchObject([
      { severity: "warning", file: `${migrations}/${file}` },
    ]);
    expect(warned.exitCode).toBe(0);
    expect(asked.stdout).toContain("Error: breaks_deployed: ");
    expect(asked.stdout).toContain(
      "users.image is gone, and the code of main uses it",
    );
    expect(asked.exitCode).toBe(3);
    expect(unknown.stderr).toContain("Not compared: git has no nowhere\n");
    expect(accepted.stdout).not.toContain("breaks_deployed");
  },
);
