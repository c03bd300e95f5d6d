// db:migrate and db:migrate:status, beside drizzle's own migrators.
import { describe, expect } from "bun:test";
import { closeSync, existsSync, openSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { spawn } from "bun";
import { drizzle } from "drizzle-orm/postgres-js";
import { migrate } from "drizzle-orm/postgres-js/migrator";
import { openConnection } from "../../scripts/lib/connection";
import {
  isProtected,
  isStamped,
  readProtection,
  stampProduction,
} from "../../scripts/lib/protection";
import { readEnv } from "../../src/env";
import { until } from "../lib/database";
import {
  listRecords,
  migrations,
  ownHead,
  ownMigrations,
  writeMigrations,
} from "../lib/migrations";
import { fixture } from "../lib/project";
import { test } from "../lib/test";

const migrationsFolder = join(fixture, migrations);

describe("db:migrate", () => {
  test("--dry-run prints the SQL and creates nothing; applies what is pending, and the next run finds nothing to do", async ({
    database,
    sql,
    run,
  }) => {
    const shown = await run("db:migrate --dry-run");
    const [row] = await sql`select to_regnamespace('drizzle') as drizzle`;
    const first = await run("db:migrate");
    const second = await run("db:migrate");
    const current = await run("db:migrate --dry-run");
    const status = await run("db:migrate:status");

    expect(current).toEqual({
      exitCode: 0,
      stdout: `Nothing to migrate: ${database.name}\n`,
      stderr: "",
    });
    expect(shown.exitCode).toBe(0);
    expect(shown.stdout).toContain(`-- ${ownHead}\n`);
    expect(row).toEqual({ drizzle: null });
    expect(first.stdout.replace(/\d+ ms/g, "…")).toBe(
      ownMigrations.map(({ tag }) => `Applied: ${tag} (…)\n`).join(""),
    );
    expect(second).toEqual({
      exitCode: 0,
      stdout: `Nothing to migrate: ${database.name} is at ${ownHead}\n`,
      stderr: "",
    });
    expect(status).toEqual({
      exitCode: 0,
      stdout: ownMigrations.map(({ tag }) => `applied   ${tag}\n`).join(""),
      stderr: "",
    });
  });

  test(
    "leaves nothing to do for drizzle-kit and drizzle-orm, nor they for it",
    "migrated",
    async ({ database, sql, project, run }) => {
      const records = await listRecords(sql);
      await migrate(drizzle({ client: sql }), { migrationsFolder });
      const kit = Bun.spawn(
        [process.execPath, "node_modules/drizzle-kit/bin.cjs", "migrate"],
        {
          cwd: project.folder,
          env: {
            ...process.env,
            DATABASE_URL: database.url,
            DATABASE_URL_UNPOOLED: database.url,
          },
          stdout: "pipe",
          stderr: "pipe",
        },
      );

      expect(await kit.exited).toBe(0);
      expect(await listRecords(sql)).toEqual(records);

      await sql`drop schema drizzle, public cascade`;
      await sql`create schema public`;
      await migrate(drizzle({ client: sql }), { migrationsFolder });
      const { stdout } = await run("db:migrate");

      expect(stdout).toStartWith("Nothing to migrate: ");
      expect(await listRecords(sql)).toEqual(records);
    },
  );

  test("without any says so, as the others do", async ({
    name,
    project,
    run,
  }) => {
    writeMigrations(project, {});

    const found = [
      await run("db:migrate"),
      await run("db:migrate:status"),
      await run("db:rollback"),
      await run("db:baseline"),
      await run("db:migrate:repair"),
    ];

    expect(found).toEqual(
      [
        `Nothing to migrate: ${name} has no migrations\n`,
        "No migrations\n",
        `Nothing to roll back: ${name} has no migrations\n`,
        `Nothing to record: ${name}\n`,
        `Nothing to repair: ${name}\n`,
      ].map((stdout) => ({ exitCode: 0, stdout, stderr: "" })),
    );
  });

  test("applies one that is older than the newest applied, and tells of the order, repeated stamps, and when each was applied", async ({
    name,
    sql,
    project,
    run,
  }) => {
    await sql.unsafe(`alter database ${name} set timezone = 'Asia/Kolkata'`);
    const stamps = [2_000_000_000_000, 2_000_000_000_001, 1, 1, 1];
    const write = (files: Record<string, string>) =>
      writeMigrations(project, files, (index) => stamps[index] ?? 0);
    const two = {
      "0001_a": "create table a ();",
      "0002_b": "create table b ();",
    };
    write(two);
    await run("db:migrate");
    await sql`drop table a`;
    await sql`delete from drizzle.__drizzle_migrations where created_at = 2000000000000`;
    const more = { "0003_late": "select 1;", "0004_same": "select 2;" };
    write({ ...two, ...more, "0005_twin": "select 2;" });

    const before = await run("db:migrate:status");
    const pending = await run("db:migrate:status --json");
    const migrated = await run("db:migrate --json");
    const after = await run("db:migrate:status");
    // A later failure does not hide when it was applied; after a rollback it was by
    // another tool, at a time that is not known.
    await sql`
      insert into drizzle.__migration_log
        (tag, hash, bare_hash, direction, run_by, ms, error)
      values ('0001_a', '', '', 'down', '', 1, 'failed'), ('0002_b', '', '', 'down', '', 1, null)`;
    await sql`delete from drizzle.__migration_log where tag = '0003_late'`;
    const { stdout } = await run("db:migrate:status --json");
    const [newest] = await sql`
      select started_at, ms from drizzle.__migration_log
      where tag = '0001_a' and error is null order by id desc`;

    const same =
      "Warning: 0004_same has the same when as 0003_late: 1\nWarning: 0005_twin has the same when as 0003_late: 1\n";
    const order = "0001_a is older than 0002_b, which is applied";
    expect(before).toEqual({
      exitCode: 3,
      stdout: `pending   0001_a  (out of order)\napplied   0002_b\npending   0003_late\npending   0004_same\npending   0005_twin\nProblem: ${order}\n`,
      stderr: same,
    });
    const none = { appliedAt: null, ms: null };
    expect(JSON.parse(pending.stdout)).toMatchObject({
      database: name,
      head: "0002_b",
      migrations: [
        { tag: "0001_a", state: "pending", outOfOrder: true, ...none },
        { tag: "0002_b", state: "applied", outOfOrder: false },
        { tag: "0003_late", when: 1, state: "pending", ...none },
        { tag: "0004_same" },
        { tag: "0005_twin" },
      ],
      problems: [{ code: "out_of_order", tag: "0001_a", message: order }],
    });
    expect(migrated.exitCode).toBe(0);
    expect(JSON.parse(migrated.stdout).applied).toMatchObject([
      { tag: "0001_a" },
      { tag: "0003_late" },
      { tag: "0004_same" },
      { tag: "0005_twin" },
    ]);
    expect(JSON.parse(migrated.stdout).warnings).toHaveLength(3);
    expect(JSON.parse(migrated.stdout).pending).toEqual([]);
    expect(migrated.stderr).toBe(`${same}Warning: ${order}\n`);
    expect(after).toEqual({
      exitCode: 0,
      stdout:
        "applied   0001_a\napplied   0002_b\napplied   0003_late\napplied   0004_same\napplied   0005_twin\n",
      stderr: same,
    });
    expect(JSON.parse(stdout).migrations).toMatchObject([
      {
        state: "applied",
        appliedAt: newest?.started_at.toISOString(),
        ms: newest?.ms,
      },
      { state: "applied", ...none },
      { tag: "0003_late", state: "applied", ...none },
      { tag: "0004_same" },
      { tag: "0005_twin" },
    ]);
  });

  test("rolls a failed migration back, and tells its place in the file", async ({
    database,
    sql,
    project,
    run,
  }) => {
    writeMigrations(project, {
      "0001_good": "create table good (id int);",
      "0002_bad":
        "create table half (id int);\n--> statement-breakpoint\n\nalter table good\n  add column x nonsense;",
      "0003_later": "create table later (id int);",
    });

    const { exitCode, stdout, stderr } = await run("db:migrate");
    const [half] = await sql`select to_regclass('half') as half`;
    const json = JSON.parse((await run("db:migrate --json")).stdout);

    expect(exitCode).toBe(1);
    expect(stdout).toMatch(/^Applied: 0001_good .*\n$/);
    expect(stderr).toStartWith(
      'Error: 0002_bad failed: type "nonsense" does not exist\n',
    );
    expect(stderr).toContain("0002_bad.sql:5:16, statement 2 (SQLSTATE 42704)");
    expect(stderr).toContain("It was rolled back; nothing of it is committed.");
    expect(half).toEqual({ half: null });
    expect(json).toMatchObject({
      database: database.name,
      applied: [],
      pending: ["0002_bad", "0003_later"],
      warnings: [],
      error: {
        code: "MIGRATION_FAILED",
        tag: "0002_bad",
        statement: 2,
        line: 5,
        column: 16,
        sqlstate: "42704",
      },
    });
  });

  test("--to stops after a migration, and refuses one that is not there; names the holder of the lock, and gives up after --wait with 75", async ({
    database,
    sql,
    project,
    run,
  }) => {
    writeMigrations(project, {
      "0001_a": "create table a ();\n\n",
      "0002_b": "create table b ();",
    });

    const shown = await run("db:migrate --dry-run --to 0001_a");
    const first = await run("db:migrate --to 0001_a");
    const wrong = await run("db:migrate --to 0009_z");
    const left = await run("db:migrate --dry-run --json");
    const { exitCode, stdout } = await run("db:migrate:status --json");
    const status = JSON.parse(stdout);
    // The lock of another database is none of this one.
    const beside = { ...database.address, database: "postgres" };
    await using other = await openConnection(beside, "tests");
    await other`select pg_advisory_lock(28273295023041637)`;
    const free = await run("db:status");
    const holder = await sql.reserve();
    const [row] = await holder`
      select pg_backend_pid() as pid, pg_advisory_lock(28273295023041637)`;
    const current = await run("db:migrate --to 0001_a --wait 0");
    const busy = await run("db:migrate --wait 4 --json");
    const server = await run("db:status");
    await holder`select pg_advisory_unlock_all()`;
    holder.release();

    expect(first.stdout).toMatch(/^Applied: 0001_a .*\n$/);
    expect(shown).toEqual({
      exitCode: 0,
      stdout: "-- 0001_a\ncreate table a ();\n",
      stderr: "",
    });
    expect(wrong).toEqual({
      exitCode: 2,
      stdout: "",
      stderr:
        "Error: there is no migration 0009_z\nHint: `bun run db:migrate:status` lists them\n",
    });
    expect(JSON.parse(left.stdout)).toEqual({
      database: database.name,
      applied: [],
      pending: ["0002_b"],
      warnings: [],
    });
    expect(exitCode).toBe(3);
    expect(status).toMatchObject({
      head: "0001_a",
      migrations: [{ state: "applied" }, { tag: "0002_b", state: "pending" }],
    });
    expect(free.stdout).toContain("\nLock         free\n");
    expect(server.stdout).toContain(`\nLock         pid ${row?.pid}, `);
    expect(current).toEqual({
      exitCode: 0,
      stdout: `Nothing to migrate: ${database.name} is at 0001_a\n`,
      stderr: "",
    });
    expect(busy.exitCode).toBe(75);
    expect(busy.stderr).toMatch(
      /^Waiting: another command \(pid \d+, .*\) holds the migration lock\n$/,
    );
    expect(JSON.parse(busy.stdout).error).toMatchObject({
      code: "BUSY",
      holder: { pid: row?.pid },
    });
  });

  test("refuses to go on when an applied file was edited, unless in comments only, and warns when it is gone", async ({
    name,
    sql,
    project,
    run,
  }) => {
    writeMigrations(project, { "0001_a": "create table a ();\n" });
    await run("db:migrate");

    writeMigrations(project, { "0001_a": "create  table a (); -- why\n" });
    const blanks = await run("db:migrate");
    const spaced = await run("db:migrate:status");
    writeMigrations(project, { "0001_a": "create table other ();\n" });
    const edited = await run("db:migrate");
    const shown = await run("db:migrate --dry-run");
    const status = await run("db:migrate:status --json");
    writeMigrations(project, {
      "0001_a": "create table other ();\n",
      "0002_b": "create table b ();",
    });
    const pending = await run("db:migrate");
    writeMigrations(project, {});
    const gone = await run("db:migrate");
    const statusGone = await run("db:migrate:status");
    const jsonGone = await run("db:migrate:status --json");

    expect(blanks.exitCode).toBe(0);
    expect(blanks.stderr).toContain("in comments or blanks only");
    expect(spaced).toEqual({
      exitCode: 0,
      stdout: "applied   0001_a\n",
      stderr: blanks.stderr,
    });
    expect(edited.exitCode).toBe(1);
    expect(edited.stderr).toContain(
      "0001_a.sql was edited after it was applied\nHint: ",
    );
    expect(status.exitCode).toBe(3);
    const message = `${migrations}/0001_a.sql was edited after it was applied`;
    expect(JSON.parse(status.stdout)).toMatchObject({
      migrations: [{ tag: "0001_a", state: "modified" }],
      problems: [{ code: "modified", tag: "0001_a", message }],
    });
    expect([shown, pending]).toEqual([edited, edited]);
    const missing =
      "the database has a migration (record 1) that this checkout does not have";
    expect(gone).toEqual({
      exitCode: 0,
      stdout: `Nothing to migrate: ${name} has no migrations\n`,
      stderr: `Warning: ${missing}\n`,
    });
    expect(statusGone).toEqual({
      exitCode: 3,
      stdout: `missing   record of 2000000000000\nProblem: ${missing}\n`,
      stderr: "",
    });
    expect(JSON.parse(jsonGone.stdout)).toEqual({
      database: name,
      head: null,
      migrations: [
        {
          ...{ tag: null, when: 2000000000000, state: "missing" },
          ...{ outOfOrder: false, appliedAt: null, ms: null },
        },
      ],
      problems: [{ code: "missing", message: missing }],
    });
    const [table] = await sql`select to_regclass('b') as b`;
    expect(table?.b).toBeNull();
  });

  test("refuses a broken journal, a missing file and one that is not in UTF-8 before it applies any", async ({
    sql,
    project,
    run,
  }) => {
    project.write(`${migrations}/meta/_journal.json`, "{");
    const broken = await run("db:migrate");
    const tested = await run("db:test --json");
    const status = await run("db:status");
    const counts = JSON.parse((await run("db:status --json")).stdout);
    writeMigrations(project, { "0001_a": "select 1;", "0001_b": "select 1;" });
    await Bun.file(`${project.folder}/${migrations}/0001_b.sql`).delete();
    const missing = await run("db:migrate");
    writeMigrations(project, {
      "0000_a": "create table a (name text);",
      "0001_b": "-- \uFFFD is no fault\nselect 1;",
      "0002_c": "",
    });
    const file = `${migrations}/0002_c.sql`;
    const text = "select 1;\ninsert into a values ('München');\n";
    writeFileSync(join(project.folder, file), Buffer.from(text, "latin1"));
    const latin = await run("db:migrate");
    const shown = await run("db:migrate --dry-run");
    writeFileSync(join(project.folder, file), Buffer.from(text, "utf16le"));
    const wide = await run("db:migrate");

    expect(broken.exitCode).toBe(1);
    expect(broken.stderr).toContain("_journal.json cannot be read");
    expect(tested.exitCode).toBe(1);
    expect(JSON.parse(tested.stdout)).toMatchObject({
      connected: true,
      pending: null,
      error: { code: "JOURNAL_INVALID" },
    });
    expect(status.stdout).toContain(
      "\nMigrations   unknown: the files cannot be read\n",
    );
    expect(counts.migrations).toEqual({
      head: null,
      applied: null,
      pending: null,
      problems: 1,
    });
    expect(missing.exitCode).toBe(1);
    expect(missing.stdout).toBe("");
    expect(missing.stderr).toContain(
      "0001_b.sql is missing, and the journal names it",
    );
    expect(latin).toEqual({
      exitCode: 1,
      stdout: "",
      stderr: `Error: ${file} is not in UTF-8\n  at ${file}:2:25\nHint: save it in UTF-8; \`iconv -f latin1 -t utf-8 ${file}\` prints it in UTF-8\n`,
    });
    expect(shown).toEqual(latin);
    expect(wide).toEqual({
      exitCode: 1,
      stdout: "",
      stderr: `Error: ${file} contains a NUL character\n  at ${file}:1:2\nHint: save it in UTF-8; \`iconv -f utf-16 -t utf-8 ${file}\` prints it in UTF-8\n`,
    });
    expect(await sql`select to_regclass('a') as a`).toMatchObject([
      { a: null },
    ]);
  });

  test("says when it is interrupted in what state the migration is that was running", async ({
    sql,
    name,
    project,
    start,
  }) => {
    const sleep = "select pg_sleep(60)";
    const interrupt = async (text: string, down?: string) => {
      const files = { "0000_a": "select 1;", "0001_b": text };
      writeMigrations(
        project,
        down ? { ...files, "0000_a.down": down } : files,
      );
      const script = down ? "scripts/rollback.ts" : "scripts/migrate.ts";
      const child = start(script, {}, project.folder);
      const running = `query = '${sleep}' and datname = '${name}'`;
      await until(sql, running);
      child.kill("SIGINT");
      expect(await child.exited).toBe(130);
      const left = await sql.unsafe(
        `select from pg_stat_activity where ${running}`,
      );
      expect(left).toHaveLength(0);
      return await new Response(child.stderr).text();
    };
    const whole = await interrupt(`create table b (); ${sleep}`);
    const undone = await interrupt("", `-- resumable\n${sleep}`);
    await sql`delete from drizzle.__migration_log where ms is null`;
    const half = await interrupt(
      `-- no-transaction\ncreate table b (); ${sleep}`,
    );

    const says = (state: string) =>
      `Error: interrupted\nHint: \`bun run db:migrate:status\` shows what is applied\nLeft: ${state}\n`;
    expect(whole).toBe(says("0001_b is pending"));
    expect(undone).toBe(says("0000_a is partial"));
    expect(half).toBe(says("0001_b is partial"));
  });

  // Linux has a device for it.
  if (existsSync("/dev/full"))
    test("ends where nothing can be written, and says so where it can", async ({
      database,
      project,
    }) => {
      writeMigrations(project, { "0000_a": "create table a ();" });
      const { PATH } = process.env;
      const full = openSync("/dev/full", "w");
      const child = spawn([process.execPath, "scripts/migrate.ts", "--json"], {
        cwd: project.folder,
        env: { PATH, DATABASE_URL: database.url, DB_ENGINE: "external" },
        stdout: full,
        stderr: "pipe",
        timeout: 40_000,
        killSignal: "SIGKILL",
      });
      const stderr = await new Response(child.stderr).text();

      expect(await child.exited).toBe(1);
      expect(stderr).toBe(
        "Error: the output cannot be written: ENOSPC: no space left on device, write\n",
      );
      closeSync(full);
    });

  test("refuses an unknown flag and a number that is none", async ({ run }) => {
    const unknown = await run("db:migrate --force");
    const wrong = await run("db:migrate --wait soon");
    const negative = await run("db:migrate --wait -1");
    const large = await run("db:migrate --lock-timeout 99999999999");
    const help = await run("db:migrate -h");

    expect(unknown).toEqual({
      exitCode: 2,
      stdout: "",
      stderr:
        "Error: unknown option '--force'\nHint: `bun run db:migrate --help` lists the flags\n",
    });
    expect(wrong.exitCode).toBe(2);
    expect(negative.stderr).toBe(
      "Error: option '--wait' argument is ambiguous\nHint: `bun run db:migrate --help` lists the flags\n",
    );
    expect(large).toEqual({
      exitCode: 2,
      stdout: "",
      stderr:
        'Error: --lock-timeout takes a whole number of at most 2147483647, not "99999999999"\n',
    });
    expect(help.exitCode).toBe(0);
    expect(help.stdout).toMatch(
      /\n  --wait <seconds> +how long to wait for another command \(60\)\n/,
    );
  });

  test("stamps the database as production with NODE_ENV=production", async ({
    database,
    sql,
    run,
  }) => {
    const production = { NODE_ENV: "production" };
    const { stdout } = await run("db:migrate", production);
    await sql`delete from drizzle.__environment`;
    const current = await run("db:migrate", production);

    const status = JSON.parse((await run("db:status --json")).stdout);
    const seed = await run("db:seed");
    const push = await run(`db:push --confirm ${database.name}`);
    // The stamp of another cluster's database, and of another one here.
    const copies: boolean[] = [];
    for (const column of ["system_identifier", "database_oid"]) {
      await sql.unsafe(`update drizzle.__environment set ${column} = 1`);
      copies.push(await isStamped(sql));
      await sql`drop schema drizzle cascade`;
      await stampProduction(sql);
    }

    const address = { ...database.address, host: "db.example.com" };
    const remote = await readProtection(sql, readEnv(), address);

    expect(stdout).toEndWith(`Stamped: ${database.name} as production\n`);
    expect(current.stdout).toStartWith(
      `Stamped: ${database.name} as production\nNothing to migrate: `,
    );
    expect(isProtected({ ...remote, isStamped: false })).toBe(true);
    expect(copies).toEqual([false, false]);
    expect(await isStamped(sql)).toBe(true);
    expect(status.environment).toBe("production");
    expect(seed.exitCode).toBe(2);
    expect(seed.stderr).toContain("it is stamped production");
    expect(push.exitCode).toBe(2);
  });
});
