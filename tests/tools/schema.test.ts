// What the functions of scripts/schema promise, each by itself.
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { $ } from "bun";
import { sql as S } from "drizzle-orm";
import * as pg from "drizzle-orm/pg-core";
import { describeBreaks } from "../../scripts/schema/deployed";
import { describeExports } from "../../scripts/schema/describe-schema";
import {
  printType,
  withoutTalk,
  writeStatements,
} from "../../scripts/schema/drizzle-kit";
import { lintMigrations } from "../../scripts/schema/lint";
import { drawDiagram } from "../../scripts/schema/mermaid";
import { printRelations, printSchema } from "../../scripts/schema/print-schema";
import {
  emptySnapshot,
  type Snapshot,
  type SnapshotColumn,
  type SnapshotReference,
} from "../../scripts/schema/snapshots";
import { root } from "../../src/env";
import { migrations } from "../lib/migrations";
import { schemaFile } from "../lib/schema-file";
import { testProject } from "../lib/test";

/** Words that cannot be the name of a constant. */
const RESERVED =
  "await break case catch class const continue debugger default delete do else enum export extends false finally for function if implements import in instanceof interface let new null package private protected public return static super switch this throw true try typeof var void while with yield arguments eval sql";

test("the lint names what locks a table for long, or takes what running code needs, and the ignored rules without a reason", async () => {
  const validated = `ALTER TABLE "a" ADD CONSTRAINT "c" CHECK ("b" > 0) NOT VALID;
ALTER TABLE "a" VALIDATE CONSTRAINT "c";`;
  const texts = {
    "all.sql": `ALTER TABLE "a" ADD COLUMN "b" int DEFAULT random();
ALTER TABLE "a" ADD CONSTRAINT "f" FOREIGN KEY ("b") REFERENCES "c" ("d");
ALTER TABLE "a" ADD COLUMN "b" bigint NOT NULL;
ALTER TABLE "a" ALTER COLUMN "b" SET NOT NULL;
ALTER TABLE "a" ADD PRIMARY KEY ("b");
ALTER DOMAIN "d" ADD CONSTRAINT "c" CHECK (value > 0);
ALTER TABLE "a" DROP COLUMN "b";
DROP DATABASE "d";
DROP TABLE "a";
TRUNCATE "a" CASCADE;
ALTER TABLE "a" ALTER COLUMN "b" TYPE text;
ALTER TABLE "a" ADD CONSTRAINT "u" UNIQUE ("b");
CREATE TABLE "${"x".repeat(64)}" ();
ALTER TABLE "a" RENAME COLUMN "b" TO "c";
ALTER TABLE "a" RENAME TO "c";
CREATE INDEX "i" ON "a" ("b");
DROP INDEX "i";
ALTER TABLE "a" DETACH PARTITION "p";
REINDEX INDEX "i";`,
    "alone.sql": `-- no-transaction\n${validated}\nCREATE INDEX "i" ON "a" ("b");`,
    "notes.sql": `${validated}
-- Loses: how far it has counted.
-- squawk-ignore ban-drop-table
DROP TABLE "a";
-- squawk-ignore ban-drop-table -- nobody reads it
DROP TABLE "b";`,
    "file.sql": "  --squawk-ignore-file\nselect 1;",
  };
  const folder = mkdtempSync(join(tmpdir(), "starter-lint-"));
  try {
    for (const [name, text] of Object.entries(texts))
      writeFileSync(join(folder, name), text);
    const prefix = relative(root, folder);
    const found = await lintMigrations(
      Object.keys(texts).map((name) => join(prefix, name)),
    );

    const lines = found.map(
      ({ file, line, rule }) => `${relative(prefix, file)}:${line} ${rule}`,
    );
    expect(lines).toEqual([
      "all.sql:1 adding-field-with-default",
      "all.sql:2 constraint-missing-not-valid",
      "all.sql:2 adding-foreign-key-constraint",
      "all.sql:3 adding-required-field",
      "all.sql:4 adding-not-nullable-field",
      "all.sql:5 constraint-missing-not-valid",
      "all.sql:5 adding-serial-primary-key-field",
      "all.sql:6 ban-alter-domain-with-add-constraint",
      "all.sql:7 ban-drop-column",
      "all.sql:8 ban-drop-database",
      "all.sql:9 ban-drop-table",
      "all.sql:10 ban-truncate-cascade",
      "all.sql:11 changing-column-type",
      "all.sql:12 constraint-missing-not-valid",
      "all.sql:12 disallowed-unique-constraint",
      "all.sql:13 identifier-too-long",
      "all.sql:14 renaming-column",
      "all.sql:15 renaming-table",
      "all.sql:16 require-concurrent-index-creation",
      "all.sql:17 require-concurrent-index-deletion",
      "all.sql:18 require-concurrent-partition-detach",
      "all.sql:19 require-concurrent-reindex",
      "notes.sql:2 constraint-missing-not-valid",
      "alone.sql:4 require-concurrent-index-creation",
      "notes.sql:3 loses",
      "notes.sql:4 squawk-ignore",
      "file.sql:1 squawk-ignore",
    ]);
    expect(found.slice(-3).map(({ message }) => message)).toEqual([
      "This loses how far it has counted. Remove the comment once you have read it.",
      "This ignores ban-drop-table without a reason: add `-- <reason>` to it.",
      "This ignores every rule without a reason: add `-- <reason>` to it.",
    ]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

testProject(
  "the default branch is the remote's, or one with a usual name; what differs from where this branch left it is told, also in a hook of git",
  async ({ folder, write }) => {
    const script = `
      import { $ } from "bun";
      import { compareWithDefaultBranch, findDefaultBranch } from "./scripts/schema/default-branch";
      import { author } from "${join(root, "tests/lib/git")}";
      const found = [];
      const note = async (command) => {
        await command;
        found.push(findDefaultBranch() ?? null);
      };
      const commit = () => $\`git add --all -- src && git \${author} commit --quiet --message=test\`;
      const edit = (file, text) => Bun.write("src/" + file, text);
      await $\`git init --quiet --initial-branch=work\`.cwd("..");
      await note(commit());
      await note($\`git branch master\`);
      await note($\`git branch main\`);
      await note($\`git update-ref refs/remotes/origin/master HEAD\`);
      await note($\`git update-ref refs/remotes/origin/main HEAD\`);
      await note($\`git symbolic-ref refs/remotes/origin/HEAD refs/remotes/origin/trunk\`);
      await note($\`git update-ref refs/remotes/origin/trunk HEAD\`);
      // The branch goes on.
      await edit("theirs.ts", "new");
      await commit();
      await $\`git update-ref refs/remotes/origin/trunk HEAD && git reset --quiet --hard HEAD~1\`;
      await edit("edited.ts", "new");
      await edit("added.ts", "new");
      await $\`git add src/added.ts && rm src/removed.ts\`;
      Object.assign(process.env, { GIT_DIR: "none", GIT_WORK_TREE: "/", GIT_INDEX_FILE: "none", GIT_PREFIX: "none" });
      const { branch, changed, has, read } = compareWithDefaultBranch("src");
      const has_ = ["edited.ts", "added.ts", "removed.ts", "é.ts"].filter((name) => has("src/" + name));
      const texts = ["edited.ts", "removed.ts", "added.ts"].map((name) => read("src/" + name));
      console.log(JSON.stringify({ found, branch, changed, has: has_, texts }));`;
    for (const name of ["edited", "removed", "theirs", "é"])
      write(`src/${name}.ts`, "old\n\n");

    const output = await $`${process.execPath} -e ${script}`.cwd(folder).text();

    expect(JSON.parse(output)).toEqual({
      found: [
        null,
        "master",
        "main",
        "origin/master",
        "origin/main",
        "origin/main",
        "origin/trunk",
      ],
      branch: "origin/trunk",
      changed: ["src/edited.ts"],
      has: ["edited.ts", "removed.ts", "é.ts"],
      texts: ["old\n", "old\n", ""],
    });
  },
);

test("a break is told where the migration that makes it has its name, and not where it is accepted", () => {
  const pending = [
    "alter table users\n  add x int",
    "alter table users\n  drop name",
    "-- what is seen\nalter table lab.posts drop title",
    "select 1",
  ].map((text, idx) => ({
    tag: `${idx}`,
    idx,
    when: idx,
    file: `${idx}.sql`,
    text,
    hash: "",
  }));
  const deployed = { ref: "main", exported: {}, casing: undefined };
  const tell = (isAsked: boolean, migrations = pending) =>
    describeBreaks(
      [
        ["users", "name"],
        ["users", null],
        ["lab.posts", "title"],
        ["other", "title"],
        ["other", "none"],
      ].map(([table = "", column = null]) => ({
        table: table ?? "",
        column,
        what: "is gone",
        way: "wait",
      })),
      migrations,
      { ...deployed, isAsked },
    ).map(
      ({ severity, code, tag, file, line, message }) =>
        `${severity} ${code} ${tag} ${file}:${line} ${message}`,
    );
  const said = (place: string, object: string, severity = "warning") =>
    `${severity} breaks_deployed ${place} ${object} is gone, which breaks the code of main: wait; or accept it with \`-- breaks-deployed: <reason>\``;
  const accept = (line: string) =>
    pending.map((one) => ({ ...one, text: `${one.text}\n${line}` }));

  expect(tell(false)).toEqual([
    said("1 1.sql:2", "users.name"),
    said("0 0.sql:1", "users"),
    said("2 2.sql:2", "lab.posts.title"),
    said("2 2.sql:2", "other.title"),
    said("3 3.sql:1", "other.none"),
  ]);
  expect(tell(true)[0]).toBe(said("1 1.sql:2", "users.name", "error"));
  expect(tell(true, [])).toEqual([]);
  expect(tell(true, accept("  --breaks-deployed: nobody uses it"))).toEqual([]);
  expect(tell(true, accept("-- breaks-deployed: "))).toHaveLength(5);
});

test("drizzle-kit is silent, and what it says before it ends the process is an error", () => {
  const { exit } = process;
  const { log } = console;

  expect(withoutTalk(() => console.log("x") ?? 1)).toBe(1);
  expect(() =>
    withoutTalk(() => {
      console.log("\u001b[31m Warning \u001b[0m", "two");
      console.log("  tables ");
      process.exit(1);
    }),
  ).toThrow(/^two tables$/);
  expect([process.exit, console.log]).toEqual([exit, log]);
});

test("a type is printed as SQL, and quoted where it is a name that needs it", () => {
  const print = (type: string, typeSchema?: string) =>
    printType({
      name: "x",
      type,
      typeSchema,
      primaryKey: false,
      notNull: false,
    });

  expect([
    print("text"),
    print("numeric(10, 2)[]"),
    print("DATE"),
    print("ownType[3][]"),
    print("Own"),
    print("own-type"),
    print("own.Type"),
    print("mood", "public"),
    print("Mood[]", "a-b"),
  ]).toEqual([
    "text",
    "numeric(10, 2)[]",
    "DATE",
    '"ownType"[3][]',
    '"Own"',
    '"own-type"',
    "own.Type",
    '"mood"',
    '"a-b"."Mood"[]',
  ]);
});

test("a policy of a table that others made is in the SQL", async () => {
  const theirs = pg.pgTable("theirs", { id: pg.integer() });
  const policy = pg
    .pgPolicy('o;w"n', { to: 'r;o"le', using: S`id > 0`, withCheck: S`id > 1` })
    .link(theirs);
  const schema = await describeExports({ policy }, "");

  expect(await writeStatements(emptySnapshot, schema)).toEqual([
    'CREATE POLICY "o;w""n" ON "public"."theirs" AS PERMISSIVE FOR ALL TO "r;o""le" USING (id > 0) WITH CHECK (id > 1);',
  ]);
});

test("a default is SQL of its type", async () => {
  const columns = {
    json: pg.jsonb().default('{"a": 1}'),
    no: pg.jsonb().default("{"),
    booleans: pg.boolean().array().default([true, false]),
    nulls: pg
      .text()
      .array()
      .default([null, undefined, "a"] as never),
    none: pg.text(),
    zero: pg.integer().default(0),
    empty: pg.text().default(""),
    own: pg
      .customType<{ data: { a: number } }>({
        dataType: () => "own",
        toDriver: ({ a }) => `it's ${a}`,
      })()
      .default({ a: 1 }),
    driven: pg
      .customType<{ data: { a: number } }>({
        dataType: () => "own",
        toDriver: ({ a }) => S`own(${a})`,
      })()
      .default({ a: 1 }),
  };
  const { tables } = await describeExports({ t: pg.pgTable("t", columns) }, "");
  const { params } = new pg.PgDialect().sqlToQuery(S`${1}`);

  expect(
    Object.values(tables["public.t"]?.columns ?? {}).map(
      ({ name, default: value }) => [name, value],
    ),
  ).toEqual([
    ["json", `'{"a": 1}'`],
    ["no", `'"{"'::jsonb`],
    ["booleans", "'{true,false}'"],
    ["nulls", `'{NULL,NULL,"a"}'`],
    ["none", undefined],
    ["zero", 0],
    ["empty", "''"],
    ["own", "'it''s 1'"],
    ["driven", "own(1)"],
  ]);
  expect(params).toEqual([1]);
});

test("a default that cannot be printed is refused by name, and what a view and a table share, too", async () => {
  const broken = pg.customType<{ data: object }>({
    dataType: () => "own",
    toDriver: () => {
      throw new Error("no");
    },
  });
  const own = pg.pgTable("t", { x: broken("y").default({}) });
  const lab = pg.pgSchema("lab");
  const v = lab.view("v", { x: pg.text() }).as(S`select 1`);
  const key = lab.table("a", { x: pg.text(), y: pg.text() }, (t) => [
    pg.primaryKey({ columns: [t.x, t.y], name: "v" }),
  ]);
  const counted = pg.pgTable("b", {
    x: pg.integer().generatedAlwaysAsIdentity({ name: "w" }),
  });
  const pairs = {
    "default of t.y: no": { own },
    "have the name lab.v": { lab, v, key },
    "have the name public.w": { counted, w: pg.pgSequence("w") },
    "the index public.i exists twice": {
      a: pg.pgTable("a", { x: pg.text() }, (t) => [pg.index("i").on(t.x)]),
      b: pg.pgTable("b", { x: pg.text() }, (t) => [pg.index("i").on(t.x)]),
    },
    "the table public.a exists twice": {
      a: pg.pgTable("a", { x: pg.text() }),
      b: pg.pgTable("a", { x: pg.text() }),
    },
  };
  for (const [message, exported] of Object.entries(pairs))
    await expect(describeExports(exported, "")).rejects.toThrow(message);
});

test("what is read of a database is printed with the names and types that drizzle has", () => {
  const types = [
    ...["smallint", "integer", "bigint", "serial", "smallserial", "bigserial"],
    ...["real", "double precision", "numeric", "numeric(10, 2)"],
    ...["numeric(3, -2)", "boolean", "text", "varchar", "varchar(9)", "char"],
    ...["char(4)", "json", "jsonb", "uuid", "inet", "cidr", "macaddr"],
    ...["macaddr8", "point", "line", "date", "time", "time (3)"],
    ...["time with time zone", "timestamp", "timestamp (3) with time zone"],
    ...["interval", "interval year", "interval month", "interval day"],
    ...["interval hour", "interval minute", "interval second"],
    ...["interval year to month", "interval day to hour"],
    ...["interval day to minute", "interval day to second"],
    ...["interval hour to minute", "interval hour to second"],
    ...["interval minute to second", "interval(3)", "interval second(3)"],
    ...["bit(3)", "bit", "vector(3)", "halfvec(3)", "sparsevec(3)"],
    ...["text[]", "varchar(9)[][]", "own type", "own-type", "own type[]"],
  ];
  const defaults = [
    ...["integer 7", "integer -7", "bigint 9007199254740993", "smallint 1.5"],
    ...["text 7", "boolean true", "boolean false", "text true"],
    ...["timestamp now()", "date now()", "time now()", "text now()"],
    ...["uuid gen_random_uuid()", "text gen_random_uuid()"],
    ...["text[] '{}'::text[]", "jsonb '{}'::jsonb", "text 'it''s'::text"],
    ...["varchar(9) 'a'::character varying", "char(4) 'a'::bpchar"],
    ...["own 'a'::text", "text 'a'::text || 'b'::text", "text `${\\}`"],
  ];
  const column = (name: string, type: string): SnapshotColumn => ({
    name,
    type,
    primaryKey: false,
    notNull: false,
  });
  const table = (name: string, columns: SnapshotColumn[], schema = "") => ({
    name,
    schema,
    columns: Object.fromEntries(columns.map((one) => [one.name, one])),
    indexes: {},
    foreignKeys: {},
    compositePrimaryKeys: {},
    uniqueConstraints: {},
    checkConstraints: {},
    policies: {},
    isRLSEnabled: false,
  });
  const names = [
    "class",
    "text",
    "2fa",
    "ID",
    "URL_path",
    "naïve",
    "a b",
    "a_b",
    "$x",
    "-",
  ];
  const link = (
    name: string,
    from: string,
    tableTo: string,
    schemaTo?: string,
  ) => ({
    name,
    tableFrom: "",
    tableTo,
    schemaTo,
    columnsFrom: [from],
    columnsTo: ["id"],
  });
  const key = (name: string) => ({
    ...column(name, "integer"),
    primaryKey: true,
    notNull: true,
  });
  const links = (...list: SnapshotReference[]) => ({
    foreignKeys: Object.fromEntries(list.map((one) => [one.name, one])),
  });
  const snapshot: Snapshot = {
    ...emptySnapshot,
    schemas: { lab: "lab" },
    tables: {
      "public.types": table(
        "types",
        types.map((type, index) => column(`c${index}`, type)),
      ),
      "public.defaults": table(
        "defaults",
        defaults.map((text, index) => {
          const [type = ""] = text.split(" ");
          return {
            ...column(`c${index}`, type),
            default: text.slice(type.length + 1),
          };
        }),
      ),
      ...Object.fromEntries(
        names.map((name) => [
          `public.${name}`,
          table(name, [column(name, "text")]),
        ]),
      ),
      "public.twins": table("twins", [
        column("a b", "text"),
        column("a_b", "text"),
        column("A b", "text"),
        column("a_b2", "text"),
      ]),
      "public.own_type": table("own_type", [key("id")]),
      "public.one": {
        ...table("one", [
          key("id"),
          column("twoId", "integer"),
          column("id_", "integer"),
        ]),
        ...links(
          link("one_two", "twoId", "two"),
          link("one_own", "id_", "own_type", "public"),
          link("one_lab", "id_", "t", "lab"),
        ),
      },
      "public.two": {
        ...table("two", [key("id"), column("two_id", "integer")]),
        ...links(
          link("two_one", "id", "one"),
          link("two_two", "two_id", "two"),
          link("two_again", "two_id", "one"),
        ),
      },
      "public.three": {
        ...table("three", [key("id")]),
        ...links(link("three_one", "id", "one"), {
          ...link("three_twins", "id", "twins"),
          columnsTo: ["a_b"],
        }),
      },
      "lab.t": {
        ...table(
          "t",
          [{ ...column("m", "mood[]"), typeSchema: "lab" }, key("id")],
          "lab",
        ),
        ...links(link("t_one", "id", "one")),
      },
    },
    enums: { "lab.mood": { name: "mood", schema: "lab", values: ["a"] } },
  };

  const printed = printSchema(snapshot, ["public"]);
  const imported = printed.match(/(?<=^  )\w+(?=,$)/gm) ?? [];
  const words = [...imported, ...RESERVED.split(" ")];
  const reserved = printSchema(
    {
      ...snapshot,
      tables: {
        ...snapshot.tables,
        ...Object.fromEntries(
          words.map((word) => [
            `public.${word}`,
            table(word, [column(word, "text")]),
          ]),
        ),
      },
    },
    ["public"],
  );

  expect(printed).toMatchSnapshot();
  // A word of the language, or a name that is there twice, would not load.
  new Bun.Transpiler({ loader: "ts" }).transformSync(reserved);
  expect(printRelations(snapshot, ["public"])).toMatchSnapshot();
  expect(
    printRelations({ ...snapshot, tables: { "public.a": table("a", []) } }, [
      "public",
    ]),
  ).toBeUndefined();
});

test("the diagram tells one from many, and what has to be there from what may", async () => {
  const lab = pg.pgSchema("lab");
  const mood = pg.pgEnum("mood", ["sad", "ok|"]);
  const one = pg.pgTable("one", {
    id: pg.integer().primaryKey(),
    name: pg.text(),
  });
  const to = () => pg.integer().references(() => one.id);
  const many = pg.pgTable(
    "many",
    {
      a: to(),
      b: to().unique(),
      c: to().notNull(),
      d: to().primaryKey(),
      e: to(),
      f: to(),
    },
    (t) => [
      pg
        .uniqueIndex("many_e")
        .on(t.e)
        .where(S`${t.e} | 1 > 2`),
      pg.uniqueIndex("many_f").on(t.f),
      pg.uniqueIndex("many_a").on(S`a`),
    ],
  );
  const pair = lab.table(
    "A pair",
    {
      a: pg.integer().notNull(),
      b: pg.text().default("日本\n|"),
      sum: pg.integer().generatedAlwaysAs(S`a + 1`),
    },
    (t) => [
      pg.primaryKey({ columns: [t.a, t.b] }),
      pg.check("positive", S`a > 0`),
      pg.index("pair_b").on(t.b.desc(), t.a),
      pg.foreignKey({ columns: [t.b], foreignColumns: [one.name] }),
    ],
  );
  const last = pg.pgTable(
    "last",
    { a: pg.integer().notNull(), b: pg.text(), c: pg.text() },
    (t) => [
      pg
        .foreignKey({ columns: [t.a, t.b], foreignColumns: [pair.a, pair.b] })
        .onDelete("cascade"),
      pg.foreignKey({ columns: [t.b], foreignColumns: [t.c] }),
      pg.unique().on(t.a, t.b),
    ],
  );

  expect(
    drawDiagram(
      await describeExports({ last, mood, lab, pair, one, many }, ""),
    ),
  ).toMatchSnapshot();
});

testProject(
  "a snapshot is read with what older versions left out, by its tag, as the parent of another, and refused where it is not of version 7",
  async ({ folder, write }) => {
    const meta = `${migrations}/meta`;
    const column = { primaryKey: false, notNull: false };
    const names = { a: "mood", b: "mood[]", c: "mood[3][]", d: "text" };
    const columns = Object.fromEntries(
      Object.entries(names).map(([name, type]) => [
        name,
        { ...column, name, type },
      ]),
    );
    const snapshot = (id: string, prevId: string, more = {}) => {
      const tables = {
        "public.t": { name: "t", schema: "", columns, ...more },
      };
      const enums = {
        "lab.mood": { name: "mood", schema: "lab", values: ["x"] },
      };
      return JSON.stringify({ version: "7", id, prevId, tables, enums });
    };
    const files = {
      "0000": snapshot("0", emptySnapshot.id),
      "0001": snapshot("1", "0", { isRLSEnabled: true }),
      "0002": '{ "version": "6", "id": "2", "prevId": "1", "tables": {} }',
      "0003": '<<<<<<< HEAD\n{ "prevId": "0" }',
      "0004": '{ "version": "7", "id": "4", "prevId": "0" }',
      "0005": snapshot("5", "0"),
    };
    for (const [number, text] of Object.entries(files))
      write(`${meta}/${number}_snapshot.json`, text);
    const script = `
      import * as snapshots from "./scripts/schema/snapshots";
      const { readSnapshot, readParent, findFork } = snapshots;
      const tried = ["0000_a", "0001_b", "0002_c", "0003_d", "0004_e", "0009_none"].map((tag) => {
        try {
          return readSnapshot(tag) ?? null;
        } catch ({ message, code, hint, details }) {
          return { message, code, hint, details };
        }
      });
      const list = (...tags) => tags.map((tag) => ({ tag }));
      const parent = (prevId, ...tags) => readParent(list(...tags), { prevId })?.id ?? null;
      const fork = (...tags) => Object.values(findFork(list(...tags)) ?? {}).map(({ tag }) => tag).join();
      console.log(JSON.stringify({
        tried,
        ids: snapshots.readSnapshots().map(({ id }) => id).sort(),
        parents: [
          parent(snapshots.emptySnapshot.id),
          parent("1", "0000_a", "0001_b", "0005_f"),
          parent("1", "0000_a"),
        ],
        forks: [
          fork("0000_a", "0001_b", "0005_f"),
          fork("0000_a", "0000_b"),
          fork("0000_a", "0001_b", "0003_d", "0009_none"),
          fork("0003_d", "0003_e"),
        ],
      }));`;

    const output = await $`${process.execPath} -e ${script}`.cwd(folder).text();

    const filled = (id: string, prevId: string, isRLSEnabled: boolean) => ({
      ...emptySnapshot,
      ...{ id, prevId },
      enums: { "lab.mood": { name: "mood", schema: "lab", values: ["x"] } },
      tables: {
        "public.t": {
          ...{ name: "t", schema: "", policies: {}, checkConstraints: {} },
          isRLSEnabled,
          columns: Object.fromEntries(
            Object.entries(columns).map(([name, one]) => [
              name,
              name === "d" ? one : { ...one, typeSchema: "lab" },
            ]),
          ),
        },
      },
    });
    const refused = (number: string, name: string, reason: string) => {
      const file = `${meta}/${number}_snapshot.json`;
      return {
        message: `${file} cannot be read: ${reason}`,
        code: "SNAPSHOT_INVALID",
        hint: `restore it from git: \`git log --all -- ${file}\` lists its commits`,
        details: { tag: `${number}_${name}`, file },
      };
    };
    expect(JSON.parse(output)).toEqual({
      tried: [
        filled("0", emptySnapshot.id, false),
        filled("1", "0", true),
        refused("0002", "c", "it is of version 6, not of version 7"),
        {
          ...refused("0003", "d", ""),
          message: expect.stringMatching(
            /0003_snapshot.json cannot be read: ./,
          ),
        },
        refused("0004", "e", "it has no tables"),
        null,
      ],
      ids: ["0", "1", "5"],
      parents: [emptySnapshot.id, "1", null],
      forks: ["0001_b,0005_f", "0000_a,0000_b", "", "0003_d,0003_e"],
    });
  },
);

testProject(
  "the deployed schema is that of its own tree in git, with the packages of this folder and of the one around it",
  async ({ folder, write, replace }) => {
    // Outside of the folder, where its packages are not found.
    const temporary = mkdtempSync(join(tmpdir(), "starter-deployed-"));
    write("../node_modules/around/index.js", "export const word = 'around';");
    replace(
      schemaFile,
      "export const users =",
      'import { word } from "around";\nexport { word };\nexport const users =',
    );
    replace("drizzle.config.ts", "schema:", 'casing: "snake_case", schema:');
    const script = `
      import { readdirSync } from "node:fs";
      import { $ } from "bun";
      import { readDeployed } from "./scripts/schema/deployed";
      import { author } from "${join(root, "tests/lib/git")}";
      process.env.TMPDIR = "${temporary}";
      const found = [];
      const read = async (asked) => {
        const deployed = await readDeployed(asked);
        const { exported, ...rest } = deployed ?? {};
        found.push(deployed ? { ...rest, word: exported.word, hasTables: "tenants" in exported } : null);
      };
      const commit = async () => await $\`git add --all -- src drizzle.config.ts && git \${author} commit --quiet --message=test\`;
      await $\`git init --quiet --initial-branch=main\`.cwd("..");
      await commit();
      await read();
      await $\`git update-ref refs/remotes/origin/main HEAD\`;
      await read();
      await $\`git update-ref refs/remotes/origin/released HEAD && git checkout --quiet -b work\`;
      await Bun.write("${schemaFile}", "export const broken = ;");
      await Bun.write("drizzle.config.ts", (await Bun.file("drizzle.config.ts").text()).replace("snake_case", "camelCase"));
      await commit();
      await read();
      await read("released");
      await read("nowhere");
      await read("work");
      console.log(JSON.stringify({ found, left: readdirSync("${temporary}") }));`;

    const output = await $`${process.execPath} -e ${script}`
      .cwd(folder)
      .quiet();

    const same = { casing: "snake_case", word: "around", hasTables: true };
    expect(JSON.parse(String(output.stdout))).toEqual({
      found: [
        null,
        null,
        { ref: "origin/main", isAsked: false, ...same },
        { ref: "released", isAsked: true, ...same },
        null,
        null,
      ],
      left: [],
    });
    expect(String(output.stderr)).toMatch(
      /^Not compared: the schema of work cannot be loaded: .+\n$/,
    );
    rmSync(temporary, { recursive: true });
  },
);
