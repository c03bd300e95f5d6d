// The scratch database in which migrations are tried: what it gets of the real one.
import { expect, spyOn, test } from "bun:test";
import { openConnection } from "../../scripts/lib/connection";
import { listMade } from "../../scripts/migrations/ours";
import {
  foldName,
  isMissing,
  isTaken,
  isTakenOver,
  readMentions,
  runTaking,
  type Trial,
} from "../../scripts/migrations/take-over";
import {
  chooseBetween,
  readServer,
  startBeside,
  withTrial,
} from "../../scripts/migrations/trial";
import type { DatabaseAddress } from "../../src/database-url";
import { type TestDatabase, withDatabase } from "../lib/database";
import { withRoles } from "../lib/roles";
import { testServer } from "../setup";

/** Runs `work` with a trial, in which a migration creates what `making` does. */
async function onTrial<T>(
  { address }: Pick<TestDatabase, "address">,
  work: (trial: Trial) => Promise<T>,
  {
    making = "",
    texts = [] as string[],
    isScratchServer = false,
    beside = address,
  } = {},
): Promise<T> {
  await using real = await openConnection(address, "tests");
  const place = { address: beside, isScratchServer };
  return await withTrial(
    real,
    place,
    "tests",
    listMade([{ text: making }]),
    texts,
    work,
  );
}

const theirs = `
create schema auth; create schema "Ext"; create schema "Odd ""one"; create schema ours; create schema hidden;
create extension "uuid-ossp" schema "Ext"; create extension pg_trgm schema "Ext"; create extension bloom; create extension postgres_fdw;
create extension unaccent; create extension pg_stat_statements; create extension hstore; create extension pageinspect;
create type auth.level as enum ('low', 'high');
create table auth.users (id uuid primary key default "Ext".uuid_generate_v4(), level auth.level, mail text unique, age int check (age > 0), up uuid references auth.users);
create index on auth.users (age); create trigger own before insert on auth.users for each row execute function suppress_redundant_updates_trigger();
create view auth.people as select id from auth.users; create materialized view auth.ids as select id from auth.people;
create sequence auth.numbers; create domain auth.mail as text; create type auth.spans as range (subtype = int4);
create type auth.pair as (a int); create collation auth.nocase (provider = libc, locale = 'C');
create function auth.uid() returns int language sql as 'select 1'; alter function auth.uid() depends on extension "uuid-ossp"; create procedure auth.run() language sql as 'select 1';
create function auth.far() returns text language plpgsql as 'begin return pg_read_file(''a''); end';
create function auth.atomic() returns text begin atomic; select pg_read_file('a'); end;
create table shared (id int primary key); create table hidden.shared2 (id int primary key); create table mine (id int primary key);
create table ours.a (id int primary key); create table "Odd ""one"."Table" (id int primary key); create table auth.mine (id int primary key)`;

/** Statements, and what each of them needs of the real database. */
const needs: [text: string, taken: string[]][] = [
  ["select 1 from pg_class", []],
  ["do language plpgsql 'begin end'", ["extension plpgsql"]],
  [
    "create table profiles (id uuid references auth.users (id), mail text references auth.users (mail))",
    ["schema auth", "type auth.level", "table auth.users"],
  ],
  ["select from auth.ids", ["view auth.people", "materialized view auth.ids"]],
  ["select nextval('auth.numbers')", ["sequence auth.numbers"]],
  ["create table a (mail AUTH.Mail)", ["domain auth.mail"]],
  ["create table b (a auth.spans)", ["range auth.spans"]],
  ["create table c (a auth.pair)", ["composite type auth.pair"]],
  ["create table d (a text collate auth.nocase)", ["collation auth.nocase"]],
  ["create table hidden.x ()", ["schema hidden"]],
  ["select auth.uid()", ["function auth.uid()"]],
  ["call auth.run()", ["procedure auth.run()"]],
  ["do $$ begin perform from shared; end $$", ["table public.shared"]],
  [
    `create table e (id int references "Odd ""one"."Table")`,
    [`schema "Odd ""one"`, `table "Odd ""one"."Table"`],
  ],
  [`select "Ext".uuid_generate_v4()`, [`schema "Ext"`, "extension uuid-ossp"]],
  [
    `create index on shared using gin ((id::text) "Ext".gin_trgm_ops)`,
    ["extension pg_trgm"],
  ],
  ["create index on shared using bloom (id)", ["extension bloom"]],
  [
    "create server s foreign data wrapper postgres_fdw",
    ["extension postgres_fdw"],
  ],
  [
    "create text search configuration f (copy = simple); alter text search configuration f alter mapping for word with unaccent",
    ["extension unaccent"],
  ],
  [
    "select 'pg_stat_statements_info'::regclass",
    ["extension pg_stat_statements"],
  ],
  ["create table g (a hstore)", ["extension hstore"]],
  [`comment on extension pageinspect is 'a'`, ["extension pageinspect"]],
];

test("a statement gets what it needs of the real database, and no more", async () => {
  await withDatabase("empty", async (database) => {
    await database.sql.unsafe(theirs);
    const making =
      "create table mine (); create schema ours; create table ours.a ()";
    const work = async (trial: Trial) => {
      await trial.scratch.unsafe("drop extension plpgsql");
      const found: [string, string[]][] = [];
      for (const [text] of needs) {
        const before = new Set(trial.taken);
        await runTaking(trial, text);
        found.push([text, [...trial.taken].filter((one) => !before.has(one))]);
      }
      const refused = [
        // Not in the path, ours, and nowhere.
        "select from shared2",
        "select from mine",
        "create table ours.b ()",
        "select from auth.nowhere",
        "select 1 / 0, 'hidden.shared2'",
      ];
      const errors = [];
      for (const text of refused)
        errors.push(
          await runTaking(trial, text)
            .then(() => "passes")
            .catch(({ code }) => code),
        );
      expect(trial.taken).not.toContain("table hidden.shared2");
      const far = [];
      for (const name of ["far", "atomic"])
        far.push(
          await runTaking(trial, `select auth.${name}()`).catch(
            ({ message }) => message,
          ),
        );
      const [users] = await trial.scratch<Record<string, string>[]>`
        select (select string_agg(attname, ',' order by attname) from pg_attribute where attrelid = 'auth.users'::regclass and attnum > 0) as columns,
          (select string_agg(contype::text, ',' order by contype) from pg_constraint where conrelid = 'auth.users'::regclass and contype <> 'n') as constraints,
          (select count(*)::int from pg_index where indrelid = 'auth.users'::regclass) as indexes,
          (select count(*)::int from pg_trigger where tgrelid = 'auth.users'::regclass and not tgisinternal) as triggers`;
      const column = trial.found.get("column auth.users.id");
      const index = trial.found.get("index auth.users_age_idx");
      const table = trial.found.get("table auth.users");
      if (!column || !index || !table) throw new Error("nothing was found");
      const is = {
        taken: [
          isTaken(trial, "table auth.users", table),
          isTaken(trial, "column auth.users.id", column),
        ],
        over: [
          isTakenOver(trial, "table auth.users", table),
          isTakenOver(trial, "column auth.users.id", column),
          isTakenOver(trial, "table public.mine", { ...table, name: "mine" }),
          isTakenOver(trial, "x", { ...column, parent: "table public.mine" }),
        ],
      };
      return { found, errors, far, users, is };
    };

    const { found, errors, far, users, is } = await onTrial(database, work, {
      making,
    });

    expect(found).toEqual(needs);
    expect(errors).toEqual(["42P01", "42P01", "3F000", "42P01", "22012"]);
    expect(far).toEqual(Array(2).fill("not run in a scratch database"));
    expect(users).toEqual({
      columns: "age,id,level,mail,up",
      constraints: "p,u",
      indexes: 2 as never,
      triggers: 0 as never,
    });
    expect(is).toEqual({
      taken: [true, false],
      over: [true, true, false, false],
    });
  });
}, 60_000);

test("what a role may not create has a substitute, which is none of ours", async () => {
  await withDatabase("empty", async (database) => {
    await database.sql.unsafe(`
      create schema ext; create extension dblink schema ext; create extension pageinspect;
      create extension insert_username; create extension file_fdw`);
    await withRoles(database, 1, async ({ name: role }) => {
      await database.sql.unsafe(`alter role ${role} createdb`);
      const work = async (trial: Trial) => {
        await runTaking(
          trial,
          `create table t (a ext.dblink_pkey_results);
          select ext.dblink_connect('a'), ext.dblink_get_connections();
          select * from ext.dblink('a') as a (b int); select * from ext.dblink_get_notify(); select * from heap_page_items('');
          create trigger who before insert on t for each row execute function insert_username('a')`,
        );
        const [row] = await trial.scratch<Record<string, unknown>[]>`
          select ext.dblink_connect('a') as connect, (select count(*)::int from heap_page_items('')) as items,
            (select string_agg(distinct provolatile::text, ',') from pg_proc where proname = 'dblink_connect') as volatile`;
        await trial.scratch`insert into t values ('kept')`;
        const kept = await trial.scratch`select a from t`;
        const server = await runTaking(
          trial,
          "create server s foreign data wrapper file_fdw",
        ).catch(({ code }) => code);
        const stubs = [...trial.taken].filter((one) => one.startsWith("stub "));
        return { row, kept: [...kept], server, stubs: stubs.sort() };
      };
      const beside = { ...database.address, user: role, password: role };

      const { row, kept, server, stubs } = await onTrial(database, work, {
        beside,
      });

      expect(row).toEqual({ connect: null, items: 0, volatile: "v" });
      expect(kept).toEqual([{ a: "kept" }]);
      expect(server).toBe("42704");
      expect(stubs).toEqual([
        "stub ext.dblink",
        "stub ext.dblink_connect",
        "stub ext.dblink_get_connections",
        "stub ext.dblink_get_notify",
        "stub ext.dblink_pkey_results",
        "stub public.heap_page_items",
        "stub public.insert_username",
      ]);
      expect(
        isTaken(
          { taken: new Set(stubs) } as Trial,
          "function ext.dblink(text)",
          { schema: "ext", name: "dblink" } as never,
        ),
      ).toBe(true);
    });
  });
}, 60_000);

test("the scratch database has the settings and the path of the real one, and what blocks ask for", async () => {
  await withDatabase("empty", async (database) => {
    const { sql, name } = database;
    const [made, other] = [`${name}_made`, `${name}_other`];
    await sql.unsafe(`
      create schema auth; create schema ours; create table auth.asked (); create table auth.shown (); create table auth.used ();
      alter database ${name} set work_mem = '5MB'; alter database ${name} set statement_timeout = '77s';
      alter database ${name} set default_transaction_read_only = on; alter database ${name} set log_statement = 'all';
      alter database ${name} set app.mode = 'x'; alter database ${name} set search_path = ours, auth, nowhere, public`);
    const texts = [
      `do $$ begin if not exists (select from pg_class where oid = to_regclass('auth.asked')) then create table a (); end if; end $$;
      select 'auth.shown'; create role ${made}`,
      "do $$ begin perform from auth.used; end $$",
    ];
    const work = async ({
      scratch,
      taken,
      path,
      own,
      isScratchServer,
    }: Trial) => {
      const [row] = await scratch<Record<string, string>[]>`
        select current_setting('work_mem') as work_mem, current_setting('statement_timeout') as timeout,
          current_setting('default_transaction_read_only') as read_only, current_setting('log_statement') as log,
          current_setting('app.mode') as mode, current_setting('search_path') as path,
          current_setting('synchronous_commit') as commit,
          (select string_agg(table_name, ',' order by 1) from information_schema.tables where table_schema = 'drizzle') as records`;
      await scratch.unsafe(`create role ${made}; create role ${other}`);
      return { row, taken: [...taken], path, own: [...own], isScratchServer };
    };

    const look = async (isScratchServer: boolean) => {
      const outcome = await onTrial(database, work, {
        ...{ texts, isScratchServer, beside: testServer },
        making: "create schema ours; create table a (); create table b.c ()",
      });
      const left = await sql<{ rolname: string }[]>`
        select rolname from pg_roles where starts_with(rolname, ${name}) order by 1`;
      await sql.unsafe(`drop role if exists ${made}, ${other}`);
      return { ...outcome, left: left.map(({ rolname }) => rolname) };
    };
    const here = await look(false);
    const elsewhere = await look(true);

    expect(here).toEqual({
      row: {
        ...{ work_mem: "5MB", timeout: "0", read_only: "off", log: "none" },
        ...{ mode: "x", path: "ours, auth, nowhere, public", commit: "off" },
        records: "__drizzle_migrations,__migration_log",
      },
      taken: ["schema auth", "table auth.asked"],
      path: ["pg_catalog", "ours", "auth", "public"],
      own: ["ours", "pg_catalog.a", "ours.a", "auth.a", "public.a", "b.c"],
      isScratchServer: false,
      left: [made, other],
    });
    // Those that were not there before and that our files mention are dropped again.
    expect(elsewhere).toEqual({
      ...here,
      isScratchServer: true,
      left: [other],
    });
  });
}, 60_000);

test("a server is started beside where this role may create no database and no other is named", async () => {
  await withDatabase("empty", async (database) => {
    await withRoles(database, 2, async ({ name: plain }, { name: maker }) => {
      const { address } = database;
      await database.sql.unsafe(`alter role ${maker} createdb`);
      const look = async (user: string, test?: DatabaseAddress) => {
        const own = { ...address, user, password: user };
        await using sql = await openConnection(user ? own : address, "tests");
        const { major, maker } = await readServer(sql);
        let started: number | undefined;
        const found = await startBeside(sql, test, async (version) => {
          started = version;
          return { address };
        });
        return { maker, isRight: started === major, found };
      };
      const none = { isRight: false, found: undefined };

      expect(await look(plain)).toEqual({
        maker: false,
        isRight: true,
        found: { address },
      });
      expect(await look(plain, address)).toEqual({ maker: false, ...none });
      expect(await look(maker)).toEqual({ maker: true, ...none });
      expect(await look("")).toEqual({ maker: true, ...none });
    });
  });
}, 60_000);

test("another server of the same version is taken for the scratch database, and one of another version where there is no choice", () => {
  using stderr = spyOn(process.stderr, "write").mockReturnValue(true);
  const address = (host: string) => ({ host }) as DatabaseAddress;
  const own = { id: "1", major: 18, maker: true, address: address("own") };
  const test = { id: "2", major: 18, maker: true, address: address("test") };
  const choose = (one: object, other: object) => {
    const place = chooseBetween({ ...own, ...one }, { ...test, ...other });
    return [place.address.host, place.isScratchServer];
  };

  expect(choose({}, { id: "1" })).toEqual(["test", false]);
  expect(choose({}, {})).toEqual(["test", true]);
  expect(choose({ maker: false }, { major: 17 })).toEqual(["test", true]);
  expect(stderr).not.toHaveBeenCalled();
  expect(choose({}, { major: 17 })).toEqual(["own", false]);
  expect(stderr.mock.calls).toEqual([
    [
      "Warning: not compared on TEST_DATABASE_URL: it has PostgreSQL 17, the database has 18\n",
    ],
  ]);
});

test("the names in SQL are read, also those in strings, as PostgreSQL stores them", () => {
  const names = (text: string) =>
    readMentions(text).map(({ schema, name }) =>
      schema === undefined ? name : `${schema} ${name}`,
    );

  expect(names(`alter table Auth . "My ""Own" add a$b "Int"`)).toEqual([
    ...["alter", "table", 'auth My "Own', "add", "a$b", "Int"],
  ]);
  expect(names(`select 'it"s auth.Users', é.ß -- no comment`)).toEqual([
    ...["select", "é ß", "it", "s", "auth users"],
  ]);
  expect(names(`do $$ select a.b $$; select E'c.d', e'"F"', 1`)).toEqual([
    ...["do", "select", "a b", "e", "c d", "e", "F"],
  ]);
  expect(['"A""b"', "Ab", '"a'].map(foldName)).toEqual(['A"b', "ab", ""]);
  expect(
    ["42P01", "3F000", "42883", "42704", "42703", undefined].filter((code) =>
      isMissing({ code }),
    ),
  ).toEqual(["42P01", "3F000", "42883", "42704"]);
});
