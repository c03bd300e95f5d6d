// The exports of a schema.ts with everything that drizzle-orm/pg-core can express.
import { eq, sql } from "drizzle-orm";
import * as pg from "drizzle-orm/pg-core";

const other = pg.pgSchema("other");
const dashed = pg.pgSchema("a-b");
const mood = pg.pgEnum("mood", ["sad", "it's ok", 'so, "so"', "back\\slash"]);
const kind = other.enum("date_kind", ["a", "b"]);
enum Level {
  Low = "low",
  High = "high",
}
const level = pg.pgEnum("level", Level);
const custom = (type: string) =>
  pg.customType<{ data: string }>({ dataType: () => type })();
const writer = pg.pgRole(`every;entry_${process.pid}`, { createDb: true });
const numbers = pg.pgSequence("numbers", {
  startWith: 100,
  increment: -5,
  minValue: -1000,
  maxValue: 1000,
  cache: 10,
  cycle: true,
});
const counted = dashed.sequence("counted");

/** Each column type: with its options, with defaults, and as an array. */
const types = pg.pgTable("types", {
  id: pg.uuid().primaryKey().defaultRandom(),
  small: pg.smallint().default(-1),
  int: pg.integer().default(7).notNull(),
  big: pg.bigint({ mode: "number" }).default(9),
  bigger: pg.bigint({ mode: "bigint" }).default(9007199254740993n),
  smallserial: pg.smallserial(),
  serial: pg.serial(),
  bigserial: pg.bigserial({ mode: "number" }),
  bool: pg.boolean().default(true),
  text: pg.text().default('it\'s; -- \\ "quoted" ${x}\nnext'),
  choice: pg.text({ enum: ["a", "b"] }).default("a"),
  varchar: pg.varchar(),
  varchar9: pg.varchar({ length: 9 }).default("v;'"),
  char: pg.char({ length: 4 }).default("abcd"),
  numeric: pg.numeric().default("1.5"),
  price: pg.numeric({ precision: 10, scale: 2 }).default("0.00"),
  whole: pg.numeric({ precision: 5 }),
  real: pg.real().default(0.5),
  double: pg.doublePrecision().default(1e21),
  none: pg.doublePrecision().default(Number.NaN),
  json: pg.json().default({ a: "it's" }),
  jsonb: pg.jsonb().default({ a: ["it's", 'q"q', "b\\b"] }),
  list: pg.jsonb().default([]),
  word: pg.jsonb().default("it's"),
  date: pg.date().default("2024-02-29"),
  dateNow: pg.date().defaultNow(),
  day: pg.date({ mode: "date" }).default(new Date(Date.UTC(2024, 1, 29))),
  time: pg.time().default("12:30"),
  time3: pg.time({ precision: 3, withTimezone: true }),
  stamp: pg.timestamp().default(new Date(Date.UTC(2024, 1, 29))),
  stampNow: pg.timestamp({ withTimezone: true, precision: 3 }).defaultNow(),
  stampText: pg.timestamp({ mode: "string" }).default("2024-02-29 12:30:00"),
  interval: pg.interval().default("1 day 02:00:00"),
  months: pg.interval({ fields: "year to month" }),
  seconds: pg.interval({ fields: "second", precision: 3 }),
  inet: pg.inet().default("10.0.0.1"),
  cidr: pg.cidr(),
  macaddr: pg.macaddr(),
  macaddr8: pg.macaddr8(),
  point: pg.point().default([1, 2]),
  pointXy: pg.point({ mode: "xy" }).default({ x: 1, y: 2 }),
  line: pg.line().default([1, 2, 3]),
  lineAbc: pg.line({ mode: "abc" }).default({ a: 1, b: 2, c: 3 }),
  bit: pg.bit({ dimensions: 3 }).default("101"),
  mood: mood().default("it's ok").notNull(),
  kind: kind().default("b"),
  level: level().default(Level.High),
  moods: mood().array().default(["sad", 'so, "so"', "back\\slash"]),
  kinds: kind().array(),
  words: pg
    .text()
    .array()
    .default(["it's", "a,b", 'q"q', "back\\slash", "{x}", "", "NULL"]),
  empty: pg.text().array().notNull().default([]),
  matrix: pg
    .integer()
    .array()
    .array()
    .default([
      [1, 2],
      [3, 4],
    ]),
  bigs: pg.bigint({ mode: "bigint" }).array().default([1n, 2n]),
  varchars: pg.varchar({ length: 5 }).array(),
  stamps: pg
    .timestamp({ withTimezone: true })
    .array()
    .default([new Date(Date.UTC(2024, 1, 29))]),
  days: pg
    .date({ mode: "date" })
    .array()
    .default([new Date(Date.UTC(2024, 1, 29))]),
  localStamps: pg
    .timestamp()
    .array()
    .default([new Date(Date.UTC(2024, 1, 29))]),
  endless: pg.doublePrecision().default(-Infinity),
  bytes: pg
    .customType<{ data: Uint8Array }>({ dataType: () => "bytea" })()
    .default(new Uint8Array([222, 173])),
  custom: custom("tsvector"),
  qualified: custom("pg_catalog.bytea").default(sql`'\\xdead'::bytea`),
  typed: custom("character varying(12)"),
  ofDomain: custom('"Own domain"'),
  expression: pg.text().default(sql`upper('x;y')`),
  parameter: pg.integer().default(sql`1 + ${5}`),
  counted: pg.bigint({ mode: "number" }).default(sql`nextval('"a-b".counted')`),
  "Mixed Case": pg.text("Mixed Case"),
  mixed_case: pg.text(),
  'quo"ted': pg.text('quo"ted').default("x"),
});

const identities = pg.pgTable("identities", {
  id: pg.integer().primaryKey().generatedAlwaysAsIdentity(),
  small: pg.smallint().generatedByDefaultAsIdentity(),
  options: pg.bigint({ mode: "number" }).generatedByDefaultAsIdentity({
    name: "own_seq",
    startWith: 10,
    increment: 5,
    minValue: 5,
    maxValue: 1000,
    cache: 3,
    cycle: true,
  }),
});

const computed = pg.pgTable(
  "computed",
  {
    id: pg.integer().primaryKey(),
    first: pg.text().notNull(),
    last: pg.text(),
    full: pg
      .text()
      .generatedAlwaysAs(sql`first || ' ' || coalesce(last, '; ')`),
    length: pg
      .integer()
      .generatedAlwaysAs(
        (): ReturnType<typeof sql> => sql`length(${computed.first})`,
      )
      .notNull(),
  },
  (t) => [pg.index("computed_full").on(t.full)],
);

const keys = pg.pgTable(
  "keys",
  {
    a: pg.integer().notNull(),
    b: pg.integer().notNull(),
    c: pg.integer().unique(),
    d: pg.integer().unique("keys_d", { nulls: "not distinct" }),
    "e,f": pg.text(),
    aVeryLongNameOfAColumnThatIsNearlyAsLongAsPostgresAllows: pg
      .integer()
      .references(() => identities.id),
    parent: pg.integer(),
  },
  (t) => [
    pg.primaryKey({ columns: [t.a, t.b], name: "keys_own" }),
    pg.unique().on(t.b, t["e,f"]),
    pg.unique("keys_nulls").on(t.a, t.c).nullsNotDistinct(),
    pg.check("keys_check", sql`${t.a} > 0 and ${t["e,f"]} <> 'a;b--c'`),
    pg.check("keys_parameter", sql`${t.b} < ${100}`),
    pg.foreignKey({ columns: [t.parent, t.b], foreignColumns: [t.a, t.b] }),
  ],
);

const actions = pg.pgTable(
  "actions",
  Object.fromEntries(
    ["cascade", "restrict", "no action", "set null", "set default"].map(
      (action, index, all) => [
        `column${index}`,
        pg.integer().references(() => identities.id, {
          onDelete: action as "cascade",
          onUpdate: all.at(index - 1) as "cascade",
        }),
      ],
    ),
  ),
);

const indexed = pg.pgTable(
  "indexed",
  {
    id: pg.integer().primaryKey(),
    a: pg.text(),
    b: pg.text(),
    c: pg.jsonb(),
    d: pg.integer().array(),
  },
  (t) => [
    pg.index().on(t.a),
    pg.index("indexed_desc").on(t.a.desc(), t.b.asc().nullsFirst()),
    pg.index("indexed_last").on(t.a.desc().nullsLast(), t.b),
    pg.index("indexed_op").on(t.a.op("text_pattern_ops").desc()),
    pg.index("indexed_gin").using("gin", t.c.op("jsonb_path_ops"), t.d),
    pg.index("indexed_hash").using("hash", t.b),
    pg.index("indexed_with").on(t.b).with({ fillfactor: 70 }),
    pg
      .index("indexed_where")
      .on(t.b)
      .where(sql`${t.a} <> ';--'`),
    pg
      .index("indexed_expression")
      .on(sql`lower(${t.a}) desc nulls last`, sql`(${t.b} || ';')`),
    pg.uniqueIndex("indexed_unique").on(t.a, t.id).concurrently(),
    pg.uniqueIndex("indexed_mixed").on(t.id, sql`lower(${t.a})`),
  ],
);

const secured = pg.pgTable(
  "secured",
  { id: pg.integer().primaryKey(), owner: pg.text().notNull() },
  (t) => [
    pg.pgPolicy("all", {}),
    pg.pgPolicy("read; it's --own", {
      as: "restrictive",
      for: "select",
      to: "public",
      using: sql`${t.owner} = current_user or ${t.owner} = ';--'`,
    }),
    pg.pgPolicy("write", {
      for: "insert",
      to: [writer, "current_user"],
      withCheck: sql`${t.owner} <> ${"nobody"}`,
    }),
    pg.pgPolicy("change", {
      for: "update",
      to: writer,
      using: sql`true`,
      withCheck: sql`${t.id} > 0`,
    }),
  ],
);
const closed = pg.pgTable("closed", { id: pg.integer() }).enableRLS();

const inOther = other.table(
  "in_other",
  {
    id: pg.serial().primaryKey(),
    mood: mood(),
    kind: kind(),
    types: pg.uuid().references(() => types.id),
  },
  (t) => [
    pg
      .index("in_other_kind")
      .on(t.kind)
      .where(sql`${t.kind} = 'a'`),
    pg.pgPolicy("own", { using: sql`${t.id} > 0` }),
  ],
);
const inDashed = dashed.table(
  "Dashed Table",
  {
    id: pg.integer().primaryKey().generatedAlwaysAsIdentity(),
    link: pg.integer().references(() => inOther.id),
  },
  (t) => [pg.unique("dashed; unique").on(t.link)],
);

/** Names that drizzle-kit would take apart, or not escape. */
const odd = pg.pgSchema('o;d"d');
const oddMood = odd.enum('m;o"od', ["it's; --"]);
const oddCount = odd.sequence('c;o"unt', { increment: 2 });
const oddTable = odd.table(
  't;a"ble',
  {
    id: pg.integer('i;d"').generatedAlwaysAsIdentity({ name: 's;e"q' }),
    text: pg.text('t;e"xt').notNull().default("--"),
    mood: oddMood('m;o"od'),
    up: pg.integer('u;p"'),
    sum: pg.integer('s;u"m').generatedAlwaysAs(sql`length(';--')`),
  },
  (t) => [
    pg.primaryKey({ columns: [t.id, t.text], name: 'p;k"' }),
    pg.unique('u;n"').on(t.id, t.up),
    pg.foreignKey({
      columns: [t.up, t.text],
      foreignColumns: [t.id, t.text],
      name: 'f;k"',
    }),
    pg.check('c;h"', sql`${t.text} <> ';'`),
    pg.index('i;x"').on(t.text.desc(), t.up),
    pg.pgPolicy('p;o"', { to: writer, using: sql`${t.up} > 0` }),
  ],
);
const oddView = odd.view('v;i"ew').as((qb) => qb.select().from(oddTable));

const plain = pg.pgView("plain").as((qb) => qb.select().from(closed));
const above = pg
  .pgView("above")
  .with({ securityInvoker: true, securityBarrier: true })
  .as((qb) => qb.select().from(plain));
const checked = other
  .view("checked")
  .with({ checkOption: "cascaded" })
  .as((qb) => qb.select().from(inOther).where(eq(inOther.kind, "a")));
const manual = pg
  .pgView("manual", { one: pg.integer() })
  .as(sql`select 1 as one where ';' <> '--'`);
const materialized = pg
  .pgMaterializedView("materialized")
  .using("heap")
  .with({ fillfactor: 70, autovacuumEnabled: false })
  .withNoData()
  .as((qb) => qb.select({ id: indexed.id, a: indexed.a }).from(indexed));
const materializedToo = other
  .materializedView("materialized_too")
  .as((qb) => qb.select({ id: indexed.id }).from(indexed));

const enums = { mood, kind, level, oddMood };
const places = { other, dashed, odd };
const tables = {
  types,
  identities,
  computed,
  keys,
  actions,
  indexed,
  secured,
  closed,
  inOther,
  inDashed,
  oddTable,
};

/** All entries. */
export const everyEntry = {
  ...places,
  ...enums,
  ...tables,
  writer,
  numbers,
  counted,
  oddCount,
  oddView,
  plain,
  above,
  checked,
  manual,
  materialized,
  materializedToo,
};

/** The same tables, with one column of another type and nothing else. */
export const bareEntries = {
  types: pg.pgTable("types", { text: pg.varchar({ length: 40 }) }),
  identities: pg.pgTable("identities", { small: pg.smallint().notNull() }),
  computed: pg.pgTable("computed", { first: pg.varchar(), full: pg.text() }),
  keys: pg.pgTable("keys", { a: pg.integer(), c: pg.text() }),
  indexed: pg.pgTable("indexed", { a: pg.integer(), b: pg.text() }),
  secured: pg.pgTable("secured", { owner: pg.text() }),
  odd,
  oddTable: odd.table('t;a"ble', { up: pg.text('u;p"') }),
};

/** SQL for an object that the entries use and drizzle cannot create. */
export const needed = `CREATE DOMAIN "Own domain" AS text CHECK (value <> '')`;

/** The role that the entries create. */
export const role = `every;entry_${process.pid}`;
