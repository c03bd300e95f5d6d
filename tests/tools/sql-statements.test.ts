// Where a file is cut into statements, and what of it counts as the same.
import { expect, test } from "bun:test";
import {
  quoteBody,
  quoteIdentifier,
  quoteLiteral,
} from "../../scripts/lib/quote";
import {
  hashStatements,
  type Kind,
  skipStatements,
  splitStatements,
} from "../../scripts/migrations/statements";
import { isWithoutTransaction } from "../../scripts/migrations/steps";
import { listEffects } from "../../scripts/schema/effects";

const cut = (text: string) => splitStatements(text).map((s) => s.text);

const cases: [sentence: string, text: string, statements: string[]][] = [
  ["at semicolons", "select 1; select 2;;", ["select 1", "select 2"]],
  [
    "at drizzle's separator, also within a line and a comment",
    "select 1--> statement-breakpoint select 2 -- x --> statement-breakpoint\nselect 3",
    ["select 1", "select 2", "select 3"],
  ],
  [
    "not at another separator, which is a comment",
    "select 1\n-->statement-breakpoint\n+ 1",
    ["select 1\n-->statement-breakpoint\n+ 1"],
  ],
  [
    "not in strings and names",
    `select ';''', E'\\';', "a"";b"; select 2`,
    [`select ';''', E'\\';', "a"";b"`, "select 2"],
  ],
  [
    "not in dollar quotes",
    "do $$ begin; $x$ end $$; select $a$;$$;$a$, a$b$ from c",
    ["do $$ begin; $x$ end $$", "select $a$;$$;$a$, a$b$ from c"],
  ],
  [
    "not in comments, which nest",
    "/* ; /* ; */ $$ ' */ select 1 -- it's; $$\n; select 2",
    ["select 1", "select 2"],
  ],
  [
    "not in parentheses and SQL-standard bodies",
    "create rule r as on insert to t do (select 1; select 2); create or replace function f() returns int begin atomic select case when true then 1 end; end; begin; select 3; end",
    [
      "create rule r as on insert to t do (select 1; select 2)",
      "create or replace function f() returns int begin atomic select case when true then 1 end; end",
      "begin",
      "select 3",
      "end",
    ],
  ],
  [
    "not in a comment that has no end",
    "select 1; /* see packages/*/src */\nselect 2; select 3",
    ["select 1", "/* see packages/*/src */\nselect 2; select 3"],
  ],
  [
    "after a parenthesis too many, which the server refuses",
    "select 1); select (2); select 3",
    ["select 1)", "select (2)", "select 3"],
  ],
  ["after a byte-order mark", "\uFEFFselect 1", ["select 1"]],
  ["into nothing", " -- a\n/* b */ ; \n--> statement-breakpoint\n", []],
];
for (const [sentence, text, statements] of cases)
  test(`cuts ${sentence}`, () => {
    expect(cut(text)).toEqual(statements);
    expect(cut(text.replaceAll("\n", "\r\n"))).toEqual(
      statements.map((statement) => statement.replaceAll("\n", "\r\n")),
    );
  });

test("tells where a statement begins in its file", () => {
  const text = "-- first\nselect 1;\n  /* b */ select 2";

  const [, second] = splitStatements(text);

  expect(text.slice(second?.offset)).toBe("select 2");
});

test("a hash leaves out comments and blanks, and nothing else", () => {
  const hash = (text: string) => hashStatements(splitStatements(text));

  expect(hash("select  1 -- a\n, 'b c';")).toBe(hash("select 1,'b c'"));
  expect(hash("select 1, 'b  c'")).not.toBe(hash("select 1, 'b c'"));
  expect(hash("select 1; select 2")).not.toBe(hash("select 1 select 2"));
});

test("tells what a statement means for the transaction around it", () => {
  const kinds: [kind: Kind, statements: string][] = [
    ["begin", "begin; begin isolation level serializable; start transaction"],
    ["commit", "commit; end; end work; commit and chain"],
    ["rollback", "rollback; abort; rollback work"],
    [
      "plain",
      "rollback to a; rollback work to a; rollback to savepoint a; start; discard temp; savepoint a; reindex table a; alter table a detach partition b; create index on a (b)",
    ],
    ["discard", "discard all"],
    [
      "alone",
      "commit prepared 'a'; rollback prepared 'a'; vacuum; vacuum full a; alter system reset all; create database a; drop database a; create tablespace a location 'b'; drop tablespace a; create index concurrently on a (b); create unique index concurrently on a (b); drop index concurrently a; reindex (verbose, concurrently) table a; reindex index concurrently a; reindex table concurrently a; reindex schema concurrently a; reindex database a; reindex schema a; reindex system a; alter table a detach partition b concurrently",
    ],
  ];

  for (const [kind, text] of kinds)
    for (const statement of splitStatements(text))
      expect([statement.text, statement.kind]).toEqual([statement.text, kind]);
});

test("tells what a statement changes in the session, may commit, or needs a client for", () => {
  const found = (
    property: "isSetting" | "mayCommit" | "isConcurrent" | "clientOffset",
    text: string,
  ) =>
    splitStatements(text)
      .filter((one) => one[property] !== undefined && one[property] !== false)
      .map((one) => one.text);

  expect(
    found(
      "isSetting",
      "set a = 1; set session a = 1; set local a = 1; set transaction read only; set constraints all deferred; select set_config('a', 'b', false); reset a; discard temp; select 1",
    ),
  ).toEqual([
    "set a = 1",
    "set session a = 1",
    "select set_config('a', 'b', false)",
    "reset a",
    "discard temp",
  ]);
  expect(found("mayCommit", "call a(); do 'a'; select a()")).toEqual([
    "call a()",
    "do 'a'",
  ]);
  expect(
    found(
      "clientOffset",
      "copy a from stdin; copy a to stdout; copy a from '/b'; copy a from program 'stdin'; select 1 \\gx",
    ),
  ).toEqual(["copy a from stdin", "copy a to stdout", "select 1 \\gx"]);
});

test("-- no-transaction counts on the first line, alone", () => {
  for (const text of [
    "-- no-transaction\nselect 1",
    "--no-transaction",
    "\uFEFF--\t no-transaction \r\nselect 1",
  ])
    expect([text, isWithoutTransaction(text)]).toEqual([text, true]);
  for (const text of [
    "\n-- no-transaction",
    "-- no-transactions",
    "-- no-transaction, or is it",
    "-- a no-transaction",
    "--\nno-transaction",
    "select 1 -- no-transaction",
  ])
    expect([text, isWithoutTransaction(text)]).toEqual([text, false]);
});

test("what is quoted is one token, whatever it contains", () => {
  const texts = ["it's", "a\\'; b", "a;\nb", "$$;", "$$ $body1$;", 'a"; b'];

  for (const text of texts)
    for (const quoted of [quoteLiteral(text), quoteIdentifier(text)])
      expect(cut(`select ${quoted}; select 2`)).toHaveLength(2);
  for (const text of texts)
    expect(cut(`do ${quoteBody(text)}; select 2`)).toHaveLength(2);
  expect(texts.slice(0, 2).map(quoteLiteral)).toEqual([
    "'it''s'",
    " E'a\\\\''; b'",
  ]);
});

test("a line -- resumable is for the statement below it, with other comments between", () => {
  const text = `-- resumable
    select 1; -- resumable
    -- why
    do 'x'; -- resumable, says this
    select 2;--> statement-breakpoint
    -- resumable

    select 3; /*
    -- resumable */ select 4;
    -- resumable
    --> statement-breakpoint
    select 5`;

  const resumable = splitStatements(text).filter((one) => one.isResumable);

  expect(resumable.map((one) => [one.text, one.kind])).toEqual([
    ["select 1", "alone"],
  ]);
  expect(
    splitStatements("x;\n  -- resumable\r\n  -- why\r\n do 'x'").map(
      (one) => one.isResumable,
    ),
  ).toEqual([false, true]);
});

test("what a text creates and drops is known in every spelling", () => {
  const effects: Record<string, string[]> = {
    "create table if not exists public.a (b int, constraint c check (b > 0), like d)":
      ["CREATE TABLE a", "ADD COLUMN a.b"],
    'create table "S".a (b numeric(1, 2), "C" int)': [
      "CREATE TABLE S.a",
      "ADD COLUMN S.a.b",
      "ADD COLUMN S.a.C",
    ],
    "create temp table a (b int)": [],
    "create unique index i on a (b)": [],
    "alter table only a add b int, add column if not exists c int, drop column d":
      ["ADD COLUMN a.b", "ADD COLUMN a.c", "DROP COLUMN a.d"],
    "alter table a add constraint c unique (b), alter b drop not null": [],
    "alter table a rename to b; alter table b add c int; alter table a drop d":
      ["ADD COLUMN b.c", "DROP COLUMN b.d"],
    "drop table if exists a, s.b cascade; drop view v": [
      "DROP TABLE a",
      "DROP TABLE s.b",
      "DROP VIEW v",
    ],
    "create type t as enum (); drop type t; alter table a add b int; alter table a drop b":
      [],
    "do $$ begin create type t as enum (); exception when duplicate_object then null; end $$":
      ["CREATE TYPE t"],
  };
  for (const [text, expected] of Object.entries(effects))
    expect({ text, effects: [...listEffects(text)] }).toEqual({
      text,
      effects: expected,
    });
});

test("what is left of a file whose first statements are done", () => {
  const text = "a;\n-- of b\nb; c;\n";

  expect([0, 1, 2, 3].map((count) => skipStatements(text, count))).toEqual([
    text,
    "b; c;\n",
    "c;\n",
    "",
  ]);
});
