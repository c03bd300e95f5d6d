// Prints what the application's client stores and reads for every type and mode of
// drizzle, as one JSON document. The caller provides an empty database.
import { getTableColumns, sql } from "drizzle-orm";
import {
  bigint,
  bigserial,
  bit,
  boolean,
  char,
  cidr,
  customType,
  date,
  doublePrecision,
  inet,
  integer,
  interval,
  json,
  jsonb,
  line,
  macaddr,
  macaddr8,
  numeric,
  pgEnum,
  pgTable,
  point,
  real,
  serial,
  smallint,
  smallserial,
  text,
  time,
  timestamp,
  uuid,
  varchar,
} from "drizzle-orm/pg-core";
import postgres from "postgres";
import { closeDatabase, db } from "@/infrastructure/database";

const bytea = customType<{ data: Buffer }>({ dataType: () => "bytea" });
const mood = pgEnum("mood", ["sad", "very happy"]);
const withTimezone = true;
const every = pgTable("every", {
  id: serial().primaryKey(),
  bigintNumber: bigint({ mode: "number" }),
  bigintBigint: bigint({ mode: "bigint" }),
  bigserialNumber: bigserial({ mode: "number" }),
  bits: bit({ dimensions: 3 }),
  boolean: boolean(),
  bytea: bytea(),
  char: char({ length: 3 }),
  cidr: cidr(),
  dateDate: date({ mode: "date" }),
  dateString: date({ mode: "string" }),
  double: doublePrecision(),
  enum: mood(),
  inet: inet(),
  integer: integer(),
  interval: interval(),
  json: json(),
  jsonb: jsonb(),
  jsonbString: jsonb(),
  jsonbArray: jsonb(),
  jsonbNumber: jsonb(),
  lineTuple: line(),
  lineAbc: line({ mode: "abc" }),
  macaddr: macaddr(),
  macaddr8: macaddr8(),
  numericString: numeric(),
  numericNumber: numeric({ mode: "number" }),
  numericBigint: numeric({ mode: "bigint" }),
  pointTuple: point(),
  pointXy: point({ mode: "xy" }),
  real: real(),
  smallint: smallint(),
  smallserial: smallserial(),
  text: text(),
  time: time(),
  timeZone: time({ withTimezone }),
  timestampDate: timestamp({ mode: "date" }),
  timestampString: timestamp({ mode: "string" }),
  timestampZoneDate: timestamp({ mode: "date", withTimezone }),
  timestampZoneString: timestamp({ mode: "string", withTimezone }),
  uuid: uuid(),
  varchar: varchar(),
  booleans: boolean().array(),
  bigints: bigint({ mode: "bigint" }).array(),
  bytes: bytea().array(),
  dates: date({ mode: "string" }).array(),
  enums: mood().array(),
  integers: integer().array().array(),
  jsonbs: jsonb().array(),
  numerics: numeric().array(),
  texts: text().array(),
  times: time().array(),
  timestamps: timestamp({ mode: "date" }).array(),
  timestampZones: timestamp({ mode: "date", withTimezone }).array(),
  timestampStrings: timestamp({ mode: "string", withTimezone }).array(),
  uuids: uuid().array(),
});

const day = new Date("2026-07-01T12:34:56.789Z");
const uuidValue = "00112233-4455-6677-8899-aabbccddeeff";
const written: typeof every.$inferInsert = {
  bigintNumber: 9007199254740991,
  bigintBigint: 9223372036854775807n,
  bigserialNumber: 5,
  bits: "101",
  boolean: false,
  bytea: Buffer.from([0, 255, 92, 39]),
  char: "ab",
  cidr: "10.0.0.0/8",
  dateDate: day,
  dateString: "2026-07-01",
  double: 0.1,
  enum: "very happy",
  inet: "::1",
  integer: -7,
  interval: "1 year 2 days 03:04:05.000006",
  json: { a: [1, "x", null], ü: "\"quoted\" \\ 'single'" },
  jsonb: { a: { b: [true, 1.5] } },
  jsonbString: "a string",
  jsonbArray: [1, "two", { three: 3 }],
  jsonbNumber: 42,
  lineTuple: [1, 2, 3],
  lineAbc: { a: 1, b: 2, c: 3 },
  macaddr: "08:00:2b:01:02:03",
  macaddr8: "08:00:2b:01:02:03:04:05",
  numericString: "12345678901234567890.123456789",
  numericNumber: 1.5,
  numericBigint: 12345678901234567890n,
  pointTuple: [1.5, -2],
  pointXy: { x: 1.5, y: -2 },
  real: 1.25,
  smallint: 3,
  smallserial: 4,
  text: "a'b\"c\\d\n{ü}",
  time: "12:34:56.000001",
  timeZone: "12:34:56+02",
  timestampDate: day,
  timestampString: "2026-07-01 12:34:56.123456",
  timestampZoneDate: day,
  timestampZoneString: "2026-07-01 12:34:56.123456+02",
  uuid: uuidValue,
  varchar: "",
  booleans: [true, false],
  bigints: [1n, 9223372036854775807n],
  dates: ["2026-07-01"],
  enums: ["sad", "very happy"],
  integers: [
    [1, 2],
    [3, 4],
  ],
  numerics: ["1.50", "2"],
  texts: ['a,"b"', "{c}", "d\\e", ""],
  times: ["12:00:00"],
  timestamps: [day],
  timestampZones: [day],
  timestampStrings: ["2026-07-01 12:34:56.123456+02"],
  uuids: [uuidValue],
};

const names = Object.keys(written);
const types = Object.entries(getTableColumns(every)).map(
  ([name, column]) => `"${name}" ${column.getSQLType()}`,
);
// A separate connection, which may use another driver than the client.
const server = postgres(process.env.DATABASE_URL ?? "", { max: 1 });
await server.unsafe("create type mood as enum ('sad', 'very happy')");
await server.unsafe(`create table every (${types.join(", ")})`);

await db.insert(every).values(written);
const texts = names.map((name) => `"${name}"::text`);
const [stored] = await server.unsafe(`select ${texts.join(", ")},
  jsonb_typeof("jsonb") as "jsonbType", jsonb_typeof("jsonbString") as "jsonbStringType",
  json_typeof("json") as "jsonType" from every`);

await server.unsafe(String.raw`insert into every (id, bytes, jsonbs)
  values (2, array['\x00ff'::bytea], array[jsonb '{"a":[1]}', '"b"'])`);
const read = await db.select().from(every).orderBy(every.id);
const [relational] = await db.execute("select * from every where id = 1");

const [parameters] = await db.execute(sql`select ${true} as "boolean",
  ${5n} as "bigint", ${"x"} as "text", ${7}::int as "integer", ${null} as "null",
  ${Buffer.from("ab")} as "bytea", ${sql.param(["a", "b"])}::text[] as "array",
  ${sql.param([day])}::timestamp[] as "days"`);
const [others] = await db.execute(`select 1::int2 as "int2", 2::oid as "oid",
  '1.5'::float4 as "float4", 'NaN'::float8 as "nan", 1::int8 as "int8",
  1.50::numeric as "numeric", '$1.50'::money as "money", 'a'::name as "name",
  '(1,2),(0,0)'::box as "box", '<(1,2),3>'::circle as "circle",
  '[1,3)'::int4range as "range", '{[1,3)}'::int4multirange as "multirange",
  row(1, 'a') as "record", '1 day'::interval as "interval",
  array['1 day'::interval] as "intervals", array[1.5::float8] as "floats",
  array[point '(1,2)'] as "points",
  array[box '(1,2),(0,0)', '(3,4),(1,1)'] as "boxes", array['a b', 'c']::name[] as "names",
  array[json '{"a":1}'] as "jsons", array[1, null] as "nulls", xml '<a/>' as "xml", to_tsvector('simple', 'a') as "tsvector"`);
await server.end();
const empty = await db.execute("select 1 as one where false");
const [first, second] = await db.execute("select 1 as one; select 2 as two");

console.log(
  JSON.stringify(
    { stored, read, raw: relational, parameters, others, empty, first, second },
    tagged,
  ),
);
await closeDatabase();

/** Tags values that JSON would print alike, or leave out. */
function tagged(this: Record<string, unknown>, key: string, value: unknown) {
  const original = this[key];
  if (original instanceof Date) return `Date ${original.toISOString()}`;
  if (original instanceof Uint8Array)
    return `Buffer ${Buffer.from(original).toString("hex")}`;
  if (typeof original === "bigint") return `${original}n`;
  if (Number.isNaN(original)) return "NaN";
  return value;
}
