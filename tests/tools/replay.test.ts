// What of migrations is left out of a scratch database, and what they fail with.
import { expect, test } from "bun:test";
import { openConnection } from "../../scripts/lib/connection";
import { hashText, type Migration } from "../../scripts/migrations/journal";
import { listMade } from "../../scripts/migrations/ours";
import { readReaches } from "../../scripts/migrations/reach";
import { replayMigrations } from "../../scripts/migrations/replay";
import type { Trial } from "../../scripts/migrations/take-over";
import { withTrial } from "../../scripts/migrations/trial";
import { withDatabase } from "../lib/database";
import { withRoles } from "../lib/roles";

const [server, outside] = [
  "it changes the server, not only the database",
  "it reaches outside the server",
];

/** What is left out: the line, the reason, and whether the schema differs without it. */
type Left = [line: number, reason: string, changesSchema: boolean];

/** Migrations that are applied: what fails is left out. */
const applied: [text: string, Left[] | string][] = [
  [
    "create table a ();\ninsert into a (nowhere) values (1);\n\ncreate table b ()",
    [[2, 'column "nowhere" of relation "a" does not exist', false]],
  ],
  ["select from a, b", []],
  [
    "create table c (); commit; select 1 / 0; create table d ()",
    [[1, "division by zero", false]],
  ],
  ["select from c, d; set search_path = nowhere", []],
  ["select from a", []],
  // The server has their effect.
  ["create role nobody; copy a to program 'b'; create table e ()", []],
  [
    "select from e;\ndo $$ begin create role nobody; create table f (); end $$;\nimport foreign schema a from server b into c",
    [
      [2, server, true],
      [3, outside, true],
    ],
  ],
  // Nothing that is compared.
  [
    `create extension if not exists dblink; create extension "dblink"; create extension Dblink;
    comment on extension plpgsql is 'a'; alter extension plpgsql update; drop extension plpgsql;
    create function fire() returns event_trigger language plpgsql as 'begin end'; alter table a owner to pg_monitor;
    create event trigger fired on ddl_command_end execute function fire()`,
    [],
  ],
  [
    "create extension file_fdw;\nalter table pg_class add a int;\nalter table nowhere owner to pg_monitor;\nalter table a alter nothing drop not null",
    [
      [1, 'permission denied to create extension "file_fdw"', true],
      [2, "must be owner of table pg_class", true],
      [3, 'relation "nowhere" does not exist', true],
      [4, 'column "nothing" of relation "a" does not exist', true],
    ],
  ],
  // The commit fails, and no statement is to blame.
  [
    "create table p (id int primary key);\ncreate table q (id int references p deferrable initially deferred);\ninsert into q values (1)",
    ([true, true, false] as const).map((changes, index): Left => [
      index + 1,
      'insert or update on table "q" violates foreign key constraint "q_id_fkey"',
      changes,
    ]),
  ],
  ...(
    [
      [false, "insert into x values (1)"],
      [false, "update x set a = 1"],
      [false, "delete from x"],
      [false, "merge into x using a on true when matched then delete"],
      [false, "truncate x"],
      [false, "select from x"],
      [false, "with y as (select 1) select from x"],
      [false, "values ((select 1 from x))"],
      [false, "do $$ begin perform from x; end $$"],
      [true, "do $$ begin create view v as select from x; end $$"],
      [true, "do $$ begin alter table x add a int; end $$"],
      [true, "do $$ begin select from x; drop table x; end $$"],
      [true, "do $$ begin grant select on x to public; end $$"],
      [true, "do $$ begin revoke select on x from public; end $$"],
      [true, "do $$ begin comment on table x is ''; end $$"],
      [true, "alter table x add a int"],
    ] as const
  ).map(([changes, text]): [string, Left[]] => [
    text,
    [[1, 'relation "x" does not exist', changes]],
  ]),
  [
    "copy a from stdin",
    "t.sql has a COPY that reads from or writes to a client",
  ],
];

/** Pending migrations: what needs rows, or what this role or server has not, is left out;
 * a text is what they fail with. */
const pending: [text: string, Left[] | string][] = [
  [
    "create table keys (id int primary key); create table uses (id int not null references keys)",
    [],
  ],
  [
    "insert into uses values (1)",
    [
      [
        1,
        'insert or update on table "uses" violates foreign key constraint "uses_id_fkey"',
        false,
      ],
    ],
  ],
  [
    "insert into uses values (null)",
    [
      [
        1,
        'null value in column "id" of relation "uses" violates not-null constraint',
        false,
      ],
    ],
  ],
  ["do $$ begin raise 'none'; end $$", [[1, "none", false]]],
  [
    "do $$ declare a int; begin select id into strict a from keys; end $$",
    [[1, "query returned no rows", false]],
  ],
  [
    "do $$ declare a int; begin select 1 into strict a from pg_class; end $$",
    [[1, "query returned more than one row", false]],
  ],
  ["do $$ begin assert false; end $$", [[1, "assertion failed", false]]],
  [
    "select (select oid from pg_class)",
    [
      [
        1,
        "more than one row returned by a subquery used as an expression",
        false,
      ],
    ],
  ],
  [
    "do $$ begin execute null; end $$",
    [[1, "query string argument of EXECUTE is null", false]],
  ],
  ["select 1;\n\nselect\n1 / 0", [[3, "division by zero", false]]],
  [
    "alter table pg_class add a int",
    [[1, "must be owner of table pg_class", true]],
  ],
  [
    "create extension nowhere_to_be_found;\ncreate table g (a nowhere_type);\nselect nothing from keys",
    [
      [1, 'extension "nowhere_to_be_found" is not available', true],
      [2, 'type "nowhere_type" does not exist', true],
      [3, 'column "nothing" does not exist', false],
    ],
  ],
  [
    "grant select on keys to nobody_at_all",
    [[1, 'role "nobody_at_all" does not exist', true]],
  ],
  ["create table ours (id int references theirs)", []],
  [
    "comment on extension plpgsql is 'a'",
    [[1, "must be owner of extension plpgsql", true]],
  ],
  [
    "do $$ begin create role nobody; create table i (); end $$;\ncomment on table i is 'a'",
    [
      [1, server, true],
      [2, 'relation "i" does not exist', true],
    ],
  ],
  [
    "create role nobody;\ndo $$ begin create role nobody; create table h (); end $$;\ncopy keys to program 'b'",
    [
      [1, server, false],
      [2, server, true],
      [3, outside, false],
    ],
  ],
  ["create table h (a nowhere_type)", 'type "nowhere_type" does not exist'],
  [
    "select 1 / 0; create table h (a nowhere_type)",
    'type "nowhere_type" does not exist',
  ],
  ["select nothing from keys", 'column "nothing" does not exist'],
  [
    "insert into keys values (1), (1)",
    'duplicate key value violates unique constraint "keys_pkey"',
  ],
  [
    "create function f() returns int language nothing as ''",
    'language "nothing" does not exist',
  ],
  [
    "create view v as select id from keys; alter table keys alter id type bigint",
    "cannot alter type of a column used by a view or rule",
  ],
];

test("applied migrations leave out what fails, and pending ones what needs rows, rights or another server", async () => {
  await withDatabase("empty", async (database) => {
    const { address, sql } = database;
    await sql.unsafe(
      "create extension dblink; create table theirs (id int primary key)",
    );
    await withRoles(database, 1, async ({ name: role }) => {
      await sql.unsafe(`alter role ${role} createdb`);
      await using real = await openConnection(address, "tests");
      const beside = { ...address, user: role, password: role };
      const place = { address: beside, isScratchServer: false };
      const made = listMade([{ text: "create table ours ()" }]);
      await withTrial(real, place, "tests", made, [], async (trial) => {
        for (const [text, left] of applied)
          expect([text, await replay(trial, text, true)]).toEqual([text, left]);
        await replay(trial, "set search_path = nowhere", true);
        const [row] = await trial.scratch`show search_path`;
        expect(row?.search_path).not.toBe("nowhere");
        for (const [text, left] of pending)
          expect([text, await replay(trial, text, false)]).toEqual([
            text,
            left,
          ]);
        expect([...trial.taken]).toEqual(["table public.theirs"]);
      });
      const own = { address, isScratchServer: false };
      await withTrial(real, own, "tests", made, [], async (trial) => {
        const [left] = (await replay(trial, "load 'nowhere'", false)) as Left[];
        expect(left?.[1]).toContain('could not access file "nowhere"');
      });
    });
  });
}, 60_000);

let when = 0;

async function replay(
  trial: Trial,
  text: string,
  isApplied: boolean,
): Promise<Left[] | string> {
  when += 1;
  const migration: Migration = {
    ...{ tag: `t${when}`, idx: when, when, file: "t.sql" },
    ...{ text, hash: hashText(text) },
  };
  trial.isIncomplete = false;
  try {
    const reaches = readReaches([migration]);
    const left = await replayMigrations(trial, [migration], reaches, isApplied);
    return left.map(({ line, reason, changesSchema, hasFailed }) => {
      expect(hasFailed).toBe(![server, outside].includes(reason));
      return [line, reason, changesSchema];
    });
  } catch (error) {
    return (error as Error).message.replace(/^\S+ failed: /, "");
  }
}
