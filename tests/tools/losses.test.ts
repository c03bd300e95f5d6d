// What is counted before SQL is run that may remove data.
import { expect, test } from "bun:test";
import { openConnection } from "../../scripts/lib/connection";
import { hashText } from "../../scripts/migrations/journal";
import { createTables } from "../../scripts/migrations/log";
import { countLosses } from "../../scripts/migrations/losses";
import { toScript } from "../../scripts/migrations/steps";
import { rejection } from "../lib/client";
import { withDatabase } from "../lib/database";

const schema = `
create table users (id serial, name text, bio text, short varchar(9)); create table empty (id serial);
insert into users (name, bio, short) values ('a', 'b', 's'), ('b', null, 's'), ('c', null, null);
create table p (i int, j text) partition by list (i); create table p1 partition of p for values in (1);
create table p2 partition of p for values in (2); insert into p values (1, 'a'), (1, 'b'), (2, null);
create schema "Own"; create table "Own"."T" ("A b" int); insert into "Own"."T" values (1);
create sequence numbers; create sequence unused; select nextval('numbers');
create type mood as enum ('a');
create procedure ends() language plpgsql as 'begin commit; end';
create foreign data wrapper nowhere; create server nowhere foreign data wrapper nowhere;
create foreign table abroad (id int) server nowhere;
insert into drizzle.__drizzle_migrations (hash, created_at) values ('a', 1);
create table made (n int, twice int generated always as (n * 2) stored); insert into made values (1);
create table gone (id int primary key); create schema audit; create table audit.refs (g int references gone);
create view audit.seen as select id from gone; create materialized view audit."m V" as select id from gone`;

const unknown = (reason: string, tag = "a") => [
  `an unknown amount of data (${tag} cannot be tried first: ${reason})`,
];
const lasting = (word: string) =>
  unknown(`${word} is not undone by a rollback`);
const counter = "drops the count of users_id_seq, which is at 3";
const without =
  "alter table users alter id drop default; drop sequence users_id_seq;";

const withGone = [
  "drops the foreign key refs_g_fkey of audit.refs with it",
  "drops the view audit.seen with it",
  'drops the materialized view audit."m V" with it',
];

const cases: Record<string, string[]> = {
  "select 1": [],
  // It is computed again.
  "alter table made drop twice": [],
  // What CASCADE drops unasked.
  "drop table gone cascade": withGone,
  "drop view audit.seen; drop table gone cascade; create table audit.new ()":
    withGone.filter((text) => !text.includes("seen")),
  'drop materialized view audit."m V"; alter table audit.refs drop g; drop table gone cascade; create view audit.seen as select 1 as id':
    [],
  "alter table gone rename to kept; alter schema audit rename to review": [],
  "drop schema audit cascade": [],
  "alter table users drop bio, drop name": [
    "drops users.name: 3 values",
    "drops users.bio: 1 value",
  ],
  "drop table users, empty": ["drops users: 3 rows"],
  'alter table users rename to people; alter table people rename name to title; alter table people set schema "Own"':
    [],
  'alter table "Own"."T" drop "A b"': ['drops "Own"."T"."A b": 1 value'],
  // Partitions, and each row once.
  "drop table p1; alter table p detach partition p2": ["drops p1: 2 rows"],
  "drop table p": ["drops p: 3 rows"],
  "alter table p drop j": ["drops p.j: 2 values"],
  "alter table p alter j type varchar(9)": [
    "changes the type of p.j: 2 values",
  ],
  // Rows that are rewritten are not lost, and values that are may be.
  "alter table users add x float default random()": [],
  "alter table users alter short type text": [],
  "alter table users alter name type int using 1": [
    "changes the type of users.name: 3 values",
  ],
  "truncate users": ["truncates users: 3 rows"],
  "truncate users; insert into users (id) values (9)": [
    "truncates users: 2 rows",
  ],
  "truncate users; set role pg_monitor": ["truncates users: 3 rows"],
  "delete from users where id > 2; delete from p where i = 1": [
    "deletes from p1: 2 rows",
    "deletes from users: 1 row",
  ],
  "update users set bio = null where id = 1; update p2 set j = 'c'; update p1 set j = 'c'":
    ["updates p1: 2 rows", "updates p2: 1 row", "updates users: 1 row"],
  "delete from drizzle.__drizzle_migrations; insert into drizzle.__drizzle_migrations (hash, created_at) values ('b', 1); update drizzle.__drizzle_migrations set created_at = 2":
    [],
  // How far something has counted.
  "drop sequence numbers, unused": [
    "drops the count of numbers, which is at 1",
  ],
  "drop sequence numbers; create sequence numbers": [
    "drops the count of numbers, which is at 1",
  ],
  "drop sequence numbers; create sequence numbers; select nextval('numbers')":
    [],
  "alter sequence numbers rename to digits": [],
  [without]: [counter],
  [`${without} alter table users alter id add generated always as identity`]:
    [],
  [`${without} alter table users add number int generated always as identity`]:
    [counter],
  [`${without} alter table empty add number int generated always as identity`]:
    [counter],
  // What cannot be tried.
  "select setval('numbers', 9)": lasting("SETVAL"),
  "prepare  transaction 'a'": lasting("PREPARE  TRANSACTION"),
  "select pg_advisory_lock(1)": lasting("PG_ADVISORY"),
  "select pg_terminate_backend(0)": lasting("PG_TERMINATE_BACKEND"),
  "select pg_cancel_backend(0)": lasting("PG_CANCEL_BACKEND"),
  "select pg_reload_conf()": lasting("PG_RELOAD_CONF"),
  "select pg_switch_wal()": lasting("PG_SWITCH_WAL"),
  "select pg_replication_origin_create('a')": lasting("PG_REPLICATION_ORIGIN"),
  "insert into abroad values (1)": unknown("it reaches outside the server"),
  "copy users to program 'false'": unknown("it reaches outside the server"),
  "call ends()": unknown("invalid transaction termination"),
  cluster: unknown("CLUSTER cannot run inside a transaction block"),
  "alter type mood add value 'b'; select 'b'::mood": unknown(
    'unsafe use of new value "b" of enum type mood',
  ),
  // These run by themselves, and lose nothing.
  "vacuum users; begin; drop table empty; commit": [],
};

const script = (text: string, tag = "a") =>
  toScript({ tag, file: `${tag}.sql`, text, hash: hashText(text) }, "down");

test("what SQL would remove is counted, and nothing is removed", async () => {
  await withDatabase("empty", async ({ address, sql: other }) => {
    await using sql = await openConnection(address, "tests");
    await sql.unsafe(createTables());
    await sql.unsafe(schema);
    const count = (texts: string[], done?: number[]) =>
      countLosses(
        sql,
        texts.map((text, index) => script(text, "ab"[index])),
        100,
        done,
      );

    const found: Record<string, string[]> = {};
    for (const [text, expected] of Object.entries(cases)) {
      const losses = await count([text]);
      // The server tells the changes of rows in any order.
      const isChange = /^(deletes|updates)/.test(expected[0] ?? "");
      found[text] = isChange ? losses.sort() : losses;
    }
    const drop = "drop table users; drop table p";
    const committed = [
      await count([drop], [1]),
      await count(['set search_path = "Own"; drop table "T"'], [1]),
      await count(["drop table users", "drop table p"], [1]),
      await count(["drop table users", "call ends()"]),
    ];
    const failed = await rejection(count(["select 1;\ndrop table nowhere"]));
    const held = await other.begin(async (holder) => {
      await holder`lock table users`;
      return await rejection(count(["drop table users"]));
    });

    expect(found).toEqual(cases);
    expect(committed).toEqual([
      ["drops p: 3 rows"],
      ['drops "Own"."T": 1 row'],
      ["drops p: 3 rows"],
      unknown("invalid transaction termination", "b"),
    ]);
    expect(failed).toMatchObject({
      message: expect.stringContaining('table "nowhere" does not exist'),
      details: { file: "a.sql", statement: 2 },
    });
    expect(held).toMatchObject({ details: { sqlstate: "55P03" } });
    expect(await sql`select from users`).toHaveLength(3);
  });
}, 60_000);
