// What db:check reads from the SQL of migrations before it tries them.
import { expect, test } from "bun:test";
import type { Catalog, CatalogEntry } from "../../scripts/migrations/catalog";
import {
  compareObjects,
  findFar,
  listNames,
  needsServer,
} from "../../scripts/migrations/check-database";
import type { Migration } from "../../scripts/migrations/journal";
import { readReaches } from "../../scripts/migrations/reach";

test("the names of all that SQL may change are known, but not where it may change anything", () => {
  const known = (text: string, routines: string[] = []) =>
    listNames(text, new Set(routines)) !== undefined;
  const opaque = `execute 'drop table a'; call a(); alter sequence a owned by b.c; import foreign schema a from server b into c;
    create extension a; grant select on all tables in schema a to b; grant usage on all sequences in schema a to b;
    grant execute on all functions in schema a to b; grant execute on all routines in schema a to b;
    grant execute on ALL  procedures in schema a to b; drop type a cascade; drop domain a, b cascade; drop schema a
    cascade; Drop Function a() cascade; select widen(); do 'begin perform 1 + "Widen"() end'; do 'begin x.widen() end'`;
  const clear = `create trigger a after insert on b execute function c(); create trigger a after insert on b execute procedure c();
    grant execute on function a to b; drop table a cascade; drop type a; alter table a drop constraint b cascade;
    select 1; update a set b = 1; insert into a select from b; create index recalled on a (owned_by)`;
  const split = (texts: string) => texts.split(/;\s/);

  for (const text of split(opaque))
    expect([text, known(text, ["widen", "Widen"])]).toEqual([text, false]);
  for (const text of split(clear))
    expect([text, known(text, ["widen"])]).toEqual([text, true]);
  expect(known("select widen()")).toBe(true);
  expect(known("update a set b = widen()", ["widen"])).toBe(true);
});

test("a routine that SQL creates or renames counts from there on", () => {
  const routines = new Set<string>();
  const create = [
    "create function One() returns int language sql as ''",
    `create procedure s."Two"() language sql as ''`,
    "create aggregate three(int) (sfunc = a, stype = int)",
    "alter routine four() set work_mem = '1MB'",
    "alter table a rename to five",
  ];

  expect(create.map((text) => listNames(text, routines))).not.toContain(
    undefined,
  );
  expect([...routines]).toEqual(["one", "Two", "three", "four", "five"]);
  expect(listNames("select s.one()", routines)).toBeUndefined();
  expect(listNames(`${create[0]}; select one()`, new Set())).toBeUndefined();
});

test("names are as the server stores them: folded, with their schema, and cut at 63 bytes", () => {
  const [long, wide] = ["x".repeat(70), "é".repeat(40)];

  expect(
    listNames(
      `alter table Auth."Own ""a" add ${long} int, add "${wide}" int`,
      new Set(),
    ),
  ).toEqual([
    ...["alter", "table", "auth", 'Own "a', "add"],
    ...[long.slice(0, 63), "int", wide.slice(0, 31)],
  ]);
});

test("of what differs that counts which the SQL names or both have; a count, where nothing else does", () => {
  const catalog = (
    ...rows: [object: string, sql: string, name?: string, parent?: string][]
  ): Catalog =>
    new Map(
      rows.map(([object, sql, name = "", parent]) => [
        object,
        { sql, name, parent: parent ?? null } as CatalogEntry,
      ]),
    );
  const count = (sum: string) => ["number of objects", sum] as [string, string];
  const index = (sql: string): [string, string, string, string] => [
    "index i",
    sql,
    "t",
    "table t",
  ];
  const table: [string, string, string] = ["table t", "t", "t"];
  const compare = (one: Catalog, other: Catalog, names?: string[]) =>
    compareObjects(one, other, names).map(({ object }) => object);
  const none = catalog(count("1"));

  expect(compare(none, catalog(count("2")), [])).toEqual(["number of objects"]);
  expect(compare(catalog(table, count("1")), none, [])).toEqual([]);
  expect(compare(none, catalog(table, count("2")), [])).toEqual([
    "number of objects",
  ]);
  expect(compare(none, catalog(table, count("2")), ["t"])).toEqual(["table t"]);
  expect(compare(none, catalog(table, count("2")))).toEqual(["table t"]);
  expect(
    compare(catalog(table, index("a")), catalog(table, index("b")), []),
  ).toEqual(["index i"]);
  expect(compare(catalog(table), catalog(table, index("b")), [])).toEqual([
    "index i",
  ]);
});

test("a trial needs another server where it would change this one; a down file that reaches too far is not tried", () => {
  const [make, both, plain] = [
    "create role a",
    "do $$ begin create role a; create table b (); end $$",
    "create table a ()",
  ].map((text) => ({ text }) as Migration) as [Migration, Migration, Migration];
  const needs = (migration: Migration, isApplied: boolean) =>
    needsServer(
      { applied: new Map(isApplied ? [[migration, {} as never]] : []) },
      readReaches([plain, migration]),
    );

  expect([needs(make, true), needs(both, true)]).toEqual([false, true]);
  expect([needs(make, false), needs(both, false)]).toEqual([true, true]);
  expect([
    needs(plain, false),
    needs({ ...plain, text: "copy a to 'b'" }, false),
  ]).toEqual([false, false]);
  const [here, elsewhere] = [
    { isScratchServer: false },
    { isScratchServer: true },
  ];
  const far = (text: string) => [findFar(here, text), findFar(elsewhere, text)];
  const outside = "it reaches outside the server";
  expect(far("drop table a")).toEqual([undefined, undefined]);
  expect(far("select 1; drop role a")).toEqual([
    "it changes the server, not only the database",
    undefined,
  ]);
  expect(far("drop role a; copy a to 'b'")).toEqual([outside, outside]);
});
