// Changes of a schema whose tables hold rows: none is lost, counts go on, and the
// way back leads to where it began.
import { expect, test } from "bun:test";
import { sql as S } from "drizzle-orm";
import * as pg from "drizzle-orm/pg-core";
import { openConnection } from "../../scripts/lib/connection";
import { compareCatalogs, readCatalog } from "../../scripts/migrations/catalog";
import { splitStatements } from "../../scripts/migrations/statements";
import { describeExports } from "../../scripts/schema/describe-schema";
import {
  BREAKPOINT,
  diffRenamed,
  printDown,
} from "../../scripts/schema/down-file";
import { writeOnline } from "../../scripts/schema/online";
import { askRenames } from "../../scripts/schema/ask-renames";
import { answerRenames } from "../../scripts/schema/renames";
import {
  emptySnapshot,
  type Snapshot,
  type SnapshotTable,
} from "../../scripts/schema/snapshots";
import { withDatabase } from "../lib/database";
import { sampleOf } from "../lib/sample";

interface Turn {
  from: Record<string, unknown>;
  to: Record<string, unknown>;
  rows?: string;
  renames?: string[];
  /** A query, and its first value afterwards. */
  check?: string;
  want?: unknown;
  /** What the two files say about losses and failures. */
  comments?: string[];
}

enum Level {
  Low = "low",
  High = "high",
}
const mood = pg.pgEnum("mood", ["sad", "ok", "happy"]);
const mood2 = pg.pgEnum("mood", ["happy", "sad", "ok"]);
const moodLess = pg.pgEnum("mood", ["sad", "happy"]);
const moodMore = pg.pgEnum("mood", ["sad", "new", "ok", "happy", "it's last"]);
const moodRe = pg.pgEnum("mood", ["unhappy", "ok", "happy"]);
const level = pg.pgEnum("level", Level);
const lab = pg.pgSchema("lab");
const withRating = (type: typeof mood | typeof moodLess) => ({
  id: id(),
  m: (type as typeof mood)(),
  rating: pg
    .text()
    .generatedAlwaysAs(S`case when m = 'sad' then 'x' else 'y' end`),
});
const moodLab = lab.enum("mood", ["sad", "ok", "happy"]);
const id = () => pg.integer().primaryKey();

function inSchema(name: string) {
  const place = pg.pgSchema(name);
  const mood = place.enum("mood", ["sad", "ok"]);
  const t = place.table("t", { m: mood() });
  const v = place.view("v").as((query) => query.select().from(t));
  return { place, mood, t, v };
}
function named(part: string, x: string, isMore = false) {
  const t = pg.pgTable("t", { x: pg.integer(x).unique("key") }, (t) => [
    pg.index(`${part}_index`).on(t.x),
    pg.check(`${part}_check`, S`${t.x} > 0`),
    pg.pgPolicy(`${part}_policy`, { using: S`${t.x} > 0` }),
    pg.index("stays").on(t.x.desc()),
    ...(isMore ? [pg.index("more").on(t.x.desc())] : []),
  ]);
  return {
    t,
    u: pg.pgTable("u", { to: pg.integer() }, (u) => [
      pg.foreignKey({
        columns: [u.to],
        foreignColumns: [t.x],
        name: `${part}_key`,
      }),
    ]),
  };
}
function onlyWithView(x: pg.PgColumnBuilderBase) {
  const t = pg.pgTable("t", { x });
  return { t, v: pg.pgView("v").as((query) => query.select().from(t)) };
}
const castsOthers = (t: Record<"a" | "b" | "c" | "d", pg.AnyPgColumn>) => [
  pg.index("a_first").on(S`coalesce(${t.a}, '')`),
  pg.index("a_greatest").on(S`greatest(${t.a}, 'y')`),
  pg.index("a_least").on(S`least(${t.a}, 'y')`),
  pg.index("a_none").on(S`nullif(${t.a}, 'y')`),
  pg.index("a_case").on(S`(case ${t.a} when 'y' then 1 end)`),
  pg.index("a_any").on(S`(${t.a} = any (array['y', 'z']))`),
  pg
    .index("b_of_two")
    .on(t.b)
    .where(S`${t.b} in ('a', 'b')`),
  pg.check("c_even", S`${t.c} % 2 = 0`),
  pg.check("d_set", S`${t.d} <> 'e'`),
];

const odd = pg.pgSchema("La b");
function inKeys(a: () => pg.PgIntegerBuilderInitial<"">) {
  const u = pg.pgTable("u", { id: id() });
  const t = odd.table(
    "t",
    {
      a: a()
        .notNull()
        .default(7)
        .references(() => u.id),
      b: pg.integer(),
      ab: pg.integer(),
    },
    (t) => [
      pg.primaryKey({ name: "t_key", columns: [t.b, t.a] }),
      pg.unique("t_one").on(t.a, t.b).nullsNotDistinct(),
      pg.unique("t_other").on(t.ab),
      pg.index("t_a").on(t.a.desc(), t.b),
      pg.index("t_b").on(t.b, t.a),
      pg.index("t_ab").on(t.ab),
      pg.check("c", S`${t.a} > 0`),
      pg.check("d", S`${t.ab} > 0`),
    ],
  );
  const w = odd.table("w", { a: id(), b: pg.integer() }, (w) => [
    pg.foreignKey({
      name: "w_t",
      columns: [w.b, w.a],
      foreignColumns: [t.b, t.a],
    }),
  ]);
  const same = pg.pgTable("t", { a: id() });
  const x = pg.pgTable("x", { a: pg.integer().references(() => same.a) });
  return { odd, u, t, w, same, x };
}
function inComposite(b: string) {
  const columns = (b: string) => ({ a: pg.integer(), b: pg.integer(b) });
  const t = pg.pgTable("t", columns(b), (t) => [
    pg.primaryKey({ name: "t_key", columns: [t.a, t.b] }),
    pg.unique("t_b").on(t.b),
    pg.index("t_lower").on(t.b, S`(${t.b} + ${t.a})`),
  ]);
  const u = pg.pgTable("u", columns("b"), (u) => [
    pg.foreignKey({
      name: "u_t",
      columns: [u.a, u.b],
      foreignColumns: [t.a, t.b],
    }),
  ]);
  const own = pg.pgTable("own", { b: id() });
  const inLab = lab.table("t", { b: id() });
  const v = pg.pgTable("v", { b: pg.integer(), c: pg.integer() }, (v) => [
    pg.foreignKey({ name: "v_own", columns: [v.b], foreignColumns: [own.b] }),
    pg.foreignKey({ name: "v_t", columns: [v.c], foreignColumns: [inLab.b] }),
  ]);
  return { lab, t, u, own, inLab, v };
}
function inOdd(part: string) {
  const t = odd.table("t", { x: pg.integer(), y: pg.integer() }, (t) => [
    pg.primaryKey({ name: `${part}_key`, columns: [t.x, t.y] }),
    pg.unique(`${part}_one`).on(t.y),
    pg.index(`${part}_index`).on(t.y),
    pg.pgPolicy(`${part}_policy`, { using: S`${t.x} > 0` }),
  ]);
  return { odd, t };
}
function referring(name: string, isInLab: boolean) {
  const t = pg.pgTable("t", { id: id() });
  const other = lab.table("t", { id: id() });
  const u = pg.pgTable("u", { x: pg.integer() }, (u) => [
    pg.foreignKey({
      name,
      columns: [u.x],
      foreignColumns: [(isInLab ? other : t).id],
    }),
  ]);
  return { lab, t, other, u };
}
function inPlaces(isAfter: boolean) {
  const table = (isAfter ? lab.table : pg.pgTable) as typeof pg.pgTable;
  const feeling = isAfter
    ? lab.enum("feeling", ["sad", "ok"])
    : pg.pgEnum("mood", ["sad", "ok"]);
  const kind = pg.pgEnum("kind", ["a"]);
  const t = table(isAfter ? "tt" : "t", {
    id: id(),
    m: feeling().default("ok"),
    n: feeling().array(),
    k: kind(),
  });
  const other = pg.pgTable("other", { id: id() });
  const u = pg.pgTable("u", { a: pg.integer(), b: pg.integer() }, (u) => [
    pg.foreignKey({ name: "u_a", columns: [u.a], foreignColumns: [t.id] }),
    pg.foreignKey({ name: "u_b", columns: [u.b], foreignColumns: [other.id] }),
  ]);
  const s = isAfter ? lab.sequence("s2") : pg.pgSequence("s");
  return { ...(isAfter && { lab }), feeling, kind, t, other, u, s };
}
const [c57, e58] = ["c".repeat(57), "e".repeat(58)];
const [d57, f58] = ["d".repeat(57), "f".repeat(58)];

const ALL_TURNS: Record<string, Turn> = {
  "a column of keys, indexes and checks in a schema gets another type": {
    from: inKeys(pg.integer),
    to: inKeys(() => pg.bigint({ mode: "number" }) as never),
    rows: `insert into u values (1); insert into "La b".t values (1, 2, 3); insert into "La b".w values (1, 2)`,
  },
  "column of composite keys renamed": {
    from: inComposite("b"),
    to: inComposite("c"),
    renames: ["t.b=c"],
    rows: "insert into t values (1, 2); insert into u values (1, 2)",
  },
  "parts in a schema get other names": {
    from: inOdd("old"),
    to: inOdd("new"),
    rows: `insert into "La b".t values (1, 2)`,
  },
  "reference to the table of that name in another schema": {
    from: referring("one", false),
    to: referring("two", true),
  },
  "all kinds renamed, and moved to a new schema": {
    from: inPlaces(false),
    to: inPlaces(true),
    renames: ["mood=lab.feeling", "t=lab.tt", "s=lab.s2"],
    rows: "insert into t values (1, 'ok', '{sad}', 'a'); insert into other values (1); insert into u values (1, 1)",
    check: "select m from lab.tt",
    want: "ok",
  },
  "enum that a new table and a dropped one have loses value": {
    from: { mood, old: pg.pgTable("old", { id: id(), m: mood() }) },
    to: { moodLess, made: pg.pgTable("made", { id: id(), m: moodLess() }) },
    rows: "insert into old values (1, 'ok')",
  },
  "moved to a schema that is there": {
    from: { lab, t: pg.pgTable("t", { id: id() }) },
    to: { lab, t: lab.table("t", { id: id() }) },
    renames: ["t=lab.t"],
  },
  "schema renamed beside another, whose view reads it": {
    from: (() => {
      const { t, ...rest } = inSchema("lab");
      const view = odd.view("v").as((query) => query.select().from(t));
      return { ...rest, t, odd, o: odd.table("o", { id: id() }), view };
    })(),
    to: (() => {
      const { t, ...rest } = inSchema("labs");
      const view = odd.view("v").as((query) => query.select().from(t));
      return { ...rest, t, odd, o: odd.table("o", { id: id() }), view };
    })(),
    renames: ["lab=labs"],
  },
  "table in a schema that counts renamed": {
    from: {
      lab,
      t: lab.table("t", {
        id: pg.serial().primaryKey(),
        n: pg.integer().generatedAlwaysAsIdentity(),
        o: pg.integer().generatedAlwaysAsIdentity({ name: "own" }),
        x: pg.text(),
      }),
    },
    to: {
      lab,
      t: lab.table("tt", {
        id: pg.serial().primaryKey(),
        n: pg.integer().generatedAlwaysAsIdentity(),
        o: pg.integer().generatedAlwaysAsIdentity({ name: "own" }),
        x: pg.text(),
      }),
    },
    renames: ["lab.t=lab.tt"],
    rows: "insert into lab.t (x) values ('a')",
    check: "insert into lab.tt (x) values ('b') returning id + n + o",
    want: 6,
  },
  "columns that count renamed, also where the sequence has another name": {
    from: {
      t: pg.pgTable("t", {
        id: pg.serial().primaryKey(),
        n: pg.serial(),
        [c57]: pg.serial(),
        [e58]: pg.serial(),
        x: pg.text(),
      }),
    },
    to: {
      t: pg.pgTable("t", {
        key: pg.serial().primaryKey(),
        n: pg.serial(),
        [d57]: pg.serial(),
        [f58]: pg.serial(),
        x: pg.text(),
      }),
    },
    renames: ["t.id=key", `t.${c57}=${d57}`, `t.${e58}=${f58}`],
    rows: "insert into t (x) values ('a')",
  },
  "serial of a table with signs in its name to bigserial": {
    from: {
      t: pg.pgTable("it's 100%", {
        "the id": pg.serial("the id").primaryKey(),
        x: pg.text(),
      }),
    },
    to: {
      t: pg.pgTable("it's 100%", {
        "the id": pg.bigserial("the id", { mode: "number" }).primaryKey(),
        x: pg.text(),
      }),
    },
    rows: `insert into "it's 100%" (x) values ('a')`,
  },
  "unique keys and indexes of other columns, beside a view and an enum": {
    from: (() => {
      const t = lab.table("t", { a: pg.text(), b: pg.text() }, (t) => [
        pg.unique("u").on(t.a),
        pg.index("i").on(t.a),
        pg.index("gone").on(t.b),
        pg.uniqueIndex("one").on(t.a),
      ]);
      const v = pg.pgView("v", { a: pg.text() }).as(S`select a from lab.t`);
      return { lab, mood, kind: pg.pgEnum("kind", ["a"]), t, v };
    })(),
    to: (() => {
      const t = lab.table("t", { a: pg.text(), b: pg.text() }, (t) => [
        pg.unique("u").on(t.a, t.b),
        pg.index("i").on(t.b),
        pg.uniqueIndex("one").on(t.a, t.b),
        pg.index("two").on(t.b).concurrently(),
      ]);
      const v = pg.pgView("v", { b: pg.text() }).as(S`select b from lab.t`);
      return { lab, moodMore, t, v };
    })(),
    rows: "insert into lab.t values ('a', 'b')",
  },
  "enum to text, enum gone": {
    from: { mood, t: pg.pgTable("t", { id: id(), m: mood().default("ok") }) },
    to: { t: pg.pgTable("t", { id: id(), m: pg.text().default("ok") }) },
    rows: "insert into t values (1,'sad')",
  },
  "text to enum": {
    from: { t: pg.pgTable("t", { id: id(), m: pg.text().default("ok") }) },
    to: { mood, t: pg.pgTable("t", { id: id(), m: mood().default("ok") }) },
    rows: "insert into t values (1,'sad')",
  },
  "column and enum gone": {
    from: {
      mood,
      t: pg.pgTable("t", { id: id(), m: mood() }, (t) => [
        pg.index("i").on(t.m),
        pg.check("c", S`${t.m} <> 'sad'`),
      ]),
    },
    to: { t: pg.pgTable("t", { id: id() }) },
  },
  "table and enum gone": {
    from: {
      mood,
      a: pg.pgTable("a", { id: id() }),
      t: pg.pgTable("t", { id: id(), m: mood().array() }),
    },
    to: { a: pg.pgTable("a", { id: id() }) },
  },
  "array enum to text array": {
    from: {
      mood,
      t: pg.pgTable("t", { id: id(), m: mood().array().default(["ok"]) }),
    },
    to: { t: pg.pgTable("t", { id: id(), m: pg.text().array() }) },
    rows: "insert into t values (1,'{sad}')",
  },
  "enum moves schema by type": {
    from: { mood, t: pg.pgTable("t", { id: id(), m: mood().default("ok") }) },
    to: {
      lab,
      moodLab,
      t: pg.pgTable("t", { id: id(), m: moodLab().default("ok") }),
    },
    rows: "insert into t values (1,'sad')",
  },
  "enum of lab loses value": {
    from: {
      lab,
      moodLab,
      t: pg.pgTable("t", { id: id(), m: moodLab().default("ok") }),
    },
    to: {
      lab,
      x: lab.enum("mood", ["ok", "sad"]),
      t: pg.pgTable("t", {
        id: id(),
        m: lab.enum("mood", ["ok", "sad"])().default("ok"),
      }),
    },
    rows: "insert into t values (1,'sad')",
  },
  "enum that a generated column reads loses value": {
    from: { mood, t: pg.pgTable("t", withRating(mood)) },
    to: {
      mood: moodLess,
      t: pg.pgTable("t", withRating(moodLess)),
    },
    rows: "insert into t values (1,'sad')",
  },
  "ts enum": {
    from: { t: pg.pgTable("t", { id: id(), m: pg.text() }) },
    to: {
      level,
      t: pg.pgTable("t", { id: id(), m: level().default(Level.Low) }),
    },
    rows: "insert into t values (1,'low')",
  },
  "ts enum loses value": {
    from: {
      level,
      t: pg.pgTable("t", { id: id(), m: level().default(Level.Low) }),
    },
    to: {
      l2: pg.pgEnum("level", { Low: "low" }),
      t: pg.pgTable("t", {
        id: id(),
        m: pg.pgEnum("level", { Low: "low" })().default("low"),
      }),
    },
    rows: "insert into t values (1,'low')",
  },
  "enum loses value, index, check, view, default, array": {
    from: {
      mood,
      t: pg.pgTable(
        "t",
        {
          id: id(),
          m: mood().default("happy").notNull(),
          n: mood().array().default(["sad"]),
        },
        (t) => [
          pg
            .index("i")
            .on(t.m)
            .where(S`${t.m} = 'sad'`),
          pg.check("c", S`${t.m} <> 'ok'`),
        ],
      ),
      v: pg.pgView("v", { m: mood() }).as(S`select m from t where m = 'sad'`),
    },
    to: {
      moodLess,
      t: pg.pgTable(
        "t",
        {
          id: id(),
          m: moodLess().default("happy").notNull(),
          n: moodLess().array().default(["sad"]),
        },
        (t) => [
          pg
            .index("i")
            .on(t.m)
            .where(S`${t.m} = 'sad'`),
          pg.check("c", S`${t.m} <> 'happy'`),
        ],
      ),
      v: pg
        .pgView("v", { m: moodLess() })
        .as(S`select m from t where m = 'sad'`),
    },
    rows: "insert into t values (1,'sad','{happy}')",
  },
  "enum reordered": {
    from: {
      mood,
      t: pg.pgTable("t", { id: id(), m: mood() }, (t) => [
        pg.index("i").on(t.m),
      ]),
    },
    to: {
      mood2,
      t: pg.pgTable("t", { id: id(), m: mood2() }, (t) => [
        pg.index("i").on(t.m),
      ]),
    },
    rows: "insert into t values (1,'sad')",
  },
  "new value as default": {
    from: { mood, t: pg.pgTable("t", { id: id(), m: mood().default("ok") }) },
    to: {
      moodMore,
      t: pg.pgTable("t", { id: id(), m: moodMore().default("new") }),
    },
    rows: "insert into t values (1,'sad')",
  },
  "value renamed": {
    from: {
      mood,
      t: pg.pgTable(
        "t",
        {
          id: id(),
          m: mood().default("sad"),
          n: mood().array().default(["sad"]),
        },
        (t) => [pg.check("c", S`${t.m} <> 'ok'`)],
      ),
    },
    to: {
      moodRe,
      t: pg.pgTable(
        "t",
        {
          id: id(),
          m: moodRe().default("unhappy"),
          n: moodRe().array().default(["unhappy"]),
        },
        (t) => [pg.check("c", S`${t.m} <> 'ok'`)],
      ),
    },
    renames: ["mood.sad=unhappy"],
    rows: "insert into t values (1,'sad','{sad}')",
    check: "select m from t",
    want: "unhappy",
  },
  "integer to identity": {
    from: { t: pg.pgTable("t", { id: id(), x: pg.text() }) },
    to: {
      t: pg.pgTable("t", {
        id: id().generatedAlwaysAsIdentity(),
        x: pg.text(),
      }),
    },
    rows: "insert into t select n,'x' from generate_series(1,50) n",
    check: "insert into t (x) values ('y') returning id",
    want: 51,
  },
  "integer to identity starting at 1000": {
    from: { t: pg.pgTable("t", { id: id(), x: pg.text() }) },
    to: {
      t: pg.pgTable("t", {
        id: id().generatedByDefaultAsIdentity({ startWith: 1000 }),
        x: pg.text(),
      }),
    },
    rows: "insert into t select n,'x' from generate_series(1,50) n",
    check: "insert into t (x) values ('y') returning id",
    want: 1000,
  },
  "serial to bigint identity": {
    from: {
      t: pg.pgTable("t", { id: pg.serial().primaryKey(), x: pg.text() }),
    },
    to: {
      t: pg.pgTable("t", {
        id: pg
          .bigint({ mode: "number" })
          .primaryKey()
          .generatedAlwaysAsIdentity(),
        x: pg.text(),
      }),
    },
    rows: "insert into t (x) select 'x' from generate_series(1,50); delete from t where id > 40",
    check: "insert into t (x) values ('y') returning id",
    want: "51",
  },
  "identity to bigserial": {
    from: {
      t: pg.pgTable("t", {
        id: id().generatedAlwaysAsIdentity(),
        x: pg.text(),
      }),
    },
    to: {
      t: pg.pgTable("t", {
        id: pg.bigserial({ mode: "number" }).primaryKey(),
        x: pg.text(),
      }),
    },
    rows: "insert into t (x) select 'x' from generate_series(1,50); delete from t where id > 40",
    check: "insert into t (x) values ('y') returning id",
    want: "51",
  },
  "serial to bigserial": {
    from: {
      t: pg.pgTable("t", { id: pg.serial().primaryKey(), x: pg.text() }),
    },
    to: {
      t: pg.pgTable("t", {
        id: pg.bigserial({ mode: "number" }).primaryKey(),
        x: pg.text(),
      }),
    },
    rows: "insert into t (x) select 'x' from generate_series(1,50); delete from t where id > 40",
    check: "insert into t (x) values ('y') returning id",
    want: "51",
  },
  "serial to identity with options": {
    from: {
      t: pg.pgTable("t", { id: pg.serial().primaryKey(), x: pg.text() }),
    },
    to: {
      t: pg.pgTable("t", {
        id: id().generatedByDefaultAsIdentity({
          increment: 5,
          minValue: 5,
          maxValue: 100,
          startWith: 10,
          cache: 3,
          cycle: true,
        }),
        x: pg.text(),
      }),
    },
    rows: "insert into t (x) values ('a')",
    check: "insert into t (x) values ('y') returning id",
    want: 10,
  },
  "serial to descending identity": {
    from: {
      t: pg.pgTable("t", { id: pg.serial().primaryKey(), x: pg.text() }),
    },
    to: {
      t: pg.pgTable("t", {
        id: id().generatedByDefaultAsIdentity({
          increment: -1,
          minValue: -100,
          maxValue: 100,
          startWith: 100,
        }),
        x: pg.text(),
      }),
    },
    rows: "insert into t (x) values ('a'), ('b')",
    check: "insert into t (x) values ('y') returning id",
    want: 0,
  },
  "serial to integer": {
    from: {
      t: pg.pgTable("t", { id: pg.serial().primaryKey(), x: pg.text() }),
    },
    to: { t: pg.pgTable("t", { id: id(), x: pg.text() }) },
    rows: "insert into t (x) values ('a')",
  },
  "serial in a schema, odd names": {
    from: {
      lab,
      t: lab.table("My t", {
        "my id": pg.serial("my id").primaryKey(),
        x: pg.text(),
      }),
    },
    to: {
      lab,
      t: lab.table("My t", {
        "my id": pg.integer("my id").primaryKey().generatedAlwaysAsIdentity(),
        x: pg.text(),
      }),
    },
    rows: `insert into lab."My t" (x) select 'x' from generate_series(1,50)`,
    check: `insert into lab."My t" (x) values ('y') returning "my id"`,
    want: 51,
  },
  "identity with rows": {
    from: { t: pg.pgTable("t", { x: pg.text() }) },
    to: {
      t: pg.pgTable("t", {
        x: pg.text(),
        id: pg.integer().generatedAlwaysAsIdentity(),
      }),
    },
    rows: "insert into t values ('a'),('b')",
  },
  "identity key with rows": {
    from: { t: pg.pgTable("t", { x: pg.text() }) },
    to: {
      t: pg.pgTable("t", {
        x: pg.text(),
        id: pg
          .bigint({ mode: "number" })
          .primaryKey()
          .generatedByDefaultAsIdentity(),
      }),
    },
    rows: "insert into t values ('a'),('b')",
  },
  "serial with rows": {
    from: { t: pg.pgTable("t", { x: pg.text() }) },
    to: { t: pg.pgTable("t", { x: pg.text(), id: pg.serial().primaryKey() }) },
    rows: "insert into t values ('a'),('b')",
  },
  "key moves": {
    from: {
      t: pg.pgTable("t", {
        a: pg.integer().primaryKey(),
        b: pg.integer().notNull(),
      }),
    },
    to: {
      t: pg.pgTable("t", {
        a: pg.integer().notNull(),
        b: pg.integer().primaryKey(),
      }),
    },
    rows: "insert into t values (1,2)",
  },
  "key moves with references": {
    from: (() => {
      const t = pg.pgTable("t", {
        a: pg.integer().primaryKey(),
        b: pg.integer().notNull().unique(),
      });
      return {
        t,
        u: pg.pgTable("u", { id: id(), t: pg.integer().references(() => t.a) }),
      };
    })(),
    to: (() => {
      const t = pg.pgTable("t", {
        a: pg.integer().notNull().unique(),
        b: pg.integer().primaryKey(),
      });
      return {
        t,
        u: pg.pgTable("u", { id: id(), t: pg.integer().references(() => t.b) }),
      };
    })(),
    rows: "insert into t values (1,1)",
  },
  "key to composite": {
    from: {
      t: pg.pgTable("t", { a: pg.integer().primaryKey(), b: pg.integer() }),
    },
    to: {
      t: pg.pgTable("t", { a: pg.integer(), b: pg.integer() }, (t) => [
        pg.primaryKey({ columns: [t.a, t.b] }),
      ]),
    },
    rows: "insert into t values (1,2)",
  },
  "both sides wider": {
    from: (() => {
      const t = pg.pgTable("t", { id: id() });
      return {
        t,
        u: pg.pgTable("u", {
          id: id(),
          t: pg.integer().references(() => t.id),
        }),
      };
    })(),
    to: (() => {
      const t = pg.pgTable("t", {
        id: pg.bigint({ mode: "number" }).primaryKey(),
      });
      return {
        t,
        u: pg.pgTable("u", {
          id: id(),
          t: pg.bigint({ mode: "number" }).references(() => t.id),
        }),
      };
    })(),
    rows: "insert into t values (1); insert into u values (1,1)",
  },
  "view reads dropped column": {
    from: {
      t: pg.pgTable("t", { id: id(), x: pg.text(), y: pg.text() }),
      v: pg.pgView("v", { x: pg.text() }).as(S`select x, y from t`),
    },
    to: {
      t: pg.pgTable("t", { id: id(), x: pg.text() }),
      v: pg.pgView("v", { x: pg.text() }).as(S`select x from t`),
    },
    rows: "insert into t values (1,'a','b'); alter view v alter x set default 'd'",
    check:
      "select pg_get_expr(adbin, 0) from pg_attrdef where adrelid = 'v'::regclass",
    want: "'d'::text",
  },
  "default and not null of what a view reads": {
    from: onlyWithView(pg.text()),
    to: onlyWithView(pg.text().notNull().default("b")),
    rows: "insert into t values ('a')",
    comments: [],
  },
  "view that others make from now on": {
    from: onlyWithView(pg.text()),
    to: {
      t: pg.pgTable("t", { x: pg.text() }),
      v: pg.pgView("v", { x: pg.text() }).existing(),
    },
    comments: [],
  },
  "materialized view without data, refreshed since": {
    from: {
      t: pg.pgTable("t", { x: pg.integer() }),
      v: pg
        .pgMaterializedView("v", { x: pg.integer() })
        .withNoData()
        .as(S`select x from t`),
      a: pg
        .pgMaterializedView("a", { x: pg.integer() })
        .withNoData()
        .as(S`select x from v`),
    },
    to: {
      t: pg.pgTable("t", { x: pg.text() }),
      v: pg
        .pgMaterializedView("v", { x: pg.text() })
        .withNoData()
        .as(S`select x from t`),
      a: pg
        .pgMaterializedView("a", { x: pg.text() })
        .withNoData()
        .as(S`select x from v`),
    },
    rows: "insert into t values (4); refresh materialized view v; refresh materialized view a",
    check: "select x from a",
    want: "4",
  },
  "view reads renamed column": {
    from: {
      t: pg.pgTable("t", { id: id(), x: pg.text() }),
      v: pg.pgView("v", { x: pg.text() }).as(S`select x from t`),
    },
    to: {
      t: pg.pgTable("t", { id: id(), z: pg.text() }),
      v: pg.pgView("v", { z: pg.text() }).as(S`select z from t`),
    },
    renames: ["t.x=z"],
    rows: "insert into t values (1,'a')",
  },
  "generated to plain": {
    from: {
      t: pg.pgTable("t", {
        id: id(),
        x: pg.text(),
        y: pg.text().generatedAlwaysAs(S`x || 'y'`),
      }),
    },
    to: { t: pg.pgTable("t", { id: id(), x: pg.text(), y: pg.text() }) },
    rows: "insert into t values (1,'a')",
    check: "select y from t",
    want: "ay",
  },
  "plain to generated": {
    from: { t: pg.pgTable("t", { id: id(), x: pg.text(), y: pg.text() }) },
    to: {
      t: pg.pgTable("t", {
        id: id(),
        x: pg.text(),
        y: pg.text().generatedAlwaysAs(S`x || 'y'`),
      }),
    },
    rows: "insert into t values (1,'a')",
    comments: [
      "Loses: the values of the column, and comments and privileges on what is made again here.",
      "The column keeps what was computed: the values that it had before are gone.",
    ],
  },
  "types that shrink, and one that grows": {
    from: {
      t: pg.pgTable("t", {
        a: pg.varchar({ length: 9 }),
        b: pg.bigint({ mode: "number" }),
        c: pg.text(),
        d: pg.integer(),
      }),
    },
    to: {
      t: pg.pgTable("t", {
        a: pg.varchar({ length: 5 }),
        b: pg.smallint(),
        c: pg.varchar({ length: 9 }),
        d: pg.bigint({ mode: "number" }),
      }),
    },
    rows: "insert into t values ('a',1,'c',2)",
    comments: ["This fails where a value does not fit the type."],
  },
  "expressions of which PostgreSQL casts the other values": {
    from: {
      t: pg.pgTable(
        "t",
        {
          a: pg.text(),
          b: pg.varchar({ length: 9 }),
          c: pg.integer(),
          d: pg.char({ length: 2 }),
        },
        castsOthers,
      ),
    },
    to: {
      t: pg.pgTable(
        "t",
        {
          a: pg.varchar({ length: 9 }),
          b: pg.varchar({ length: 10 }),
          c: pg.bigint({ mode: "number" }),
          d: pg.text(),
        },
        castsOthers,
      ),
    },
    rows: "insert into t values ('a','b',2,'d')",
    comments: Array(3).fill("This fails where a value does not fit the type."),
  },
  "what a policy reads, and a generated column": {
    from: {
      t: pg.pgTable(
        "t",
        { x: pg.integer(), y: pg.integer().generatedAlwaysAs(S`1 + 1`) },
        (t) => [pg.pgPolicy("p", { using: S`${t.x} > 0` })],
      ),
    },
    to: {
      t: pg.pgTable(
        "t",
        {
          x: pg.bigint({ mode: "number" }),
          y: pg.bigint({ mode: "number" }).generatedAlwaysAs(S`1 + 1`),
        },
        (t) => [pg.pgPolicy("p", { using: S`${t.x} > 0` })],
      ),
    },
    rows: "insert into t values (1)",
  },
  "required to optional, and gone": {
    from: {
      t: pg.pgTable("t", { a: pg.text().notNull(), b: pg.text().notNull() }),
    },
    to: { t: pg.pgTable("t", { a: pg.text() }) },
    comments: [
      "This fails while a row has no value.",
      "The column comes back empty, which fails while its table has rows.",
    ],
  },
  "reference to an index that is built concurrently": {
    from: { t: pg.pgTable("t", { x: pg.integer() }) },
    to: (() => {
      const t = pg.pgTable("t", { x: pg.integer() }, (t) => [
        pg.uniqueIndex("t_x").on(t.x).concurrently(),
      ]);
      const u = pg.pgTable("u", { x: pg.integer().references(() => t.x) });
      return { t, u };
    })(),
    rows: "insert into t values (1)",
  },
  "generated on retyped": {
    from: {
      t: pg.pgTable(
        "t",
        {
          id: id(),
          x: pg.integer(),
          y: pg.integer().generatedAlwaysAs(S`x + 1`),
        },
        (t) => [pg.index("i").on(t.y), pg.unique("u").on(t.y, t.x)],
      ),
    },
    to: {
      t: pg.pgTable(
        "t",
        {
          id: id(),
          x: pg.bigint({ mode: "number" }),
          y: pg.integer().generatedAlwaysAs(S`x + 1`),
        },
        (t) => [pg.index("i").on(t.y), pg.unique("u").on(t.y, t.x)],
      ),
    },
    rows: "insert into t values (1,4)",
  },
  "text to integer with all": {
    from: {
      t: pg.pgTable(
        "t",
        { id: id(), x: pg.text().default("1").notNull() },
        (t) => [
          pg.index("i").on(t.x.op("text_pattern_ops")),
          pg.check("c", S`${t.x} <> ''`),
          pg.unique("u").on(t.x),
        ],
      ),
    },
    to: {
      t: pg.pgTable(
        "t",
        { id: id(), x: pg.integer().default(2).notNull() },
        (t) => [
          pg.index("i").on(t.x),
          pg.check("c", S`${t.x} > 0`),
          pg.unique("u").on(t.x),
        ],
      ),
    },
    rows: "insert into t values (1,'4')",
  },
  "policy roles": {
    from: {
      t: pg.pgTable("t", { id: id() }, () => [
        pg.pgPolicy("p", { to: "public" }),
      ]),
    },
    to: {
      t: pg.pgTable("t", { id: id() }, () => [
        pg.pgPolicy("p", { to: "current_user", using: S`true` }),
      ]),
    },
  },
  "parts and a column get other names, and an index a twin": {
    from: named("old", "x"),
    to: named("new", "z", true),
    renames: ["t.x=z"],
    rows: "insert into t values (1); insert into u values (1)",
  },
  "policies all go, row security stays": {
    from: {
      t: pg
        .pgTable("t", { id: id() }, () => [pg.pgPolicy("p", { to: "public" })])
        .enableRLS(),
    },
    to: { t: pg.pgTable("t", { id: id() }).enableRLS() },
  },
  "policies all go": {
    from: {
      t: pg.pgTable("t", { id: id() }, () => [
        pg.pgPolicy("p", { to: "public" }),
      ]),
    },
    to: { t: pg.pgTable("t", { id: id() }) },
  },
  "rls only": {
    from: { t: pg.pgTable("t", { id: id() }) },
    to: { t: pg.pgTable("t", { id: id() }).enableRLS() },
  },
  "table renamed": {
    from: (() => {
      const t = pg.pgTable("t", { id: id(), x: pg.text().unique() });
      return {
        t,
        u: pg.pgTable("u", {
          id: id(),
          t: pg.integer().references(() => t.id),
        }),
      };
    })(),
    to: (() => {
      const t = pg.pgTable("tt", { id: id(), x: pg.text().unique() });
      return {
        t,
        u: pg.pgTable("u", {
          id: id(),
          t: pg.integer().references(() => t.id),
        }),
      };
    })(),
    renames: ["t=tt"],
    rows: "insert into t values (1,'a')",
  },
  "integer to descending identity": {
    from: { t: pg.pgTable("t", { a: pg.integer() }) },
    to: {
      t: pg.pgTable("t", {
        a: pg.integer().generatedAlwaysAsIdentity({
          increment: -1,
          startWith: -1,
          maxValue: -1,
        }),
      }),
    },
    rows: "insert into t values (-7), (-3)",
    check: "insert into t default values returning a",
    want: -8,
  },
  "enum value renamed beside the same words": {
    from: {
      mood,
      level: pg.pgEnum("level", ["happy", "bad"]),
      t: pg.pgTable("t", {
        m: mood().default("happy"),
        l: pg.pgEnum("level", ["happy", "bad"])().default("happy"),
        x: pg.text().default("happy"),
      }),
    },
    to: {
      mood: pg.pgEnum("mood", ["sad", "ok", "glad"]),
      level: pg.pgEnum("level", ["happy", "bad"]),
      t: pg.pgTable("t", {
        m: pg.pgEnum("mood", ["sad", "ok", "glad"])().default("glad"),
        l: pg.pgEnum("level", ["happy", "bad"])().default("happy"),
        x: pg.text().default("happy"),
      }),
    },
    renames: ["mood.happy=glad"],
    rows: "insert into t default values",
    check: "select m::text || l::text || x from t",
    want: "gladhappyhappy",
  },
  "view takes the old name of a table": {
    from: { t: pg.pgTable("t", { id: id() }) },
    to: {
      t: pg.pgTable("tt", { id: id() }),
      v: pg.pgView("t", { id: pg.integer() }).as(S`select id from tt`),
    },
    renames: ["t=tt"],
    rows: "insert into t values (1)",
    check: "select id from t",
    want: 1,
  },
  "schema with a view renamed": {
    from: inSchema("lab"),
    to: inSchema("labs"),
    renames: ["lab=labs"],
    rows: "insert into lab.t values ('sad')",
    check: "select m from labs.v",
    want: "sad",
  },
  "not null in a table that gets an identity": {
    from: {
      t: pg.pgTable("t", { a: pg.integer().notNull(), b: pg.integer() }),
    },
    to: {
      t: pg.pgTable("t", {
        a: pg.integer().generatedAlwaysAsIdentity(),
        b: pg.integer().notNull(),
      }),
    },
    rows: "insert into t values (1,1)",
  },
  "moved to schema": {
    from: {
      t: pg.pgTable("t", { id: id(), x: pg.text() }, (t) => [
        pg.pgPolicy("p", { using: S`${t.x} = 'a'` }),
      ]),
    },
    to: {
      lab,
      t: lab.table("t", { id: id(), x: pg.text() }, (t) => [
        pg.pgPolicy("p", { using: S`${t.x} = 'a'` }),
      ]),
    },
    renames: ["t=lab.t"],
    rows: "insert into t values (1,'a')",
  },
};

/** Those that say what is afterwards, and a sample of the others. */
const saysMore = ([, { check, comments }]: [string, Turn]) =>
  check !== undefined || comments !== undefined;
const TURNS = Object.fromEntries([
  ...Object.entries(ALL_TURNS).filter(saysMore),
  ...sampleOf(
    Object.entries(ALL_TURNS).filter((entry) => !saysMore(entry)),
    6,
  ),
]);

test("what changes in a schema keeps the rows and the counts, up, down and up", async () => {
  await withDatabase("empty", async ({ address }) => {
    await using sql = await openConnection(address, "tests");
    const found: Record<string, unknown> = {};
    for (const [name, turn] of Object.entries(TURNS)) {
      const before = await describeExports(turn.from, "");
      const after = await describeExports(turn.to, "");
      const { renames } = answerRenames(before, after, turn.renames ?? []);
      const options = { history: "" }; // as db:generate
      const up = (await diffRenamed(before, after, renames, options)).join(
        BREAKPOINT,
      );
      const initial = await diffRenamed(emptySnapshot, before, []);
      const run = async (text: string) => {
        for (const statement of splitStatements(text))
          await sql.unsafe(statement.text).catch((error: Error) => {
            throw new Error(`${name}: ${error.message}: ${statement.text}`);
          });
      };
      await run(
        'drop schema public cascade; create schema public; drop schema if exists lab, labs, "La b" cascade',
      );
      await run(initial.join(BREAKPOINT));
      const first = await readCatalog(sql);
      await run(turn.rows ?? "");
      await run(up);
      const [row] = turn.check ? await sql.unsafe(turn.check).values() : [];
      const down = await printDown(before, after, up);
      expect(down).not.toContain("Not undone here");
      await run(down);
      const left = compareCatalogs(first, await readCatalog(sql));
      await run(up);
      const comments = `${up}\n${down}`.matchAll(/^-- (.*)$/gm);
      found[name] = {
        value: row?.[0],
        left,
        comments: turn.comments && [...comments].map(([, said]) => said),
      };
    }

    expect(found).toEqual(
      Object.fromEntries(
        Object.entries(TURNS).map(([name, { want, comments }]) => [
          name,
          { value: want, left: [], comments },
        ]),
      ),
    );
  });
}, 300_000);

test("the SQL of each change is as it was", async () => {
  for (const [name, { from, to, renames: answers = [] }] of Object.entries(
    ALL_TURNS,
  )) {
    const before = await describeExports(from, "");
    const after = await describeExports(to, "");
    const { renames } = answerRenames(before, after, answers);
    const up = (await diffRenamed(before, after, renames)).join(BREAKPOINT);
    const down = await printDown(before, after, up);
    const online = await writeOnline(before, after, renames);
    for (const text of [up, down, online])
      expect(text.replaceAll(BREAKPOINT, "\n")).toMatchSnapshot(name);
  }
}, 300_000);

test("what only the database knows of a view is kept, but no privilege that no migration granted", async () => {
  const view = (x: pg.PgColumnBuilderBase) => {
    const t = pg.pgTable("t", { x });
    return {
      t,
      m: pg.pgMaterializedView("m").as((query) => query.select().from(t)),
      v: pg.pgView("v").as((query) => query.select().from(t)),
    };
  };
  const before = await describeExports(view(pg.integer()), "");
  const after = await describeExports(view(pg.bigint({ mode: "number" })), "");
  const extras = `
    create index by_hand on m (x); comment on index by_hand is 'fast';
    grant select on m to pg_monitor; comment on materialized view m is 'seen';
    comment on view v is 'read'; comment on column v.x is 'a number';
    alter view v alter x set default 4; alter view v owner to pg_signal_backend;
    create function deny() returns trigger language plpgsql as 'begin return null; end';
    create trigger deny instead of insert on v for each row execute function deny();
    create rule skip as on delete to v do instead nothing;
    grant select (x), update (x) on v to pg_monitor with grant option; grant select on v to public`;
  await withDatabase("empty", async ({ address }) => {
    await using sql = await openConnection(address, "tests");
    const list = async (name: string) => {
      const [row] = await sql.unsafe(`
        select json_build_array(relowner::regrole::text, relacl::text, obj_description(oid, 'pg_class'), col_description(oid, 1),
          (select attacl::text from pg_attribute where attrelid = pg_class.oid and attnum = 1),
          (select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = pg_class.oid)) as facts,
          array(select pg_get_indexdef(indexrelid) from pg_index where indrelid = pg_class.oid
            union all select pg_get_triggerdef(oid) from pg_trigger where tgrelid = pg_class.oid
            union all select rulename from pg_rewrite where ev_class = pg_class.oid order by 1) as parts
        from pg_class where oid = '${name}'::regclass`);
      return row;
    };
    const change = async (from: Snapshot, to: Snapshot, history?: string) => {
      for (const text of await diffRenamed(from, to, [], { history }))
        await sql.unsafe(text);
      return [await list("m"), await list("v")];
    };
    await change(emptySnapshot, before);
    await sql.unsafe(extras);
    const first = [await list("m"), await list("v")];

    const granted = "grant select on all tables in schema public to public";
    const kept = [
      await change(before, after),
      await change(after, before, granted),
      await change(before, after, "grant select on v to public"),
    ];
    const [m, v] = await change(after, before, "grant select on t to public");

    for (const found of kept) expect(found).toEqual(first);
    expect(m).toEqual(first[0]);
    const [owner, , ...rest] = first[1]?.facts ?? [];
    expect(v?.facts).toEqual([owner, null, ...rest.with(2, null)]);
    expect(v?.parts).toEqual(first[1]?.parts);
  });
});

test("a down file adds no key that drizzle-kit has only commented on", async () => {
  const before = await describeExports({ t: pg.pgTable("t", { a: id() }) }, "");
  const t = pg.pgTable("t", { a: pg.integer().notNull() });
  const after = await describeExports({ t }, "");
  const text = '-- ALTER TABLE "t" DROP CONSTRAINT "<constraint_name>";';

  expect(await printDown(before, after, text)).toBe("\n");
});

test("a table that stays the same is read once in each snapshot, however much changes", async () => {
  const t = (columns: Record<string, pg.PgColumnBuilderBase>) =>
    pg.pgTable("t", { id: id(), ...columns });
  const before = await describeExports({ t: t({ m: pg.text() }) }, "");
  const after = await describeExports({ t: t({ n: pg.integer() }) }, "");
  let reads = 0;
  const column = {
    name: "a",
    primaryKey: false,
    notNull: false,
    get type() {
      reads += 1;
      return "text";
    },
  };
  const staying: SnapshotTable = {
    name: "same",
    schema: "",
    columns: { a: column },
    indexes: {},
    foreignKeys: {},
    compositePrimaryKeys: {},
    uniqueConstraints: {},
    checkConstraints: {},
    policies: {},
    isRLSEnabled: false,
  };

  for (const { tables } of [before, after]) tables["public.same"] = staying;
  const statements = await diffRenamed(before, after, []);

  expect(statements).toEqual([
    'ALTER TABLE "t" DROP COLUMN "m";',
    'ALTER TABLE "t" ADD COLUMN "n" integer;',
  ]);
  expect(reads).toBe(2);
});

test("an answer may name the schema, the old or the new table, and each side in full", async () => {
  const lab = pg.pgSchema("lab");
  const before = await describeExports(
    { t: pg.pgTable("t", { x: pg.text() }), u: lab.table("u", { x: id() }) },
    "",
  );
  const after = await describeExports(
    { t: pg.pgTable("tt", { z: pg.text() }), u: lab.table("uu", { x: id() }) },
    "",
  );
  const answered = [
    ["t=tt", "t.x=z"],
    ["public.t=tt", "tt.x=z"],
    ["public.t=public.tt", "t.x=t.z"],
    ["t=tt", "public.t.x=z"],
    ["t=tt", "public.tt.x=public.tt.z"],
    ["lab.u=lab.uu"],
  ];
  for (const answers of answered)
    expect({ answers, ...answerRenames(before, after, answers) }).toMatchObject(
      { answers, unused: [], renames: { length: answers.length } },
    );
  expect(answerRenames(before, after, ["t.x=z", "u=uu"]).unused).toEqual([
    "t.x=z",
    "u=uu",
  ]);
});

test("advises a rename only where there is one pair", async () => {
  const t = (...names: string[]) =>
    describeExports(
      {
        t: pg.pgTable(
          "t",
          Object.fromEntries(names.map((name) => [name, pg.text()])),
        ),
      },
      "",
    );
  const answers = { renames: [], isComplete: false, asked: undefined };
  const ask = async (before: string[], after: string[]) =>
    await askRenames(await t(...before), await t(...after), answers).catch(
      ({ hint }) => hint.split("`")[1],
    );

  expect([
    await ask(["a"], ["b"]),
    await ask(["a"], ["b", "c"]),
    await ask(["a", "b"], ["c"]),
  ]).toEqual([
    "--rename t.a=b",
    "--rename <old column>=<new column>",
    "--rename <old column>=<new column>",
  ]);
});

test("a name that two columns or relations share is refused, also where PostgreSQL cuts it", async () => {
  const x = () => pg.text();
  const long = "x".repeat(63);
  const twice = (part: () => pg.PgTableExtraConfigValue) => ({
    a: pg.pgTable("a", { x: x() }, () => [part(), part()]),
  });
  const pairs = {
    "the check c of public.a": twice(() => pg.check("c", S`true`)),
    "the policy p of public.a": twice(() => pg.pgPolicy("p")),
    "the unique key u of public.a": twice(() =>
      pg.unique("u").on(pg.pgTable("a", { x: x() }).x),
    ),
    "the column x of public.a exists twice": {
      a: pg.pgTable("a", { x: x(), y: pg.text("x") }),
    },
    "have the name public.mood": { mood, t: pg.pgTable("mood", { x: x() }) },
    "have the name public.u": {
      a: pg.pgTable("a", { x: x().unique("u") }),
      b: pg.pgTable("b", { x: x() }, (t) => [pg.index("u").on(t.x)]),
    },
    [`have the name public.${long}`]: {
      a: pg.pgTable("a", { x: x() }, (t) => [pg.index(`${long}1`).on(t.x)]),
      b: pg.pgSequence(`${long}2`),
    },
  };
  for (const [message, exported] of Object.entries(pairs))
    await expect(describeExports(exported, "")).rejects.toThrow(message);
});
