// What the functions promise with which db:generate writes a migration, each by itself.
import { expect, test } from "bun:test";
import { sql as S } from "drizzle-orm";
import * as pg from "drizzle-orm/pg-core";
import { addSuffix } from "../../scripts/schema/back-fill";
import { askRenames } from "../../scripts/schema/ask-renames";
import { describeExports } from "../../scripts/schema/describe-schema";
import { diffSnapshots } from "../../scripts/schema/diff-snapshots";
import { BREAKPOINT, printDown } from "../../scripts/schema/down-file";
import { listEffects } from "../../scripts/schema/effects";
import { KEEP_START, keepExtras } from "../../scripts/schema/keep-extras";
import { writeOnline } from "../../scripts/schema/online";
import { readRenames, type Rename } from "../../scripts/schema/renames";
import { listWider, retypeColumns } from "../../scripts/schema/retype";
import type { Snapshot, SnapshotView } from "../../scripts/schema/snapshots";

const describe = (exported: Record<string, unknown>) =>
  describeExports(exported, "");

type Part = (t: { x: pg.ExtraConfigColumn }) => pg.PgTableExtraConfigValue;
/** Describes a table `t` with one column `x`, and others. */
const describeTable = (
  x: pg.PgColumnBuilderBase,
  part?: Part,
  others: Record<string, unknown> = {},
  columns: Record<string, pg.PgColumnBuilderBase> = {},
) =>
  describe({
    t: pg.pgTable("t", { x, ...columns }, (t) => (part ? [part(t)] : [])),
    ...others,
  });

const big = () => pg.bigint({ mode: "number" });
const custom = (type: string) =>
  pg.customType<{ data: string }>({ dataType: () => type })();
const mood = pg.pgEnum("mood", ["sad", "ok"]);

test("the effects of SQL are what it creates, drops and adds, and not what it takes back", () => {
  const texts: Record<string, string[]> = {
    [`create table T (id int, "B c" numeric(3, 2), constraint k check (a > 0), primary key (id),
      unique (id), check (id > 0), foreign key (id) references o (x, y), exclude using gist (r with &&), like o)`]:
      ["CREATE TABLE t", "ADD COLUMN t.id", "ADD COLUMN t.B c"],
    'CREATE TABLE IF NOT EXISTS lab."T""x" (checked int)': [
      'CREATE TABLE lab.T"x',
      'ADD COLUMN lab.T"x.checked',
    ],
    "CREATE TABLE public.t AS (SELECT 1)": ["CREATE TABLE t"],
    "CREATE TEMP TABLE t (id int); CREATE TEMPORARY TABLE u (id int)": [],
    "CREATE INDEX type ON t (a); CREATE UNIQUE INDEX view ON t (a)": [],
    "CREATE FUNCTION f() RETURNS TABLE (a int) LANGUAGE sql AS 'x'": [],
    "CREATE TYPE lab.mood AS ENUM ('a'); CREATE SEQUENCE s; CREATE SCHEMA z": [
      "CREATE TYPE lab.mood",
      "CREATE SEQUENCE s",
      "CREATE SCHEMA z",
    ],
    "CREATE MATERIALIZED VIEW v AS SELECT 1; CREATE VIEW w (a) AS SELECT 1": [
      "CREATE VIEW v",
      "CREATE VIEW w",
    ],
    "DROP TABLE IF EXISTS a, lab.b": ["DROP TABLE a", "DROP TABLE lab.b"],
    "DROP INDEX i; DROP VIEW lab.v": ["DROP VIEW lab.v"],
    [`ALTER TABLE ONLY t ADD COLUMN IF NOT EXISTS a int DEFAULT f(1, 2), ADD b text,
      DROP COLUMN IF EXISTS c, DROP d, ADD CONSTRAINT k CHECK (true), DROP CONSTRAINT l,
      ALTER COLUMN e DROP NOT NULL, ADD UNIQUE (a), VALIDATE CONSTRAINT m`]: [
      "ADD COLUMN t.a",
      "ADD COLUMN t.b",
      "DROP COLUMN t.c",
      "DROP COLUMN t.d",
    ],
    "ALTER TYPE mood ADD VALUE 'x'; ALTER TABLE t ENABLE ROW LEVEL SECURITY":
      [],
    "COMMENT ON TABLE t IS 'x'; SELECT 'CREATE TABLE x'": [],
    "DROP VIEW v; CREATE VIEW v AS SELECT 1": [],
    "CREATE TYPE m AS ENUM ('a'); DROP TYPE m": [],
    "ALTER TABLE t DROP COLUMN a; ALTER TABLE t ADD COLUMN a int": [],
    "ALTER TABLE t ADD COLUMN a int; ALTER TABLE t DROP COLUMN a": [],
    "ALTER TABLE t ADD a int; ALTER TABLE t RENAME TO tt": ["ADD COLUMN tt.a"],
    "ALTER TABLE t ADD a int; ALTER TABLE o RENAME COLUMN t TO u": [
      "ADD COLUMN t.a",
    ],
    [`DO $$ BEGIN CREATE TYPE a AS ENUM ('x'); EXCEPTION WHEN duplicate_object THEN null; END $$;
      do $$ begin create type b as enum ('x');
      exception when duplicate_object then null; end $$;`]: [
      "CREATE TYPE a",
      "CREATE TYPE b",
    ],
  };

  expect(
    Object.keys(texts).map((text) => [text, [...listEffects(text)]]),
  ).toEqual(Object.entries(texts));
});

test("a down file names what it does not undo: what snapshots do not have, and not what they have in other words", async () => {
  const before = await describe({ t: pg.pgTable("t", { a: pg.text() }) });
  const after = await describe({
    t: pg.pgTable("t", { a: pg.text(), b: pg.text() }),
  });
  const list = async (statements: string[], own?: string[], from = before) => {
    const text = statements.join(`;${BREAKPOINT}`);
    return (await printDown(from, after, text, new Set(own))).split("\n");
  };
  const named = [
    "UPDATE t SET b = 'x  y'",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'select 1'",
    "CREATE EXTENSION citext",
    "GRANT SELECT ON t TO public",
    "CREATE TABLE by_hand (id int)",
    "CREATE MATERIALIZED VIEW m AS SELECT 1",
    "CREATE SCHEMA by_hand",
  ];
  const known = [
    'ALTER TABLE "t" ADD COLUMN "b" text',
    ...["BEGIN", "COMMIT", "START TRANSACTION", "END", "SET a = 1"],
    "CREATE INDEX i ON t (a)",
    "CREATE UNIQUE INDEX j ON t (a)",
    "CREATE INDEX CONCURRENTLY k ON t (a)",
    "ALTER SEQUENCE s RESTART",
    "ALTER TYPE mood ADD VALUE 'x'",
    "ALTER ROLE r LOGIN",
    "ALTER MATERIALIZED VIEW m OWNER TO r",
    "ALTER VIEW v OWNER TO r",
    "ALTER SCHEMA lab OWNER TO r",
    "DROP POLICY p ON t",
    `${KEEP_START} '[]', false)`,
  ];
  const own = "UPDATE t\n  SET b =\n 'z'";
  const heading = "-- Not undone here, for snapshots do not know of it:";
  const down = 'ALTER TABLE "t" DROP COLUMN "b";';

  expect(
    await list(["alter table t add b text", ...named, own, ...known.slice(1)]),
  ).toEqual([
    heading,
    ...named.map((text) => `--   ${text.replace("x  y", "x y")}`),
    "--   UPDATE t SET b = 'z'",
    down,
    "",
  ]);
  expect(await list([...known, own], [own])).toEqual([down, ""]);
  expect(await list(known.slice(6, 8), [], after)).toEqual([
    heading,
    "--   CREATE INDEX i ON t (a)",
    "--   CREATE UNIQUE INDEX j ON t (a)",
    "",
    "",
  ]);
});

test("a down file says of each statement what it cannot restore, or when it fails", async () => {
  const t = (columns: Record<string, pg.PgColumnBuilderBase>) =>
    describe({ t: pg.pgTable("t", { a: pg.text(), ...columns }) });
  const comment = async (
    before: Record<string, pg.PgColumnBuilderBase>,
    after: Record<string, pg.PgColumnBuilderBase> = {},
  ) => {
    const down = await printDown(await t(before), await t(after), "");
    return /^-- (.*)$/m.exec(down)?.[1];
  };
  const isEmpty = "The column comes back empty: its values are gone.";

  expect(await printDown(await t({}), await describe({}), "")).toStartWith(
    "-- The table comes back empty: its rows are gone.\nCREATE TABLE",
  );
  expect([
    await comment({ b: pg.text() }),
    await comment({ b: pg.text().notNull() }),
    await comment({ b: pg.text().notNull().default("x") }),
    await comment({ b: pg.serial() }),
    await comment({ b: pg.bigserial({ mode: "number" }) }),
    await comment({ b: pg.smallserial() }),
    await comment({ b: pg.integer().generatedAlwaysAsIdentity() }),
    await comment({
      b: pg
        .text()
        .generatedAlwaysAs(S`a || 'x'`)
        .notNull(),
    }),
    await comment({ b: pg.text() }, { b: big() }),
    await comment({ b: big() }, { b: pg.text() }),
    await comment({ b: big() }, { b: pg.integer() }),
    await comment({ b: pg.text().notNull() }, { b: pg.text() }),
    await comment({ b: pg.text() }, { b: pg.text().notNull() }),
  ]).toEqual([
    isEmpty,
    "The column comes back empty, which fails while its table has rows.",
    ...Array(5).fill(isEmpty),
    undefined,
    undefined,
    "This fails where a value does not fit the type.",
    undefined,
    "This fails while a row has no value.",
    undefined,
  ]);
  const less = await printDown(
    await describe({ mood, t: pg.pgTable("t", { m: mood() }) }),
    await describe({
      mood: pg.pgEnum("mood", ["sad", "ok", "new", "it's"]),
      t: pg.pgTable("t", { m: pg.pgEnum("mood", ["sad", "ok"])() }),
    }),
    "",
  );
  expect(less).toContain(
    "-- This fails while a row has one of the values that go: 'new', 'it's'.\nALTER TABLE",
  );
});

test("each change of a type is made with a second column, or not at all, or says why it blocks; the wider ones are known", async () => {
  const depends = "the cast may depend on the session";
  const counts = "the column also changes how it counts";
  const second = "a second column";
  const grows = "grows";
  const [char, varchar] = [pg.char({ length: 3 }), pg.varchar];
  const numeric = (precision?: number, scale?: number) =>
    pg.numeric({ precision, scale } as { precision: number });
  const identity = () => pg.integer().generatedAlwaysAsIdentity();
  type Kind = [from: object, to: object, how: string, isWider?: boolean];
  const kinds: Kind[] = [
    [pg.smallint(), pg.integer(), second, true],
    [pg.integer(), big(), second, true],
    [pg.smallint(), big(), second, true],
    [big(), pg.smallint(), second],
    [big(), numeric(), second],
    [numeric(), big(), second],
    [pg.integer(), pg.real(), second],
    [pg.real(), pg.doublePrecision(), second],
    [pg.doublePrecision(), numeric(), second],
    [pg.text(), pg.varchar({ length: 9 }), second],
    [pg.text(), char, second],
    [char, pg.text(), second],
    [pg.text(), pg.smallint(), second],
    [pg.text(), numeric(), second],
    [varchar({ length: 9 }), pg.uuid(), second],
    [pg.uuid(), pg.text(), second],
    [numeric(), pg.text(), second],
    [pg.integer(), pg.text(), second],
    [pg.boolean(), pg.text(), second],
    [pg.json(), pg.jsonb(), second],
    [numeric(5, 2), numeric(7, 3), second],
    [numeric(7, 2), numeric(5, 2), second],
    [numeric(), numeric(5), second],
    [varchar(), varchar({ length: 9 }), second],
    [varchar({ length: 9 }), varchar({ length: 8 }), second],
    [pg.serial(), pg.bigserial({ mode: "number" }), second, true],
    [identity(), big().generatedAlwaysAsIdentity(), second, true],
    [varchar({ length: 9 }), varchar({ length: 10 }), grows, true],
    [varchar({ length: 9 }), varchar(), grows, true],
    [varchar({ length: 9 }), pg.text(), grows, true],
    [pg.text(), varchar(), grows, true],
    [numeric(5, 2), numeric(7, 2), grows, true],
    [numeric(5), numeric(), grows, true],
    [numeric(5, 2), numeric(), grows, true],
    [pg.text(), pg.boolean(), depends],
    [pg.boolean(), pg.integer(), depends],
    [pg.jsonb(), pg.json(), depends],
    [pg.jsonb(), pg.text(), depends],
    [pg.uuid(), pg.integer(), depends],
    [pg.timestamp(), pg.date(), depends],
    [pg.integer().array(), big().array(), depends],
    [mood(), pg.text(), depends],
    [pg.text(), mood(), depends],
    [pg.text(), custom("tsvector"), depends],
    [pg.serial(), big(), counts, true],
    [pg.integer(), big().generatedAlwaysAsIdentity(), counts, true],
    [identity(), big().generatedByDefaultAsIdentity(), counts, true],
    [
      pg.integer().generatedAlwaysAs(S`1`),
      big().generatedAlwaysAs(S`1`),
      "the column is generated",
      true,
    ],
    [
      pg.integer(),
      big().generatedAlwaysAs(S`1`),
      "the column is generated",
      true,
    ],
  ];
  const found: Kind[] = [];
  for (const [from, to] of kinds) {
    const before = await describeTable(from as pg.PgColumnBuilderBase);
    const after = await describeTable(to as pg.PgColumnBuilderBase);
    const { left, statements } = await retypeColumns(before, after);
    const [[start, reason] = []] = [...left];
    const how = start ? (reason ?? grows) : statements.length > 0 && second;
    const wider = listWider(before, after);
    found.push([
      from,
      to,
      String(how),
      ...(wider.length > 0 ? [true] : []),
    ] as Kind);
  }

  expect(found).toEqual(kinds);
});

test("a type is not changed with a second column where something else reads the column", async () => {
  const t = pg.pgTable("t", { x: pg.integer() });
  const other = pg.pgTable("other", { x: pg.integer() });
  const view = (text: string) => ({
    v: pg.pgView("v", { x: pg.integer() }).as(S.raw(text)),
  });
  const more = pg.pgPolicy("more", { withCheck: S`x > 0` }).link(t);
  const cases: [
    why: string | undefined,
    part?: Part,
    others?: Record<string, unknown>,
    columns?: Record<string, pg.PgColumnBuilderBase>,
  ][] = [
    [undefined],
    ["the view v reads it", undefined, view("select x from t")],
    ["the view v reads it", undefined, view("select * from t")],
    [undefined, undefined, view("select y from t")],
    [undefined, undefined, { other, ...view("select x from other") }],
    ["the policy p reads it", () => pg.pgPolicy("p", { using: S`x > 0` })],
    ["the policy p reads it", () => pg.pgPolicy("p", { withCheck: S`x > 0` })],
    [undefined, () => pg.pgPolicy("p", { using: S`xx > 0 and x$ > 1` })],
    ["the policy more reads it", undefined, { more }],
    [
      "the column y is computed from it",
      undefined,
      {},
      { y: pg.integer().generatedAlwaysAs(S`x + 1`) },
    ],
    [
      undefined,
      undefined,
      {},
      { y: pg.integer(), z: pg.integer().generatedAlwaysAs(S`y + 1`) },
    ],
    [
      "the index i has an expression or class for it",
      (t) => pg.index("i").on(S`(${t.x} + 1)`),
    ],
    [
      "the index i has an expression or class for it",
      (t) =>
        pg
          .index("i")
          .on(t.x)
          .where(S`${t.x} > 0`),
    ],
    [
      "the index i has an expression or class for it",
      (t) => pg.index("i").on(t.x.op("int4_ops")),
    ],
    [undefined, (t) => pg.index("i").on(t.x)],
    [undefined, () => pg.index("i").on(S`(1 + 1)`)],
  ];
  const found: typeof cases = [];
  for (const [, ...rest] of cases) {
    const { left } = await retypeColumns(
      await describeTable(pg.integer(), ...rest),
      await describeTable(big(), ...rest),
    );
    found.push([[...left.values()][0], ...rest]);
  }

  expect(found).toEqual(cases);
});

test("what reads a column is made again where its type changes, unless the expression means the same", async () => {
  const isKept = async (
    from: pg.PgColumnBuilderBase,
    to: pg.PgColumnBuilderBase,
    text = "x <> y",
  ) => {
    const part: Part = () => pg.check("c", S.raw(text));
    const statements = await diffSnapshots(
      await describeTable(from, part),
      await describeTable(to, part),
    );
    return statements.every((one) => !one.includes("CONSTRAINT"));
  };
  const [nine, ten] = [9, 10].map((length) => () => pg.varchar({ length }));
  const types: [pg.PgColumnBuilderBase, pg.PgColumnBuilderBase, boolean][] = [
    [pg.text(), pg.varchar(), true],
    [pg.varchar(), pg.text(), true],
    [custom("character varying(9)"), pg.text(), true],
    [pg.varchar(), custom("CHARACTER VARYING"), true],
    [pg.char({ length: 9 }), custom("char (9)"), true],
    [pg.char({ length: 9 }), pg.char({ length: 8 }), true],
    [pg.char({ length: 9 }), custom("character(8)"), true],
    [pg.text(), pg.char({ length: 9 }), false],
    [pg.char({ length: 9 }), pg.text(), false],
    [custom("character(9)"), custom("character varying(8)"), false],
    [pg.integer(), big(), true],
    [pg.smallint(), pg.integer(), true],
    [big(), pg.smallint(), true],
    [pg.integer(), pg.numeric(), false],
    [pg.numeric({ precision: 5 }), pg.numeric({ precision: 6 }), true],
    [pg.numeric(), pg.real(), false],
    [pg.bit({ dimensions: 3 }), custom("varbit(4)"), true],
    [custom("bit varying(3)"), custom("varbit"), true],
    [pg.text(), pg.text().array(), false],
    [pg.text().array(), pg.varchar().array(), true],
    [pg.text().array(), pg.integer().array(), false],
    [mood(), pg.text(), false],
  ];
  const texts: [string, boolean][] = [
    ["x <> y", true],
    ["x IN ('a', 'b')", false],
    ["in_use <> x AND x <> array1 AND x <> nullif2", true],
    ["Coalesce(x, '') <> ''", false],
    ["coalesce(y, '') <> ''", true],
    ["x ~~ '%a'", false],
  ];

  const found: typeof types = [];
  for (const [from, to] of types)
    found.push([from, to, await isKept(from, to)]);
  expect(found).toEqual(types);
  const read: typeof texts = [];
  for (const [text] of texts)
    read.push([text, await isKept(nine?.() as never, ten?.() as never, text)]);
  expect(read).toEqual(texts);
});

test("policies and views are made again where they read what changes, and only there", async () => {
  const policy =
    (text: string): Part =>
    () =>
      pg.pgPolicy("p", { using: S.raw(text) });
  const u = pg.pgTable("u", { x: pg.integer() }, () => [
    pg.pgPolicy("q", { using: S`x > 0` }),
  ]);
  const view = (text: string) => ({
    v: pg.pgView("v", { x: pg.integer() }).as(S.raw(text)),
  });
  const diff = async (
    [from, to]: pg.PgColumnBuilderBase[],
    part?: Part,
    others: Record<string, unknown> = { u },
  ) => {
    const statements = await diffSnapshots(
      await describeTable(from ?? pg.text(), part, others),
      await describeTable(to ?? pg.text(), part, others),
    );
    return statements.flatMap(
      (text) => /^\w+ (POLICY|VIEW|INDEX)/.exec(text)?.[0] ?? [],
    );
  };
  const grows = () => [pg.integer(), big()];
  const gets = () => [pg.integer(), pg.integer().default(1)];
  const again = (kind: string) => [`DROP ${kind}`, `CREATE ${kind}`];
  const [policies, views] = [again("POLICY"), again("VIEW")];

  expect([
    await diff(grows(), policy("x > 0")),
    await diff(grows(), policy("y > 0")),
    await diff(grows(), policy("exists (select x from u)")),
    await diff(gets(), policy("x > 0")),
    await diff(grows(), undefined, view("select x from t")),
    await diff(grows(), undefined, view("select * from t")),
    await diff(grows(), undefined, view("select * from tt")),
    await diff(grows(), undefined, view("select y from t")),
    await diff(gets(), undefined, view("select * from t")),
  ]).toEqual([policies, [], policies, [], views, views, [], [], []]);
  const other = () => ({ y: pg.text() });
  const withIndex = async (to: pg.PgColumnBuilderBase, on: Part) => {
    const table = (x: pg.PgColumnBuilderBase) =>
      describeTable(x, on, {}, other());
    const statements = await diffSnapshots(
      await table(pg.text()),
      await table(to),
    );
    return statements.some((text) => text.includes("INDEX"));
  };
  const pattern: Part = (t) => pg.index("i").on(t.x.op("text_pattern_ops"));
  const beside: Part = (t) =>
    pg.index("i").on((t as typeof t & { y: typeof t.x }).y.op("text_ops"));
  expect([
    await withIndex(pg.integer(), pattern),
    await withIndex(pg.varchar(), pattern),
    await withIndex(pg.integer(), beside),
    await withIndex(pg.integer(), (t) => pg.index("i").on(t.x)),
    await withIndex(pg.text().generatedAlwaysAs(S`y`), (t) =>
      pg.index("i").on(t.x),
    ),
  ]).toEqual([true, false, false, false, true]);
  const theirs = pg.pgTable("theirs", { x: pg.integer() });
  const linked = (name: string, text: string) => ({
    same: pg.pgPolicy("same", { using: S`true` }).link(theirs),
    [name]: pg.pgPolicy(name, { using: S.raw(text) }).link(theirs),
  });
  expect(
    await diffSnapshots(
      await describe(linked("a", "true")),
      await describe(linked("b", "false")),
    ),
  ).toEqual([
    'DROP POLICY "a" ON "public"."theirs" CASCADE;',
    'CREATE POLICY "b" ON "public"."theirs" AS PERMISSIVE FOR ALL TO public USING (false);',
  ]);
});

test("a type is cast where PostgreSQL would not cast it by itself", async () => {
  const using = async (
    from: pg.PgColumnBuilderBase,
    to: pg.PgColumnBuilderBase,
  ) => {
    const statements = await diffSnapshots(
      await describeTable(from, undefined, { mood }),
      await describeTable(to, undefined, { mood }),
    );
    const text = statements.find((one) => one.includes("SET DATA TYPE"));
    return text?.replace(/.* SET DATA TYPE /s, "");
  };
  const other = pg.pgEnum("Other kind", ["sad"]);

  expect([
    await using(pg.text(), pg.integer()),
    await using(pg.text(), mood()),
    await using(pg.text().array(), mood().array()),
    await using(mood(), pg.text()),
    await using(mood(), pg.varchar({ length: 9 })),
    await using(pg.integer(), pg.char({ length: 9 })),
    await using(mood().array(), pg.text().array()),
    await using(mood(), other()),
    await using(mood().array(), other().array()),
    await using(pg.text(), pg.varchar({ length: 3 })),
    await using(pg.bit({ dimensions: 3 }), custom("varbit(2)")),
    await using(pg.text(), custom("citext")),
    await using(pg.text(), custom("texts")),
    await using(pg.text(), custom("numeric(\n3)")),
  ]).toEqual([
    'integer USING "x"::integer;',
    '"mood" USING "x"::"mood";',
    '"mood"[] USING "x"::"mood"[];',
    "text;",
    "varchar(9);",
    "char(9);",
    'text[] USING "x"::text[];',
    '"Other kind" USING "x"::text::"Other kind";',
    '"Other kind"[] USING "x"::text[]::"Other kind"[];',
    "varchar(3);",
    "varbit(2);",
    'citext USING "x"::citext;',
    'texts USING "x"::texts;',
    'numeric(\n3) USING "x"::numeric(\n3);',
  ]);
});

test("online, a new column is filled where its default is not known to be the same for all rows, and a key that is replaced keeps its name", async () => {
  const isFilled: [expression: string, boolean][] = [
    ["now()", false],
    ["NOW()", false],
    ["transaction_timestamp()", false],
    ["statement_timestamp()", false],
    ["lower(upper('A'))", false],
    ["coalesce(null, 'f(x)')", false],
    ["date_trunc('day', now())", false],
    ["current_setting('a')", false],
    ["timezone('utc', now())", false],
    ["make_interval(days => 3)", false],
    ["array (select 1)", false],
    ["to_json('a''(b (c')", false],
    ["to_jsonb(1)", false],
    ["json_build_object('a', 1)", false],
    ["jsonb_build_array(1)", false],
    ["1::numeric(3, 2)", false],
    ["1::character varying(3)", false],
    ["'{}'", false],
    ["clock_timestamp()", true],
    ["lower(random() || '')", true],
    ["known_lower('a')", true],
    ["lower_known ('a')", true],
    ['"own name"()', true],
    ["1::numeric + f(3)", true],
  ];
  const online = async (columns: Record<string, pg.PgColumnBuilderBase>) =>
    await writeOnline(
      await describe({ t: pg.pgTable("t", { a: pg.text() }) }),
      await describe({ t: pg.pgTable("t", { a: pg.text(), ...columns }) }),
      [],
    );
  const found: typeof isFilled = [];
  for (const [expression] of isFilled) {
    const text = await online({ b: pg.text().default(S.raw(expression)) });
    found.push([expression, text.includes("UPDATE")]);
  }
  const serial = await online({ b: pg.bigserial({ mode: "number" }) });
  const lab = pg.pgSchema("lab");
  const counted = await writeOnline(
    await describe({
      t: lab.table("t", { x: pg.integer().generatedAlwaysAsIdentity() }),
    }),
    await describe({
      t: lab.table("t", { x: big().generatedAlwaysAsIdentity() }),
    }),
    [],
  );
  expect(counted).toContain('(sequence name "lab"."t_x_seq" INCREMENT');
  const others = [
    await online({ b: pg.text().generatedAlwaysAs(S`f(1)`) }),
    await online({ b: pg.integer().generatedAlwaysAsIdentity() }),
    await online({ b: pg.uuid().defaultRandom().primaryKey() }),
  ];

  const required = await writeOnline(
    await describeTable(pg.integer()),
    await describeTable(big().notNull()),
    [],
  );
  expect(required).toContain(
    'ALTER TABLE "t" ADD CONSTRAINT "x_is_set" CHECK ("x" IS NOT NULL) NOT VALID;',
  );
  expect(found).toEqual(isFilled);
  expect(serial).toContain(
    `CREATE SEQUENCE "t_b_seq" AS bigint OWNED BY "t"."b";`,
  );
  expect(others.filter((text) => text.includes("UPDATE"))).toEqual([]);
});

test("online, what blocks is not taken apart, and what is new needs no care", async () => {
  const lab = pg.pgSchema("lab");
  const before = await describe({
    lab,
    t: lab.table("t", { a: pg.text() }, (t) => [pg.index("i").on(t.a)]),
  });
  const make = (a: pg.PgColumnBuilderBase) =>
    describe({
      lab,
      t: lab.table("t", { a, b: pg.uuid().defaultRandom().notNull() }, (t) => [
        pg.unique("u").on(t.b),
        pg.check("c", S`true`),
      ]),
      made: lab.table(
        "made",
        { b: pg.uuid().defaultRandom(), c: pg.integer() },
        (t) => [
          pg.primaryKey({ name: "made_key", columns: [t.b] }),
          pg.index("m").on(t.c),
          pg.unique("n").on(t.c),
        ],
      ),
    });
  const outline = async (after: Snapshot) =>
    (await writeOnline(before, after, []))
      .replaceAll(BREAKPOINT, "\n")
      .replaceAll(/^DO [^]*?END \$\$;\n/gm, "DO\n");

  expect(await outline(await make(pg.boolean()))).toMatchSnapshot();
  expect(await outline(await make(pg.text()))).toMatchSnapshot();
});

test("the renames are read from the SQL of a migration", () => {
  const at = (kind: string, from: string, to: string, more = {}) => ({
    ...{ kind, schema: "public", from, to },
    ...more,
  });
  const texts: Record<string, object[]> = {
    'ALTER TABLE IF EXISTS ONLY lab."T""x" RENAME COLUMN a TO "B"': [
      at("column", "a", "B", { schema: "lab", table: 'T"x' }),
    ],
    "alter table T rename A to B": [at("column", "a", "b", { table: "t" })],
    "ALTER TABLE t RENAME CONSTRAINT a TO b": [],
    'ALTER TABLE lab.t RENAME TO "T2"; ALTER TABLE t SET SCHEMA lab': [
      at("table", "t", "T2", { schema: "lab" }),
      at("table", "t", "t", { toSchema: "lab" }),
    ],
    "ALTER TYPE mood RENAME TO feeling; ALTER TYPE lab.mood SET SCHEMA public":
      [
        at("type", "mood", "feeling"),
        at("type", "mood", "mood", { schema: "lab", toSchema: "public" }),
      ],
    "ALTER TYPE mood RENAME VALUE 'it''s' TO 'a''''b'; ALTER TYPE lab.mood RENAME VALUE 'a' TO 'b'":
      [
        at("value", "it's", "a''b", { table: "mood" }),
        at("value", "a", "b", { schema: "lab", table: "mood" }),
      ],
    "ALTER TYPE pair RENAME ATTRIBUTE a TO b": [],
    "ALTER SEQUENCE s RENAME TO s2; ALTER SEQUENCE IF EXISTS s RENAME TO s2": [
      at("sequence", "s", "s2"),
    ],
    "ALTER SCHEMA a RENAME TO b": [at("schema", "a", "b")],
    "ALTER INDEX i RENAME TO j; ALTER VIEW v RENAME TO w": [],
    "ALTER TABLE t SET (fillfactor = 70); COMMENT ON TABLE t IS 'rename'": [],
  };

  expect(Object.keys(texts).map((text) => [text, readRenames(text)])).toEqual(
    Object.entries(texts) as never,
  );
});

test("a name with a suffix is no longer than PostgreSQL keeps, and ends with a whole letter", () => {
  const fits = "n".repeat(59);

  expect(addSuffix(fits, "_new")).toBe(`${fits}_new`);
  expect(addSuffix(`${fits}n`, "_new")).toBe(`${fits}_new`);
  expect(addSuffix("é".repeat(40), "_new")).toBe(`${"é".repeat(29)}_new`);
  expect(addSuffix(`n${"é".repeat(40)}`, "_new")).toBe(
    `n${"é".repeat(29)}_new`,
  );
  expect(addSuffix("😀".repeat(20), "_new")).toBe(`${"😀".repeat(14)}_new`);
});

test("a foreign key stays, or gets another name, also where its snapshot names the schema public, as after `drizzle-kit pull`", async () => {
  const t = pg.pgTable("t", { x: pg.integer().primaryKey() });
  const make = (name: string) => {
    const u = pg.pgTable("u", { x: pg.integer() }, (u) => [
      pg.foreignKey({ name, columns: [u.x], foreignColumns: [t.x] }),
    ]);
    return describe({ t, u });
  };
  const before = await make("one");
  const after = await make("two");
  for (const table of Object.values(before.tables))
    for (const reference of Object.values(table.foreignKeys))
      reference.schemaTo = "public";

  expect(await diffSnapshots(before, await make("one"))).toEqual([]);
  expect(await diffSnapshots(before, after)).toEqual([
    'ALTER TABLE "u" RENAME CONSTRAINT "one" TO "two";',
  ]);
});

test("in one transaction an enum that gets a value is made again, and one that stays the same is not", async () => {
  const with2 = pg.pgEnum("mood", ["sad", "ok", "new"]);
  const kind = pg.pgEnum("kind", ["a"]);
  const make = (type: typeof mood, x: string) =>
    describe({
      type,
      kind,
      t: pg.pgTable("t", { m: type(), k: kind(), [x]: pg.text() }),
    });
  const before = await make(mood, "x");
  const after = await make(with2 as never, "x");

  expect(await diffSnapshots(before, after)).toEqual([
    `ALTER TYPE "public"."mood" ADD VALUE 'new';`,
  ]);
  expect(await diffSnapshots(before, after, { isAtOnce: true })).toEqual([
    'ALTER TABLE "t" ALTER COLUMN "m" SET DATA TYPE text;',
    '-- Loses: comments and privileges on what is made again here.\nDROP TYPE "public"."mood";',
    `CREATE TYPE "public"."mood" AS ENUM('sad', 'ok', 'new');`,
    'ALTER TABLE "t" ALTER COLUMN "m" SET DATA TYPE "mood" USING "m"::text::"mood";',
  ]);
  expect(
    await diffSnapshots(before, await make(mood, "y"), { isAtOnce: true }),
  ).toEqual([
    'ALTER TABLE "t" DROP COLUMN "x";',
    'ALTER TABLE "t" ADD COLUMN "y" text;',
  ]);
});

test("what a view has is kept between its drop and its making, but a privilege only where a migration may have granted it", () => {
  const view = (name: string, more?: Partial<SnapshotView>): SnapshotView => ({
    ...{ name, schema: "public", columns: {}, definition: "select 1" },
    ...{ isExisting: false, materialized: false, ...more },
  });
  const statements = [
    "ALTER TYPE a;",
    'DROP VIEW "public"."v";',
    'DROP MATERIALIZED VIEW "public"."m";',
    "ALTER TABLE t;",
    'CREATE MATERIALIZED VIEW "public"."m" AS (select 1) WITH NO DATA;',
    'CREATE VIEW "public"."v" AS (select 1);',
    "DROP TYPE b;",
  ];
  const views = [view("v"), view("m", { materialized: true })];
  const keep = (history?: string) => keepExtras(statements, views, history);
  const losesPrivileges = (history: string) =>
    keep(history).some((text) => text.includes("-- Loses: privileges"));

  expect(keep("")).toMatchSnapshot();
  expect(keep().map((text) => text.split(/[ (]/, 2).join(" "))).toEqual([
    ...["ALTER TYPE", "-- Keeps", "DROP VIEW", "DROP MATERIALIZED"],
    ...["ALTER TABLE", "CREATE MATERIALIZED", "CREATE VIEW"],
    ...["DO $$", "DROP TYPE"],
  ]);
  expect(
    [
      "grant select on v to r",
      "Grant select on ALL TABLES in schema public to r",
      "grant select on w to r; create view v",
      "create view v; comment on v is 'a grant'",
      "grant select on small tables to r",
      "granted select on v to r",
    ].map(losesPrivileges),
  ).toEqual([false, false, true, true, true, true]);
  expect(keepExtras(statements, [], "")).toEqual(statements);
  expect(keepExtras(statements, [view("v", { isExisting: true })], "")).toEqual(
    statements,
  );
});

test("a rename without an answer is refused with all that is open, and an answer of the keyboard is added to those of the flags", async () => {
  const lab = pg.pgSchema("lab");
  const make = (
    names: string[],
    value: string,
    table: string,
    other: string,
  ) => {
    const feeling = lab.enum("feeling", ["sad", value]);
    const columns = names.map((name) => [name, pg.text()]);
    return describe({
      ...{ lab, feeling },
      t: pg.pgTable("t", Object.fromEntries(columns)),
      u: lab.table("u", { x: feeling(), [other]: pg.text() }),
      o: lab.table(table, { x: pg.text() }),
    });
  };
  const before = await make(["a", "b"], "old", "one", "x1");
  const after = await make(["c", "d"], "new", "two", "x2");
  const ask = async (
    renames: string[],
    asked?: Map<string, Rename[]>,
    isComplete = false,
  ) =>
    await askRenames(before, after, { renames, isComplete, asked }).catch(
      ({ message, code, exitCode, lines, hint, details, ask }) => ({
        ...{ message, code, exitCode, lines, hint, details },
        canAsk: ask !== undefined,
      }),
    );
  const lines = [
    "  table: gone lab.one; new lab.two",
    "  column: gone t.a, t.b; new t.c, t.d",
    "  column: gone lab.u.x1; new lab.u.x2",
    "  value: gone lab.feeling.old; new lab.feeling.new",
  ];
  const ambiguous = [
    { kind: "table", schema: "public", gone: ["lab.one"], made: ["lab.two"] },
    {
      ...{ kind: "column", schema: "public", table: "t" },
      ...{ gone: ["a", "b"], made: ["c", "d"] },
    },
    {
      ...{ kind: "column", schema: "lab", table: "u" },
      ...{ gone: ["x1"], made: ["x2"] },
    },
    {
      ...{ kind: "value", schema: "lab", table: "feeling" },
      ...{ gone: ["old"], made: ["new"] },
    },
  ];
  const unanswered = {
    message: "cannot tell whether something was renamed",
    code: "RENAME_UNANSWERED",
    exitCode: 2,
    lines,
    hint: "answer with flags such as `--rename lab.one=lab.two --rename <old column>=<new column> --rename lab.u.x1=x2 --rename lab.feeling.old=new`, or `--no-rename` if nothing was renamed",
    details: { ambiguous },
    canAsk: false,
  };
  const flag: Rename = {
    kind: "column",
    schema: "public",
    table: "t",
    from: "a",
    to: "c",
  };
  const typed: Rename = { ...flag, kind: "column", from: "b", to: "d" };
  const open = ambiguous.with(1, {
    ...ambiguous[1],
    ...{ gone: ["b"], made: ["d"] },
  } as never);

  expect(await ask([])).toEqual(unanswered);
  expect(await ask([], new Map())).toEqual({ ...unanswered, canAsk: true });
  expect(await ask([], new Map(), true)).toEqual([]);
  expect(
    await ask(["t.a=c"], new Map([[JSON.stringify(open), [typed]]])),
  ).toEqual([flag, typed]);
  expect(await ask(["t.a=e", "t.b=f"], undefined, true)).toEqual({
    message: "--rename t.a=e matches nothing that was removed and added",
    code: "USAGE",
    exitCode: 2,
    lines,
    hint: "write `<old table>=<new table>`, `<table>.<old column>=<new column>` or `<enum>.<old value>=<new value>`",
    details: undefined,
    canAsk: false,
  });
});
