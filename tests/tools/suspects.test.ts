// Which rows of a real database a pending migration may refuse.
import { expect, spyOn, test } from "bun:test";
import type { Sql } from "postgres";
import { openConnection } from "../../scripts/lib/connection";
import { readCatalog } from "../../scripts/migrations/catalog";
import {
  findSuspects,
  listConditions,
  mentions,
} from "../../scripts/migrations/suspects";
import { withDatabase } from "../lib/database";

const schema = `
create type mood as enum ('sad', 'ok', 'happy');
create domain positive as int check (value > 0);
create table checks (id int, age int, name text);
create table "Quoted t" (id int, "Own name" text);
create table spans (id int, low int, high int, area box, is_on boolean);
create table orgs (org int, number int, code text, primary key (org, number));
create table posts (id int, org int, number int);
create table texts (id int, a text, b text, c bit(9), d int, e text not null, f text collate "C", g int, h text, i int,
  j varchar(9) not null, k text collate "C" not null, l text);
create table moods (id int, mood mood, "Other mood" mood);
create table many (id int, a text);
create table blocks (id int, filler text, v text, w text, n int);
create table people (id int, mail text, age int, "a b" text, mood text);
create schema side; create table side.moved (id int, code text);
create table moved (id int, code text, size text); create schema last; create table last.moved (id int, code text);
create table same (id int, value int); create table odd (id int, "a+b" text);`;

const rows = `
insert into checks values (1, 1, 'A'), (2, -1, 'a'), (3, null, 'b'), (4, 2, 'a'), (5, 3, null), (6, 4, null);
insert into "Quoted t" values (1, 'x'), (2, null);
insert into spans values (1, 1, 5, '(0,0),(2,2)', true), (2, 4, 9, '(1,1),(3,3)', true), (3, 4, 9, '(1,1),(3,3)', false),
  (4, 4, 9, '(8,8),(9,9)', true), (5, 20, 30, '(1,1),(3,3)', true);
insert into orgs values (1, 1, 'a'), (1, 2, 'a');
insert into posts values (1, 1, 1), (2, 1, 9), (3, null, 9);
insert into texts values (1, 'abc', 'ab', '111000111', 1, 'e', 'f', 1, 'abc', 1, 'j', 'k', '1'),
  (2, 'abcd', 'abc', '111000111', 99999, 'e', null, 0, 'abcd', 9, 'j', 'k', '9');
insert into moods values (1, 'ok', 'ok'), (2, 'sad', 'ok'), (3, 'ok', 'sad');
insert into many select n, null from generate_series(1, 7) as n;
-- Four rows of a block, and the only bad ones in the second.
insert into blocks select n, repeat('x', 1900), case n when 6 then 'x' else n::text end,
  case n when 9 then 'x' else '1' end, case n when 12 then 0 else 1 end from generate_series(1, 12) as n;
insert into people values (1, 'x', 1, '1', 'ok'), (2, null, 2, '2', 'ok'), (3, 'y', -3, 'z', 'sad');
insert into side.moved values (4, null); insert into last.moved values (5, null);
insert into odd values (1, '1'), (2, 'x');
insert into moved values (1, 'a', 'xx'), (2, 'a', 'x'), (3, null, 'x');`;

/** Migrations, and for each object with a new condition the rows that break it; undefined
 * where the real database cannot tell. */
const cases: [text: string, found: Record<string, string | undefined>][] = [
  [
    `alter table checks add check (age > 0);
    alter table checks add constraint later check (age > 5) not valid;
    create unique index lowered on checks (lower(name)) where age > 0;
    create index plain on checks (name);
    alter table checks add constraint nulls unique nulls not distinct (name);
    alter table checks add constraint whole unique (name) include (id);
    alter table checks add constraint pair unique (id, name);
    create unique index no_nulls on checks (name) nulls not distinct where age > 2`,
    {
      "constraint checks_age_check on public.checks": "2",
      "index public.lowered": "1,4",
      "index public.no_nulls": "5,6",
      "constraint nulls on public.checks": "2,4,5,6",
      "constraint whole on public.checks": "2,4",
      "constraint pair on public.checks": "",
    },
  ],
  [
    `alter table "Quoted t" alter "Own name" set not null, add check ("Own name" <> 'x'), add unique ("Own name")`,
    {
      'column public."Quoted t"."Own name"': "2",
      'constraint "Quoted t_Own name_check" on public."Quoted t"': "1",
      'constraint "Quoted t_Own name_key" on public."Quoted t"': "",
    },
  ],
  [
    `alter table spans add constraint e exclude using gist (int4range(low, (high)) with &&, area with &&) where (is_on);
    alter table spans add constraint low exclude using btree (low with =)`,
    {
      "constraint e on public.spans": "1,2",
      "constraint low on public.spans": "2,3,4",
    },
  ],
  [
    `create table kinds (id int primary key);
    alter table posts add foreign key (org, number) references orgs (org, number);
    alter table posts add foreign key (number) references kinds;
    alter table orgs add primary_code text, add unique (code)`,
    {
      "constraint posts_org_number_fkey on public.posts": "2",
      "constraint posts_number_fkey on public.posts": undefined,
      "constraint orgs_code_key on public.orgs": "1,2",
    },
  ],
  [
    `create domain short as text check (length(value) < 4);
    create domain graded as int default 1 not null check (value > 0) check (value < 9);
    create domain free as text;
    alter table texts alter a type varchar(3), alter b type char(2), alter c type bit(4) using c::bit(4),
      alter d type smallint, alter e type text collate "C", alter f set not null, alter h type short,
      alter i type graded, add computed int generated always as (10 / g) stored, add fresh text not null,
      alter g type positive, alter j type varchar(4), alter k type varchar(1), alter l type graded using l::int`,
    {
      "column public.texts.a": "2",
      "column public.texts.b": "2",
      "column public.texts.c": "",
      "column public.texts.d": "1,2",
      "column public.texts.f": "2",
      "column public.texts.g": "1,2",
      "column public.texts.h": "2",
      "column public.texts.i": "2",
      "column public.texts.j": "",
      "column public.texts.k": "",
      "column public.texts.l": "2",
      "column public.texts.computed": "1,2",
    },
  ],
  [
    `alter table texts alter column c set data type bit(8)`,
    { "column public.texts.c": "1,2" },
  ],
  [
    `alter table moods alter mood type text, alter "Other mood" type text; drop type mood;
    create type mood as enum ('ok', 'happy');
    alter table moods alter mood type mood using mood::mood, alter "Other mood" type mood using "Other mood"::mood`,
    {
      "column public.moods.mood": "2",
      'column public.moods."Other mood"': "3",
    },
  ],
  ["alter type mood rename value 'sad' to 'unhappy'", {}],
  [
    "alter type mood add value 'calm'",
    { "column public.moods.mood": "", 'column public.moods."Other mood"': "" },
  ],
  [
    "alter table many alter a set not null",
    { "column public.many.a": "1,2,3,4,5" },
  ],
  [
    `alter table blocks alter v set data type int using (v
      ::int); ALTER TABLE blocks ALTER COLUMN "w" TYPE int USING w::int;
    alter table blocks add m int generated always as (1 / n) stored`,
    {
      "column public.blocks.v": "5,6,7,8",
      "column public.blocks.w": "9,10,11,12",
      "column public.blocks.m": "9,10,11,12",
    },
  ],
  [
    `create type mood2 as enum ('ok'); alter table people rename to persons; alter table persons rename column mail to email;
    alter table only public.persons rename "a b" to "c d"; alter table persons rename age to years;
    alter table persons add constraint persons_named check (email <> 'x' and years > 0);
    alter table persons rename constraint persons_named to persons_check;
    alter table persons alter email set not null, alter "c d" type int using "c d"::int, alter years type positive,
      alter mood type mood2 using mood::mood2`,
    {
      "constraint persons_check on public.persons": "1,3",
      "column public.persons.email": "2",
      'column public.persons."c d"': "1,2,3",
      "column public.persons.years": "1,2,3",
      "column public.persons.mood": "3",
    },
  ],
  [
    `create schema old; alter table moved SET SCHEMA old; alter table old.moved add unique (code);
    alter table old.moved alter code set not null, alter size type varchar(1);
    alter table side.moved alter code set not null; alter table last.moved alter code set not null`,
    {
      "column side.moved.code": "4",
      "column last.moved.code": "5",
      "constraint moved_code_key on old.moved": "1,2",
      "column old.moved.code": "3",
      "column old.moved.size": "1",
    },
  ],
  [
    `alter table odd alter "a+b" type int using length("a+b")`,
    { 'column public.odd."a+b"': "" },
  ],
  [
    "create table fresh (id int primary key); alter table same add other int",
    {},
  ],
];

test("finds the rows that break each new condition, and no others", async () => {
  await withDatabase("empty", async ({ address }) => {
    await using sql = await openConnection(address, "tests");
    await sql.unsafe(schema);
    const before = await readCatalog(sql);
    const conditions = [];
    for (const [text] of cases) {
      await sql.unsafe(`begin; ${text}`);
      conditions.push(listConditions(before, await readCatalog(sql), text));
      await sql.unsafe("rollback");
    }
    await sql.unsafe(rows);
    await sql.unsafe("begin");

    for (const [index, [, expected]] of cases.entries()) {
      const list = conditions[index] ?? [];
      const found = Object.fromEntries(
        list.map(({ object }) => [object, undefined as string | undefined]),
      );
      for (const { object, table, rows } of await findSuspects(sql, list))
        found[object] = await readIds(sql, table, rows);
      expect(found).toEqual(expected);
    }
  });
}, 60_000);

async function readIds(sql: Sql, table: string, places: string[]) {
  const id = table === "public.orgs" ? "number" : "id";
  const [row] = await sql.unsafe<{ ids: string }[]>(
    `select coalesce(string_agg(${id}::text, ',' order by ${id}), '') as ids from ${table}
    where ctid = any ('{${places.map((place) => `"${place}"`)}}'::tid[])`,
  );
  return row?.ids;
}

test("a query that fails or takes too long finds no row, and the next one is asked all the same", async () => {
  using stderr = spyOn(process.stderr, "write").mockReturnValue(true);
  await withDatabase("empty", async ({ address }) => {
    await using sql = await openConnection(address, "tests");
    await sql.unsafe(
      "create table t (a int); insert into t values (0); begin; set local statement_timeout = 50",
    );
    const query = (object: string, where: string) => ({
      object,
      table: "t",
      query: `select ctid from t where ${where}`,
    });

    const found = await findSuspects(sql, [
      { object: "first", table: "t", expression: "1 / a" },
      query("slow", `pg_sleep(60) is null or '${"x".repeat(200)}' = ''`),
      query("missing", "b = 1"),
      query("failing", "1 / a = 1"),
      { object: "unknown", table: "t", expression: "nowhere(a)" },
      { object: "expression", table: "t", expression: "1 / a" },
      query("last", "a = 0"),
    ]);

    expect(found.map(({ object, rows }) => [object, rows.length])).toEqual([
      ["first", 1],
      ["slow", 0],
      ["failing", 0],
      ["unknown", 0],
      ["expression", 1],
      ["last", 1],
    ]);
    expect(stderr.mock.calls.map(([text]) => text)).toEqual([
      `Not answered within 10 s: select ctid from t where pg_sleep(60) is null or '${"x".repeat(150)}\n`,
    ]);
  });
}, 60_000);

test("a text mentions a name where it is a word of its own", () => {
  const text = 'alter table Users$2 add a_b text; select 1 + c, "d.e"';

  expect(
    ["users", "users$2", "a", "a_b", "b", "c", "d.e", "d+e", "dxe"].filter(
      (name) => mentions(text, name),
    ),
  ).toEqual(["users$2", "a_b", "c", "d.e"]);
});
