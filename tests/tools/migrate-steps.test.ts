// db:migrate on files that cannot be one transaction, that are interrupted, that
// wait for a lock, and that touch what is not theirs.
import { describe, expect } from "bun:test";
import { writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { join } from "node:path";
import { spawn } from "bun";
import { openConnection } from "../../scripts/lib/connection";
import { checkWhetherDone } from "../../scripts/migrations/resume";
import { splitStatements } from "../../scripts/migrations/statements";
import { urlOf } from "../lib/command";
import { until } from "../lib/database";
import { listRecords, writeMigrations } from "../lib/migrations";
import { CROWD } from "../lib/sample";
import { test } from "../lib/test";
import { withRoles } from "../lib/roles";

const users = "create table users (id int primary key, email text);";

describe("what cannot be in a transaction", () => {
  test("is run alone, and the rest around it", async ({
    sql,
    project,
    run,
  }) => {
    writeMigrations(project, {
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
    });

    const first = await run("db:migrate");
    const second = await run("db:migrate");

    expect({ ...first, stdout: "" }).toEqual({
      exitCode: 0,
      stdout: "",
      stderr: "",
    });
    expect(second.stdout).toStartWith("Nothing to migrate");
    expect(await listRecords(sql)).toHaveLength(6);
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
  });

  test("stays committed when a later statement fails, and is not run again", async ({
    sql,
    project,
    run,
  }) => {
    const write = (end: string) =>
      writeMigrations(project, {
        "0000_a": `${users} set search_path = pg_catalog;
create index concurrently users_email on public.users (email);\n${end}`,
      });
    write("alter table nobody add column x int;");
    const failed = await run("db:migrate");
    const status = JSON.parse((await run("db:migrate:status --json")).stdout);
    const shown = await run("db:migrate --dry-run");
    write(
      "create table public.kept as select current_setting('search_path') as path;",
    );
    const fixed = await run("db:migrate");

    expect(failed.exitCode).toBe(1);
    expect(failed.stderr).toContain(
      "0000_a.sql:3:1, statement 4 (SQLSTATE 42P01)",
    );
    expect(failed.stderr).toContain(
      "It was rolled back; its first 3 statements are committed.",
    );
    expect(status).toMatchObject({
      migrations: [{ state: "partial", appliedAt: null }],
      problems: [{ code: "partial", tag: "0000_a" }],
    });
    expect(shown).toMatchObject({
      stdout: "-- 0000_a\nalter table nobody add column x int;\n",
      stderr: "Warning: 3 statements of 0000_a are committed\n",
    });
    expect(fixed.exitCode).toBe(0);
    expect(await sql`select path from kept`).toMatchObject([
      { path: "pg_catalog" },
    ]);
    expect(
      await sql`select from drizzle.__migration_log where ms is null`,
    ).toHaveLength(0);
    expect(await listRecords(sql)).toHaveLength(1);
  });

  test("is not gone on with when its committed part was edited, until that is repaired", async ({
    sql,
    database,
    project,
    run,
  }) => {
    const end = "vacuum users; select nonsense;";
    writeMigrations(project, { "0000_a": `${users} ${end}` });
    await run("db:migrate");
    writeMigrations(project, { "0000_a": `create table others (); ${end}` });

    const refused = await run("db:migrate");
    await sql`drop table users`;
    writeMigrations(project, { "0000_a": users });
    const repaired = await run(`db:migrate:repair --confirm ${database.name}`);
    const migrated = await run("db:migrate");

    expect(refused.exitCode).toBe(1);
    expect(refused.stderr).toContain(
      "0000_a.sql are committed, and were edited since",
    );
    expect(repaired.stdout).toBe(
      "Repaired: partial: 0000_a, 2 statements of its up file are committed -> its next run begins with the first statement\n",
    );
    expect(migrated.exitCode).toBe(0);
  });

  test("is built again where an index was left invalid, also without the right to try it", async ({
    database,
    sql,
    project,
    run,
  }) => {
    await withRoles(database, 1, async (role) => {
      await sql.unsafe(`
        revoke temporary on database ${database.name} from public;
        grant create on database ${database.name} to ${role?.name};
        grant create on schema public to ${role?.name}`);
      // The server makes small letters of it, and cuts it.
      const name = `Users_Ü_${"Email".repeat(20)}`;
      writeMigrations(project, {
        "0000_a": `${users} insert into users values (1, 'x'), (2, 'x');`,
        "0001_b": `create unique index concurrently if not exists ${name} on users (email);`,
      });
      const failed = await run("db:migrate", role?.variables);
      await sql`delete from users where id = 2`;
      const again = await run("db:migrate", role?.variables);
      const indexes =
        await sql`select indisvalid from pg_index where indrelid = 'users'::regclass and not indisprimary`;

      expect(failed.exitCode).toBe(1);
      expect(failed.stderr).toContain(
        "It ran outside of a transaction; nothing of it is committed.",
      );
      expect(again).toMatchObject({ exitCode: 0, stderr: "" });
      expect(indexes).toMatchObject([{ indisvalid: true }]);
    });
  });

  test("fails again where the server has refused it before", async ({
    sql,
    project,
    run,
  }) => {
    await sql.unsafe(`
      create table parts (i int) partition by list (i); create table part (i int);
      create index part_i on part (i)`);
    for (const [statement, message] of [
      ["drop index concurrently typo", 'index "typo" does not exist'],
      [
        "create index concurrently part_i on part (i)",
        'relation "part_i" already exists',
      ],
      [
        "alter table parts detach partition part concurrently",
        'relation "part" is not a partition of relation "parts"',
      ],
    ] as const) {
      writeMigrations(project, { "0000_a": statement });
      await run("db:migrate");
      const again = await run("db:migrate");

      expect(again.exitCode).toBe(1);
      expect(again.stderr).toStartWith(`Error: 0000_a failed: ${message}\n`);
    }
  });

  test("is known by the catalog to be done, or not", async ({ address }) => {
    await using sql = await openConnection(address, "tests");
    await sql.unsafe(`
      create table parts (i int) partition by list (i);
      create table part partition of parts for values in (1);
      create table t (i int); create index t_i on t (i); create index t_i_ccnew on t (i);
      update pg_index set indisvalid = false where indexrelid = 't_i_ccnew'::regclass`);
    const ask = async (text: string, hasFailed: boolean) => {
      const [statement] = splitStatements(text);
      if (!statement) throw new Error("no statement");
      const resumed = { hasFailed, isEdited: false };
      return await checkWhetherDone(sql, statement, resumed);
    };
    const { database } = address;
    const found: Record<string, string> = {};
    for (const text of [
      "alter table parts detach partition part concurrently",
      "alter table parts detach partition t concurrently",
      "create index concurrently t_i on t (i)",
      "create index concurrently t_i on t (i desc)",
      "drop index concurrently t_i",
      "drop index concurrently nobody",
      `create database ${database}`,
      "create database nobody",
      `drop database ${database}`,
      "drop database nobody",
      "reindex table concurrently t",
      "alter system set work_mem = '5MB'",
    ])
      found[text] =
        `${await ask(text, false)}, after a failure ${await ask(text, true)}`;

    const done = "done, after a failure run";
    const run = "run, after a failure run";
    expect(Object.values(found)).toEqual([
      ...[run, done],
      ...[done, run],
      ...[run, done],
      ...[done, run],
      ...[run, done],
      ...[run, run],
    ]);
    expect(await sql`select to_regclass('t_i_ccnew') as left`).toMatchObject([
      { left: null },
    ]);
  });

  test("waits for others without a limit where it drops what was left behind", async ({
    sql,
    project,
    run,
  }) => {
    await sql.unsafe(`
      ${users} create index users_email on users (email);
      update pg_index set indisvalid = false where indexrelid = 'users_email'::regclass`);
    writeMigrations(project, {
      "0000_a": "create index concurrently users_email on users (email);",
    });
    const holder = await sql.reserve();
    await holder.unsafe("begin; lock table users in row exclusive mode");
    let isOver = false;
    const migrated = run("db:migrate --lock-timeout 50").finally(() => {
      isOver = true;
    });
    for (let waiting = 0; waiting === 0 && !isOver;) {
      await holder`select pg_stat_clear_snapshot()`;
      waiting = (
        await holder`
        select from pg_stat_activity
        where datname = current_database() and query ilike 'drop index%'
          and clock_timestamp() - query_start > interval '200 ms'`
      ).count;
    }
    await holder`rollback`;
    holder.release();

    expect((await migrated).exitCode).toBe(0);
  });

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
    let waiting = 0;
    while (waiting === 0)
      waiting = (
        await holder`
        select from pg_locks where locktype = 'virtualxid' and not granted
          and pid in (select pid from pg_locks where relation = 'users'::regclass)`
      ).count;
    await holder.unsafe("lock table users in share mode; commit");
    holder.release();

    const { exitCode, stderr } = await migrated;

    expect({ exitCode, stderr }).toMatchObject({ exitCode: 0 });
    expect(stderr).toContain("retry 1 of 5 in 10 ms");
    expect(
      await sql`select indisvalid from pg_index where indrelid = 'users'::regclass and not indisprimary`,
    ).toMatchObject([{ indisvalid: true }]);
  });

  test("stops where a procedure has failed after a commit, until the file is edited", async ({
    sql,
    project,
    run,
  }) => {
    const write = (end = "") =>
      writeMigrations(project, {
        "0000_a": `${users}
        create procedure fill() language plpgsql as $$ begin
          insert into users values (1); commit; raise 'no' using errcode = 'lock_not_available'; end $$;
        call fill();${end}`,
      });
    write();

    const failed = await run("db:migrate");
    const stopped = await run("db:migrate");
    const again = await run("db:migrate");
    await sql`delete from users`;
    await sql.unsafe(`create or replace procedure fill() language plpgsql as $$
      begin insert into users values (2); commit; end $$`);
    write(" -- begins again");
    const fixed = await run("db:migrate");

    expect(failed.stderr).toContain(
      "It ran outside of a transaction; the part that it committed itself stays; its first 2 statements are committed.\n",
    );
    expect(stopped.exitCode).toBe(1);
    expect(stopped.stderr).toStartWith(
      "Error: `call fill()` failed in an earlier run, after it had committed part of its work\nHint: check what it has changed, ",
    );
    expect(again).toEqual(stopped);
    expect(fixed.exitCode).toBe(0);
    expect(await sql`select id from users`).toMatchObject([{ id: 2 }]);
  });

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
          call wait();`,
      });
    write("");
    const { PATH } = process.env;
    await sql.reserve().then(async (holder) => {
      await holder`select pg_advisory_lock(7)`;
      const client = spawn([process.execPath, "scripts/migrate.ts"], {
        cwd: project.folder,
        env: { PATH, DATABASE_URL: database.url, DB_ENGINE: "external" },
      });
      let waiting = 0;
      while (waiting === 0)
        waiting = (
          await holder`
          select from pg_stat_activity where datname = ${database.name}
            and query = 'call wait()' and wait_event = 'advisory'`
        ).count;
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

  test("is done once by many at once, with an index pending", async ({
    sql,
    project,
    run,
  }) => {
    writeMigrations(project, {
      "0000_a": `${users} create index concurrently users_email on users (email);`,
    });

    const all = await Promise.all(
      Array.from({ length: CROWD }, () => run("db:migrate")),
    );

    expect(all.map(({ exitCode }) => exitCode)).toEqual(Array(CROWD).fill(0));
    expect(
      all.filter(({ stdout }) => stdout.startsWith("Applied")),
    ).toHaveLength(1);
    expect(await listRecords(sql)).toHaveLength(1);
  });
});

describe("a file that lets go of the migration lock", () => {
  test("is done once by several at once all the same", async ({
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
    });
    const holder = await sql.reserve();
    await holder`select pg_advisory_lock(7)`;
    const running = Promise.all(
      Array.from({ length: 4 }, () => run("db:migrate")),
    );
    let asking = 0;
    while (asking < 4)
      asking = (
        await holder`
        select from pg_stat_activity
        where datname = current_database() and application_name = 'db:migrate'
          and query ~ 'advisory|create table'`
      ).count;

    await holder`select pg_advisory_unlock(7)`;
    holder.release();
    const all = await running;

    expect(all.map(({ exitCode }) => exitCode)).toEqual([0, 0, 0, 0]);
    expect(
      all.filter(({ stdout }) => stdout.startsWith("Applied")),
    ).toHaveLength(1);
    expect(await listRecords(sql)).toHaveLength(3);
    expect(await sql`select i from a order by i`).toMatchObject([
      { i: 1 },
      { i: 2 },
      { i: 3 },
    ]);
  });

  test("outside of a transaction stops where another was quicker", async ({
    sql,
    project,
    run,
  }) => {
    writeMigrations(project, {
      "0000_a": `create procedure unlock() language plpgsql as $$
        begin perform pg_advisory_unlock_all(); commit; perform pg_advisory_lock(7); end $$;
        create table a (i int); call unlock(); create index concurrently a_i on a (i);`,
    });
    const holder = await sql.reserve();
    await holder`select pg_advisory_lock(7)`;
    const running = run("db:migrate");
    let locked = 0;
    while (locked === 0)
      locked = (
        await holder`
        select from pg_stat_activity
        where datname = current_database() and query like '%call unlock()'
          and pg_try_advisory_lock(28273295023041637)`
      ).count;
    await holder`select pg_advisory_unlock(7)`;

    const { exitCode, stderr } = await running;
    holder.release();

    expect(exitCode).toBe(75);
    expect(stderr).toContain(
      "Error: the file released the migration lock, and another command took it\n",
    );
    expect(await sql`select to_regclass('a_i') as index`).toMatchObject([
      { index: null },
    ]);
  });

  test("and fails stops where another was quicker", async ({
    sql,
    project,
    run,
  }) => {
    await sql.unsafe(users);
    writeMigrations(project, {
      "0000_a": "select pg_advisory_unlock_all(); drop table users;",
    });
    const holder = await sql.reserve();
    await holder`begin`;
    await holder`lock table users`;
    const running = run("db:migrate --lock-timeout 500");
    await until(sql, "datname = current_database() and query like 'drop%'");
    const other = await sql.reserve();
    await other`select pg_advisory_lock(28273295023041637)`;

    const { exitCode } = await running;
    await holder`rollback`;
    holder.release();
    other.release();

    expect(exitCode).toBe(75);
  });
});

describe("a table that another session has locked", () => {
  const files = {
    "0000_a": "create table other (); alter table users add column x int;",
  };

  test("is tried again, by name of who has it, and given up with nothing changed", async ({
    sql,
    project,
    run,
  }) => {
    await sql.unsafe(users);
    writeMigrations(project, files);
    await sql.begin(async (holder) => {
      await holder`lock table users`;
      const [row] = await holder`select pg_backend_pid() as pid`;

      const { exitCode, stderr } = await run("db:migrate --lock-timeout 300");

      expect(exitCode).toBe(1);
      expect(stderr).toContain(
        `could not get a lock held by pid ${row?.pid}, `,
      );
      expect(stderr).toContain("retry 5 of 5 in 480 ms\n");
      expect(stderr).toContain("(SQLSTATE 55P03)");
      expect(await holder`select to_regclass('other') as other`).toMatchObject([
        { other: null },
      ]);
    });
  });

  test("is waited for while it is tried again", async ({
    sql,
    project,
    run,
  }) => {
    await sql.unsafe(users);
    writeMigrations(project, files);
    let migrated: ReturnType<typeof run> | undefined;
    await sql.begin(async (holder) => {
      await holder`lock table users`;
      migrated = run("db:migrate --lock-timeout 500");
      let tried = 0;
      while (tried === 0)
        tried = (
          await holder`
          select from pg_locks where relation = 'users'::regclass and not granted`
        ).count;
    });

    expect((await migrated)?.exitCode).toBe(0);
  });
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
  test("that touches drizzle's records leaves each of them once", async ({
    sql,
    project,
    run,
  }) => {
    const when = 2_000_000_000_001;
    writeMigrations(project, {
      "0000_a": "create table a ();",
      "0001_b": `insert into drizzle.__drizzle_migrations (hash, created_at) values ('by hand', ${when});`,
      "0002_c": "delete from drizzle.__drizzle_migrations;",
      "0003_d": "drop schema drizzle cascade;",
    });

    const first = await run("db:migrate");
    const second = await run("db:migrate");
    const records = await listRecords(sql);
    await sql.unsafe(`
      create function lose() returns trigger language plpgsql as 'begin return null; end';
      create trigger lose before insert on drizzle.__drizzle_migrations for each row execute function lose()`);
    writeMigrations(project, { "0004_e": "create table e ();" }, () => 3e12);
    const lost = await run("db:migrate");

    expect(first.exitCode).toBe(0);
    expect(second.stdout).toStartWith("Nothing to migrate");
    expect(records).toHaveLength(4);
    expect(lost.exitCode).toBe(1);
    expect(lost.stderr).toContain("Error: applied without a record: 0004_e\n");
  });

  test("that only speaks of drizzle adds its own record alone", async ({
    sql,
    project,
    run,
  }) => {
    writeMigrations(project, { "0000_a": "create table a ();\n" });
    await run("db:migrate");
    writeMigrations(project, {
      "0000_a": "create table a ();\r\n",
      "0001_b": "-- by drizzle-kit\ncreate table b ();",
    });

    const { exitCode } = await run("db:migrate");

    expect(exitCode).toBe(0);
    expect(await listRecords(sql)).toHaveLength(2);
  });

  test("with a comment that has no end is refused by the server", async ({
    sql,
    project,
    run,
  }) => {
    writeMigrations(project, {
      "0000_a":
        "create table a ();\n/* see packages/*/src */\ncreate table b ();",
    });

    const { exitCode, stderr } = await run("db:migrate");

    expect(exitCode).toBe(1);
    expect(stderr).toContain("unterminated /* comment");
    expect(stderr).toContain("0000_a.sql:2:1, statement 2 (SQLSTATE 42601)");
    expect(await sql`select to_regclass('a') as a`).toMatchObject([
      { a: null },
    ]);
  });

  test("leaves nothing that it has set to the next one", async ({
    sql,
    project,
    run,
  }) => {
    const role = `role_${crypto.randomUUID().slice(0, 8)}`;
    await sql.unsafe(
      `create role ${role}; grant create on schema public to ${role}`,
    );
    writeMigrations(project, {
      "0000_a": `set search_path = ''; select pg_catalog.set_config('lock_timeout', '1', false); set role ${role}; create table public.theirs ();`,
      "0001_b": `create table ours (); create temp table mine (i int);
        prepare p as table ours; declare c cursor with hold for table ours;`,
      "0002_c": `create table mine (i int); insert into mine values (1);
        prepare p as table mine; declare c cursor with hold for table mine;`,
      "0003_d": `set session authorization ${role};`,
    });

    const { exitCode, stderr } = await run("db:migrate");
    const owners =
      await sql`select tableowner = ${role} as theirs from pg_tables where tablename in ('ours', 'theirs') order by tablename`;
    await sql.unsafe(`drop owned by ${role}; drop role ${role}`);

    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
    expect(owners).toMatchObject([{ theirs: false }, { theirs: true }]);
    expect(await sql`select i from mine`).toMatchObject([{ i: 1 }]);
  });

  test("that mentions roles is recorded as the role that the login has", async ({
    database,
    sql,
    project,
    run,
  }) => {
    await withRoles(database, 2, async (login, owner) => {
      await sql.unsafe(`
        alter role ${login?.name} noinherit; grant ${owner?.name} to ${login?.name};
        alter role ${login?.name} set role = ${owner?.name};
        grant create on database ${database.name} to ${owner?.name};
        grant create on schema public to ${owner?.name}`);
      writeMigrations(project, { "0000_a": "create table roles ();" });

      const { exitCode, stderr } = await run("db:migrate", login?.variables);

      expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
    });
  });

  test("with a byte-order mark and CRLF runs, and its errors have their place", async ({
    project,
    run,
  }) => {
    writeMigrations(project, {
      "0000_a":
        "\uFEFFcreate table a ();\r\n-- ü 😀\r\nselect '😀', nonsense;\r\n",
    });

    const { exitCode, stderr } = await run("db:migrate");

    expect(exitCode).toBe(1);
    expect(stderr).toContain("0000_a.sql:3:14, statement 2 (SQLSTATE 42703)");
  });

  test("that copies from a client is refused", async ({ project, run }) => {
    writeMigrations(project, {
      "0000_a": `${users} copy (select 1${", 1".repeat(300)}) to stdout;`,
    });

    const { exitCode, stderr } = await run("db:migrate");

    expect(exitCode).toBe(1);
    expect(stderr).toContain(
      "has a COPY that reads from or writes to a client\n",
    );
    expect(stderr).toContain("0000_a.sql:1:54, statement 2\nHint: ");
  });

  test("that is not in UTF-8 is refused with its place, before any is applied", async ({
    sql,
    project,
    run,
  }) => {
    writeMigrations(project, {
      "0000_a": "create table a (name text);",
      "0001_b": "-- \uFFFD is no fault\nselect 1;",
      "0002_c": "",
    });
    const file = "src/infrastructure/database/migrations/0002_c.sql";
    const text = "select 1;\ninsert into a values ('München');\n";
    writeFileSync(join(project.folder, file), Buffer.from(text, "latin1"));

    const migrated = await run("db:migrate");
    const shown = await run("db:migrate --dry-run");

    expect(migrated).toEqual({
      exitCode: 1,
      stdout: "",
      stderr: `Error: ${file} is not in UTF-8\n  at ${file}:2:25\nHint: save it in UTF-8; \`iconv -f latin1 -t utf-8 ${file}\` prints it in UTF-8\n`,
    });
    expect(shown).toEqual(migrated);
    expect(await sql`select to_regclass('a') as a`).toMatchObject([
      { a: null },
    ]);
  });

  test("that has commands of psql is refused, and each is named", async ({
    project,
    run,
  }) => {
    writeMigrations(project, {
      "0000_a": "-- a dump\n\\restrict x'y\n\nselect '\\no';",
    });
    const dump = await run("db:migrate");
    writeMigrations(project, { "0000_a": "select 1;\n\\connect other\n" });
    const connect = await run("db:migrate");

    expect(dump.exitCode).toBe(1);
    expect(dump.stderr).toContain(
      "0000_a.sql has a command of psql, `\\restrict`, which is not SQL\n",
    );
    expect(dump.stderr).toContain("0000_a.sql:2:1, statement 1\nHint: delete ");
    expect(connect.stderr).toContain("psql, `\\connect`, which is not SQL\n");
    expect(connect.stderr).toContain(
      "delete it, and the SQL for the other database\n",
    );
  });

  test("of thousands of statements is one transaction all the same", async ({
    sql,
    project,
    run,
  }) => {
    const inserts = "insert into a values (1);\n".repeat(1500);
    writeMigrations(project, {
      "0000_a": `create table a (i int);\n${inserts}select nonsense;`,
    });
    const failed = await run("db:migrate");
    const [left] = await sql`select to_regclass('a') as a`;
    writeMigrations(project, {
      "0000_a": `create table a (i int);\n${inserts}`,
    });
    const applied = await run("db:migrate");

    expect(failed.exitCode).toBe(1);
    expect(failed.stderr).toContain("0000_a.sql:1502:8, statement 1502 ");
    expect(left?.a).toBeNull();
    expect(applied.exitCode).toBe(0);
    expect(await sql`select from a`).toHaveLength(1500);
  });

  test("says what it raises under its own name", async ({ project, run }) => {
    const raise = (level: string) =>
      `do $$ begin raise ${level} 'from a ${level}'; end $$;`;
    writeMigrations(project, {
      "0000_a": raise("warning") + raise("notice"),
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

  test("that fails for a setting of its role or database is told which", async ({
    database,
    sql,
    project,
    run,
  }) => {
    await withRoles(database, 1, async (role) => {
      await sql.unsafe(`
        create table named (); grant create on database ${database.name} to ${role?.name};
        alter role ${role?.name} set statement_timeout = '2s'`);
      writeMigrations(project, { "0000_a": "select pg_sleep(60);" });
      const timeout = await run("db:migrate --json", role?.variables);
      await sql.unsafe(`
        alter role ${role?.name} reset statement_timeout;
        alter database ${database.name} set search_path = elsewhere`);
      writeMigrations(project, { "0000_a": "select from named;" });
      const path = await run("db:migrate", role?.variables);
      writeMigrations(project, { "0000_a": "select from public.nobody;" });
      const qualified = await run("db:migrate --json", role?.variables);

      expect(timeout.exitCode).toBe(1);
      expect(JSON.parse(timeout.stdout).error.hint).toStartWith(
        `statement_timeout is set to 2s for the role ${role?.name}: put \`SET statement_timeout = 0;\` before the statement in `,
      );
      expect(path.stderr).toContain(
        `Hint: search_path is set to elsewhere for the database ${database.name}: put \`SET search_path = public;\` `,
      );
      expect(JSON.parse(qualified.stdout).error.hint).toStartWith("fix `");
    });
  });

  test("that fails with a hint of PostgreSQL's own keeps ours", async ({
    project,
    run,
  }) => {
    writeMigrations(project, { "0000_a": `${users} select emial from users;` });

    const { stdout } = await run("db:migrate --json");
    const { stderr } = await run("db:migrate");

    expect(JSON.parse(stdout).error).toMatchObject({
      hint: "fix `src/infrastructure/database/migrations/0000_a.sql` and run `bun run db:migrate` again",
      postgresHint: expect.stringContaining("users.email"),
    });
    expect(stderr).toContain("  Postgres' hint: ");
    expect(stderr).toContain("Hint: fix ");
  });

  test("whose index stays invalid is found out while others build one", async ({
    database,
    sql,
    project,
    run,
  }) => {
    await withRoles(database, 1, async (role) => {
      await sql.unsafe(`
        grant create on database ${database.name} to ${role?.name};
        grant create on schema public to ${role?.name};
        create table a (i int); create index a_i on a (i); create table big ();
        alter table a owner to ${role?.name};
        update pg_index set indisvalid = false where indexrelid = 'a_i'::regclass`);
      writeMigrations(project, {
        "0000_a": "create index if not exists a_i on a (i);",
      });
      const holder = await sql.reserve();
      await holder.unsafe("begin; lock table big in row exclusive mode");
      const building =
        sql`create index concurrently big_i on big ((1))`.execute();
      let waiting = 0;
      while (waiting === 0) {
        await holder`select pg_stat_clear_snapshot()`;
        waiting = (
          await holder`
          select from pg_stat_progress_create_index
          where phase like 'waiting%' and datname = current_database()`
        ).count;
      }

      const { exitCode, stderr } = await run("db:migrate", role?.variables);
      await using beside = await openConnection(database.address, "tests");
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
      expect(exitCode).toBe(1);
      expect(stderr).toStartWith(
        "Error: the migrations left an invalid index: a_i\n",
      );
    });
  });

  test("is not blamed for an index that it does not name", async ({
    sql,
    project,
    run,
  }) => {
    await sql.unsafe(`
      create table a (i int); create index u on a (i);
      update pg_index set indisvalid = false where indexrelid = 'u'::regclass`);
    writeMigrations(project, { "0000_a": `${users} -- not u` });

    const { exitCode } = await run("db:migrate");

    expect(exitCode).toBe(0);
  });

  test("that may only read, or is in a transaction of its own kind, is recorded", async ({
    sql,
    project,
    run,
  }) => {
    writeMigrations(project, {
      "0000_a":
        "create table a (); set default_transaction_read_only = on; commit; vacuum a;",
      "0001_b": `start transaction isolation level serializable read only;
        create table b as select current_setting('transaction_isolation') as level; commit;`,
      "0002_c": "drop schema drizzle cascade; commit; create table c ();",
    });

    const { exitCode, stderr } = await run("db:migrate");

    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
    expect(await sql`select level from b`).toMatchObject([
      { level: "serializable" },
    ]);
    expect(await listRecords(sql)).toHaveLength(3);
  });

  test("that fails shows neither passwords nor endless lines", async ({
    project,
    run,
  }) => {
    writeMigrations(project, {
      "0000_a": `create user mapping for nobody server none
        options (user 'x', password 's3''cret'); -- ${"x".repeat(9000)}`,
    });
    const mapping = await run("db:migrate");
    writeMigrations(project, { "0000_a": `select ${"x".repeat(9000)} from y` });
    const long = await run("db:migrate");

    expect(mapping.stderr).toContain("password '…')\n");
    expect(mapping.stderr).not.toContain("cret");
    expect(long.stderr.length).toBeLessThan(1000);
  });

  test("that fails at its end is not blamed for a statement", async ({
    project,
    run,
  }) => {
    writeMigrations(project, {
      "0000_a": `create table a (i int unique deferrable initially deferred);
        insert into a values (1), (1); create table b ();`,
    });

    const { exitCode, stdout, stderr } = await run("db:migrate --json");
    const { error } = JSON.parse(stdout);

    expect({ exitCode, stderr }).toEqual({ exitCode: 1, stderr: "" });
    expect(error).toMatchObject({ tag: "0000_a", sqlstate: "23505" });
    expect(error).not.toHaveProperty("statement");
  });

  test("whose index stays invalid does not count as applied well", async ({
    project,
    run,
  }) => {
    writeMigrations(project, {
      "0000_a": `${users} create index users_email on users (email);
        update pg_index set indisvalid = false where indexrelid = 'users_email'::regclass;`,
    });

    const { exitCode, stderr } = await run("db:migrate");

    expect(exitCode).toBe(1);
    expect(stderr).toStartWith(
      "Error: the migrations left an invalid index: users_email\n",
    );
  });
});
