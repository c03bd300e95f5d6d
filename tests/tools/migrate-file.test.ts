// db:migrate on a file that touches what is not its own, that fails, or that leaves
// something behind.
import { describe, expect } from "bun:test";
import { hostname, userInfo } from "node:os";
import { openConnection } from "../../scripts/lib/connection";
import { describeError } from "../../scripts/lib/report";
import {
  createTables,
  logDone,
  logError,
  logForgotten,
  logProgress,
  type Run,
} from "../../scripts/migrations/log";
import { checkWhetherDone } from "../../scripts/migrations/resume";
import { splitStatements } from "../../scripts/migrations/statements";
import { done, useApply, users } from "../lib/apply";
import { until } from "../lib/database";
import { listRecords, writeMigrations } from "../lib/migrations";
import { test } from "../lib/test";
import { type TestRole, withRoles } from "../lib/roles";

const { database, testApply, apply, explain } = useApply();
const { sql } = database;

/** Returns the variables of a role whose connection string has options. */
function withOptions(role: TestRole | undefined, options: string) {
  const url = `${role?.variables.DATABASE_URL}&options=${encodeURIComponent(options)}`;
  return { DATABASE_URL: url };
}

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
