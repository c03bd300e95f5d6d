// What the client stores and reads, for every type of drizzle, does not depend
// on the zone of the process, and is what postgres.js stored and read.
import { expect, test as bunTest } from "bun:test";
import { join } from "node:path";
import { sql } from "drizzle-orm";
import { pgTable, timestamp } from "drizzle-orm/pg-core";
import { root } from "../../src/env";
import { encodeValues } from "../../src/infrastructure/database/values";
import { openClient } from "../lib/client";
import { testDatabase as test } from "../lib/database";

const script = "tests/lib/every-type.ts";

for (const TZ of ["UTC", "Europe/Berlin"])
  test(`every type is stored and read in ${TZ}`, "empty", async (database) => {
    const expected = await Bun.file(
      join(root, "tests/lib/every-type.json"),
    ).json();

    const { stdout, stderr } = await database.run(script, { TZ });

    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toEqual(expected);
  });

test("a Date is read and compared as it is", "empty", async ({ address }) => {
  const { db, closeDatabase } = openClient(address, { poolSize: 1 });
  const times = pgTable("times", {
    zoned: timestamp({ withTimezone: true }),
    plain: timestamp(),
  });
  await db.execute("create table times (zoned timestamptz, plain timestamp)");
  await db.execute("set timezone = 'Europe/Amsterdam'");
  await db.execute(`insert into times select value, value at time zone 'UTC'
    from unnest(array['1800-01-01 12:34:56.789Z', '0001-02-03Z', '12345-06-07Z',
      '0044-03-15Z BC', '2026-07-01Z', 'infinity']::timestamptz[]) as value`);

  const rows = await db.select().from(times);
  const late = new Date("2026-07-01T23:30Z");
  const [compared] = await db.execute(sql`select
    timestamptz '2026-07-01 23:30Z' = ${late} as zoned,
    timestamp '2026-07-01 23:30' = ${late} as plain,
    date '2026-07-01' = ${late} as day`);
  await closeDatabase();

  const dates = [
    "1800-01-01T12:34:56.789Z",
    "0001-02-03T00:00:00.000Z",
    "+012345-06-07T00:00:00.000Z",
    "-000043-03-15T00:00:00.000Z",
    "2026-07-01T00:00:00.000Z",
    null, // there is no such Date
  ];
  expect(JSON.parse(JSON.stringify(rows))).toEqual(
    dates.map((date) => ({ zoned: date, plain: date })),
  );
  expect(compared).toEqual({ zoned: true, plain: true, day: true });
});

test(
  "a statement's rows have PostgreSQL's answer on them",
  "empty",
  async ({ address }) => {
    const { db, closeDatabase } = openClient(address);
    const inserted = await db.execute(
      "create temp table t (a int); insert into t values (1), (2) returning a",
    );
    const one = await db.execute(sql`select ${1}::int as one`);
    const both = [inserted, [one]].flat() as (typeof one)[];
    await closeDatabase();

    expect(both.map((rows) => [...rows])).toEqual([
      [],
      [{ a: 1 }, { a: 2 }],
      [{ one: 1 }],
    ]);
    expect(
      both.map(({ command, rowCount, count, fields }) => ({
        ...{ command, rowCount, count },
        fields: fields.map(({ name }) => name),
      })),
    ).toEqual([
      { command: "CREATE", rowCount: null, count: null, fields: [] },
      { command: "INSERT", rowCount: 2, count: 2, fields: ["a"] },
      { command: "SELECT", rowCount: 1, count: 1, fields: ["one"] },
    ]);
    expect(one.rows).toBe(one);
    expect(Object.keys(one)).toEqual(["0"]);
  },
);

bunTest(
  "a timestamp is read from JSON, too, as rows inside of rows have it",
  () => {
    const { zoned, plain } = pgTable("times", {
      zoned: timestamp({ withTimezone: true }),
      plain: timestamp(),
    });
    const read = (column: typeof zoned | typeof plain, text: unknown) =>
      column.mapFromDriverValue(text as string);
    const date = new Date("2026-07-01T10:34:56.789Z");

    expect(read(zoned, "2026-07-01T12:34:56.789+02:00")).toEqual(date);
    expect(read(plain, "2026-07-01T10:34:56.789")).toEqual(date);
    expect(read(plain, date)).toBe(date);
  },
);

bunTest("more parameters than the protocol can count are refused", () => {
  const most = Array.from({ length: 65_535 }, () => 1);

  expect(encodeValues(most)).toHaveLength(65_535);
  expect(() => encodeValues([...most, 1])).toThrow(
    "a statement has 65536 parameters, and may have 65535",
  );
});
