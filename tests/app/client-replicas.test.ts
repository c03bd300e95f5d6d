// Which server is asked, where there are replicas. The "replicas" are databases
// of the same server with other rows: what is read tells where.
import { beforeAll, expect } from "bun:test";
import { ne, sql } from "drizzle-orm";
import { unionAll } from "drizzle-orm/pg-core";
import { codeOf } from "../../src/infrastructure/database/errors";
import {
  CREATE_ITEMS,
  items,
  openClient,
  openNetwork,
  rejection,
} from "../lib/client";
import { useDatabase } from "../lib/database";

const { database, test } = useDatabase("empty");
const { sql: server, address } = database;
const replica = { ...address, database: `${database.name}_replica` };

/** Makes the replica, and a row in it that says where it is. */
beforeAll(async () => {
  await server.unsafe(`${CREATE_ITEMS}; create sequence calls`);
  await server.unsafe(`create database ${replica.database}`);
  const { db, closeDatabase } = openClient(replica);
  await db.execute(`${CREATE_ITEMS}; create sequence calls`);
  await db.insert(items).values({ name: "replica", slug: "x" });
  await closeDatabase();
});

/** Asks until it is what is expected: on a busy machine a replica may be left out for a second. */
async function askUntil<T>(expected: T, ask: () => Promise<T>): Promise<T> {
  const deadline = Date.now() + 10_000;
  while (true) {
    const answer = await ask();
    if (answer === expected || Date.now() > deadline) return answer;
    await Bun.sleep(20);
  }
}

test("reads outside of transactions go to a replica, all else to the primary", async () => {
  const { db, closeDatabase } = openClient(address, {}, [replica]);
  await db.insert(items).values({ name: "primary", slug: "x" });
  const { name } = items;
  const found = db.$with("found").as(db.select().from(items));
  const added = db
    .$with("added")
    .as(db.insert(items).values({ name: "added", slug: "y" }).returning());
  const where = async (rows: PromiseLike<{ name: unknown }[]>) =>
    (await rows)[0]?.name;
  const eventually = (rows: () => PromiseLike<{ name: unknown }[]>) =>
    askUntil("replica" as unknown, () => where(rows()));

  const reads = [
    await eventually(() => db.select({ name }).from(items)),
    await eventually(() => db.selectDistinct({ name }).from(items)),
    await eventually(() => db.selectDistinctOn([name], { name }).from(items)),
    await eventually(() =>
      db.with(found).select({ name: found.name }).from(found),
    ),
    await eventually(() =>
      db
        .select({
          name,
          text: sql.raw(`'it''s an update', name as "or ""delete""", 'lock'`),
        })
        .from(items),
    ),
    await eventually(() =>
      unionAll(
        db.select({ name }).from(items),
        db.select({ name }).from(items),
      ),
    ),
    await eventually(() =>
      db.select({ name }).from(items).prepare("named").execute(),
    ),
  ];
  const writing: [string, unknown][] = [];
  for (const expression of [
    ...["nextval('calls')", "SETVAL('calls', 9)", "pg_advisory_xact_lock(1)"],
    "pg_try_advisory_xact_lock_shared(1)",
    ...["insert", "update", "delete", "merge", "share", "lock"].map(
      (word) => `1 /* ${word} */`,
    ),
  ])
    writing.push([
      expression,
      await where(db.select({ name, value: sql.raw(expression) }).from(items)),
    ]);
  const others = [
    await where(db.$primary.select({ name }).from(items)),
    await where(db.transaction((tx) => tx.select({ name }).from(items))),
    await where(db.select({ name }).from(items).for("update")),
    await where(db.select({ name }).from(items).for("key share")),
    await where(db.execute(sql`select name from items`)),
    await where(db.update(items).set({ slug: "z" }).returning()),
  ];
  await where(db.with(added).select({ name: added.name }).from(added));
  const counts = [
    await askUntil(1, async () => await db.$count(items)),
    await db.$primary.$count(items),
  ];
  await closeDatabase();

  expect(reads).toEqual(Array(7).fill("replica"));
  expect(writing).toEqual(writing.map(([text]) => [text, "primary"]));
  expect(others).toEqual(Array(6).fill("primary"));
  expect(counts).toEqual([1, 2]);
});

test("a replica has a number of connections of its own", async () => {
  const limits = { poolSize: 1, replicaPoolSize: 3 };
  const { db, closeDatabase } = openClient(address, limits, [replica]);
  const pid = sql<number>`pg_backend_pid() + coalesce(length(pg_sleep(0.05)::text), 0)`;
  const read = async () => (await db.select({ pid }).from(items))[0]?.pid;

  // Before the replica is known to be good, one goes to the primary.
  const used = await askUntil(3, async () => {
    const pids = await Promise.all([read(), read(), read()]);
    return new Set(pids).size;
  });
  await closeDatabase();

  expect(used).toBe(3);
});

test("what a replica does not have yet is read from the primary", async () => {
  const copy = openClient(replica);
  await copy.db.execute(`create type mood as enum ('old');
    create function fail(code text) returns int language plpgsql as
      'begin raise using errcode = code; end';
    create function die() returns int language sql as
      'select pg_terminate_backend(pg_backend_pid())::int'`);
  await copy.closeDatabase();
  await server.unsafe(`
    create type mood as enum ('old', 'new'); create type newer_type as enum ('a');
    create table newer (); alter table items add added int;
    create schema newer_schema;
    create function newer_schema.call() returns int return 1;
    create function newer_function() returns int return 1;
    create function fail(code text) returns int return 1;
    create function die() returns int return 1`);
  const { db, closeDatabase } = openClient(address, {}, [replica]);
  const name = async () => (await db.select().from(items))[0]?.name;
  await askUntil("replica", name);

  const refused: [string, string | undefined][] = [];
  for (const expression of [
    ...["(select count(*) from newer)", "added", "null::newer_type"],
    ...["newer_function()", "newer_schema.call()", "'new'::mood"],
    // It writes or locks, it is a standby, it is behind, it has no such table.
    ...["25006", "55000", "40001", "0A000"].map((code) => `fail('${code}')`),
    "die()",
  ]) {
    await askUntil("replica", name); // it is known to be good
    await db
      .select({ value: sql.raw(expression) })
      .from(items)
      .catch((error) => refused.push([expression, codeOf(error)]));
  }
  await closeDatabase();

  expect(refused).toEqual([]);
});

test("a replica whose connections are all in use is not taken for one that is down", async () => {
  const limits = { replicaPoolSize: 1, acquireMs: 400 };
  const { db, closeDatabase } = openClient(address, limits, [replica]);
  const read = (value = sql`1`) =>
    db
      .select({ value })
      .from(items)
      .then(() => undefined, codeOf);

  const code = await askUntil("POOL_BUSY" as string | undefined, async () => {
    const first = read(sql`length(pg_sleep(0.6)::text)`);
    const second = await read();
    await first;
    return second;
  });
  await closeDatabase();

  expect(code).toBe("POOL_BUSY");
});

test("an error of the query itself is not asked for twice", async () => {
  const { db, closeDatabase } = openClient(address, {}, [replica]);

  const divide = () =>
    db.select({ x: sql`1 / (ascii(name) - ascii('replica'))` }).from(items);

  // The primary has no row to divide for.
  const code = await askUntil("22012" as string | undefined, () =>
    rejection(divide()).then(codeOf, () => undefined),
  );
  await closeDatabase();

  expect(code).toBe("22012");
});

test("a replica that was silent is read from at once when it is back", async () => {
  const network = await openNetwork(address);
  const { db, closeDatabase } = openClient(address, { connectMs: 8000 }, [
    { ...replica, port: network.port },
  ]);
  let slowest = 0;
  const read = async () => {
    const start = Date.now();
    const [row] = await db.select().from(items);
    slowest = Math.max(slowest, Date.now() - start);
    return row?.name;
  };

  await askUntil("replica", read);
  void network.swallow(true);
  // More than there are connections: some have to be opened.
  await Promise.all(Array.from({ length: 3 }, read));
  void network.swallow(false);
  slowest = 0;
  await askUntil("replica", read);
  await closeDatabase();
  await network.close();

  expect(slowest).toBeLessThan(3000);
});

test("the others are read from where one of several replicas refuses", async () => {
  const nobody = { ...replica, port: 1 };
  const { db, closeDatabase } = openClient(address, {}, [replica, nobody]);
  const read = async () => (await db.select().from(items))[0]?.name;

  const names = await askUntil("replica", async () =>
    [...new Set(await Promise.all(Array.from({ length: 20 }, read)))].join(),
  );
  await closeDatabase();

  expect(names).toBe("replica");
});

test("a replica that refuses is left out at once, and comes back", async () => {
  await server`truncate items`;
  const nobody = { ...replica, port: 1 };
  const { db, closeDatabase } = openClient(address, {}, [nobody, replica]);
  await db.insert(items).values({ name: "primary", slug: "x" });
  const read = async () => (await db.select().from(items))[0]?.name;
  const rename = (from: string, to: string) =>
    server.unsafe(`select pg_terminate_backend(pid, 5000) from pg_stat_activity
        where datname = '${from}'; alter database ${from} rename to ${to}`);

  await askUntil("replica", read);
  await rename(replica.database, `${database.name}_gone`);
  const start = Date.now();
  const names = await Promise.all(Array.from({ length: 50 }, read));
  const waited = Date.now() - start;
  await rename(`${database.name}_gone`, replica.database);
  await askUntil("replica", read);
  await closeDatabase();
  const copy = openClient(replica);
  // Now it says that it is a standby; it receives nothing.
  for (const text of [
    "create schema behind",
    "create function behind.pg_is_in_recovery() returns bool return true",
    `alter database ${replica.database} set search_path = behind, pg_catalog, public`,
  ])
    await copy.db.execute(text);
  await copy.closeDatabase();
  const late = openClient(address, {}, [replica]);
  const [row] = await late.db.select().from(items);
  await late.closeDatabase();

  expect(row?.name).toBe("primary");
  expect(names).toEqual(Array(50).fill("primary"));
  expect(waited).toBeLessThan(3000);
});
