// Where a file is cut into statements, and what of it counts as the same.
import { expect, test } from "bun:test";
import {
  hashStatements,
  splitStatements,
} from "../../scripts/migrations/statements";

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
