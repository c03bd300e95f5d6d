// What db:check says of migrations that fail only where there are rows.
import { expect, spyOn, test } from "bun:test";
import { openConnection } from "../../scripts/lib/connection";
import { readCatalog } from "../../scripts/migrations/catalog";
import { hashText, type Migration } from "../../scripts/migrations/journal";
import { splitStatements } from "../../scripts/migrations/statements";
import { withTrial } from "../../scripts/migrations/trial";
import { listTexts, makeRows } from "../../scripts/migrations/made-rows";
import { createTables } from "../../scripts/migrations/log";
import { listMade } from "../../scripts/migrations/ours";
import type { Reaching } from "../../scripts/migrations/reach";
import type { Trial } from "../../scripts/migrations/take-over";
import {
  listBeforeChange,
  listSteps,
  tryRows,
} from "../../scripts/migrations/try-rows";
import type { DatabaseAddress } from "../../src/database-url";
import { withDatabase } from "../lib/database";
import * as migrations from "../lib/row-migrations";
import { withRoles } from "../lib/roles";
import { sampleOf } from "../lib/sample";

const { foundHereOnly, rows, schema } = migrations;
const fails = [...migrations.alwaysFails, ...sampleOf(migrations.fails, 8)];
const passes = [...migrations.alwaysPasses, ...sampleOf(migrations.passes, 8)];

test("a migration that fails on rows only is found before, and no other", async () => {
  await withDatabase("empty", async ({ address }) => {
    await using real = await openConnection(address, "tests");
    await real.unsafe(`${schema}${rows}`);
    const [found, elsewhere] = await Promise.all(
      [false, true].map((isElsewhere) => tryAll(address, isElsewhere)),
    );
    // An enum's new value can be used only when it is committed.
    await real.unsafe("alter type mood add value 'calm'");
    const failing = await collect(async (text) => {
      const failed = await real
        .begin(async (transaction) => {
          await transaction.unsafe(
            text
              .replaceAll(" concurrently", "")
              .replace("add value", "add value if not exists"),
          );
          await transaction.unsafe("set constraints all immediate; rollback");
        })
        .then(() => false)
        .catch(() => true);
      return failed;
    });

    expect(failing).toEqual(fails);
    expect(found).toEqual(fails);
    expect(elsewhere).toEqual(
      fails.filter((text: string) => !foundHereOnly.includes(text)),
    );
  });
}, 300_000);

const bystander = `test_bystander_${process.pid}`;

/** Returns the migrations that a scratch database shows to fail. */
async function tryAll(
  address: DatabaseAddress,
  isScratchServer: boolean,
): Promise<string[]> {
  return await onTrial(address, isScratchServer, schema, async (trial) => {
    const before = await readCatalog(trial.scratch);
    // Somebody else may use a scratch server, too.
    if (isScratchServer) await trial.real.unsafe(`create role ${bystander}`);
    const found = await collect(async (text) => {
      const problems = await tryRows(
        trial,
        [describe(text)],
        new Map(),
        100,
        before,
      );
      return problems.some(({ code }) => code === "fails_on_rows");
    });
    if (isScratchServer) await trial.real.unsafe(`drop role ${bystander}`);
    return found;
  });
}

/** Runs `work` with a scratch database that has the schema, and no rows. */
async function onTrial<T>(
  address: DatabaseAddress,
  isScratchServer: boolean,
  schema: string,
  work: (trial: Trial) => Promise<T>,
): Promise<T> {
  await using real = await openConnection(address, "tests");
  const made = listMade([{ text: "" }]);
  const place = { address, isScratchServer };
  return await withTrial(real, place, "tests", made, [], async (trial) => {
    await trial.scratch.unsafe(schema);
    return await work(trial);
  });
}

const describe = (text: string): Migration => ({
  ...{ tag: "t", idx: 0, when: 0, file: "t.sql" },
  ...{ text, hash: hashText(text) },
});

async function collect(
  isFailing: (text: string) => Promise<boolean>,
): Promise<string[]> {
  const failing: string[] = [];
  for (const text of [...fails, ...passes])
    if (await isFailing(text)) failing.push(text);
  return failing;
}

test("made rows satisfy what a table asks of them, or the table is named", async () => {
  await withDatabase("empty", async ({ address }) => {
    await using sql = await openConnection(address, "tests");
    await sql.unsafe(
      `
      create type mood as enum ('sad', 'ok');
      create domain code as text check (value ~ '^[A-Z]$');
      create table orgs (id uuid primary key default gen_random_uuid(), slug varchar(3) unique not null, mood mood not null unique,
        check (slug = lower(slug) and length(slug) > 1));
      create table members (org uuid references orgs initially deferred, number int, role text not null check (role in ('owner', 'member')),
        boss int, primary key (org, number), foreign key (org, boss) references members, code code not null unique);
      create table notes (id bigint generated always as identity primary key, org uuid not null, number int not null,
        foreign key (org, number) references members, page uuid references orgs, word text,
        check ((page is null) <> (word is null)), span daterange not null, tags text[] not null, place point not null,
        address inet not null, kind text not null check (kind = 'it''s'), data jsonb not null check (jsonb_typeof(data) = 'object'), amount numeric(4,2) not null check (amount between 5 and 7),
        secret text not null check (char_length(secret) >= 20), url text not null check (url like 'https://%'),
        twice int generated always as (number * 2) stored, at timestamptz not null default now(), exclude using gist (span with &&));
      create table never (id int check (id > 3 and id < 3) not null);
      create table knot (id int primary key);
      create table loop (id int primary key references loop, other int not null references knot);
      alter table knot add loop int not null references loop`,
    );
    await sql.unsafe("begin");
    const { made, refused } = await makeRows(
      sql,
      ["public.notes", "public.never", "public.loop"],
      0,
    );
    const [row] = await sql.unsafe<Record<string, string>[]>(
      "select (select count(*) from orgs) as orgs, (select count(*) from members) as members, (select count(*) from notes) as notes",
    );
    await sql.unsafe("rollback");

    expect({ made, refused: [...refused] }).toEqual({
      made: ["public.orgs", "public.members", "public.notes"],
      refused: [
        [
          "public.never",
          'new row for relation "never" violates check constraint "never_id_check"',
        ],
        [
          "public.knot",
          'insert or update on table "knot" violates foreign key constraint "knot_loop_fkey"',
        ],
        [
          "public.loop",
          'insert or update on table "loop" violates foreign key constraint "loop_other_fkey"',
        ],
      ],
    });
    expect(row).toEqual({ orgs: "2", members: "2", notes: "2" });
  });
}, 300_000);

const sortWords = (text: string) =>
  text
    .split(/,? |\n/)
    .sort()
    .join(" ");

const manyRows = {
  schema: `
    create table groups (id int primary key, up int references groups, name text);
    create table facts (id int generated always as identity primary key, dropped int, "Amount" int, note text,
      twice int generated always as ("Amount" * 2) stored, belongs int references groups, other int);
    alter table facts drop column dropped;
    create table quiet (id serial primary key); create table "Own$" (id int);
    create table parts (id int) partition by range (id); create table parts_1 partition of parts for values from (1) to (9);
    create function refuse() returns trigger language plpgsql as $$ begin raise exception 'a trigger'; end $$;
    create trigger refused before insert on facts for each row execute function refuse()`,
  rows: `
    alter table facts disable trigger refused;
    insert into groups select n, null, 'g' from generate_series(1, 20) as n;
    update groups set up = id + 1 where id in (7, 8);
    insert into facts ("Amount", note, belongs, other)
      select n, 'n' || lpad(n::text, 4, '0'), case when n = 2 then 7 end, n from generate_series(1, 1000) as n;
    vacuum full facts`,
  changes: `
    update facts set "Amount" = -5 where id = 500; update facts set "Amount" = 99999 where id = 600;
    update facts set "Amount" = null where id = 700; update facts set note = null where id = 650;
    update facts set note = 'same' where id in (800, 801); update facts set other = 99999 where id = 900;
    insert into quiet select from generate_series(1, 41); insert into parts values (1); insert into "Own$" values (1);
    alter table facts enable trigger refused`,
  /** Shows the rows that it finds by failing. */
  migration: `select 1;

    -- Two lines above.
    do $$ declare seen text[]; one text; begin
      if not exists (select from facts) then return; end if;
      for one in select unnest(array['facts', 'gro' || 'ups', 'qui' || 'et', 'parts', '"Own$"']) loop
        execute format('select string_agg(%s::text, '','' order by 1) from (select %s from %s order by 1) as t',
          'i' || 'd', 'i' || 'd', one) into one;
        seen := seen || coalesce(one, '');
      end loop;
      execute 'insert into qui' || 'et default values returning i' || 'd' into one;
      raise exception '%', array_to_string(seen || one || (select sum(twice)::text from facts), ' | ');
    end $$;
    comment on column facts."Amount" is 'a'; comment on column facts.note is 'b'`,
};

test("a migration is tried with a few rows, with those that stand out, and with those that they refer to", async () => {
  using stderr = spyOn(process.stderr, "write").mockReturnValue(true);
  await withDatabase("empty", async (database) => {
    const { address, sql, name } = database;
    const { schema, rows, changes, migration } = manyRows;
    await sql.unsafe(createTables());
    await sql.unsafe(schema);
    for (const part of rows.split(";")) await sql.unsafe(part);
    await sql.unsafe(changes);
    await sql.unsafe(
      "select setval('drizzle.__drizzle_migrations_id_seq', 77), setval('drizzle.__migration_log_id_seq', 77)",
    );
    const look = async (to: DatabaseAddress) =>
      await onTrial(to, false, schema, async (trial) => {
        const before = stderr.mock.calls.length;
        const [problem] = await tryRows(
          trial,
          [describe(migration)],
          new Map(),
          3,
        );
        const [own] = await trial.scratch<{ last: string | null }[]>`
          select max(last_value) as last from pg_sequences where schemaname = 'drizzle'`;
        const notes = stderr.mock.calls
          .slice(before)
          .map(([text]) => sortWords(String(text)));
        return { problem, own, notes };
      });
    const found = await look(address);
    await withRoles(database, 1, async ({ name: role }) => {
      await sql.unsafe(
        `alter role ${role} createdb; alter database ${name} owner to ${role};
        grant select on all tables in schema public to ${role}; grant select on all sequences in schema public to ${role};
        grant usage on schema drizzle to ${role}; alter schema public owner to ${role}`,
      );
      // A role that cannot turn off what refuses rows.
      const plain = await look({ ...address, user: role, password: role });

      expect(plain).toEqual(found);
    });

    expect(found.problem).toEqual({
      ...{ code: "fails_on_rows", severity: "error" },
      ...{ tag: "t", file: "t.sql", line: 4 },
      message:
        "statement 2 fails on rows of this database: 1,2,3,500,600,650,700,800,801 | 7,8,9 |  |  | 1 | 42 | 204502; fix the rows before it in the file, or in an earlier migration",
    });
    expect(found.own).toEqual({ last: null });
    expect(found.notes).toEqual([
      sortWords('Tried with rows of facts, "Own$", groups\n'),
    ]);
  });
}, 60_000);

const small = {
  schema: `
    create type mood as enum ('sad'); create type kind as enum ('a');
    create table t (id int, a int, b int default 1, mood mood); create table none (id int);
    create table never (id int not null);`,
  rows: "insert into t values (1, 2000, 1), (2, null, 1); insert into never values (1)",
  /** Afterwards in both: no row satisfies it. */
  last: "alter table never add check (id > 3 and id < 3) not valid",
};
/** Fails on the second row. */
const fail = "alter table t alter a set not null";
const isNull = 'column "a" of relation "t" contains null values';
const tried = "Tried with rows of t";
const unfit =
  "t0.sql: rows of public.t do not fit what the migrations create: fix them first";
const uncommitted = (number: number) =>
  `Not tried with rows from statement ${number} of t0.sql on: unsafe use of new value "b" of enum type sort`;

/** What is said of migrations where the rows may be copied, and where they may not. */
const said: [texts: string[], here: string[], elsewhere: string[]][] = [
  [
    ["comment on table t is 'a'", `begin;\n${fail};\ncommit`],
    [`t1.sql:2: statement 2 fails on rows of this database: ${isNull}`, tried],
    [unfit],
  ],
  [
    [`update t set a = 0 where a is null; ${fail}`],
    [tried],
    ["Tried with made rows of t"],
  ],
  [
    [`${fail}; update t set b = 2`],
    [`t0.sql:1: statement 1 fails on rows of this database: ${isNull}`, tried],
    [unfit],
  ],
  [["alter table none add required text not null"], [], []],
  [
    ["alter table t add constraint large check (a > 1000)"],
    [tried],
    [
      'Not tried with rows from statement 1 of t0.sql on: made ones do not fit: check constraint "large" of relation "t" is violated by some row',
    ],
  ],
  [
    [
      "create table kinds (id int primary key); alter table t add constraint k foreign key (a) references kinds",
    ],
    [
      't0.sql:1: statement 2 fails on rows of this database: insert or update on table "t" violates foreign key constraint "k"',
      tried,
    ],
    [
      't0.sql:1: statement 2 fails on any row, also on made ones: insert or update on table "t" violates foreign key constraint "k"',
    ],
  ],
  [
    ["select a from t; comment on column never.id is 'a'"],
    [
      'Not tried with rows: public.never: new row for relation "never" violates check constraint "never_id_check"',
    ],
    [
      'Not tried with rows of never: none could be made: new row for relation "never" violates check constraint "never_id_check"',
      "Tried with made rows of t",
    ],
  ],
  [
    [
      `alter type kind rename to sort; alter type sort add value 'b'; ${fail}; select 'b'::sort; alter table t add check (b > 1)`,
    ],
    [
      `t0.sql:1: statement 3 fails on rows of this database: ${isNull}`,
      uncommitted(4),
      tried,
    ],
    [unfit, uncommitted(4)],
  ],
  [
    [
      `alter type mood add value 'ok'; alter table t alter mood set default 'ok'; ${fail}`,
    ],
    [`t0.sql:1: statement 3 fails on rows of this database: ${isNull}`, tried],
    [unfit],
  ],
  [[`${fail}; select nowhere()`], [], []],
];

test("it is said with which rows a migration was tried, and with which it fails", async () => {
  using stderr = spyOn(process.stderr, "write").mockReturnValue(true);
  await withDatabase("empty", async ({ address, sql }) => {
    const { schema, rows, last } = small;
    await sql.unsafe(`${schema}${rows};${last}`);
    for (const isElsewhere of [false, true])
      await onTrial(address, isElsewhere, schema + last, async (trial) => {
        for (const [texts, ...expected] of said) {
          stderr.mockClear();
          const pending = texts.map((text, index) => ({
            ...describe(text),
            file: `t${index}.sql`,
          }));
          const problems = await tryRows(trial, pending, new Map(), 9);
          const notes = stderr.mock.calls.map(([text]) => String(text).trim());
          const found = problems.map(({ file, line, message }) =>
            [file, line, ` ${message.split(";")[0]}`].filter(Boolean).join(":"),
          );
          expect([...found, ...notes]).toEqual(
            expected[Number(isElsewhere)] ?? [],
          );
        }
        stderr.mockClear();
        expect(await tryRows(trial, [describe(fail)], new Map(), 0)).toEqual(
          [],
        );
        expect(await tryRows(trial, [], new Map(), 9)).toEqual([]);
        expect(stderr).not.toHaveBeenCalled();
      });
  });
}, 60_000);

test("of a migration those statements are tried that can run in one transaction, and the first that changes rows is known", () => {
  const text = `begin; create table a (); commit; vacuum a; copy a from stdin; \\d a
    ; create index Concurrently i on a (b); drop index concurrently j; create role x;
    alter type m add value 'b'; ALTER TYPE m ADD VALUE IF NOT EXISTS 'c' before 'b'; alter table a add value text;
    -- resumable
    do $$ begin update a set b = 1; commit; COMMIT ; end $$; do $$ begin commit; end $$`;
  const far =
    (reach: Reaching["reach"]) => (statement: Reaching["statement"]) => ({
      statement,
      reach,
      isNoSchema: true,
    });
  const reaches = splitStatements(text).map((statement) =>
    far(statement.text === "create role x" ? "server" : "database")(statement),
  );
  const changes =
    "insert into a; update a; delete from a; merge into a; truncate a; do ''; select; with b as c; call d()";
  const after = (change: string) =>
    listBeforeChange(
      listSteps(describe(`create table a (); ${change}; drop table a`), []),
    ).map(({ text }) => text);

  expect(
    listSteps(describe(text), reaches).map(({ number, text }) => [
      number,
      text,
    ]),
  ).toEqual([
    [2, "create table a ()"],
    [7, "create index i on a (b)"],
    [8, "drop index j"],
    [10, "alter type m add value if not exists 'b'"],
    [11, "ALTER TYPE m add value if not exists 'c' before 'b'"],
    [12, "alter table a add value text"],
    [13, "do $$ begin update a set b = 1; null; null; end $$"],
    [14, "do $$ begin commit; end $$"],
  ]);
  for (const change of changes.split("; "))
    expect(after(change)).toEqual(["create table a ()"]);
  expect(after("comment on table a is ''")).toHaveLength(3);
});

test("the values that are tried are as they were, those that a check mentions first", async () => {
  const checks = `CHECK ((length(a1) > 3)) CHECK ((b = ANY (ARRAY['it''s'::text, ''::text]))) CHECK ((c < 4.5)) CHECK ((d > 2000))`;
  const texts = listTexts({ labels: ["x", "y", "z"], checks }, 2);
  const long = "x".repeat(1000);

  expect(texts.slice(0, 25)).toEqual([
    ...["y", "z", "x", "5", "3", "1", "xxx", "xxxx", "it's", ""],
    ...["6.5", "4.5", "2.5", "xxxx", "xxxxx"],
    ...["2002", "2000", "1998", long, `${long}x`],
    ...["2", "2000-01-02", "00000000-0000-4000-8000-000000000002"],
    ...['{"a": 2}', "{2}"],
  ]);
  expect(listTexts({ labels: null, checks: null }, 1).join(" ")).toBe(
    `1 2000-01-01 00000000-0000-4000-8000-000000000001 {"a": 1} {1} {} [] worda a A a1@example.com https://example.com/1 +15550000001 #000001 10.0.0.1 08:00:2b:01:02:01 10:00:01 (1,1) ((0,0),(1,1)) {1,1,1} [1,2) [2000-01-01,2000-01-02) true 0.1 -1 1000 2100-01-01 `,
  );
  await withDatabase("empty", async ({ address }) => {
    await using sql = await openConnection(address, "tests");
    await sql.unsafe(`
      create type mood as enum ('sad', 'ok', 'happy'); create domain code as text check (value ~ '^[A-Z]$');
      create function refuse() returns trigger language plpgsql as 'begin raise exception ''a trigger''; end';
      create table orgs (id int primary key default 7, slug varchar(3) unique not null, mood mood not null, gone int, flag boolean not null default true);
      alter table orgs drop gone; create trigger refused before insert on orgs for each row execute function refuse();
      create table members (org int references orgs initially deferred, number int, role text not null check (role in ('owner', 'member')),
        boss int, primary key (org, number), foreign key (org, boss) references members, code code not null unique);
      create table notes (id int generated always as identity primary key, "Org" int not null references orgs, number int not null,
        foreign key ("Org", number) references members, word text unique, span daterange not null, tags text[], twice int generated always as (number * 2) stored,
        exclude using gist (span with &&));
      create table words (word text not null, other text not null); create unique index on words (length(word));
      create table bare (id int generated always as identity); create table nullable (a int, b mood, c uuid);
      create table zero (a int not null default 0, b int generated always as (1 / a) stored)`);
    const tables = ["notes", "words", "bare", "nullable", "zero"];
    for (const variant of [0, 1]) {
      await sql.unsafe("begin");
      const { made, refused } = await makeRows(
        sql,
        tables.map((table) => `public.${table}`),
        variant,
      );
      const rows: Record<string, string> = {};
      for (const table of made) {
        const [row] = await sql.unsafe<{ rows: string }[]>(
          `select json_agg(t)::text as rows from ${table} as t`,
        );
        rows[table] = row?.rows.replace(/\s+/g, " ") ?? "";
      }
      const [left] = await sql`
        select (select tgenabled from pg_trigger where tgname = 'refused') as trigger, to_regproc('pg_temp.is_value') as function`;
      await sql.unsafe("rollback");

      expect(left).toEqual({ trigger: "O", function: null });
      expect({ rows, refused: Object.fromEntries(refused) }).toMatchSnapshot();
    }
  });
}, 60_000);
