// db:rollback, db:baseline and db:migrate:repair.
import { afterAll, describe, expect } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { spawn } from "bun";
import { stampProduction } from "../../scripts/lib/protection";
import {
  testBeside,
  type TestDatabase,
  until,
  withDatabase,
} from "../lib/database";
import {
  listRecords,
  migrations,
  ownMigrations,
  writeMigrations,
} from "../lib/migrations";
import { copyProject } from "../lib/project";
import { test } from "../lib/test";
import { withRoles } from "../lib/roles";

const files = {
  "0000_users": "create table users (id int primary key, name text);",
  "0000_users.down": "drop table users;",
  "0001_bio": "alter table users add column bio text;",
  "0001_bio.down": "alter table users drop column bio;",
  "0002_index": "create index concurrently users_bio on users (bio);",
  "0002_index.down": "drop index concurrently users_bio;",
};

// The project of most tests, which change no file of it.
const common = copyProject();
afterAll(() => common[Symbol.dispose]());
writeMigrations(common, files);

/** Registers a test on a database to which the files are applied. */
function testApplied(
  sentence: string,
  body: (database: TestDatabase) => Promise<void>,
): void {
  testBeside(sentence, () => withDatabase("migrated", body, common.folder));
}

describe("db:rollback", () => {
  testApplied(
    "undoes the newest, steps, or all after one that is kept; it can be applied again",
    async ({ sql, name, run }) => {
      // Another tool has finished what db:migrate had begun.
      await sql`
        insert into drizzle.__migration_log (tag, hash, bare_hash, direction, run_by)
        values ('0001_bio', '', '', 'up', '')`;
      const misnamed = await run("db:rollback --confirm other");
      const shown = await run("db:rollback --dry-run --json");
      // Another tool has applied newer ones after an interrupted rollback.
      await sql`
        insert into drizzle.__migration_log (tag, hash, bare_hash, direction, run_by)
        values ('0000_users', '', '', 'down', '')`;
      const half = await run("db:rollback --dry-run");
      const toHalf = await run("db:rollback --to 0000_users");
      await sql`delete from drizzle.__migration_log where direction = 'down'`;
      const first = await run("db:rollback");
      const second = await run("db:rollback --json");
      const again = await run("db:migrate");
      const applied = await listRecords(sql);
      const last = await run("db:rollback --to 0002_index");
      const wrong = await run("db:rollback --to 0009_no");
      const to = await run("db:rollback --to 0000_users");
      const all = await run("db:rollback --steps 1 --dry-run");
      const steps = await run("db:rollback --steps 5");
      const nothing = await run("db:rollback");

      expect(misnamed.stderr).toStartWith(
        'Error: "other" is not the name of the database\n',
      );
      expect(JSON.parse(shown.stdout)).toEqual({
        database: name,
        rolledBack: [],
        head: "0002_index",
      });
      expect(half).toEqual({
        exitCode: 0,
        stdout: "-- 0000_users\ndrop table users;\n",
        stderr: "",
      });
      expect(toHalf.stderr).toStartWith(
        "Error: there is no applied migration 0000_users\n",
      );
      expect(first.stdout).toMatch(/^Rolled back: 0002_index \(\d+ ms\)\n$/);
      expect(JSON.parse(second.stdout)).toEqual({
        database: name,
        rolledBack: [{ tag: "0001_bio", ms: expect.any(Number) }],
        head: "0000_users",
      });
      expect(again.stdout).toMatch(
        /^Applied: 0001_bio .*\nApplied: 0002_index /,
      );
      expect(applied).toHaveLength(3);
      expect(last).toEqual({
        exitCode: 0,
        stdout: `Nothing to roll back: ${name} is at 0002_index\n`,
        stderr: "",
      });
      expect(wrong).toEqual({
        exitCode: 2,
        stdout: "",
        stderr:
          "Error: there is no applied migration 0009_no\nHint: `bun run db:migrate:status` lists them\n",
      });
      expect(to.stdout).toMatch(
        /^Rolled back: 0002_index .*\nRolled back: 0001_bio .*\n$/,
      );
      expect(all.stderr).toBe("");
      expect(steps.stdout).toMatch(/^Rolled back: 0000_users .*\n$/);
      expect(steps.stderr).toBe("Warning: only 1 are applied\n");
      expect(nothing).toMatchObject({ exitCode: 0, stderr: "" });
      expect(nothing.stdout).toStartWith("Nothing to roll back: ");
      expect(
        await sql`select from drizzle.__migration_log where ms is null`,
      ).toHaveLength(0);
    },
  );

  testApplied(
    "says that the database has a newer one, which this checkout does not have",
    async ({ run }) => {
      using project = copyProject();
      const { "0002_index": _newest, ...older } = files;
      writeMigrations(project, older);

      const shown = await run("db:rollback --dry-run", {}, project.folder);

      expect(shown).toEqual({
        exitCode: 0,
        stdout: "-- 0001_bio\nalter table users drop column bio;\n",
        stderr:
          "Warning: the database has a migration (record 3) that this checkout does not have\n",
      });
    },
  );

  testApplied(
    "counts what would be lost, and needs confirmation",
    async ({ sql, name, run }) => {
      await sql`insert into users values (1, 'a', 'b'), (2, 'c', null)`;

      const refused = await run("db:rollback --steps 2");
      const shown = await run("db:rollback --steps 2 --dry-run");
      const kept = await sql`select bio from users order by id`;
      const confirmed = await run(`db:rollback --steps 2 --confirm ${name}`);
      const table = await run("db:rollback");

      expect(refused).toEqual({
        exitCode: 2,
        stdout: "",
        stderr: `Data would be lost: drops users.bio: 1 value\nError: db:rollback needs confirmation: data would be lost\nHint: to go ahead, add \`--confirm ${name}\`\n`,
      });
      expect(shown).toEqual({
        exitCode: 0,
        stdout:
          "-- 0002_index\ndrop index concurrently users_bio;\n-- 0001_bio\nalter table users drop column bio;\n",
        stderr: "Data would be lost: drops users.bio: 1 value\n",
      });
      expect(kept).toMatchObject([{ bio: "b" }, { bio: null }]);
      expect(confirmed.exitCode).toBe(0);
      expect(table.stderr).toStartWith(
        "Data would be lost: drops users: 2 rows\n",
      );
    },
  );

  testApplied(
    "asks while nothing is locked, and asks again for what was lost since",
    async ({ sql, name, run, attend }) => {
      await run("db:rollback");
      await sql`insert into users values (1, 'a', 'b')`;
      await using declining = attend("db:rollback");
      await declining.shows("Type the database's name");
      declining.types("\r");
      const declined = await declining.ends();
      await using leaving = attend("db:rollback");
      await leaving.shows("Type the database's name");
      leaving.types("\x03");
      const left = await leaving.ends();
      await using terminal = attend("db:rollback");

      await terminal.shows("Type the database's name");
      const meanwhile = await run("db:migrate:repair --wait 0");
      await sql`insert into users values (2, 'c', 'd')`;
      terminal.types(`${name}\r`);
      await terminal.shows("users.bio: 2 values");
      terminal.types(`${name}\r`);
      const { exitCode, screen } = await terminal.ends();

      expect(declined.exitCode).toBe(2);
      expect(declined.screen).toContain(
        "Error: db:rollback needs confirmation: data would be lost",
      );
      expect(left.exitCode).toBe(130);
      expect(left.screen).not.toContain("Left: ");
      expect(meanwhile).toMatchObject({ exitCode: 0, stderr: "" });
      expect(exitCode).toBe(0);
      expect(screen.match(/Data would be lost: .*/g)).toEqual([
        "Data would be lost: drops users.bio: 1 value",
        "Data would be lost: drops users.bio: 2 values",
      ]);
      expect(screen).toContain("Rolled back: 0001_bio");
    },
  );

  test("tells what each down file would take, or leaves, and who holds a table", async ({
    sql,
    project,
    run,
  }) => {
    const downs: Record<string, [up: string, down: string]> = {
      "0000_users": [files["0000_users"], files["0000_users.down"]],
      "0001_delete": [
        "insert into users values (7, 'x'), (8, 'y'), (9, 'y');",
        "delete from users where id > 7; update users set name = 'z';",
      ],
      "0002_rename": [
        "alter table users rename name to title;",
        "alter table users rename title to name;",
      ],
      "0003_parts": [
        `create table p (i int) partition by list (i);
        create table p1 partition of p for values in (1);
        create table p2 partition of p for values in (2);
        create table q (i int, j int) partition by list (i);
        create table q1 partition of q for values in (1);
        create table typed (s text, v varchar(9)); create table emptied (i int);
        create sequence numbers; create sequence unused;`,
        `drop table p1; alter table p detach partition p2; drop table q;
        drop sequence numbers, unused;
        alter table typed alter s type int using null, alter v type text;
        do $$ begin execute 'truncate emptied'; end $$;`,
      ],
      "0004_setval": [
        "create sequence s;",
        "select setval('s', 100); drop sequence s;",
      ],
      "0005_copy": [
        "create table copied ();",
        "drop table copied;\ncopy users from stdin;\n1\n\\.\n",
      ],
      "0006_record": [
        "create table t ();",
        `drop table t;
        insert into drizzle.__drizzle_migrations (hash, created_at) values ('by hand', 2000000000006);`,
      ],
    };
    writeMigrations(
      project,
      Object.fromEntries(
        Object.entries(downs).flatMap(([tag, [up, down]]) => [
          [tag, up],
          [`${tag}.down`, down],
        ]),
      ),
    );
    await run("db:migrate");
    await sql.unsafe(`
      insert into p values (1), (1), (2); insert into q values (1);
      insert into typed values ('s', 'v'); insert into emptied values (1); select nextval('numbers')`);
    const found: Record<string, unknown> = {};
    const rollBack = async (tag: string, flags = "") => {
      const { exitCode, stderr } = await run(`db:rollback${flags}`);
      found[tag] = { exitCode, lines: stderr.trim().split("\n").sort() };
      // The next one is what the newest record names.
      await sql`delete from drizzle.__drizzle_migrations
        where created_at = ${2_000_000_000_000 + Number(tag.slice(0, 4))}`;
    };

    await rollBack("0006_record");
    await rollBack("0005_copy");
    await rollBack("0004_setval");
    const sequence = await sql`select last_value from s`;
    await rollBack("0003_parts", " --dry-run");
    await rollBack("0002_rename");
    await rollBack("0001_delete", " --dry-run");
    const held = await sql.begin(async (holder) => {
      await holder`lock table users`;
      const [row] = await holder`select pg_backend_pid() as pid`;
      const outcome = await run("db:rollback --lock-timeout 1000");
      return { ...outcome, pid: row?.pid };
    });

    const file = (tag: string) =>
      `src/infrastructure/database/migrations/${tag}.down.sql`;
    expect(found).toEqual({
      "0006_record": {
        exitCode: 1,
        lines: [
          "Error: undone, but still recorded: 0006_record",
          "Hint: look at drizzle.__drizzle_migrations with `bun run db:shell`",
        ],
      },
      "0005_copy": {
        exitCode: 1,
        lines: expect.arrayContaining([
          `Error: ${file("0005_copy")} has a COPY that reads from or writes to a client`,
          `  at ${file("0005_copy")}:2:1, statement 2`,
        ]),
      },
      "0004_setval": {
        exitCode: 2,
        lines: expect.arrayContaining([
          "Data would be lost: an unknown amount of data (0004_setval cannot be tried first: SETVAL is not undone by a rollback)",
        ]),
      },
      // Partitions, sequences, new types and hidden truncations, each row once.
      "0003_parts": {
        exitCode: 0,
        lines: [
          "Data would be lost: changes the type of typed.s: 1 value",
          "Data would be lost: changes the type of typed.v: 1 value",
          "Data would be lost: drops p1: 2 rows",
          "Data would be lost: drops q: 1 row",
          "Data would be lost: drops the count of numbers, which is at 1",
          "Data would be lost: truncates emptied: 1 row",
        ],
      },
      "0002_rename": { exitCode: 0, lines: [""] },
      "0001_delete": {
        exitCode: 0,
        lines: [
          "Data would be lost: deletes from users: 2 rows",
          "Data would be lost: updates users: 1 row",
        ],
      },
    });
    expect(sequence).toMatchObject([{ last_value: "1" }]);
    expect(held.exitCode).toBe(1);
    expect(held.stderr).toStartWith(
      `Waiting: db:rollback for pid ${held.pid}, postgres.js, `,
    );
    expect(held.stderr.match(/^Waiting: /gm)).toHaveLength(1);
    expect(held.stderr).toEndWith(
      "Hint: nothing is wrong with the file: run `bun run db:rollback` again later\n",
    );
  });

  test("that was interrupted is seen by every command, and finished with a file that is fixed since", async ({
    name,
    sql,
    project,
    run,
  }) => {
    const write = (end: string) =>
      writeMigrations(project, {
        "0000_users": files["0000_users"],
        "0000_users.down": `alter table users drop column name;
          drop index concurrently if exists users_name; ${end}`,
      });
    write("drop table nobody;");
    await run("db:migrate");
    // The trial is let through, and what follows the index is not.
    await sql`create table nobody ()`;
    await sql.unsafe(`create function forbid() returns event_trigger language plpgsql
      as $$ begin if to_regclass('drizzle.__migration_log') is not null and exists (
        select from drizzle.__migration_log where direction = 'down'
      ) then raise 'not yet' using errcode = 'lock_not_available'; end if; end $$;
      create event trigger forbid on sql_drop when tag in ('DROP TABLE') execute function forbid()`);
    const failed = await run("db:rollback --json --lock-timeout 10");
    const [migrate, dryRun, status, server, client, check, seed] = [
      await run("db:migrate"),
      await run("db:migrate --dry-run"),
      await run("db:migrate:status --json"),
      await run("db:status --json"),
      await run("db:test"),
      await run("db:check --json"),
      await run("db:seed rbac"),
    ];
    const baseline = await run("db:baseline");
    await sql`drop event trigger forbid`;
    const role = `${name}_none`;
    await sql.unsafe(`create role ${role}`);
    const end = `do $$ begin raise warning 'half'; raise notice 'gone'; end $$; drop table users; set role ${role};`;
    write(end);

    const shown = await run("db:rollback --dry-run");
    const finished = await run("db:rollback --verbose");
    await sql.unsafe(`drop role ${role}`);

    expect(failed.stderr).toEndWith(
      "Waiting: 0000_users could not get a lock; retry 5 of 5 in 16 ms\n",
    );
    expect(JSON.parse(failed.stdout)).toMatchObject({
      database: name,
      rolledBack: [],
      head: "0000_users",
      error: { code: "MIGRATION_FAILED", tag: "0000_users", statement: 3 },
    });
    expect(shown).toMatchObject({
      exitCode: 0,
      stdout: `-- 0000_users\n${end}\n`,
    });
    const message =
      "the rollback of 0000_users was interrupted after part of it was undone";
    const hint = "finish it with `bun run db:rollback`";
    for (const refused of [migrate, dryRun, baseline])
      expect(refused).toEqual({
        exitCode: 1,
        stdout: "",
        stderr: `Error: ${message}, and nothing was changed\nHint: ${hint}\n`,
      });
    expect(JSON.parse(status.stdout)).toMatchObject({
      migrations: [{ state: "partial" }],
      problems: [{ code: "partial", message: `${message}: ${hint}` }],
    });
    expect(JSON.parse(server.stdout).migrations.problems).toBe(1);
    expect(client).toMatchObject({ exitCode: 3, stderr: `Hint: ${hint}\n` });
    expect(client.stdout).toContain(`Interrupted: ${message}\n`);
    expect(check.exitCode).toBe(3);
    expect(check.stdout).toContain(`"code":"partial"`);
    expect(check.stdout).not.toContain(`"code":"drift"`);
    expect(seed.exitCode).toBe(2);
    expect(seed.stderr).toContain(`${message}\nHint: ${hint}\n`);
    expect(finished).toMatchObject({
      exitCode: 0,
      stderr: "Warning: 0000_users: half\nNotice: 0000_users: gone\n",
    });
    expect(await listRecords(sql)).toHaveLength(0);
  });

  testApplied(
    "undoes nothing while another is applied in part, or where a down file is missing or fails",
    async (database) => {
      const { sql } = database;
      using project = copyProject();
      const run = (command: string) =>
        database.run(command, {}, project.folder);
      writeMigrations(project, {
        ...files,
        "0003_half": "create table half (); commit; select nonsense;",
        "0003_half.down": "drop table half;",
      });
      await run("db:migrate");

      const partial = await run("db:rollback");
      const { "0001_bio.down": _down, ...incomplete } = files;
      writeMigrations(project, incomplete);
      await sql`delete from drizzle.__migration_log where tag = '0003_half'`;
      const missing = await run("db:rollback --steps 2 --json");
      const kept = await listRecords(sql);
      writeMigrations(project, {
        ...files,
        "0001_bio.down":
          "alter table users drop column bio; drop table nobody;",
      });
      await run("db:rollback");
      const failing = await run("db:rollback");
      const left = await listRecords(sql);
      const file = `${migrations}/0001_bio.down.sql`;
      project.write(file, "-- nothing\n");
      const empty = await run("db:rollback --json");
      const latin1 = Buffer.from("select 'München';\n", "latin1");
      writeFileSync(join(project.folder, file), latin1);
      const other = await run("db:rollback");

      expect(partial.exitCode).toBe(1);
      expect(partial.stderr).toStartWith(
        "Error: 0003_half was interrupted after part of it was committed, and nothing was changed\nHint: finish it with `bun run db:migrate`; ",
      );
      expect(missing).toMatchObject({ exitCode: 1, stderr: "" });
      expect(JSON.parse(missing.stdout).error).toEqual({
        code: "FILE_MISSING",
        message: `${file} is missing, and nothing was undone`,
        hint: `write the SQL that undoes 0001_bio into \`${file}\``,
        tag: "0001_bio",
        file,
      });
      expect(kept).toHaveLength(3);
      expect(failing.exitCode).toBe(1);
      expect(failing.stderr).toContain(
        "0001_bio.down.sql:1:36, statement 2 (SQLSTATE 42P01)",
      );
      expect(left).toHaveLength(2);
      expect(JSON.parse(empty.stdout).error).toEqual({
        code: "FILE_MISSING",
        message: `${file} has no statement in it, and nothing was undone`,
        hint: "write the SQL that undoes 0001_bio into it, or `select 1;` if there is nothing to undo",
        tag: "0001_bio",
        file,
      });
      expect(other.stderr).toStartWith(
        `Error: ${file} is not in UTF-8\n  at ${file}:1:10\n`,
      );
      expect(await sql`select bio from users`).toHaveLength(0);
    },
  );

  testApplied(
    "wants the name of a protected database, also where nothing is lost, and forgets a migration that is recorded twice",
    async ({ sql, name, run }) => {
      await stampProduction(sql);
      await sql`
      insert into drizzle.__drizzle_migrations (hash, created_at)
      select hash, created_at from drizzle.__drizzle_migrations
      union all values ('of an earlier text', 2000000000002)
      union all select hash, created_at + 9 from drizzle.__drizzle_migrations
        where created_at = 2000000000002`;

      const refused = await run("db:rollback");
      const undone = await run(`db:rollback --confirm ${name}`);
      const again = await run("db:migrate");

      expect(refused.exitCode).toBe(2);
      expect(refused.stderr).toContain("it is stamped production");
      expect(undone.exitCode).toBe(0);
      expect(undone.stdout).toStartWith("Rolled back: 0002_index ");
      expect(again.stdout).toStartWith("Applied: 0002_index ");
      expect(await listRecords(sql)).toHaveLength(5);
    },
  );
});

describe("db:baseline", () => {
  test(
    "records nothing where the schema is another, says what differs, and records the migrations of their own",
    "migrated",
    async ({ name, sql, run }) => {
      await sql`drop schema drizzle cascade`;
      await sql.unsafe(
        "alter table builds alter number type bigint; create view extra as select 1 as one",
      );

      const differing = await run("db:baseline --to 0000_initial");
      const [table] =
        await sql`select to_regclass('drizzle.__drizzle_migrations') as records`;
      await sql.unsafe(
        "alter table builds alter number type integer; drop view extra",
      );
      const blocked = await run("db:migrate");
      // What was begun and is finished by hand is not gone on with later.
      await sql`
        insert into drizzle.__migration_log (tag, hash, bare_hash, direction, run_by)
        values ('0000_initial', '', '', 'up', '')`;
      const recorded = await run("db:baseline");
      const begun =
        await sql`select from drizzle.__migration_log where ms is null`;
      const migrated = await run("db:migrate");
      const again = await run("db:baseline");

      expect(differing).toMatchObject({
        exitCode: 3,
        stderr:
          "Hint: make the two the same: change the migrations that are in no database yet, or the database in `bun run db:shell`; `--to <tag>` records the first ones only\n",
      });
      expect(differing.stdout).toContain(
        "different: column public.builds.number: ALTER TABLE public.builds ADD COLUMN number bigint NOT NULL, not ALTER TABLE public.builds ADD COLUMN number integer NOT NULL\n",
      );
      expect(differing.stdout).toContain(
        "surplus: CREATE VIEW public.extra AS ",
      );
      expect(differing.stdout).toEndWith(
        `\nNot recorded: the schema of ${name} differs from the migrations\n`,
      );
      expect(table).toEqual({ records: null });
      expect(blocked.exitCode).toBe(1);
      expect(blocked.stderr).toContain("`bun run db:baseline`");
      expect(recorded).toEqual({
        exitCode: 0,
        stdout: ownMigrations.map(({ tag }) => `Recorded: ${tag}\n`).join(""),
        stderr: "",
      });
      expect(begun).toHaveLength(0);
      expect(migrated.stdout).toStartWith("Nothing to migrate: ");
      expect(again.stdout).toStartWith("Nothing to record: ");
      expect(await listRecords(sql)).toHaveLength(ownMigrations.length);
    },
  );
});

testApplied(
  "db:baseline records the first ones, beside those that are recorded",
  async ({ sql, name, run }) => {
    const records = await listRecords(sql);
    await sql`drop index users_bio`;
    await sql`delete from drizzle.__drizzle_migrations where created_at > 2000000000000`;
    await sql`drop table drizzle.__migration_log`;

    const differing = await run("db:baseline --json");
    const first = await run("db:baseline --to 0001_bio --json");

    await sql`create view extra as select 1 as one`;
    const none = await run("db:baseline --to 0001_bio");

    expect(none).toEqual({
      exitCode: 0,
      stdout: `Nothing to record: ${name}\n`,
      stderr: "",
    });
    const difference = {
      object: "index public.users_bio",
      expected: "CREATE INDEX users_bio ON public.users USING btree (bio)",
    };
    expect(JSON.parse(differing.stdout)).toEqual({
      database: name,
      recorded: [],
      differences: [difference],
    });
    expect(first).toMatchObject({ exitCode: 0, stderr: "" });
    expect(JSON.parse(first.stdout)).toEqual({
      database: name,
      recorded: ["0001_bio"],
      differences: [],
    });
    expect([...(await listRecords(sql))]).toEqual(records.slice(0, 2));
    expect(
      await sql`select tag, direction, hash, ms is null as "isUnfinished" from drizzle.__migration_log`,
    ).toMatchObject([
      {
        tag: "0001_bio",
        direction: "baseline",
        hash: records[1]?.hash,
        isUnfinished: false,
      },
    ]);
  },
);

test("an interrupted db:baseline leaves no database behind", async ({
  database,
  sql,
  project,
}) => {
  const mark = `pg_sleep(60), '${database.name}'`;
  writeMigrations(project, { "0000_a": `select ${mark};` });
  const { PATH } = process.env;
  const client = spawn([process.execPath, "scripts/baseline.ts"], {
    cwd: project.folder,
    env: { PATH, DATABASE_URL: database.url, DB_ENGINE: "external" },
    stderr: "pipe",
  });
  const trying = `query = 'select ${mark.replaceAll("'", "''")}' and datname <> current_database()`;
  await until(sql, trying);
  const [scratch] = await sql.unsafe<{ datname: string }[]>(
    `select datname from pg_stat_activity where ${trying}`,
  );
  client.kill("SIGINT");

  expect(await client.exited).toBe(130);
  expect(await new Response(client.stderr).text()).toBe("Error: interrupted\n");
  expect(
    await sql`select from pg_database where datname = ${scratch?.datname ?? ""}`,
  ).toHaveLength(0);
});

test("a role that may only write the records can do without more", async ({
  database,
  sql,
  project,
  run,
}) => {
  await withRoles(database, 1, async (role) => {
    const write = (files: Record<string, string>) =>
      writeMigrations(project, { "0000_a": "create table a ();", ...files });
    write({});
    await run("db:migrate");
    await sql.unsafe(`
      grant usage on schema drizzle to ${role?.name};
      grant create on schema public to ${role?.name};
      grant all on all tables in schema drizzle to ${role?.name};
      grant all on all sequences in schema drizzle to ${role?.name};
      alter role ${role?.name} createdb; create table c ();
      create table drizzle.audit (hash text, created_at bigint)`);

    write({ "0001_b": "-- drizzle\ncreate table b ();" });
    const migrated = await run("db:migrate", role?.variables);
    write({
      "0001_b": "create table b (); select 1;",
      "0002_c": "create table c ();",
    });
    const edited = await run("db:baseline", role?.variables);
    const repaired = await run(
      `db:migrate:repair --confirm ${database.name}`,
      role?.variables,
    );
    const recorded = await run("db:baseline", role?.variables);
    const scratch = await sql`
      select from pg_database
      where datdba = (select oid from pg_roles where rolname = ${role?.name ?? ""})`;

    expect(migrated).toMatchObject({ exitCode: 0, stderr: "" });
    expect(edited.exitCode).toBe(1);
    expect(edited.stderr).toContain(
      "0001_b.sql was edited after it was applied",
    );
    expect(repaired.stdout).toStartWith("Repaired: modified: 0001_b");
    expect(recorded).toMatchObject({ exitCode: 0, stderr: "" });
    expect(scratch).toHaveLength(0);
  });
});

describe("db:migrate:repair", () => {
  testApplied(
    "takes over an edited file and forgets a record, with consent",
    async (database) => {
      const { sql } = database;
      using project = copyProject();
      const run = (command: string) =>
        database.run(command, {}, project.folder);
      const {
        "0002_index": _index,
        "0002_index.down": _down,
        ...fewer
      } = files;
      writeMigrations(project, {
        ...fewer,
        "0001_bio": "alter table users add bio text; select 1;",
      });

      await sql`drop table drizzle.__migration_log`;
      const records = await listRecords(sql);

      const refused = await run("db:migrate:repair");
      const repaired = await run(
        `db:migrate:repair --confirm ${database.name} --json`,
      );
      const status = await run("db:migrate:status");
      const again = await run("db:migrate:repair");

      const [one, two] = await listRecords(sql);
      const short = (record?: { hash?: string }) => record?.hash?.slice(0, 12);
      const edited = {
        before: `hash ${short(records[1])}`,
        after: `hash ${short(two)}`,
      };
      const gone = {
        before: `record 3 of 2000000000002, hash ${short(records[2])}`,
        after: "no record",
      };
      expect(refused).toEqual({
        exitCode: 2,
        stdout: "",
        stderr: `modified: 0001_bio, ${edited.before} -> ${edited.after}\nmissing: no migration, ${gone.before} -> ${gone.after}\nError: db:migrate:repair needs confirmation: the records are about to be changed as above\nHint: to go ahead, add \`--confirm ${database.name}\`\n`,
      });
      expect(JSON.parse(repaired.stdout)).toEqual({
        database: database.name,
        repaired: [
          { code: "modified", tag: "0001_bio", ...edited },
          { code: "missing", tag: null, ...gone },
        ],
      });
      expect(one).toEqual(records[0]);
      expect(short(two)).not.toBe(short(records[1]));
      expect(status).toEqual({
        exitCode: 0,
        stdout: "applied   0000_users\napplied   0001_bio\n",
        stderr: "",
      });
      expect(again.stdout).toStartWith("Nothing to repair: ");
      expect(await listRecords(sql)).toHaveLength(2);
      expect(
        await sql`select tag from drizzle.__migration_log where direction = 'repair'`,
      ).toMatchObject([{ tag: "0001_bio" }]);
    },
  );
});
