// db:reset and its undo: the old database is always kept, and comes back.
import { expect } from "bun:test";
import { carrySettings } from "../../scripts/backups/carry-settings";
import { lockOnceMore } from "../../scripts/lib/lock";
import { stampProduction } from "../../scripts/lib/protection";
import { urlOf } from "../lib/command";
import { openDatabase, type TestDatabase, until } from "../lib/database";
import { migrations, ownHead } from "../lib/migrations";
import { withRoles } from "../lib/roles";
import { test } from "../lib/test";
import { testServer } from "../setup";

/** The databases of a test, by the end of their names. */
async function listDatabases({ sql, name }: TestDatabase): Promise<string[]> {
  const rows = await sql`
    select substr(datname, ${name.length + 1}) as suffix from pg_database
    where starts_with(datname, ${name}) order by 1`;
  return rows.map(({ suffix }) => suffix);
}

/** Reads with a connection of its own, for a reset ends those that are open. */
async function countBuilds({ address }: TestDatabase): Promise<number> {
  const sql = openDatabase(address);
  const [row] = await sql`select count(*)::int as rows from builds`;
  await sql.end();
  return row?.rows;
}

test(
  "puts a fresh database in place, also after an interrupted run, and --undo brings a deleted row back",
  "seeded",
  async (database) => {
    const { run, sql, name, address } = database;
    await sql.unsafe(`
      delete from builds where number = 1;
      create schema extra; create temporary table passing ();
      alter database ${name} set work_mem = '5MB';
      revoke temporary on database ${name} from public`);
    for (const left of ["next", "dropped"])
      await sql.unsafe(`create database ${name}__${left}`);
    // The sessions of an application that keeps reconnecting are ended.
    const application = openDatabase(address);
    let isOver = false;
    const queries = (async () => {
      while (!isOver) await application`select pg_sleep(0.01)`.catch(() => {});
    })();

    const reset = await run("db:reset");
    isOver = true;
    await queries;
    await application.end({ timeout: 0 });
    const fresh = await countBuilds(database);
    const afterReset = await listDatabases(database);
    const undone = await run("db:reset --undo");
    const old = await countBuilds(database);
    const again = await run("db:reset --undo --json");
    const later = openDatabase(address);
    const [options] = await later`
      select current_setting('work_mem') as setting,
        has_database_privilege('pg_monitor', current_database(), 'temporary') as granted`;
    await later.end();

    expect(reset).toEqual({
      exitCode: 0,
      stdout: `Reset: ${name}, at ${ownHead}\nSeeded: dev (users 1, tenants 1, tenant_members 1, builds 3)\nLeft behind: these schemas, which no migration creates, are only in ${name}__previous: extra\nKept: ${name}__previous, which \`bun run db:reset --undo\` brings back\n`,
      stderr: "",
    });
    expect(afterReset).toEqual(["", "__previous"]);
    expect(options).toEqual({ setting: "5MB", granted: false });
    expect({ fresh, old }).toEqual({ fresh: 3, old: 2 });
    expect(undone.stdout).toStartWith(
      `Restored: ${name} from ${name}__previous\n`,
    );
    expect(JSON.parse(again.stdout)).toEqual({
      database: name,
      previous: `${name}__previous`,
      head: ownHead,
    });
    expect(await countBuilds(database)).toBe(3);
  },
);

test(
  "settings, grants, comment, limit and owner of a database are carried over",
  "empty",
  async (database) => {
    const { sql, name } = database;
    const copy = `${name}_copy`;
    await withRoles(database, 2, async ({ name: role }, { name: other }) => {
      await sql.unsafe(`create database ${copy}`);
      await sql.unsafe(`
        alter role ${role} in database ${name} set work_mem = '7MB';
        alter database ${name} set search_path = '';
        alter database ${name} set app.greeting = 'it''s';
        revoke temporary on database ${name} from public;
        grant temporary on database ${name} to ${other} with grant option;
        comment on database ${name} is 'it''s';
        alter database ${name} connection limit 7;
        alter database ${name} owner to ${role}`);
      await carrySettings(sql, name, copy);
      const read = async (database: string) => {
        const [row] = await sql`
          select datconnlimit as limit, pg_get_userbyid(datdba) as owner,
            shobj_description(oid, 'pg_database') as comment,
            array(select unnest(datacl)::text order by 1) as grants,
            array(select setrole || ' ' || setconfig::text from pg_db_role_setting
              where setdatabase = pg_database.oid order by 1) as settings
          from pg_database where datname = ${database}`;
        return row;
      };
      const carried = await read(copy);

      expect(carried).toEqual(await read(name));
      expect(carried).toMatchObject({ limit: 7, owner: role });
      expect(carried?.settings).toHaveLength(2);
    });
  },
);

test(
  "runs three at once one after the other, each drops the older previous one, and makes nothing where that cannot make way",
  "empty",
  async (database) => {
    const { run, name } = database;
    const all = await Promise.all(
      Array.from({ length: 3 }, () => run("db:reset --no-seed")),
    );
    const left = await listDatabases(database);
    const server = openDatabase(testServer);
    await server.unsafe(`alter database ${name}__previous is_template true`);
    const refused = await run("db:reset");
    await server.unsafe(`alter database ${name}__previous is_template false`);
    await server.end();

    expect(all.map(({ exitCode }) => exitCode)).toEqual(Array(3).fill(0));
    const dropped = `Dropped: the older ${name}__previous\n`;
    expect(all.filter(({ stdout }) => stdout.includes(dropped))).toHaveLength(
      2,
    );
    expect(left).toEqual(["", "__previous"]);
    expect(refused.exitCode).toBe(1);
    expect(refused.stderr).toStartWith(
      `Error: ${name}__previous cannot be dropped: it is a template\nHint: `,
    );
    expect(await countBuilds(database)).toBe(0);
  },
);

test(
  "leaves the database as it was when it is refused, or when a migration fails",
  "seeded",
  async (database) => {
    const { run, sql, name, project } = database;
    project.write(
      `${migrations}/${ownHead}.sql`,
      `do $$ begin
        raise 'open to all: %', has_database_privilege('pg_monitor', current_database(), 'connect');
      end $$`,
    );
    const role = `${name}_role`;
    await sql.unsafe(`
      create role ${role} login password 'secret'; alter database ${name} owner to ${role};
      revoke connect on database ${name} from public`);
    const url = urlOf({ ...database.address, user: role, password: "secret" });
    const asRole = { DATABASE_URL: url, DATABASE_URL_UNPOOLED: url };

    const misnamed = await run("db:reset --confirm other");
    const undone = await run("db:reset --undo");
    const powerless = await run("db:reset", asRole);
    await sql.unsafe(
      `alter role ${role} createdb; alter database ${name} owner to current_user`,
    );
    const foreign = await run("db:reset", asRole);
    await sql.unsafe(`drop role ${role}; create schema extra`);
    const long = urlOf({ ...database.address, database: "d".repeat(54) });
    const unnamed = await run("db:reset", {
      DATABASE_URL: long,
      DATABASE_URL_UNPOOLED: long,
    });
    const failed = await run("db:reset");

    expect(misnamed.exitCode).toBe(2);
    expect(misnamed.stderr).toStartWith(
      'Error: "other" is not the name of the database\n',
    );
    expect(undone.exitCode).toBe(1);
    expect(undone.stderr).toStartWith(
      `Error: there is no ${name}__previous to go back to\n`,
    );
    expect(powerless.exitCode).toBe(2);
    expect(powerless.stderr).toBe(
      `Error: the role ${role} may not create databases\nHint: let an administrator run \`ALTER ROLE "${role}" CREATEDB\`\n`,
    );
    expect(foreign.exitCode).toBe(2);
    expect(foreign.stderr).toStartWith(
      `Error: the role ${role} does not own ${name}\nHint: `,
    );
    expect(unnamed.exitCode).toBe(2);
    expect(unnamed.stderr).toStartWith(
      `Error: ${"d".repeat(54)}__previous is longer than PostgreSQL's names\n`,
    );
    expect(failed.exitCode).toBe(1);
    expect(failed.stderr).toContain(`${ownHead} failed`);
    expect(failed.stderr).not.toContain("may be left over");
    expect(failed.stderr).toContain(
      "\nHint: a new database has only what the migrations create, and ",
    );
    expect(failed.stderr).toContain("open to all: f"); // while it is filled
    expect(await listDatabases(database)).toEqual([""]);
    expect(await countBuilds(database)).toBe(3);
  },
);

test(
  "touches nothing of what became production while it waited, or may be production",
  "migrated",
  async (database) => {
    const { run, sql, name } = database;
    const holder = await sql.reserve();
    await holder.unsafe(lockOnceMore);
    const waiting = run("db:reset");
    await until(
      sql,
      `datname = '${name}' and application_name = 'db:reset' and query like '%advisory%'`,
    );
    await stampProduction(sql);
    await holder.unsafe("select pg_advisory_unlock_all()");
    const { exitCode, stderr } = await waiting;
    await holder.unsafe("begin; lock table drizzle.__environment");
    const unknown = await Promise.all([run("db:reset"), run("db:status")]);
    await holder.unsafe("rollback");
    holder.release();

    expect(exitCode).toBe(2);
    expect(stderr).toContain("it is stamped production");
    for (const { exitCode, stdout, stderr } of unknown) {
      expect(exitCode).toBe(1);
      expect(stdout).toBe("");
      expect(stderr).toStartWith(
        "Error: cannot tell whether this is production: ",
      );
    }
    expect(await listDatabases(database)).toEqual([""]);
  },
);

test(
  "wants the name and --no-seed of a stamped database, stamps its successor, and drops none that was production unless it is told to",
  "migrated",
  async (database) => {
    const { run, name, sql } = database;
    await stampProduction(sql);
    await sql`create table precious ()`;
    const liftStamp = async (database: string) => {
      const other = openDatabase({ ...testServer, database });
      await other`drop table drizzle.__environment`;
      await other.end();
    };

    const bare = await run("db:reset");
    const wrong = await run("db:reset --no-seed --confirm other");
    const kept = await listDatabases(database);
    const done = await run(`db:reset --no-seed --confirm ${name}`);
    const status = JSON.parse((await run("db:status --json")).stdout);
    const older = await run(`db:reset --no-seed --confirm ${name}`);
    const undo = await run("db:reset --undo");
    await liftStamp(`${name}__previous`);
    const undone = await run(`db:reset --undo --confirm ${name}`);
    const statusUndone = JSON.parse((await run("db:status --json")).stdout);
    await liftStamp(name);
    const refused = await run("db:reset");
    const dropped = await run("db:reset --drop-previous --no-seed");

    expect(bare).toEqual({
      exitCode: 2,
      stdout: "",
      stderr: `Error: ${name} is protected: it is stamped production\nHint: to go ahead, add \`--no-seed --confirm ${name}\`\n`,
    });
    expect(wrong.exitCode).toBe(2);
    expect(kept).toEqual([""]);
    expect(done.exitCode).toBe(0);
    expect(status.environment).toBe("production");
    expect(older.exitCode).toBe(2);
    expect(older.stderr).toContain(`\nWould be dropped: ${name}__previous\n`);
    expect(older.stderr).toContain("`--drop-previous`");
    expect(undo.exitCode).toBe(2);
    expect(undone.exitCode).toBe(0);
    expect(statusUndone.environment).toBe("production");
    expect(refused).toMatchObject({
      exitCode: 2,
      stderr: `Error: ${name}__previous would be dropped, and is stamped production\nHint: to go ahead, add \`--drop-previous\`\n`,
    });
    expect(dropped.exitCode).toBe(0);
  },
);

test(
  "says who was in the way, and what could not be carried over, and leaves no copy behind",
  "empty",
  async (database) => {
    const { run, name, sql } = database;
    await withRoles(database, 2, async ({ name: role, variables }, other) => {
      await sql.unsafe(
        `alter role ${role} createdb; alter role ${other.name} in database ${name} set app.secret = 'hush';
        alter database ${name} owner to ${role}; alter database ${name} is_template true`,
      );
      const { exitCode, stderr } = await run("db:reset", variables);
      await sql.unsafe(`alter database ${name} is_template false`);

      expect(exitCode).toBe(1);
      expect(stderr).toStartWith(
        `Warning: not carried over: the flag IS_TEMPLATE\nWarning: not carried over: alter role "${other.name}" in database "${name}" set "app"."secret" to …: permission denied`,
      );
      expect(stderr).not.toContain("hush");
      expect(stderr).toContain(
        `\nError: ${name} was not swapped, and is unchanged: `,
      );
      expect(stderr).toMatch(/^ {2}pid \d+, /m);
      expect(await listDatabases(database)).toEqual([""]);
    });
  },
);

test(
  "leaves no copy behind after Ctrl-C on a terminal",
  "empty",
  async (database) => {
    const { sql, name, attend, project } = database;
    project.write(`${migrations}/${ownHead}.sql`, "select pg_sleep(60);");
    await using terminal = attend("db:reset");

    await until(sql, `datname = '${name}__next' and query like '%pg_sleep%'`);
    terminal.types("\x03");
    const { exitCode, screen } = await terminal.ends();

    expect(screen).toContain("Error: interrupted");
    expect(exitCode).toBe(130);
    expect(await listDatabases(database)).toEqual([""]);
  },
);

test(
  "a signal waits for the swap, which is told as it ended",
  "empty",
  async ({ name, start }) => {
    const server = openDatabase(testServer);
    const holder = await server.reserve();
    await holder.unsafe(`begin; comment on database ${name} is 'held'`);
    const child = start("scripts/reset-db.ts --no-seed");
    await until(
      server,
      `application_name = 'db:swap' and query like 'alter database "${name}"%' and wait_event_type = 'Lock'`,
    );
    child.kill("SIGINT");
    await holder.unsafe("rollback");
    holder.release();
    await server.end();

    expect(await new Response(child.stdout).text()).toStartWith(
      `Reset: ${name}, `,
    );
    expect(await child.exited).toBe(0);
  },
);

test(
  "is done once it has said so, whatever signal comes then",
  "empty",
  async ({ start }) => {
    const child = start("scripts/reset-db.ts --no-seed --json");
    let stdout = "";
    for await (const bytes of child.stdout) {
      stdout += new TextDecoder().decode(bytes);
      child.kill("SIGINT");
    }

    expect(JSON.parse(stdout)).toMatchObject({ head: ownHead });
    expect(await new Response(child.stderr).text()).toBe("");
    expect(await child.exited).toBe(0);
  },
);
