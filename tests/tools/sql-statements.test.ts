// Where a file is cut into statements, and what of it counts as the same.
import { expect, test } from "bun:test";
import {
  quoteBody,
  quoteIdentifier,
  quoteLiteral,
} from "../../scripts/lib/quote";
import { hashText } from "../../scripts/migrations/journal";
import {
  hashBeginnings,
  hashStatements,
  type Kind,
  skipStatements,
  splitStatements,
} from "../../scripts/migrations/statements";
import {
  isWithoutTransaction,
  nextStep,
  toScript,
} from "../../scripts/migrations/steps";
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
    `select ';''', E'\\';', e''';\\'', '\\', "a"";b"; select 2`,
    [`select ';''', E'\\';', e''';\\'', '\\', "a"";b"`, "select 2"],
  ],
  [
    "not in dollar quotes",
    "do $$ begin; $x$ end $$; select $ä1$;$$;$ä1$, a$b$ from c; select $1; select $1$",
    [
      "do $$ begin; $x$ end $$",
      "select $ä1$;$$;$ä1$, a$b$ from c",
      "select $1",
      "select $1$",
    ],
  ],
  ["not in what has no end", "select $a$; b; $A$", ["select $a$; b; $A$"]],
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
    "after the words of such a body elsewhere",
    "create function f(begin int) returns int return case when true then 1 end; create or replace procedure p() begin atomic select 1; end; create view v as select 1 as begin; select 3",
    [
      "create function f(begin int) returns int return case when true then 1 end",
      "create or replace procedure p() begin atomic select 1; end",
      "create view v as select 1 as begin",
      "select 3",
    ],
  ],
  [
    "at drizzle's separator within parentheses and a body",
    "select (1--> statement-breakpoint select 2; create function f() begin atomic select 3--> statement-breakpoint select 4; select 5",
    [
      "select (1",
      "select 2",
      "create function f() begin atomic select 3",
      "select 4",
      "select 5",
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
  expect(second?.tokens).toEqual([
    { text: "select", offset: text.indexOf("select 2") },
    { text: "2", offset: text.length - 1 },
  ]);
});

test("a hash leaves out comments and blanks, and nothing else", () => {
  const hash = (text: string) => hashStatements(splitStatements(text));

  expect(hash("select  1 -- a\n, 'b c';")).toBe(hash("select 1,'b c'"));
  expect(hash("select 1, 'b  c'")).not.toBe(hash("select 1, 'b c'"));
  expect(hash("select 1; select 2")).not.toBe(hash("select 1 select 2"));
  // The log has such hashes.
  const numbers = Array.from({ length: 9000 }, (_, index) => `${index}.5`);
  const text = `select\f1\v; insert into a values ${numbers.join("\t")}`;
  const bare = `select 1;insert into a values ${numbers.join(" ")};`;
  expect(hash(text)).toBe(hashText(bare));
  expect(hashBeginnings(splitStatements(text))).toEqual(
    ["", "select 1;", bare].map(hashText),
  );
});

test("tells what a statement means for the transaction around it", () => {
  const kinds: [kind: Kind, statements: string][] = [
    ["begin", "begin; begin isolation level serializable; start transaction"],
    ["commit", "commit; end; end work; commit and chain"],
    ["rollback", "rollback; abort; rollback work"],
    [
      "plain",
      "rollback to a; rollback work to a; rollback to savepoint a; start; discard temp; reset all; savepoint a; reindex table a; alter table a detach partition b; create index on a (b)",
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
      "set a = 1; set session a = 1; set local a = 1; set transaction read only; set constraints all deferred; select set_config('a', 'b', false); reset a; discard temp; select 1; select pg_catalog.set_config('a', 'b', false)",
    ),
  ).toEqual([
    "set a = 1",
    "set session a = 1",
    "select set_config('a', 'b', false)",
    "reset a",
    "discard temp",
    "select pg_catalog.set_config('a', 'b', false)",
  ]);
  expect(found("mayCommit", "call a(); do 'a'; select a()")).toEqual([
    "call a()",
    "do 'a'",
  ]);
  expect(
    found(
      "clientOffset",
      "copy a from stdin; copy a to stdout; copy a from '/b'; copy a from program 'stdin'; insert into a select from stdin; select 1 \\gx; select 2",
    ),
  ).toEqual(["copy a from stdin", "copy a to stdout", "select 1 \\gx"]);
  expect(
    found(
      "isConcurrent",
      "drop index concurrently a; refresh materialized view concurrently b; drop index c",
    ),
  ).toEqual([
    "drop index concurrently a",
    "refresh materialized view concurrently b",
  ]);
});

/** A file, and the steps in which it is run: alone, rolled back or neither. */
const steps: [text: string, steps: string[]][] = [
  ["", [""]],
  ["a; b", ["a; b"]],
  ["a; vacuum; b; c", ["a", "alone: vacuum", "b; c"]],
  ["vacuum; vacuum", ["alone: vacuum", "alone: vacuum", ""]],
  [
    "a; commit; b; rollback; c; abort",
    ["a; commit", "rolled back: b; rollback", "rolled back: c; abort"],
  ],
  // A COMMIT without a BEGIN ends nothing, and the BEGIN may have a level.
  ["commit; begin; a; commit", ["commit", "begin; a; commit"]],
  ["rollback; begin; a", ["rollback", "begin; a"]],
  ["a; refused; b", ["a", "alone: refused", "b"]],
  ["refused; a", ["alone: refused", "a"]],
  ["a; needs; b; needs; c", ["a", "needs; b", "needs; c"]],
  ["needs; a", ["needs; a"]],
  ["-- no-transaction\na; b", ["a", "b"]],
  [
    "-- no-transaction\na; begin; b; c; commit; d; begin; e; vacuum",
    ["a", "begin; b; c; commit", "d", "begin; e", "alone: vacuum", ""],
  ],
];

test("divides a file into steps, as it says and as the server has refused", () => {
  for (const [text, expected] of steps) {
    const file = { tag: "a", file: "a.sql", text, hash: "" };
    const script = toScript(file, "up");
    const { statements } = script;
    const find = (word: string) =>
      new Set(statements.flatMap((one, i) => (one.text === word ? [i] : [])));
    const refusals = { alone: find("refused"), committedBefore: find("needs") };
    const found: string[] = [];
    for (let done = 0, isLast = false; !isLast && found.length < 9;) {
      const step = nextStep(script, done, refusals);
      const { from, until, isAlone, isRolledBack } = step;
      const texts = statements.slice(from, until).map((one) => one.text);
      const how = isAlone ? "alone: " : isRolledBack ? "rolled back: " : "";
      found.push(how + texts.join("; "));
      done = until;
      isLast = until === statements.length && !isAlone;
    }

    expect({ text, steps: found }).toEqual({ text, steps: expected });
  }
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
  const text = "-- first\na;\n-- of b\nb; c;\n";

  expect([0, 1, 2, 3].map((count) => skipStatements(text, count))).toEqual([
    text,
    "b; c;\n",
    "c;\n",
    "",
  ]);
});
