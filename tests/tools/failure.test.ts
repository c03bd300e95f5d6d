// What is said of a migration that failed.
import { expect, test } from "bun:test";
import {
  describeError,
  type FailureFields,
  READ_ONLY,
} from "../../scripts/lib/report";
import {
  explainFailure,
  hidePasswords,
  type PostgresError,
  refuseClientPart,
} from "../../scripts/migrations/failure";
import { toScript } from "../../scripts/migrations/steps";

/** Codes of an error, with how many statements are committed; what is said of that,
 * and the hint. */
const explained: [codes: string, done: number, state: string, hint: string][] =
  [
    [
      "42P07 42710 42P06 42701",
      0,
      "It was rolled back; nothing of it is committed.",
      "fix `a.sql` and run `bun run db:migrate` again; where the database has this schema already, as after `db:push`, record it with `bun run db:baseline`",
    ],
    [
      "42P07 42601",
      1,
      "It was rolled back; its first statement is committed.",
      "fix `a.sql` and run `bun run db:migrate` again",
    ],
    [
      "08006 40001 40P01 53100 55P03 57P01 57014",
      2,
      "It was rolled back; its first 2 statements are committed.",
      "nothing is wrong with the file: run `bun run db:migrate` again later",
    ],
    [
      "25006",
      0,
      "It was rolled back; nothing of it is committed.",
      `${READ_ONLY}, and run \`bun run db:migrate\` again`,
    ],
    [
      "CONNECTION_CLOSED ECONNRESET EPIPE",
      2,
      "It is not known whether this was committed.",
      "run `bun run db:migrate` again: it continues after what is committed",
    ],
  ];

test("an error says what is committed, and what to do next", () => {
  const lines = Array.from({ length: 15 }, (_, index) => `, ${index}`);
  const text = `select 1; select 2; call a(0${lines.join("\n")})`;
  const file = { tag: "a", file: "a.sql", text, hash: "" };
  const explainAll = (
    code: string,
    done: number,
    direction: "up" | "down",
    isAlone?: boolean,
  ): Error & FailureFields => {
    const error = Object.assign(new Error("no"), { code });
    const script = toScript(file, direction);
    return explainFailure(error, script, 2, done, isAlone);
  };

  for (const [codes, done, state, hint] of explained)
    for (const code of codes.split(" ")) {
      const up = explainAll(code, done, "up");
      const down = explainAll(code, done, "down");

      expect({ code, end: up.lines?.slice(-2), hint: up.hint }).toEqual({
        code,
        end: ["  | … 3 more lines", `  ${state}`],
        hint,
      });
      expect(down.hint).toBe(
        hint.replace("db:migrate", "db:rollback").replace(/; where .*/, ""),
      );
    }
  const alone = [0, 1].map((done) => {
    const { lines } = explainAll("42601", done, "up", true);
    return lines?.at(-1);
  });
  expect(alone).toEqual([
    "  It ran outside of a transaction; the part that it committed itself stays.",
    "  It ran outside of a transaction; the part that it committed itself stays; its first statement is committed.",
  ]);

  const timed = { ...file, text: `set Statement_timeout = 1; ${text}` };
  const late = Object.assign(new Error("no"), { code: "57014" });
  expect(explainFailure(late, toScript(timed, "up"), 1, 0)).toMatchObject({
    hint: "fix `a.sql` and run `bun run db:migrate` again",
  });

  const pushed =
    "fix `a.sql` and run `bun run db:migrate` again; where the database has this schema already, as after `db:push`, record it with `bun run db:baseline`";
  const absent = (text: string, code = "42703", done = 0) =>
    explainFailure(
      Object.assign(new Error("no"), { code }),
      toScript({ ...file, text }, "up"),
      0,
      done,
    );
  for (const text of [
    'alter table "a"\n rename column b to c',
    "ALTER TABLE a DROP COLUMN b",
  ])
    expect(absent(text)).toMatchObject({ hint: pushed });
  expect(absent("drop table a", "42P01")).toMatchObject({ hint: pushed });
  for (const error of [
    absent("select dropped from a"),
    absent("drop table a", "42P01", 1),
    absent("alter table a add b int", "42P01"),
  ])
    expect(error).toMatchObject({ hint: pushed.replace(/;.*/, "") });

  const script = toScript(file, "up");
  const tell = (
    fields: Partial<PostgresError>,
    ...rest: [index?: number, done?: number, isAlone?: boolean, cause?: string]
  ) => {
    const [index, done = 0, ...more] = rest;
    const error = Object.assign(new Error("no"), fields);
    const explained = explainFailure(error, script, index, done, ...more);
    const { lines } = explained as FailureFields;
    return { lines, ...describeError(explained) } as object;
  };
  const told = { detail: "a detail", hint: "a hint" };
  expect(tell({ code: "23505", position: "15", ...told }, 2, 1)).toEqual({
    lines: [
      "  at a.sql:2:3, statement 3 (SQLSTATE 23505)",
      "  | call a(0, 0",
      ...lines.slice(1, 12).map((line) => `  | ${line}`),
      "  | … 3 more lines",
      "  Detail: a detail",
      "  Postgres' hint: a hint",
      "  It was rolled back; its first statement is committed.",
    ],
    code: "MIGRATION_FAILED",
    message: "a failed: no",
    hint: "fix `a.sql` and run `bun run db:migrate` again",
    tag: "a",
    file: "a.sql",
    statement: 3,
    line: 2,
    column: 3,
    sqlstate: "23505",
    detail: "a detail",
    postgresHint: "a hint",
  });
  expect(tell({ code: "23505" })).toEqual({
    lines: [
      "  at the end of a transaction of a.sql (SQLSTATE 23505)",
      "  It was rolled back; nothing of it is committed.",
    ],
    code: "MIGRATION_FAILED",
    message: "a failed: no",
    hint: "fix `a.sql` and run `bun run db:migrate` again",
    tag: "a",
    file: "a.sql",
    sqlstate: "23505",
  });
  expect(tell({ code: "EPIPE" }, 1, 1, true)).toMatchObject({
    lines: [
      "  at a.sql:1:11, statement 2",
      "  | select 2",
      "  It is not known whether this was committed.",
    ],
    message: "the connection to the server was lost in a",
  });
  expect(tell({ code: "57014" }, 0, 0, true, "do this")).toMatchObject({
    lines: [
      "  at a.sql:1:1, statement 1 (SQLSTATE 57014)",
      "  | select 1",
      "  It ran outside of a transaction; nothing of it is committed.",
    ],
    hint: "do this, and run `bun run db:migrate` again",
  });
});

test("a password is hidden in every spelling, and nothing else", () => {
  const shown: Record<string, string> = {
    "create role a password 'b;''c' login": "create role a password '…' login",
    "PASSWORD\te'b\\'c''d' login": "PASSWORD\t'…' login",
    "password $$b'c$$ login": "password '…' login",
    "password $a$b$$c$a$ login": "password '…' login",
    "password 'b": "password '…'",
    "connection 'password = b host=c password=d' e":
      "connection 'password = … host=c password=…' e",
    "password null; select old_password 'b'":
      "password null; select old_password 'b'",
  };

  for (const [text, hidden] of Object.entries(shown))
    expect(hidePasswords(text)).toBe(hidden);
});

test("what only psql can run is refused, with what to do about it", () => {
  const refuse = (text: string) => {
    const file = { tag: "a", file: "a.sql", text, hash: "" };
    try {
      refuseClientPart(toScript(file, "up"));
    } catch (error) {
      return error as Error & FailureFields;
    }
  };
  const hints = ["\\c", "\\i", "\\ir", "\\copy", "\\d"].map(
    (command) => `${command}: ${refuse(`${command} other`)?.hint}`,
  );
  const copied = refuse("select 1;\n copy a from stdin") ?? Error();

  expect(hints).toEqual([
    "\\c: delete it, and the SQL for the other database",
    "\\i: put the SQL of that file in its place",
    "\\ir: put the SQL of that file in its place",
    "\\copy: write its rows as an INSERT, as `pg_dump --inserts` does",
    "\\d: delete the line: only psql knows it",
  ]);
  expect<object>({ ...copied, ...describeError(copied) }).toEqual({
    exitCode: 1,
    lines: ["  at a.sql:2:2, statement 2"],
    code: "MIGRATION_FAILED",
    message: "a.sql has a COPY that reads from or writes to a client",
    hint: "write its rows as an INSERT, as `pg_dump --inserts` does",
    tag: "a",
    file: "a.sql",
    statement: 2,
    line: 2,
    column: 2,
    details: expect.anything(),
  });
  expect(refuse("select 1")).toBeUndefined();
});
