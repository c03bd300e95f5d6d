// Which objects of a database are ours, and which of them differ from the migrations.
import { expect, spyOn, test } from "bun:test";
import { openConnection } from "../../scripts/lib/connection";
import type { CatalogEntry } from "../../scripts/migrations/catalog";
import type { Migration } from "../../scripts/migrations/journal";
import {
  compareGrants,
  findDifferences,
  listMade,
  listOwn,
  noteTheirs,
} from "../../scripts/migrations/ours";
import type { LeftOut } from "../../scripts/migrations/replay";
import { splitStatements } from "../../scripts/migrations/statements";
import { runTaking } from "../../scripts/migrations/take-over";
import { withTrial } from "../../scripts/migrations/trial";
import { withDatabase } from "../lib/database";

test("what a migration makes is told from what it makes for itself, and from what it mentions", () => {
  const text = `
    create schema if not exists "Ours"; create schema authorization ada;
    create table if not exists "Ours".a (); create unlogged table B (); create foreign table far.f () server s;
    create or replace view v as select; create or replace recursive view w (a) as select 1; create materialized view m as select;
    create type t as enum (); create domain d as int; create sequence q; create collation o (locale = 'C');
    create or replace function x.fun() returns int language sql as ''; create procedure pro() language sql as '';
    create aggregate agg (int) (sfunc = a, stype = int);
    alter table c rename to d2; alter table if exists only "Ours".c rename to "E"; alter type t rename to t2;
    alter table c rename a to b; alter table c rename constraint a to b; alter table c add column a int;
    create temp table e (); create temporary view f as select; create local temp table g (); drop table g;
    create extension if not exists a with schema theirs; create trigger a after insert on b execute function theirs();
    create publication p for table theirs; create index i on theirs (a); create event trigger e on sql_drop execute function theirs();
    comment on table theirs is 'create table a'; create foreign data wrapper n; grant select on table theirs to a`;

  const made = listMade([{ text: "" }, { text }]);
  const { schemas, ownSchemas, objects } = made;

  expect([...ownSchemas]).toEqual(["Ours", "ada"]);
  expect([...schemas]).toEqual(["Ours", "ada", "", "far"]);
  expect([...objects]).toEqual([
    ...["Ours.a", ".b", "far.f", ".v", ".w", ".m", ".t", ".d", ".q", ".o"],
    ...["x.fun", ".pro", ".agg", ".d2", "Ours.E", ".t2"],
  ]);
  expect([
    ...listOwn({ ...made, objects: new Set([".a", "b.c"]) }, [
      "pg_catalog",
      "public",
    ]),
  ]).toEqual(["Ours", "ada", "pg_catalog.a", "public.a", "b.c"]);
});

test("the schemas in which nothing is ours are named, the first five", () => {
  using stderr = spyOn(process.stderr, "write").mockReturnValue(true);
  const noteOf = (...names: string[]) => {
    stderr.mockClear();
    const objects = ["table x.y", ...names.map((name) => `schema ${name}`)];
    noteTheirs(
      new Map(objects.map((object) => [object, {} as CatalogEntry])),
      new Set(["ours", "Ours"]),
    );
    return stderr.mock.calls.map(([text]) => text);
  };
  const start = "in which nothing is ours:";

  expect(noteOf("ours", '"Ours"')).toEqual([]);
  expect(noteOf("ours", "a")).toEqual([`Left alone: 1 schema ${start} a\n`]);
  expect(noteOf(..."abcde")).toEqual([
    `Left alone: 5 schemas ${start} a, b, c, d, e\n`,
  ]);
  expect(noteOf(..."abcdef")).toEqual([
    `Left alone: 6 schemas ${start} a, b, c, d, e, …\n`,
  ]);
});

test("grants that default privileges explain are no difference", () => {
  const owners = ["owner"];
  const grant = (
    privileges: string[],
    defaults: string[] | null = null,
    grantee: string | null = "reader",
  ) => ({ privileges, defaults, grantee }) as CatalogEntry;
  const differs = (
    one: CatalogEntry | undefined,
    other: CatalogEntry | undefined,
    object = "grants on table t to reader",
    types: string[] = [],
  ) => {
    const difference = { object, expected: undefined, found: undefined };
    const found = compareGrants(difference, one, other, { owners, types });
    expect(found.filter((one) => one !== difference)).toEqual([]);
    return found.length === 1;
  };
  const [read, write] = [["SELECT"], ["SELECT", "INSERT"]];
  const toAll = grant(read, null, null);

  // Only in the database, or more of them.
  expect(differs(undefined, grant(read))).toBe(true);
  expect(differs(undefined, grant(read, read))).toBe(false);
  expect(differs(grant(read), grant(write))).toBe(true);
  expect(differs(grant(read), grant(write, ["INSERT"]))).toBe(false);
  expect(differs(grant(read), grant(write, read))).toBe(true);
  // Only in the migrations, or more of them.
  expect(differs(grant(read), undefined)).toBe(true);
  expect(differs(grant(read, read), undefined)).toBe(false);
  expect(differs(grant(write), grant(read))).toBe(true);
  expect(differs(grant(write, ["INSERT"]), grant(read))).toBe(false);
  expect(differs(grant(read, null, "owner"), undefined)).toBe(false);
  // The same ones, to be granted on or not.
  expect(differs(grant(read), grant(read))).toBe(true);
  expect(differs(grant(read, read), grant(read))).toBe(false);
  expect(differs(grant(read), grant(read, read))).toBe(false);
  // What everybody has, unless default privileges took it away.
  const rows: [object: string, types: string[], isDifferent: boolean][] = [
    ["grants on function f() to public", [], true],
    ["grants on function f() to public", ["T"], true],
    ["grants on function f() to public", ["f"], false],
    ["grants on procedure f() to public", ["f"], false],
    ["grants on type t to public", ["f"], true],
    ["grants on type t to public", ["T"], false],
  ];
  for (const [object, types, isDifferent] of rows)
    expect([object, differs(toAll, undefined, object, types)]).toEqual([
      object,
      isDifferent,
    ]);
});

test("what differs is listed where it is ours", async () => {
  using stderr = spyOn(process.stderr, "write").mockReturnValue(true);
  const migration = `create schema billing; create table users (id int, name text); create table billing.bills (id int);
    create function ours() returns int language sql as 'select 1'; create table gone (id int); create extension hstore`;
  await withDatabase("empty", async ({ address, sql }) => {
    await using real = await openConnection(address, "tests");
    await sql.unsafe(`
      ${migration.replace("create table gone (id int); create extension hstore", "")};
      create schema theirs; create table theirs.accounts (id int primary key); create table theirs.own (id int);
      create table by_hand (); create table billing.by_hand (); create extension seg; create type needed as enum ('a');
      create type wanted as enum ('a'); create table parts (at date) partition by range (at); create table parts_1 partition of parts default;
      create table left_out (); create table tried (); alter table users add extra int;
      alter table theirs.accounts add extra int; alter default privileges revoke execute on functions from public;
      grant usage on schema billing to pg_monitor; alter default privileges in schema billing grant select on tables to pg_monitor`);
    const made = listMade([{ text: migration }]);
    const place = { address, isScratchServer: false };
    const statement = (text: string, changesSchema: boolean) =>
      ({ statement: splitStatements(text)[0], changesSchema }) as LeftOut;
    const look = (
      text: string,
      ...more: [LeftOut[], Pick<Migration, "text">[]] | []
    ) =>
      withTrial(real, place, "tests", made, [], async (trial) => {
        await trial.scratch.unsafe(text);
        await runTaking(
          trial,
          "create table users_theirs (id int references theirs.accounts); alter table theirs.accounts add ours int",
        );
        await trial.scratch.unsafe("drop table users_theirs");
        const [leftOut, pending] = more;
        const found = await findDifferences(
          trial,
          text === migration ? made : listMade([{ text }]),
          leftOut ?? [],
          pending as Migration[],
        );
        return found.map(({ object, expected }) =>
          [expected === undefined ? "surplus" : "missing", object].join(" "),
        );
      });

    const found = await look(
      migration,
      [
        statement("create table left_out ()", true),
        statement("insert into tried values (1)", false),
      ],
      [{ text: "create table x (a needed); -- wanted" }],
    );
    const notes = stderr.mock.calls.map(([text]) => text);
    const little = await look("select 1");

    expect(found).toEqual([
      "surplus column public.users.extra",
      "missing column theirs.accounts.ours",
      "missing extension hstore",
      "surplus table billing.by_hand",
      "surplus table public.by_hand",
      "missing table public.gone",
      "surplus table public.parts",
      "surplus table public.tried",
      "surplus type public.wanted",
    ]);
    expect(notes).toEqual([
      "Left alone: 1 schema in which nothing is ours: theirs\n",
    ]);
    expect(little).toContain("surplus table public.by_hand");
    expect(little).not.toContain("surplus table billing.by_hand");
  });
}, 60_000);
