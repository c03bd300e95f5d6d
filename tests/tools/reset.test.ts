// db:reset and its undo: the old database is always kept, and comes back.
import { expect } from "bun:test";
import { carrySettings } from "../../scripts/backups/carry-settings";
import { clearNext, makeNext } from "../../scripts/backups/successor";
import { swapBack, swapIn, withSwapLock } from "../../scripts/backups/swap";
import { lockOnceMore } from "../../scripts/lib/lock";
import { stampProduction } from "../../scripts/lib/protection";
import { urlOf } from "../lib/command";
import { openDatabase, type TestDatabase, until } from "../lib/database";
import { migrations, ownHead, writeMigrations } from "../lib/migrations";
import { observe } from "../lib/observe";
import { withRoles } from "../lib/roles";
import { proxyTo } from "../lib/severing-proxy";
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
      create schema extra; create schema another; create temporary table passing ();
      create publication told; grant select on builds to pg_monitor;
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
    const server = openDatabase(testServer);
    await server.unsafe(`create database ${name}__next`);
    await server.end();
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
      stdout: `Reset: ${name}, at ${ownHead}\nSeeded: dev (users 1, tenants 1, tenant_members 1, builds 3)\nLeft behind: these schemas, which no migration creates, are only in ${name}__previous: another, extra\nLeft behind: only in ${name}__previous: the grants to pg_monitor, the publication told\nKept: ${name}__previous, which \`bun run db:reset --undo\` brings back\n`,
      stderr: "",
    });
    expect(afterReset).toEqual(["", "__previous"]);
    expect(options).toEqual({ setting: "5MB", granted: false });
    expect({ fresh, old }).toEqual({ fresh: 3, old: 2 });
    expect(undone).toEqual({
      exitCode: 0,
      stdout: `Restored: ${name} from ${name}__previous\nKept: ${name}__previous, the database until now; \`--undo\` once more swaps back\n`,
      stderr: "",
    });
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
    const copy = `${name} Copy`;
    await withRoles(database, 2, async ({ name: role }, { name: plain }) => {
      const other = `${plain} Odd`;
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
      await sql.unsafe(`create database "${copy}"`);
      const fresh = await read(copy);
      await carrySettings(sql, name, copy);
      const untouched = await read(copy);
      await sql.unsafe(`
        alter role ${plain} rename to "${other}";
        alter role ${role} in database ${name} set work_mem = '7MB';
        alter role "${other}" in database ${name} set session_preload_libraries = 'a', 'b c';
        alter role "${other}" in database ${name} set local_preload_libraries = 'a', 'b "c';
        alter role "${other}" in database ${name} set temp_tablespaces = 'a', 'b, c';
        alter database ${name} set search_path = '';
        alter database ${name} set app.greeting = 'it''s = this';
        revoke temporary on database ${name} from public;
        grant temporary on database ${name} to "${other}" with grant option;
        comment on database ${name} is 'it''s';
        alter database ${name} connection limit 7;
        alter database ${name} owner to ${role}`);
      await carrySettings(sql, name, copy);
      const [carried, original] = [await read(copy), await read(name)];
      await sql.unsafe(`alter role "${other}" rename to ${plain}`);

      expect(untouched).toEqual(fresh);
      expect(carried).toEqual(original);
      expect(carried).toMatchObject({ limit: 7, owner: role, comment: "it's" });
      expect(carried?.grants).toHaveLength(3);
      expect(carried?.settings).toHaveLength(3);
    });
  },
);

test(
  "runs three at once one after the other, and each drops the older previous one",
  "empty",
  async (database) => {
    const { run, sql, name } = database;
    await sql.unsafe(`alter database ${name} set lock_timeout = 1`);
    const all = await Promise.all(
      Array.from({ length: 3 }, () => run("db:reset --no-seed")),
    );
    const left = await listDatabases(database);

    const done = `Reset: ${name}, at ${ownHead}\nKept: ${name}__previous, which \`bun run db:reset --undo\` brings back\n`;
    const dropped = `Dropped: the older ${name}__previous\n${done}`;
    expect(all.map(({ exitCode }) => exitCode)).toEqual(Array(3).fill(0));
    expect(all.map(({ stdout }) => stdout).sort()).toEqual([
      dropped,
      dropped,
      done,
    ]);
    expect(left).toEqual(["", "__previous"]);
    expect(await countBuilds(database)).toBe(0);
  },
);

test(
  "makes nothing where an older copy cannot make way, and says why",
  "empty",
  async (database) => {
    const name = `${database.name} Odd`;
    const address = { ...database.address, database: name };
    const previous = `${name}__previous`;
    const server = openDatabase(testServer);
    const make = () =>
      observe(() => makeNext(server, address, () => Promise.resolve()));
    await server.unsafe(`create database "${name}"`);
    await server.unsafe(`create database "${previous}"`);
    await server.unsafe(`create database "${name}__dropped" is_template true`);

    await server.unsafe(`alter database "${previous}" is_template true`);
    const template = await make();
    await server.unsafe(`alter database "${previous}" is_template false`);
    /** Makes it while one of the databases has a subscription. */
    const makeSubscribed = async (subscriber: string) => {
      const sql = openDatabase({ ...address, database: subscriber });
      await sql.unsafe(`
        create subscription ${database.name} connection '' publication p with (connect = false)`);
      const made = await make();
      await sql.unsafe(`
        alter subscription ${database.name} set (slot_name = none); drop subscription ${database.name}`);
      await sql.end();
      return made;
    };
    const subscribed = await makeSubscribed(previous);
    const leftover = await makeSubscribed(name);
    await server.unsafe(`alter database "${name}__dropped" is_template false`);
    const whole = await make();
    const left = await listDatabases(database);
    const [open] = await server`
      select has_database_privilege('pg_monitor', ${`${name}__next`}, 'connect') as open`;
    const swapped = await observe(() => swapIn(server, address));
    await swapBack(server, address);
    await server.unsafe(`drop database "${previous}"`);
    await server.end();

    const hint = `remove that, or keep the database under another name: \`ALTER DATABASE "${previous}" RENAME TO …\``;
    expect(template).toMatchObject({
      message: `${previous} cannot be dropped: it is a template`,
      hint,
    });
    expect(subscribed).toMatchObject({
      message: `${previous} cannot be dropped: it has a subscription`,
      hint,
    });
    expect(leftover).toMatchObject({
      message: `${name}__dropped, which is left over, cannot be dropped: cannot drop a template database`,
      hint: `drop it with \`DROP DATABASE "${name}__dropped"\``,
    });
    expect(whole).toEqual({ done: undefined, notes: "" });
    expect(left).toEqual(["", " Odd", " Odd__next", " Odd__previous"]);
    expect(swapped).toEqual({ done: true, notes: "" });
    expect(await listDatabases(database)).toEqual(["", " Odd"]);
    expect(open).toEqual({ open: true });
  },
);

test(
  "drops the new database after an error; where it cannot, frees its space on a full disk",
  "empty",
  async (database) => {
    const { name, address } = database;
    const next = { ...address, database: `${name}__next` };
    const server = openDatabase(testServer);
    await server.unsafe(`create database ${next.database} is_template true`);
    const made = openDatabase(next);
    await made.unsafe(`
      create schema "Other"; create table "Other"."T" as select 1 as x;
      create table parts (n int) partition by list (n);
      create table part partition of parts for values in (1);
      create view seen as select x from "Other"."T";
      create materialized view one as select 1 as x;
      create materialized view two as select x from "Other"."T"`);
    const list = async () => {
      const rows = await made`
        select relname as name from pg_class
        where relnamespace in ('public'::regnamespace, '"Other"'::regnamespace)
          and relkind in ('r', 'm')`;
      return rows.length;
    };
    const clear = async (message: string, ...lines: string[]) => {
      const error = Object.assign(new Error(message), { lines });
      const cleared = await clearNext(server, address, error, "state");
      return [cleared === error, ...(cleared as typeof error).lines];
    };

    const start = performance.now();
    const kept = [await clear("other", "line"), await list()];
    const ms = performance.now() - start;
    const full = [await clear("could not extend: No space left"), await list()];
    await made.unsafe("create table again ()");
    const hinted = [
      await clear("psql failed", "HINT: Check free disk space."),
      await list(),
    ];
    await made.end();
    await server.unsafe(`alter database ${next.database} is_template false`);
    const dropped = await clear("other");
    await server.unsafe(`create database ${next.database}`);
    await server.end();
    const reconnected = await clear("other");

    expect(ms).toBeLessThan(25_000); // it waits only for a server that recovers
    const left = `${next.database} may be left over: the next run drops it`;
    expect(kept).toEqual([[true, "line", left, "state"], 4]);
    expect(full).toEqual([[true, left, "state"], 0]);
    expect(hinted).toEqual([
      [true, "HINT: Check free disk space.", left, "state"],
      0,
    ]);
    expect(dropped).toEqual([true, "state"]);
    expect(reconnected).toEqual([true, "state"]);
    expect(await listDatabases(database)).toEqual([""]);
  },
);

test(
  "one swap of a database runs at a time, and none of a name that is too long",
  "empty",
  async ({ address }) => {
    const lock = (database: string, work = () => Promise.resolve("done")) =>
      observe(() => withSwapLock({ ...address, database }, 0, work));
    const { database } = address;

    const nested = await lock(database, async () => {
      const [same, other] = [await lock(database), await lock(`${database}_2`)];
      return JSON.stringify([same.exitCode, other.done]);
    });
    const short = await lock("d".repeat(53));
    const long = await lock("é".repeat(27));

    expect(nested.done).toBe(JSON.stringify([75, "done"]));
    expect(short.done).toBe("done");
    expect(long).toMatchObject({
      message: `${"é".repeat(27)}__previous is longer than PostgreSQL's names`,
      hint: "give the database a name of 53 bytes or less",
      exitCode: 2,
    });
  },
);

test(
  "knows whether a swap was committed when the connection is lost, and says what it could not drop",
  "empty",
  async (database) => {
    const { name, address, project, start } = database;
    const server = openDatabase(testServer);
    const [previous, dropped] = [`${name}__previous`, `${name}__dropped`];
    const makeNew = () => server.unsafe(`create database ${name}__next`);
    const list = async () => {
      const rows = await server`
        select substr(datname, ${name.length + 1}) as suffix, oid::int from pg_database
        where starts_with(datname, ${name})`;
      return Object.fromEntries(rows.map(({ suffix, oid }) => [suffix, oid]));
    };
    // In a process of its own: there postgres.js may write to a closed socket.
    project.write(
      "swap.ts",
      `import postgres from "postgres";
import { swapIn } from "./scripts/backups/swap";
import { connectionOptions } from "./src/database-tls";
import { readEnv } from "./src/env";
const { direct } = readEnv();
const [host, port] = ["127.0.0.1", Number(process.argv[2])];
const options = connectionOptions({ ...direct, database: "postgres", host, port });
const server = postgres({ ...options, max: 1, onnotice: () => {} });
const done = await swapIn(server, direct).catch(({ message, hint }) => ({ message, hint }));
console.log(JSON.stringify(done));
process.exit();`,
    );
    /** Swaps, and loses the connection before it gets the answer with this number. */
    const swap = async (last: number) => {
      const proxy = await proxyTo(address.port, (count) => {
        if (count === last) void proxy.close();
        return count === last;
      });
      const child = start(`swap.ts ${proxy.port}`);
      const [stdout = "", stderr = ""] = await Promise.all(
        [child.stdout, child.stderr].map((out) => new Response(out).text()),
      );
      await proxy.close();
      return { stdout, stderr, count: proxy.count() };
    };

    await makeNew();
    const first = await list();
    const whole = await swap(0);
    const second = await list();
    await makeNew();
    await server.unsafe(`alter database ${previous} is_template true`);
    const warned = await observe(() => swapIn(server, address));
    const third = await list();
    await server.unsafe(`alter database ${dropped} is_template false`);
    await server.unsafe(`drop database ${dropped}`);
    await makeNew();
    const uncommitted = await swap(whole.count - 1);
    const unchanged = await list();
    await makeNew();
    const before = await list();
    const committed = await swap(whole.count);
    const fourth = await list();
    await server.end();

    expect(whole).toMatchObject({ stdout: "false\n", stderr: "" });
    expect(second).toEqual({ "": first.__next, __previous: first[""] });
    expect(warned).toEqual({
      done: false,
      notes: `Warning: ${dropped}, which is left over, cannot be dropped: cannot drop a template database\nHint: drop it with \`DROP DATABASE "${dropped}"\`\n`,
    });
    expect(third).toMatchObject({
      __previous: second[""],
      __dropped: second.__previous,
    });
    expect(JSON.parse(uncommitted.stdout)).toEqual({
      message: expect.stringContaining(
        `${name} was not swapped, and is unchanged: `,
      ),
      hint: "end the sessions or prepared transactions that use it, and run the command again",
    });
    expect(unchanged).toEqual({ "": third[""], __previous: third.__previous });
    expect(committed.stdout).toBe("false\n");
    expect(committed.stderr).toStartWith(
      `Warning: ${dropped}, which is left over, cannot be dropped: `,
    );
    expect(fourth).toEqual({
      "": before.__next,
      __previous: before[""],
      __dropped: before.__previous,
    });
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
        raise warning 'seen';
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
    const failed = await run("db:reset");

    expect(misnamed.exitCode).toBe(2);
    expect(misnamed.stderr).toStartWith(
      'Error: "other" is not the name of the database\n',
    );
    expect(undone.exitCode).toBe(1);
    expect(undone.stderr).toBe(
      `Error: there is no ${name}__previous to go back to\nHint: each \`db:reset\` and \`db:restore\` makes one\n`,
    );
    expect(powerless.exitCode).toBe(2);
    expect(powerless.stderr).toBe(
      `Error: the role ${role} may not create databases\nHint: let an administrator run \`ALTER ROLE "${role}" CREATEDB\`\n`,
    );
    expect(foreign.exitCode).toBe(2);
    expect(foreign.stderr).toBe(
      `Error: the role ${role} does not own ${name}\nHint: let an administrator run \`ALTER DATABASE "${name}" OWNER TO "${role}"\`\n`,
    );
    expect(failed.exitCode).toBe(1);
    expect(failed.stderr).toContain(`${ownHead} failed`);
    expect(failed.stderr).not.toContain("may be left over");
    expect(failed.stderr).toEndWith(
      `\nNothing was changed: ${name} is still the old database\nHint: a new database has only what the migrations create, and ${name} has more: change it with \`bun run db:migrate\` and \`bun run db:rollback\` instead\n`,
    );
    expect(failed.stderr).toStartWith(`Warning: ${ownHead}: seen\n`);
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
    // It does not wait for the lock to refuse.
    await holder.unsafe(lockOnceMore);
    const early = await run("db:reset --wait 0");
    await sql`drop table drizzle.__environment`;
    const busy = await run("db:reset --wait 0");
    await stampProduction(sql);
    await holder.unsafe("begin; lock table drizzle.__environment");
    const unknown = await Promise.all([run("db:reset"), run("db:status")]);
    await holder.unsafe("rollback");
    holder.release();

    expect(exitCode).toBe(2);
    expect(stderr).toContain("it is stamped production");
    expect([early.exitCode, busy.exitCode]).toEqual([2, 75]);
    for (const { exitCode, stdout, stderr } of unknown) {
      expect(exitCode).toBe(1);
      expect(stdout).toBe("");
      expect(stderr).toBe(
        "Error: cannot tell whether this is production: another session holds a lock on drizzle.__environment\nHint: try again when that session is done\n",
      );
    }
    expect(await listDatabases(database)).toEqual([""]);
  },
);

test(
  "wants the name and --no-seed of a stamped database, stamps its successor, and drops none that was production unless it is told to",
  "migrated",
  async (database) => {
    const { run, attend, name, sql } = database;
    await stampProduction(sql);
    await sql`create table precious ()`;
    const liftStamp = async (database: string) => {
      const other = openDatabase({ ...testServer, database });
      await other`drop table drizzle.__environment`;
      await other.end();
    };

    const bare = await run("db:reset");
    const wrong = await run("db:reset --no-seed --confirm other");
    await using terminal = attend("db:reset --no-seed");
    await terminal.shows("Type the database's name to go on: ");
    terminal.types("other\r");
    const mistyped = await terminal.ends();
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
    const dropped = await run("db:reset --drop-previous --json");

    expect(bare).toEqual({
      exitCode: 2,
      stdout: "",
      stderr: `Error: ${name} is protected: it is stamped production\nHint: to go ahead, add \`--no-seed --confirm ${name}\`\n`,
    });
    expect(wrong.exitCode).toBe(2);
    expect(mistyped.exitCode).toBe(2);
    expect(mistyped.screen).toContain(
      `db:reset on ${name}: ${name} is protected: it is stamped production. Type`,
    );
    expect(kept).toEqual([""]);
    expect(done.exitCode).toBe(0);
    expect(status.environment).toBe("production");
    expect(older.exitCode).toBe(2);
    expect(older.stderr).toBe(
      `Error: ${name} is protected: it is stamped production\nWould be dropped: ${name}__previous\nHint: to go ahead, add \`--drop-previous\`\n`,
    );
    expect(undo.exitCode).toBe(2);
    expect(undone.exitCode).toBe(0);
    expect(statusUndone.environment).toBe("production");
    expect(refused).toMatchObject({
      exitCode: 2,
      stderr: `Error: ${name}__previous would be dropped, and is stamped production\nHint: to go ahead, add \`--drop-previous\`\n`,
    });
    expect(dropped.stderr).toBe(`Dropped: the older ${name}__previous\n`);
    expect(JSON.parse(dropped.stdout)).toEqual({
      database: name,
      previous: `${name}__previous`,
      head: ownHead,
      seeded: expect.objectContaining({ seed: "dev" }),
    });
  },
);

test(
  "says who was in the way, and what could not be carried over, and leaves no copy behind",
  "empty",
  async (database) => {
    const { run, name, sql } = database;
    await withRoles(database, 2, async ({ name: role, variables }, other) => {
      await sql.unsafe(
        `alter role ${role} createdb; alter role ${other.name} in database ${name} set app.secret = E'hush\\nhush';
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
      expect(stderr).toMatch(
        / other users: [^\n]*\n(?: {2}pid \d+, \w+, postgres\.js\n)+Hint: end the sessions or prepared transactions that use it, and run the command again\n$/,
      );
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
    expect(screen).toContain(
      `Nothing was changed: ${name} is still the old database`,
    );
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
  async ({ start, project, name }) => {
    writeMigrations(project, {
      "0000_one": "select 1",
      "0001_two": "select 2",
    });
    const child = start("scripts/reset-db.ts --no-seed --json");
    let stdout = "";
    for await (const bytes of child.stdout) {
      stdout += new TextDecoder().decode(bytes);
      child.kill("SIGINT");
    }

    expect(JSON.parse(stdout)).toEqual({
      database: name,
      previous: `${name}__previous`,
      head: "0001_two",
      seeded: null,
    });
    expect(await new Response(child.stderr).text()).toBe("");
    expect(await child.exited).toBe(0);
  },
);
