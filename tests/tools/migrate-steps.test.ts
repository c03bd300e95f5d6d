// db:migrate on files that cannot be one transaction, that are interrupted, that
// wait for a lock, and that touch what is not theirs.
import { describe, expect, test as bunTest } from "bun:test";
import { type AddressInfo, connect, createServer } from "node:net";
import { hostname, userInfo } from "node:os";
import { spawn } from "bun";
import { openConnection } from "../../scripts/lib/connection";
import { withLock } from "../../scripts/lib/lock";
import { quoteIdentifier } from "../../scripts/lib/quote";
import {
  describeError,
  type FailureFields,
  READ_ONLY,
} from "../../scripts/lib/report";
import {
  type ApplyOptions,
  applyPending,
} from "../../scripts/migrations/apply";
import {
  explainFailure,
  hidePasswords,
  type PostgresError,
  refuseClientPart,
} from "../../scripts/migrations/failure";
import { hashText } from "../../scripts/migrations/journal";
import {
  createTables,
  logDone,
  logError,
  logForgotten,
  logProgress,
  readLog,
  type Run,
} from "../../scripts/migrations/log";
import { readPlan } from "../../scripts/migrations/plan";
import { checkWhetherDone } from "../../scripts/migrations/resume";
import { splitStatements } from "../../scripts/migrations/statements";
import { toScript } from "../../scripts/migrations/steps";
import { parseDatabaseUrl } from "../../src/database-url";
import { readProject } from "../../src/project";
import { urlOf } from "../lib/command";
import { shareDatabase, until } from "../lib/database";
import { listRecords, migrations, writeMigrations } from "../lib/migrations";
import { CROWD } from "../lib/sample";
import { sharedProject, test } from "../lib/test";
import { type TestRole, withRoles } from "../lib/roles";

const users = "create table users (id int primary key, email text);";

const { database, test: testShared } = shareDatabase(
  "empty",
  sharedProject().folder,
);
const { sql } = database;

/**
 * Registers a test of files that are applied in this process, in a database that
 * they share and that is empty at the start of each.
 */
function testApply(sentence: string, body: () => Promise<void>): void {
  testShared(sentence, async () => {
    const records = quoteIdentifier(readProject().records.schema);
    await sql.unsafe(
      `drop schema if exists ${records}, public cascade;
        create schema public; grant usage on schema public to public`,
    );
    await body();
  });
}

/**
 * Applies files as db:migrate does under its lock, in a session of their own.
 *
 * @param files the text of each migration by its tag.
 * @param options `as` is the role that logs in.
 * @returns the tags that were applied and those that are not, or not all of it,
 * what they raised, and the error that it ended with.
 */
async function apply(
  files: Record<string, string>,
  { as, ...options }: ApplyOptions & { as?: TestRole } = {},
) {
  const migrations = Object.entries(files).map(([tag, text], idx) => {
    const when = 2_000_000_000_000 + idx;
    return { tag, idx, when, file: `${tag}.sql`, text, hash: hashText(text) };
  });
  const applied: string[] = [];
  const raised: string[] = [];
  const url = as?.variables.DATABASE_URL ?? database.url;
  const address = parseDatabaseUrl(url, "DATABASE_URL");
  await using own = await openConnection(address, "db:migrate");
  const error = await withLock(own, 60, async () => {
    await applyPending(own, await readPlan(own, migrations), {
      ...options,
      onApplied: ({ tag }) => applied.push(tag),
      onRaised: ({ tag, message }) => raised.push(`${tag}: ${message}`),
    });
  }).then(
    () => undefined,
    (thrown: Error & FailureFields) => thrown,
  );
  await using after = await openConnection(database.address, "tests");
  const { pending } = await readPlan(after, migrations);
  const unfinished = await readLog(after, "ms is null");
  const left = [...pending, ...unfinished].map(({ tag }) => tag);
  return { applied, left, raised, error };
}

/** What `apply` returns when all is well. */
const done = (files: Record<string, string>) => ({
  applied: Object.keys(files),
  left: [],
  raised: [],
  error: undefined,
});

/** Returns the error of one file, as db:migrate prints it. */
async function explain(
  text: string,
  options?: Parameters<typeof apply>[1],
): Promise<string> {
  const { error } = await apply({ "0000_a": text }, options);
  const { message = "none", lines = [], hint } = error ?? {};
  return [`Error: ${message}`, ...lines, `Hint: ${hint}`].join("\n");
}

/** Returns the variables of a role whose connection string has options. */
function withOptions(role: TestRole | undefined, options: string) {
  const url = `${role?.variables.DATABASE_URL}&options=${encodeURIComponent(options)}`;
  return { DATABASE_URL: url };
}

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

bunTest("an error says what is committed, and what to do next", () => {
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

bunTest("a password is hidden in every spelling, and nothing else", () => {
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

bunTest("what only psql can run is refused, with what to do about it", () => {
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

describe("what cannot be in a transaction", () => {
  testApply("is run alone, and the rest around it", async () => {
    const files = {
      "0000_index": `${users}
        create index concurrently users_email on users (email);
        alter table users add column age int;`,
      "0001_enum": `create type mood as enum ('glad');--> statement-breakpoint
        create table moods (mood mood);`,
      "0002_value": `alter type mood add value 'sad';--> statement-breakpoint
        alter table moods alter column mood set default 'sad';`,
      "0003_own": `begin; alter table users add column a int; commit;
        create index concurrently users_a on users (a);
        begin; alter table users add column gone int; rollback;
        begin; alter table users add column b int`,
      "0004_procedure": `create procedure add_users() language plpgsql as $$
          begin insert into users values (1); commit; insert into users values (2); end $$;
        call add_users();
        do $$ begin insert into users values (3); commit; end $$;`,
      "0005_alone":
        "-- no-transaction\nvacuum users; alter table users add column c int;",
      "0006_refused": "create table e (); cluster;",
      "0007_level": `BEGIN ISOLATION LEVEL REPEATABLE READ;
        create table levels as select current_setting('transaction_isolation') as level; COMMIT;`,
      "0008_said": `insert into levels
        select current_setting('transaction_isolation') where 'isolation level serializable' <> '';`,
      "0009_back": `set default_transaction_read_only = on; commit;
        begin read write; insert into levels values ('gone'); rollback;`,
      "0010_none": "-- nothing",
    };

    expect(await apply(files)).toEqual(done(files));
    expect(await sql`select * from users order by id`).toMatchObject([
      { id: 1, email: null, age: null, a: null, b: null, c: null },
      { id: 2 },
      { id: 3 },
    ]);
    expect(
      await sql`select from pg_class where relname in ('users_email', 'users_a')`,
    ).toHaveLength(2);
    expect(
      await sql`select from pg_attribute where attname = 'gone'`,
    ).toHaveLength(0);
    expect(await sql`select level from levels`).toMatchObject([
      { level: "repeatable read" },
      { level: "read committed" },
    ]);
    const log = await readLog(sql);
    expect(log.map(({ tag }) => tag)).toEqual(Object.keys(files));
  });

  testApply("fails once where it cannot be outside of one either", async () => {
    await sql`create type mood as enum ('glad')`;
    await sql`create table moods (mood mood)`;

    const value = await explain(
      `do $$ begin alter type mood add value 'sad'; insert into moods values ('sad'); end $$`,
    );
    const procedure = await explain(
      `${users} do $$ begin begin commit; exception when division_by_zero then null; end; end $$`,
    );

    expect(procedure).toMatch(
      /statement 2 \(SQLSTATE 2D000\)[^]* outside of a transaction; the part that it committed itself stays; its first statement is committed\./,
    );
    expect(value).toMatch(/\(SQLSTATE 55P04\)[^]* was rolled back; nothing /);
  });

  testApply(
    "stays committed when a later statement fails, and is not run again",
    async () => {
      const text = (end: string) => ({
        "0000_a": `${users} set search_path = pg_catalog;
create index concurrently users_email on public.users (email);\n${end}`,
      });

      const failed = await apply(text("alter table nobody add column x int;"));
      const fixed = await apply(
        text(
          "create table public.kept as select current_setting('search_path') as path;",
        ),
      );

      expect(failed.error?.lines?.[0]).toBe(
        "  at 0000_a.sql:3:1, statement 4 (SQLSTATE 42P01)",
      );
      expect(failed.error?.lines?.at(-1)).toBe(
        "  It was rolled back; its first 3 statements are committed.",
      );
      expect(fixed).toMatchObject(done(text("")));
      expect(await sql`select path from kept`).toMatchObject([
        { path: "pg_catalog" },
      ]);
    },
  );

  test("shows in the status, and is not gone on with when it was edited, until that is repaired", async ({
    sql,
    database,
    project,
    run,
  }) => {
    const end = "vacuum users; select nonsense;";
    writeMigrations(project, { "0000_a": `${users} ${end}` });
    const failed = await run("db:migrate");
    const logged = await sql`select error from drizzle.__migration_log`;
    const status = JSON.parse((await run("db:migrate:status --json")).stdout);
    const shown = await run("db:migrate --dry-run");
    writeMigrations(project, { "0000_a": `create table others (); ${end}` });

    const refused = await run("db:migrate");
    const json = JSON.parse((await run("db:migrate --json")).stdout);
    await sql`drop table users`;
    writeMigrations(project, { "0000_a": users });
    const repaired = await run(`db:migrate:repair --confirm ${database.name}`);
    const migrated = await run("db:migrate");

    const file = `${migrations}/0000_a.sql`;
    expect(failed.exitCode).toBe(1);
    expect(failed.stderr).toContain("its first 2 statements are committed.");
    expect(logged).toMatchObject([
      { error: 'column "nonsense" does not exist' },
    ]);
    expect(status).toMatchObject({
      migrations: [{ state: "partial", appliedAt: null }],
      problems: [{ code: "partial", tag: "0000_a" }],
    });
    expect(shown).toMatchObject({
      stdout: "-- 0000_a\nselect nonsense;\n",
      stderr: "Warning: 2 statements of 0000_a are committed\n",
    });
    expect(refused.exitCode).toBe(1);
    expect(refused.stderr).toBe(
      `Error: the first 2 statements of ${file} are committed, and were edited since\nHint: restore it from git; or undo by hand what they did and run \`bun run db:migrate:repair\`\n`,
    );
    expect(json.error).toMatchObject({ code: "PARTIAL", tag: "0000_a", file });
    expect(repaired.stdout).toBe(
      "Repaired: partial: 0000_a, 2 statements of its up file are committed -> its next run begins with the first statement\n",
    );
    expect(migrated.exitCode).toBe(0);
  });

  testApply(
    "is built again where an index was left invalid, also without the right to try it",
    async () => {
      await withRoles(database, 1, async (role) => {
        await sql.unsafe(`
        revoke temporary on database ${database.name} from public;
        grant create on database ${database.name} to ${role?.name};
        grant create on schema public to ${role?.name}`);
        // The server makes small letters of it, and cuts it.
        const name = `Users_Ü_${"Email".repeat(20)}`;
        const files = {
          "0000_a": `${users} insert into users values (1, 'x'), (2, 'x');`,
          "0001_b": `create unique index concurrently if not exists ${name} on users (email);`,
        };
        const failed = await apply(files, { as: role });
        await sql`delete from users where id = 2`;
        const again = await apply(files, { as: role });
        const indexes =
          await sql`select indisvalid from pg_index where indrelid = 'users'::regclass and not indisprimary`;

        expect(failed.applied).toEqual(["0000_a"]);
        expect(failed.error?.lines?.at(-1)).toBe(
          "  It ran outside of a transaction; nothing of it is committed.",
        );
        expect(again).toEqual({ ...done(files), applied: ["0001_b"] });
        expect(indexes).toMatchObject([{ indisvalid: true }]);
      });
    },
  );

  testApply("fails again where the server has refused it before", async () => {
    await sql.unsafe(`
      create table parts (i int) partition by list (i); create table part (i int);
      create index part_i on part (i)`);
    const statements = {
      "drop index concurrently typo": 'index "typo" does not exist',
      "create index concurrently part_i on part (i)":
        'relation "part_i" already exists',
      "alter table parts detach partition part concurrently":
        'relation "part" is not a partition of relation "parts"',
    };
    const found: Record<string, string | undefined> = {};
    for (const [index, statement] of Object.keys(statements).entries()) {
      const files = { [`000${index}_a`]: statement };
      await apply(files);
      const { error } = await apply(files);
      found[statement] = error?.message.replace(/^\d+_a failed: /, "");
    }

    expect(found).toEqual(statements);
    // One that is replaced leaves nothing of its progress.
    const files = { "0009_a": "drop index concurrently typo" };
    await apply(files);
    const edited = { "0009_a": "select 1" };
    const { applied, left } = await apply(edited);
    expect(applied).toEqual(["0009_a"]);
    expect(left).not.toContain("0009_a");
  });

  testApply("is known by the catalog to be done, or not", async () => {
    const { address } = database;
    await using sql = await openConnection(address, "tests");
    await sql.unsafe(`
      create table parts (i int) partition by list (i);
      create table part partition of parts for values in (1);
      create table half partition of parts for values in (2);
      create table others (i int) partition by list (i);
      create table theirs partition of others for values in (1);
      update pg_inherits set inhdetachpending = true where inhrelid = 'half'::regclass;
      create table t (i int); create index t_i on t (i);
      create index "T_bad" on t (i); create index "T_half" on t ((i + 1));
      create index t_i_ccnew on t (i); create index t_i_ccold1 on t (i);
      create index t_i_ccnews on t (i); create index t_own_ccnew on t (i);
      update pg_index set indisvalid = false
      where indexrelid in (select oid from pg_class
        where relname in ('T_bad', 'T_half', 't_i_ccnew', 't_i_ccold1', 't_i_ccnews'))`);
    const ask = async (text: string, hasFailed: boolean) => {
      const [statement] = splitStatements(text);
      if (!statement) throw new Error("no statement");
      const resumed = { hasFailed, isEdited: false };
      return await checkWhetherDone(sql, statement, resumed).catch(
        ({ message }: Error) => message.replace(/^.*`(.*)`.*$/, "unknown $1"),
      );
    };
    const done = "done, after a failure run";
    const run = "run, after a failure run";
    const long = `call fill('${"a".repeat(47)}')`;
    // It only speaks of those.
    const other = "do '--create index concurrently, drop database, vacuum'";
    const cut = `call fill($$password '…' $$, '${"a".repeat(30)}…`;
    const asked: [text: string, answer: string][] = [
      ["alter table parts detach partition part concurrently", run],
      ["alter table parts detach partition t concurrently", done],
      ["alter table parts detach partition theirs concurrently", done],
      // What was interrupted in the middle is ended.
      [
        "alter table if exists only public.parts detach partition public.half concurrently",
        done,
      ],
      ["create index concurrently t_i on t (i)", done],
      ["create index concurrently t_i on only t (i)", done],
      [
        'create index concurrently if not exists T_I on only "public"."t" using btree (i)',
        done,
      ],
      ["create index concurrently t_i on t (i desc)", run],
      ["create index concurrently t_i on t (i) where i > 0", run],
      ["create unique index concurrently t_i on t (i)", run],
      ['create index concurrently "T_bad" on public.t (i)', run],
      // Without a name, it is one that is the same.
      ["create index concurrently on t ((i + 1))", run],
      ["create index concurrently on t (i desc)", run],
      ["create index concurrently on parts (i)", run],
      ["drop index concurrently t_i", run],
      ["drop index concurrently if_nobody", done],
      [`create database ${database.name}`, done],
      ["create database nobody", run],
      [`drop database ${database.name}`, run],
      ["drop database nobody", done],
      ["reindex table concurrently t", run],
      ["alter system set work_mem = '5MB'", run],
      [`create tablespace "Pg_default" location 'a'`, run],
      ["drop tablespace PG_default", run],
      ["vacuum t", run],
      ["cluster", "unknown cluster, after a failure run"],
      [`-- resumable\ncall fill('${"a".repeat(60)}')`, run],
      [long, `unknown ${long}, after a failure unknown ${long}`],
      [other, `unknown ${other}, after a failure unknown ${other}`],
      [
        `call fill($$password 'b'\n$$, '${"a".repeat(40)}')`,
        `unknown ${cut}, after a failure unknown ${cut}`,
      ],
    ];

    for (const [text, answer] of asked) {
      const found = `${await ask(text, false)}, after a failure ${await ask(text, true)}`;

      expect([text, found]).toEqual([text, answer]);
    }
    const indexes = await sql`
      select relname from pg_index join pg_class on pg_class.oid = indexrelid
      where indrelid = 't'::regclass order by 1`;
    expect(indexes.map(({ relname }) => relname)).toEqual([
      "t_i",
      "t_i_ccnews",
      "t_own_ccnew",
    ]);
    const partitions = await sql`
      select inhrelid::regclass::text as name from pg_inherits
      where inhparent = 'parts'::regclass`;
    expect(partitions.map(({ name }) => name)).toEqual(["part"]);
  });

  testApply(
    "waits for others without a limit where it drops what was left behind",
    async () => {
      await sql.unsafe(`
      ${users} create index users_email on users (email);
      update pg_index set indisvalid = false where indexrelid = 'users_email'::regclass`);
      const files = {
        "0000_a": "create index concurrently users_email on users (email);",
      };
      const holder = await sql.reserve();
      await holder.unsafe("begin; lock table users in row exclusive mode");
      const migrated = apply(files, { lockTimeout: 50 });
      await until(
        sql,
        `datname = current_database() and query ilike 'drop index%'
        and clock_timestamp() - query_start > interval '200 ms'`,
      );
      await holder`rollback`;
      holder.release();

      expect(await migrated).toEqual(done(files));
    },
  );

  test("is built once after a deadlock, and the lock timeout holds again", async ({
    sql,
    project,
    run,
  }) => {
    await sql.unsafe(users);
    writeMigrations(project, {
      "0000_a": `create index concurrently on users (email);
        do $$ begin assert current_setting('lock_timeout') = '100ms'; end $$;`,
    });
    const holder = await sql.reserve();
    await holder.unsafe(`
      set deadlock_timeout = '30s'; begin isolation level repeatable read;
      select from users`);
    const migrated = run("db:migrate --lock-timeout 100");
    await until(
      sql,
      `pid in (select pid from pg_locks where locktype = 'virtualxid' and not granted)
        and pid in (select pid from pg_locks where relation = 'users'::regclass)`,
    );
    await holder.unsafe("lock table users in share mode; commit");
    holder.release();

    const { exitCode, stderr } = await migrated;

    expect({ exitCode, stderr }).toMatchObject({ exitCode: 0 });
    expect(stderr).toMatch(
      /^Waiting: 0000_a met a deadlock( held by .*)?; retry 1 of 5 in 10 ms$/m,
    );
    expect(
      await sql`select indisvalid from pg_index where indrelid = 'users'::regclass and not indisprimary`,
    ).toMatchObject([{ indisvalid: true }]);
  });

  testApply(
    "stops where a procedure has failed after a commit, until the file is edited",
    async () => {
      const text = (call = "call fill();") => ({
        "0000_a": `${users}
        create procedure fill() language plpgsql as $$ begin
          insert into users values (1) on conflict do nothing; if found then commit; end if;
          raise 'no' using errcode = 'lock_not_available'; end $$;
        ${call}`,
      });

      const failed = await apply(text());
      const stopped = await apply(text());
      const again = await apply(text());
      await sql`delete from users`;
      await sql.unsafe(`create or replace procedure fill() language plpgsql as $$
      begin insert into users values (2); commit; end $$`);
      const failing = "insert into users values (3); select nonsense;";
      const together = await apply(text(failing));
      const fixed = await apply(text("call fill(); -- begins again"));

      expect(failed.error?.lines?.at(-1)).toBe(
        "  It ran outside of a transaction; the part that it committed itself stays; its first 2 statements are committed.",
      );
      expect(stopped.error).toMatchObject({
        exitCode: 1,
        message:
          "`call fill()` failed in an earlier run, after it had committed part of its work",
        code: "PARTIAL",
        hint: "check what it has changed, edit the file so that it can run again, and run `bun run db:migrate`",
      });
      expect(again).toEqual(stopped);
      expect(together.error?.lines?.at(-1)).toBe(
        "  It was rolled back; its first 2 statements are committed.",
      );
      expect(fixed).toEqual(done(text()));
      expect(await sql`select id from users`).toMatchObject([{ id: 2 }]);
    },
  );

  test("stops where it is unknown whether a procedure was done, unless it says that it can run again", async ({
    sql,
    database,
    project,
    run,
  }) => {
    const write = (comment: string) =>
      writeMigrations(project, {
        "0000_a": `create procedure wait() language plpgsql as $$
          begin commit; perform pg_advisory_lock(7); perform pg_advisory_unlock(7); end $$;
          ${comment}
          call wait();
          do $$ begin commit; end $$;`,
      });
    write("");
    const { PATH } = process.env;
    await sql.reserve().then(async (holder) => {
      await holder`select pg_advisory_lock(7)`;
      const client = spawn([process.execPath, "scripts/migrate.ts"], {
        cwd: project.folder,
        env: { PATH, DATABASE_URL: database.url, DB_ENGINE: "external" },
      });
      await until(
        sql,
        `datname = current_database() and query = 'call wait()' and wait_event = 'advisory'`,
      );
      client.kill(9);
      await client.exited;
      await holder`select pg_advisory_unlock(7)`;
      holder.release();
    });

    const stopped = await run("db:migrate");
    write("-- resumable");
    const resumed = await run("db:migrate");

    expect(stopped.exitCode).toBe(1);
    expect(stopped.stderr).toStartWith(
      "Error: an earlier run was interrupted in `call wait()`, and it is unknown whether it finished\nHint: check what it has changed. If it can run again, write `-- resumable` on the line above it, ",
    );
    expect(resumed).toMatchObject({ exitCode: 0, stderr: "" });
  });

  testApply(
    "is run again when it could not get a lock, also where it commits and says that it can run again",
    async () => {
      await sql.unsafe(`
        create table locked (i int primary key); cluster locked using locked_pkey;
        create sequence tries; create procedure fill() language plpgsql as $$ begin
          commit; if nextval('tries') < 3 then
            raise 'no' using errcode = 'lock_not_available'; end if; end $$`);
      const files = {
        "0000_a": "-- resumable\ncall fill();",
        "0001_b": "cluster;",
      };
      const holder = await sql.reserve();
      await holder.unsafe("begin; lock table locked");
      let pauses = 0;

      const outcome = await apply(files, {
        lockTimeout: 50,
        nameBlockers: () => {
          pauses += 1;
          if (pauses === 3) void holder`rollback`.execute();
          return undefined;
        },
      });
      holder.release();

      expect(outcome).toEqual(done(files));
    },
  );
});

describe("a file that lets go of the migration lock", () => {
  test("is done once by many at once all the same, and so is an index after it", async ({
    sql,
    project,
    run,
  }) => {
    // Each of them would let another run in while it waits for the holder.
    const wait =
      "select pg_advisory_lock_shared(7), pg_advisory_unlock_shared(7);";
    writeMigrations(project, {
      "0000_a": `create table a (i int); select pg_advisory_unlock_all(); ${wait}`,
      "0001_b": `discard all; insert into a values (1); ${wait} vacuum a;`,
      "0002_c": `insert into a values (2); commit;
        select pg_advisory_unlock_all(); rollback; insert into a values (3);`,
      "0003_d": "create index concurrently a_i on a (i);",
    });
    const holder = await sql.reserve();
    await holder`select pg_advisory_lock(7)`;
    const running = Promise.all(
      Array.from({ length: CROWD }, () => run("db:migrate")),
    );
    await until(
      sql,
      `datname = current_database() and application_name = 'db:migrate'
        and query ~ 'advisory|create table'`,
      CROWD,
    );

    await holder`select pg_advisory_unlock(7)`;
    holder.release();
    const all = await running;

    expect(all.map(({ exitCode }) => exitCode)).toEqual(Array(CROWD).fill(0));
    expect(
      all.filter(({ stdout }) => stdout.startsWith("Applied")),
    ).toHaveLength(1);
    expect(await listRecords(sql)).toHaveLength(4);
    expect(await sql`select i from a order by i`).toMatchObject([
      { i: 1 },
      { i: 2 },
      { i: 3 },
    ]);
  });

  testApply(
    "outside of a transaction stops where another was quicker",
    async () => {
      const holder = await sql.reserve();
      await holder`select pg_advisory_lock(7)`;
      const running = apply({
        "0000_a": `create procedure unlock() language plpgsql as $$
        begin perform pg_advisory_unlock_all(); commit; perform pg_advisory_lock(7); end $$;
        create table a (i int); call unlock(); create index concurrently a_i on a (i);`,
      });
      await until(
        sql,
        "datname = current_database() and query like '%call unlock()' and wait_event = 'advisory'",
      );
      await holder`select pg_advisory_lock(28273295023041637)`;
      await holder`select pg_advisory_unlock(7)`;

      const { error } = await running;
      await holder`select pg_advisory_unlock_all()`;
      holder.release();

      expect(error).toMatchObject({
        exitCode: 75,
        message:
          "the file released the migration lock, and another command took it",
      });
      expect(await sql`select to_regclass('a_i') as index`).toMatchObject([
        { index: null },
      ]);
    },
  );

  testApply("and fails stops where another was quicker", async () => {
    await sql.unsafe(users);
    const holder = await sql.reserve();
    await holder`begin`;
    await holder`lock table users`;
    const running = apply(
      { "0000_a": "select pg_advisory_unlock_all(); drop table users;" },
      { lockTimeout: 500 },
    );
    await until(sql, "datname = current_database() and query like 'drop%'");
    const other = await sql.reserve();
    await other`select pg_advisory_lock(28273295023041637)`;

    const { error } = await running;
    await holder`rollback`;
    await other`select pg_advisory_unlock_all()`;
    holder.release();
    other.release();

    expect(error?.exitCode).toBe(75);
  });
});

test("a table that another session has locked is tried again, by name of who has it, given up with nothing changed, and waited for", async ({
  sql,
  project,
  run,
}) => {
  await sql.unsafe(users);
  writeMigrations(project, {
    "0000_a": "create table other (); alter table users add column x int;",
  });
  let later: ReturnType<typeof run> | undefined;
  await sql.begin(async (holder) => {
    await holder`lock table users`;
    const [row] = await holder`select pg_backend_pid() as pid`;

    const { exitCode, stderr } = await run("db:migrate --lock-timeout 300");
    later = run("db:migrate --lock-timeout 500");
    await until(
      sql,
      "pid in (select pid from pg_locks where relation = 'users'::regclass and not granted)",
    );

    expect(exitCode).toBe(1);
    const lines = stderr.split("\n");
    const holds = `pid ${row?.pid}, postgres.js, `;
    expect(lines[0]).toStartWith(`Waiting: 0000_a for ${holds}`);
    expect(stderr).toContain(`0000_a could not get a lock held by ${holds}`);
    expect(stderr).toContain("retry 5 of 5 in 480 ms\n");
    expect(stderr).toContain("(SQLSTATE 55P03)");
    expect(await holder`select to_regclass('other') as other`).toMatchObject([
      { other: null },
    ]);
  });

  expect((await later)?.exitCode).toBe(0);
});

test("a terminal shows how long a statement takes, for whom it waits, and how far an index is", async ({
  name,
  sql,
  project,
  attend,
}) => {
  await sql.unsafe(`
    create table a (i int); insert into a select generate_series(1, 5000);
    create function wait(i int, key int) returns int immutable language plpgsql as $$ begin
      while i > 2500 and not exists (
        select from pg_locks where locktype = 'advisory' and objid::int = key
          and database = (select oid from pg_database where datname = '${name}')
      ) loop perform pg_sleep(0.01); end loop;
      return i; end $$`);
  writeMigrations(project, {
    "0000_a":
      "select wait(5000, 8); create index concurrently a_i on a (wait(i, 7));",
  });
  const holder = await sql.reserve();
  await holder.unsafe("begin; lock table a in row exclusive mode");
  const [row] = await holder`select pg_backend_pid() as pid`;
  await using terminal = attend("db:migrate");
  await terminal.shows("0000_a: ");
  await sql`select pg_advisory_lock(8)`;
  await terminal.shows(`0000_a: waiting for pid ${row?.pid}, postgres.js, `);
  await holder`rollback`;
  await terminal.shows("0000_a: building a_i, 47 %");
  await holder`select pg_advisory_lock(7)`;
  const { exitCode, screen } = await terminal.ends();
  holder.release();

  expect(exitCode).toBe(0);
  expect(screen).toMatch(/0000_a: \d+ s\r/);
  expect(screen).toMatch(/ waiting for pid .*, \d+ s\r/);
  // What it shows after that is gone at the end.
  expect(screen).toMatch(
    /\r\x1b\[KApplied: 0000_a \(\d+ ms\)\r\n(\r\x1b\[K0000.*\r\x1b\[K)?$/,
  );
});

test("a run that is done does not wait for a look at it that gets no answer", async ({
  database,
  sql,
  project,
  run,
}) => {
  writeMigrations(project, { "0000_a": "select pg_advisory_xact_lock(7);" });
  const isLooking = Promise.withResolvers<void>();
  const proxy = createServer({ allowHalfOpen: true }, (client) => {
    const server = connect(database.address.port, database.address.host);
    let isWatch = false;
    client
      .on("error", () => {})
      .on("data", (chunk) => {
        isWatch ||= chunk.includes("db:watch");
        if (isWatch && chunk[0] === 0x51) return isLooking.resolve(); // a query
        server.write(chunk);
      });
    server.on("error", () => {}).on("data", (chunk) => client.write(chunk));
    server.on("end", () => isWatch || client.end());
    client.on("close", () => server.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  const { port } = proxy.address() as AddressInfo;
  const url = urlOf({
    ...database.address,
    host: "127.0.0.1",
    port,
    sslmode: "disable",
  });
  const holder = await sql.reserve();
  await holder`select pg_advisory_lock(7)`;
  const running = run("db:migrate", { DATABASE_URL_UNPOOLED: url });
  await isLooking.promise;
  await holder`select pg_advisory_unlock(7)`;
  holder.release();

  const { exitCode, stdout } = await running;
  proxy.close();

  expect(exitCode).toBe(0);
  expect(stdout).toStartWith("Applied: 0000_a ");
});

describe("a file", () => {
  test("that touches the records, or the session that writes them, leaves each of them once", async ({
    sql,
    project,
    run,
  }) => {
    const files = {
      "0000_a": "create table a ();\n",
      "0001_added": `insert into drizzle.__drizzle_migrations (hash, created_at) values ('by hand', 2000000000001);`,
      "0002_deleted": "delete from drizzle.__drizzle_migrations;",
      "0003_dropped": "drop schema drizzle cascade;",
      "0004_dropped": "drop schema drizzle cascade; commit; create table b ();",
      "0005_read_only":
        "create table c (); set default_transaction_read_only = on; commit; vacuum c;",
      "0006_serializable": `start transaction isolation level serializable read only;
        create table d as select current_setting('transaction_isolation') as level; commit;`,
    };
    writeMigrations(project, files);

    const first = await run("db:migrate");
    // As an application's own tool may have left it.
    await sql`update drizzle.__drizzle_migrations set created_at = null where created_at = 2000000000003`;
    // One that only speaks of drizzle, and one that was edited in blanks only.
    const more = {
      ...files,
      "0000_a": "create table a ();\r\n",
      "0007_speaks": "-- by drizzle-kit\ncreate table e ();",
    };
    writeMigrations(project, more);
    const second = await run("db:migrate");
    const records = await listRecords(sql);
    await sql.unsafe(`
      create function lose() returns trigger language plpgsql as 'begin return null; end';
      create trigger lose before insert on drizzle.__drizzle_migrations for each row execute function lose()`);
    writeMigrations(project, { ...more, "0008_lost": "create table f ();" });
    const lost = await run("db:migrate");

    expect(first).toMatchObject({ exitCode: 0, stderr: "" });
    expect(second.exitCode).toBe(0);
    expect(second.stdout).toMatch(/^Applied: 0007_speaks .*\n$/);
    expect(records).toHaveLength(8);
    expect(await sql`select level from d`).toMatchObject([
      { level: "serializable" },
    ]);
    expect(lost.exitCode).toBe(1);
    expect(lost.stderr).toBe(
      `Error: applied without a record: 0008_lost\nHint: look at drizzle.__drizzle_migrations with \`bun run db:shell\`\n`,
    );
  });

  testApply("leaves nothing in the session, whatever it has done", async () => {
    await sql.unsafe(`
      create table kept (i text); create sequence numbers; create function change() returns text
        language sql as $$ select set_config('my.setting', 'x', false) $$;
      create procedure change_too() language plpgsql as $$ begin set my.setting = 'x'; end $$`);
    // In each, one word says that it may.
    const changes = [
      "set my.setting = 'x'",
      "reset lock_timeout",
      "insert into kept values (set_config('my.setting', 'x', false))",
      "select change()",
      "call change_too()",
      "do 'begin if change() is null then end if; end'",
      "create temp table one ()",
      "create temporary table two ()",
      "create table pg_temp.three ()",
      "declare here cursor with hold for table kept",
      "listen news",
      'prepare "A b" as table kept',
      "select nextval('numbers')",
    ];
    const assertClean = `do $$ begin
      assert coalesce(current_setting('my.setting', true), '') = '', 'a setting';
      assert current_setting('lock_timeout') = '5s', 'lock_timeout';
      assert not exists (select from pg_class where relnamespace = pg_my_temp_schema()), 'a table';
      assert not exists (select from pg_cursors where name = 'here'), 'a cursor';
      assert not exists (select from pg_listening_channels()), 'a channel';
      assert not exists (select from pg_prepared_statements), 'a prepared statement';
      begin
        perform lastval(); assert false, 'a sequence';
      exception when object_not_in_prerequisite_state then null; end; end $$`;
    const files = Object.fromEntries(
      changes.flatMap((change, index) => [
        [`${1000 + index}_a`, change],
        [`${1000 + index}_b`, assertClean],
      ]),
    );

    expect(await apply(files)).toEqual(done(files));
  });

  testApply("leaves nothing that it has set to the next one", async () => {
    const role = `team_${crypto.randomUUID().slice(0, 8)}`;
    await sql.unsafe(
      `create role ${role}; grant create on schema public to ${role}`,
    );
    const files = {
      "0000_a": `set search_path = ''; select pg_catalog.set_config('lock_timeout', '1', false); SET ROLE ${role}; create table public.theirs (); vacuum public.theirs;`,
      "0001_b": `create table ours (); create temp table mine (i int);
        prepare p as table ours; declare c cursor with hold for table ours;`,
      "0002_c": `create table mine (i int); insert into mine values (1);
        prepare p as table mine; declare c cursor with hold for table mine;`,
      "0003_d": `set session authorization ${role};`,
      "0004_e": `reset all; do $$ begin assert current_setting('lock_timeout') = '5s'; end $$;
        discard all; do $$ begin assert current_setting('lock_timeout') = '5s'; end $$;
        do $$ begin assert current_setting('client_connection_check_interval') = '${process.platform === "win32" ? "0" : "1s"}'; end $$;`,
      "0005_f": `set role ${role};`,
    };

    const outcome = await apply(files);
    const last = { "0006_g": `SET SESSION AUTHORIZATION ${role};` };
    const both = await apply({ ...files, ...last });
    const owners =
      await sql`select tableowner = ${role} as theirs from pg_tables where tablename in ('ours', 'theirs') order by tablename`;
    await sql.unsafe(`drop owned by ${role}; drop role ${role}`);

    expect([outcome, both]).toEqual([done(files), done(last)]);
    expect(owners).toMatchObject([{ theirs: false }, { theirs: true }]);
    expect(await sql`select i from mine`).toMatchObject([{ i: 1 }]);
  });

  testApply(
    "that mentions roles is recorded as the role that the login has",
    async () => {
      await withRoles(database, 2, async (login, owner) => {
        await sql.unsafe(`
        alter role ${login?.name} noinherit; grant ${owner?.name} to ${login?.name};
        alter role ${login?.name} set role = ${owner?.name};
        grant create on database ${database.name} to ${owner?.name};
        grant create on schema public to ${owner?.name}`);
        const files = { "0000_a": "create table roles ();" };

        expect(await apply(files, { as: login })).toEqual(done(files));
      });
    },
  );

  testApply("that fails is explained, with its place", async () => {
    const found = {
      "a comment without end": await explain(
        "create table a ();\n/* see packages/*/src */\ncreate table b ();",
      ),
      "a byte-order mark, CRLF, and letters of two UTF-16 units": await explain(
        "\uFEFFcreate table a ();\r\n-- ü 😀\r\nselect '😀', nonsense;\r\n",
      ),
      "COPY from a client": await explain(
        `${users} copy (select 1${", 1".repeat(300)}) to stdout;`,
      ),
      "psql's command in a dump": await explain(
        "-- a dump\n\\restrict x'y\n\nselect '\\no';",
      ),
      "psql's \\connect": await explain("select 1;\n\\connect other\n"),
      "a password": await explain(
        `create user mapping for nobody server none
          options (user 'x', password 's3''cret'); -- ${"x".repeat(9000)}`,
      ),
      "a long line": await explain(`select ${"x".repeat(9000)} from y`),
    };

    expect(await sql`select to_regclass('a') as a`).toMatchObject([
      { a: null },
    ]);
    expect(found).toEqual({
      "a comment without end": expect.stringMatching(
        /unterminated \/\* comment[^]* at 0000_a\.sql:2:1, statement 2 \(SQLSTATE 42601\)/,
      ),
      "a byte-order mark, CRLF, and letters of two UTF-16 units":
        expect.stringContaining(
          " at 0000_a.sql:3:14, statement 2 (SQLSTATE 42703)\n",
        ),
      "COPY from a client": expect.stringMatching(
        /^Error: 0000_a\.sql has a COPY that reads from or writes to a client\n  at 0000_a\.sql:1:54, statement 2\nHint: write its rows/,
      ),
      "psql's command in a dump": expect.stringMatching(
        /^Error: 0000_a\.sql has a command of psql, `\\restrict`, which is not SQL\n  at 0000_a\.sql:2:1, statement 1\nHint: delete /,
      ),
      "psql's \\connect": expect.stringMatching(
        /psql, `\\connect`, which is not SQL\n[^]*\nHint: delete it, and the SQL for the other database$/,
      ),
      "a password": expect.stringContaining("password '…')\n"),
      "a long line": expect.stringMatching(/^[^]{100,1000}$/),
    });
    expect(found["a password"]).not.toContain("cret");
  });

  testApply("has all of its retries in each of its steps", async () => {
    await sql`create sequence tries`;
    // What a sequence has counted is not rolled back.
    const locked = `do $$ begin if nextval('tries') % 6 <> 0 then
      raise 'no' using errcode = 'lock_not_available'; end if; end $$;`;
    const files = { "0000_a": `${locked} commit; ${locked}` };

    expect(await apply(files, { lockTimeout: 10 })).toEqual(done(files));
  });

  testApply(
    "waits as long as it may for what cleans up a table that it changes, so that the server ends that",
    async () => {
      await sql.unsafe(`
        create sequence tries; create table a (); create table b (); create table c (); create table d ();
        create function f() returns trigger language plpgsql as 'begin end'`);
      const holder = await sql.reserve();
      await holder.unsafe("begin");
      // As a vacuum does.
      for (const table of "dcba")
        await holder.unsafe(`
          savepoint ${table}; lock table ${table} in share update exclusive mode`);
      const files = {
        "0000_a": `set lock_timeout = 1; commit;
          do $$ begin if nextval('tries') = 1 then
            raise 'no' using errcode = 'lock_not_available'; end if; end $$;
          create table made (); alter table made add x int;
          alter table if exists only a add x int;
          create trigger t before insert on b for each row execute function f();
          drop trigger if exists t on c; analyze d;`,
      };
      let failedAt = 0;
      let againAt = 0;
      const running = apply(files, {
        lockTimeout: 3000,
        nameBlockers: () => {
          failedAt = performance.now();
          return undefined;
        },
      });
      const waited: string[] = [];
      for (const table of "abcd") {
        const waits = until(
          sql,
          `pid in (select pid from pg_locks where relation = '${table}'::regclass
            and mode = 'ShareUpdateExclusiveLock' and not granted)`,
        ).then(() => waited.push(table));
        await Promise.race([waits, running]);
        againAt ||= performance.now();
        await holder.unsafe(`rollback to savepoint ${table}`);
      }
      await holder.unsafe("rollback");
      holder.release();

      expect(await running).toEqual(done(files));
      expect(waited).toEqual(["a", "b", "c", "d"]);
      expect(againAt - failedAt).toBeGreaterThan(299); // a tenth of 3000, at first
    },
  );

  testApply(
    "of thousands of statements is one transaction all the same",
    async () => {
      const inserts = "insert into a values (1);\n".repeat(1500);
      const text = `create table a (i int);\n${inserts}`;

      const failed = await explain(`${text}select nonsense;`);
      const [left] = await sql`select to_regclass('a') as a`;
      const applied = await apply({ "0000_a": text });

      expect(failed).toContain(" at 0000_a.sql:1502:8, statement 1502 ");
      expect(left?.a).toBeNull();
      expect(applied).toEqual(done({ "0000_a": text }));
      expect(await sql`select from a`).toHaveLength(1500);
    },
  );

  test("says what it raises under its own name", async ({ project, run }) => {
    const raise = (level: string) =>
      `do $$ begin raise ${level} 'from a ${level}'; end $$;`;
    writeMigrations(project, {
      "0000_a": `set client_min_messages = notice; ${["warning", "notice", "info"].map(raise).join("")}`,
      "0001_b": raise("notice"),
    });
    const first = await run("db:migrate --json --to 0000_a");
    const second = await run("db:migrate --verbose");

    expect(first.stderr).toBe("Warning: 0000_a: from a warning\n");
    expect(JSON.parse(first.stdout).warnings).toEqual([
      { code: "raised", tag: "0000_a", message: "from a warning" },
    ]);
    expect(second).toMatchObject({
      exitCode: 0,
      stderr: "Notice: 0001_b: from a notice\n",
    });
  });

  testApply(
    "that fails for a setting of its role or database is told which",
    async () => {
      await withRoles(database, 1, async (role) => {
        await sql.unsafe(`
        create table named (); grant create on database ${database.name} to ${role?.name};
        alter role ${role?.name} set statement_timeout = '700ms'`);
        const timeout = await explain("select pg_sleep(60);", { as: role });
        await sql.unsafe(`
        alter role ${role?.name} reset statement_timeout;
        alter database ${database.name} set search_path = elsewhere`);
        const path = await explain("select from named;", { as: role });
        const more = [
          await explain("create table x ();", { as: role }),
          await explain("select null::mood;", { as: role }),
          await explain("select shout();", { as: role }),
        ];
        const own = await explain(
          "SET SEARCH_PATH = other; select from named;",
          { as: role },
        );
        const schema = await explain("select from nobody.named;", { as: role });
        const told = await explain("select from named;", {
          as: { ...role, variables: withOptions(role, "-c search_path=") },
        });
        const qualified = await explain("select from public.nobody;", {
          as: role,
        });
        await sql.unsafe(`
        alter database ${database.name} reset search_path;
        alter role ${role?.name} in database ${database.name} set statement_timeout = '700ms'`);
        const both = await explain("select pg_sleep(60);", { as: role });
        const cancelled = await explain(
          "select pg_cancel_backend(pg_backend_pid()), pg_sleep(60);",
          { as: role },
        );
        await sql.unsafe(
          `alter role ${role?.name} in database ${database.name} reset statement_timeout;
          alter role ${role?.name} set search_path = public`,
        );
        const none = await explain("select from nobody;", { as: role });
        const client = await explain("select pg_sleep(60);", {
          as: {
            ...role,
            variables: withOptions(role, "-c statement_timeout=700ms"),
          },
        });

        expect(both).toContain(
          `statement_timeout is set to 700ms for the role ${role?.name} in ${database.name}: `,
        );
        expect(timeout).toContain(
          `\nHint: statement_timeout is set to 700ms for the role ${role?.name}: put \`SET statement_timeout = 0;\` before the statement in `,
        );
        expect(path).toContain(
          `\nHint: search_path is set to elsewhere for the database ${database.name}: put \`SET search_path = public;\` `,
        );
        for (const one of more)
          expect(one).toContain(
            `\nHint: search_path is set to elsewhere for the database ${database.name}: `,
          );
        expect(told).toContain(
          "\nHint: search_path is set to nothing in the connection string: ",
        );
        expect(client).toContain(
          "\nHint: statement_timeout is set to 700ms in the connection string: put `SET statement_timeout = 0;` before the statement in `0000_a.sql`, or change it there, and run `bun run db:migrate` again",
        );
        for (const one of [own, schema, qualified, none])
          expect(one).toContain("\nHint: fix `");
        expect(cancelled).not.toContain("is set to");
      });
    },
  );

  testApply(
    "that fails with a hint of PostgreSQL's own, or at its end, keeps ours, and blames no other statement",
    async () => {
      const hinted = await apply({
        "0000_a": `${users} select emial from users;`,
      });
      const atEnd = await apply({
        "0000_a": `create table a (i int unique deferrable initially deferred);
        insert into a values (1), (1); create table b ();`,
      });

      const ours = "fix `0000_a.sql` and run `bun run db:migrate` again";
      expect(atEnd.raised).toEqual([]);
      expect(describeError(hinted.error ?? Error())).toMatchObject({
        hint: ours,
        postgresHint: expect.stringContaining("users.email"),
      });
      expect(hinted.error?.lines).toContainEqual(
        expect.stringMatching(/^ {2}Postgres' hint: .*users\.email/),
      );
      const document = describeError(atEnd.error ?? Error());
      expect(document).toMatchObject({ tag: "0000_a", sqlstate: "23505" });
      expect(document).not.toHaveProperty("statement");
    },
  );

  testApply("that ends its own session is explained", async () => {
    expect(
      await explain(`${users} select pg_terminate_backend(pg_backend_pid());`),
    ).toBe(`Error: the connection to the server was lost in 0000_a
  at 0000_a.sql:1:54, statement 2
  | select pg_terminate_backend(pg_backend_pid())
  It is not known whether this was committed.
Hint: run \`bun run db:migrate\` again: it continues after what is committed`);
  });

  testApply(
    "is in the log once, with how far it is, and why it failed",
    async () => {
      const write = async (...texts: string[]) => {
        for (const text of texts) await sql.unsafe(text);
        return await sql`
          select tag, hash, bare_hash, direction, statements_done, done_hash,
            statement_under_way, error, run_by,
            role = session_user and client is not distinct from inet_client_addr() as "isOurs",
            round(extract(epoch from now() - started_at) / 60) as minutes,
            round(ms / 60000) as "msMinutes"
          from drizzle.__migration_log order by id`;
      };
      const { username, uid } = userInfo();
      const user = username === "unknown" ? `uid ${uid}` : username;
      const one: Run = {
        ...{ tag: "it's one", hash: "h", bareHash: "b", direction: "up" },
      };
      const down: Run = { ...one, direction: "down" };
      const begun = (statementsDone: number, underWay: number | null) => ({
        ...{ statementsDone, doneHash: `d${statementsDone}` },
        statementUnderWay: underWay,
      });
      const row = {
        ...{ tag: "it's one", hash: "h", bare_hash: "b", direction: "up" },
        ...{ statements_done: 1, done_hash: "d1", statement_under_way: 1 },
        ...{ error: null, run_by: `${user}@${hostname()}` },
        ...{ isOurs: true, minutes: "0", msMinutes: null },
      };
      const whole = { done_hash: null, statement_under_way: null };
      const other = { ...row, tag: "other" };

      const failed = await write(
        createTables(),
        logProgress({ ...one, tag: "other" }, begun(1, 1)),
        logProgress(one, begun(1, 1)),
        logError(one, "it's no", 9),
      );
      const goneOn = await write(
        logProgress({ ...one, hash: "h2", bareHash: "b2" }, begun(2, null)),
        logProgress(down, begun(3, 3)),
      );
      const ended = await write(
        createTables(),
        `update drizzle.__migration_log set started_at = now() - case direction
          when 'up' then interval '60 min' else interval '120 min' end`,
        logDone(one, 4, true),
      );
      const again = await write(
        logProgress(one, begun(1, 1)),
        logDone({ ...one, direction: "baseline" }, 0, false),
        logError(down, "no", 3 * 60_000),
        logForgotten("other"),
      );
      const forgotten = await write(logForgotten("it's one"));

      const more = { ...row, statements_done: 2, done_hash: "d2" };
      const goingOn = { ...more, hash: "h2", bare_hash: "b2" };
      const finished = {
        ...{ ...row, ...whole, statements_done: 4 },
        ...{ minutes: "60", msMinutes: 60 },
      };
      const done = { ...row, ...whole, statements_done: 0, msMinutes: 0 };
      const baseline = { ...done, direction: "baseline" };
      const undoing = {
        ...{ ...done, direction: "down", error: "no" },
        ...{ minutes: "3", msMinutes: 3 },
      };
      const downUnderWay = { ...row, direction: "down", statements_done: 3 };
      expect([...failed]).toEqual([other, { ...row, error: "it's no" }]);
      expect([...goneOn]).toEqual([
        other,
        { ...goingOn, statement_under_way: null },
        { ...downUnderWay, done_hash: "d3", statement_under_way: 3 },
      ]);
      expect([...ended]).toEqual([{ ...other, minutes: "60" }, finished]);
      expect([...again]).toEqual([finished, row, baseline, undoing]);
      expect([...forgotten]).toEqual([finished, baseline, undoing]);
    },
  );

  testApply(
    "that fails is logged, whatever role and settings it has left in the session",
    async () => {
      await withRoles(database, 1, async (role) => {
        const text = `SET ROLE ${role?.name}; set default_transaction_read_only = on; commit; select nonsense;`;
        await apply({ "0000_a": text });
        await apply({
          "0000_b": text.replace("ROLE", "session authorization"),
        });
      });
      await apply({ "0000_c": "select nonsense;" });

      const error = 'column "nonsense" does not exist';
      const [one, other, whole] = await sql`
        select tag, direction, statements_done, error, ms, age(now(), started_at) < '1 minute' as "isNow"
        from drizzle.__migration_log order by id`;
      const half = { direction: "up", statements_done: 3, error, ms: null };
      expect(one).toEqual({ ...half, tag: "0000_a", isNow: true });
      expect(other).toEqual({ ...half, tag: "0000_b", isNow: true });
      expect(whole).toEqual({
        ...{ tag: "0000_c", direction: "up", statements_done: 0, error },
        ...{ ms: expect.any(Number), isNow: true },
      });
    },
  );

  testApply(
    "whose index stays invalid is found out while others build one",
    async () => {
      const { address } = database;
      await withRoles(database, 1, async (role) => {
        await sql.unsafe(`
        grant create on database ${database.name} to ${role?.name};
        grant create on schema public to ${role?.name};
        create table a (i int); create index a_i on a (i); create table big ();
        alter table a owner to ${role?.name};
        update pg_index set indisvalid = false where indexrelid = 'a_i'::regclass`);
        const holder = await sql.reserve();
        await holder.unsafe("begin; lock table big in row exclusive mode");
        await using builder = await openConnection(address, "tests");
        const building =
          builder`create index concurrently big_i on big ((1))`.execute();
        await until(
          sql,
          `pid in (select pid from pg_stat_progress_create_index
          where phase like 'waiting%' and datname = current_database())`,
        );

        const { error } = await apply(
          { "0000_a": "create index if not exists a_i on a (i);" },
          { as: role },
        );
        await using beside = await openConnection(address, "tests");
        await beside`set lock_timeout = 200`;
        const [statement] = splitStatements(
          "create index concurrently big_i on big ((1))",
        );
        const state =
          statement &&
          (await checkWhetherDone(beside, statement, undefined).catch(String));
        await holder`rollback`;
        holder.release();
        await building;

        expect(state).toBe("run"); // and it was not dropped
        expect(error).toMatchObject({
          exitCode: 1,
          message: "the migrations left an invalid index: a_i",
        });
      });
    },
  );

  testApply(
    "does not count as applied well when its index stays invalid, and is not blamed for one that it does not name",
    async () => {
      await sql.unsafe(`
      create table a (i int); create index u on a (i);
      update pg_index set indisvalid = false where indexrelid = 'u'::regclass`);

      const files = {
        "0000_a": `${users} -- not u
          create table parts (i int) partition by list (i);
          create table part partition of parts for values in (1);
          create index parts_i on only parts (i); -- valid once each part has one
          set search_path = '';`,
      };
      const innocent = await apply(files);
      const more = {
        ...files,
        "0001_b": `create index users_email on users (email);
        update pg_index set indisvalid = false where indexrelid = 'users_email'::regclass;`,
      };
      const { error } = await apply(more);

      await sql.unsafe(`
        create schema lab; create table lab.b (i int); create index "B i" on lab.b (i);
        update pg_index set indisvalid = false where indexrelid = 'lab."B i"'::regclass`);
      const named = {
        ...more,
        "0002_c": `comment on index lab."B i" is 'x'; comment on index U is 'y'`,
      };
      const both = await apply(named);
      const neither = await apply({
        ...named,
        "0003_d": "comment on table lab.b is 'x'",
      });
      await sql`drop schema lab cascade`;

      expect(innocent).toEqual(done(files));
      expect(neither.error).toBeUndefined();
      expect(error).toMatchObject({
        exitCode: 1,
        code: "INVALID_INDEX",
        message: "the migrations left an invalid index: users_email",
        hint: "rebuild it with `REINDEX INDEX CONCURRENTLY users_email` in `bun run db:shell`",
      });
      expect(both.error?.message).toBe(
        'the migrations left an invalid index: u, lab."B i"',
      );
    },
  );
});
