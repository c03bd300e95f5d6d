// db:migrate on files that cannot be one transaction, that are interrupted, and that
// wait for a lock.
import { describe, expect } from "bun:test";
import { type AddressInfo, connect, createServer } from "node:net";
import { spawn } from "bun";
import { openConnection } from "../../scripts/lib/connection";
import { readLog } from "../../scripts/migrations/log";
import { checkWhetherDone } from "../../scripts/migrations/resume";
import { splitStatements } from "../../scripts/migrations/statements";
import { done, useApply, users } from "../lib/apply";
import { urlOf } from "../lib/command";
import { until } from "../lib/database";
import { listRecords, migrations, writeMigrations } from "../lib/migrations";
import { CROWD } from "../lib/sample";
import { test } from "../lib/test";
import { withRoles } from "../lib/roles";

const { database, testApply, apply, explain } = useApply();
const { sql } = database;

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
