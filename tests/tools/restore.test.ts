// db:restore: what it refuses before it touches anything, and that the old database is in
// place whatever happens.
import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { countRows } from "../../scripts/backups/count-rows";
import { verifyBackup } from "../../scripts/backups/folder";
import {
  planRestore,
  requireReadable,
  restoreInto,
} from "../../scripts/backups/obstacles";
import { openConnection } from "../../scripts/lib/connection";
import type { PostgresTool } from "../../scripts/server/client-programs";
import {
  digestOf,
  type Given,
  listDatabases,
  look,
  pgRestore,
  testBackup,
} from "../lib/backups";
import { until } from "../lib/database";
import { ownHead } from "../lib/migrations";
import { observe } from "../lib/observe";
import { withRoles } from "../lib/roles";
import { test as testDatabase } from "../lib/test";
import { testServer } from "../setup";

const countBuilds = (given: Given) =>
  look(given, async (sql) => (await sql`select from builds`).length);

/** A program that is a script of the shell. */
function makeProgram(file: string, script: string): PostgresTool {
  writeFileSync(file, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return { command: [file], login: () => [] as string[] } as never;
}

test("the roles that an archive names are found in what pg_dump writes, and nowhere else", async () => {
  const folder = mkdtempSync(join(tmpdir(), "backups-"));
  const [path, schema] = [join(folder, "a.dump"), join(folder, "schema")];
  writeFileSync(path, "PGDMP");
  const tool = makeProgram(join(folder, "read"), `cat ${schema}`);
  await using sql = await openConnection(testServer, "tests");
  await sql`set role pg_monitor`;
  const plan = (text: string, isWithoutOwner: boolean) => {
    writeFileSync(schema, text);
    return observe(() => planRestore(tool, tool, path, sql, isWithoutOwner));
  };
  const inBody = (quote: string) =>
    `CREATE FUNCTION f() AS ${quote}\nALTER TABLE t OWNER TO nobody_1;\n${quote};`;
  const named: [statement: string, role?: string][] = [
    ["ALTER TABLE public.t OWNER TO nobody_1;", "nobody_1"],
    ['ALTER TABLE public.t OWNER TO "no ""1""";', 'no "1"'],
    ["ALTER TABLE public.t OWNER TO CURRENT_USER;"],
    ["ALTER TABLE public.t OWNER TO pg_monitor;"],
    ["GRANT SELECT ON TABLE t TO nobody_1 WITH GRANT OPTION;", "nobody_1"],
    ["GRANT ALL ON TABLE t TO nobody_1 GRANTED BY postgres;", "nobody_1"],
    ["GRANT ALL ON SCHEMA public TO PUBLIC;"],
    ["GRANT ALL ON SCHEMA public TO SESSION_USER;"],
    ['GRANT ALL ON SCHEMA public TO "A PUBLIC";', "A PUBLIC"],
    ["GRANT ALL ON SCHEMA public TO pg_signal_backend;"],
    ["REVOKE ALL ON TABLE t FROM nobody_1;", "nobody_1"],
    ...["GRANT ALL ON TABLES TO", "REVOKE ALL ON TABLES FROM"].flatMap(
      (what): typeof named =>
        [
          ["nobody_1", "PUBLIC"],
          ["pg_monitor", "nobody_1"],
        ].map(([giver, taker]) => [
          `ALTER DEFAULT PRIVILEGES FOR ROLE ${giver} ${what} ${taker};`,
          "nobody_1",
        ]),
    ),
    ["CREATE POLICY p ON t TO nobody_1 USING (true);", "nobody_1"],
    ["CREATE POLICY p ON t TO nobody_1 WITH CHECK (true);", "nobody_1"],
    ["CREATE POLICY p ON t TO pg_monitor, nobody_1;", "nobody_1"],
    [inBody("$_$")],
    [inBody("$$")],
    [
      `${inBody("$a$")}\nALTER TABLE t OWNER TO nobody_2;\n${inBody("$a$")}`,
      "nobody_2",
    ],
  ];
  const found: [string, string?][] = [];
  for (const [statement] of named) {
    const { message } = await plan(`${statement}\n`, false);
    const role = message?.replace(/^.*does not have: /, "");
    found.push(role ? [statement, role] : [statement]);
  }
  const foreign = "ALTER TABLE a OWNER TO pg_signal_backend;\n";
  const both = await plan(
    `${foreign}${foreign}ALTER TABLE b OWNER TO "No";\nGRANT SELECT ON TABLE a TO "No";\n`,
    false,
  );
  const mine = await plan(foreign, false);
  const policy = await plan("CREATE POLICY p ON t TO nobody_1;\n", true);
  const quiet = await plan(
    `${foreign}GRANT ALL ON TABLE a TO pg_signal_backend;\nALTER TABLE b OWNER TO nobody_1;\n`,
    true,
  );
  const above = await plan(
    `ALTER TABLE a OWNER TO "${testServer.user}";\n`,
    false,
  );
  const granted = await plan(
    `GRANT ALL ON TABLE a TO nobody_2;
GRANT ALL ON TABLE b TO nobody_2;
ALTER DEFAULT PRIVILEGES FOR ROLE pg_signal_backend GRANT SELECT ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE pg_monitor GRANT SELECT ON TABLES TO PUBLIC;
CREATE EXTENSION IF NOT EXISTS "two words" WITH SCHEMA extensions;
CREATE EXTENSION IF NOT EXISTS dblink WITH SCHEMA "Other ""one""";\n`,
    true,
  );
  const alone = [];
  for (const statement of [
    "GRANT ALL ON TABLE a TO nobody_2;",
    "ALTER DEFAULT PRIVILEGES FOR ROLE nobody_2 GRANT ALL ON TABLES TO PUBLIC;",
  ])
    alone.push(await plan(`${statement}\n`, true));
  rmSync(folder, { recursive: true });

  expect(found).toEqual(named);
  for (const { done } of alone)
    expect(done).toMatchObject({ isWithoutGrants: true });
  expect(both).toMatchObject({
    message:
      "the archive names roles that this server does not have: No, pg_signal_backend",
    hint: 'add `--no-owner` to make this role own everything; or let an administrator run `CREATE ROLE "No"; GRANT "pg_signal_backend" TO pg_monitor` first',
    code: "ROLE_MISSING",
    exitCode: 2,
  });
  expect(mine).toMatchObject({
    message:
      "the archive names roles that this role may not act for: pg_signal_backend",
    hint: 'add `--no-owner` to make this role own everything; or let an administrator run `GRANT "pg_signal_backend" TO pg_monitor` first',
  });
  expect(above).toMatchObject({
    hint: "add `--no-owner` to make this role own everything, or restore as a superuser",
  });
  expect(policy).toMatchObject({
    hint: 'let an administrator run `CREATE ROLE "nobody_1"` first',
  });
  const options = { psql: tool, isWithoutOwner: true };
  expect(quiet).toEqual({
    done: { ...options, isWithoutGrants: false, extensions: [] },
    notes: "",
  });
  expect(granted).toEqual({
    done: {
      ...options,
      isWithoutGrants: true,
      extensions: [
        { name: '"two words"', home: "extensions" },
        { name: "dblink", home: '"Other ""one"""' },
      ],
    },
    notes:
      "Warning: not restored: all grants, because this role may not grant as, or to, nobody_2, pg_signal_backend\n",
  });
});

testDatabase(
  "names all that a role may not read, with the SQL for an administrator",
  "empty",
  async ({ sql, address }) => {
    await using reader = await openConnection(address, "tests");
    await reader`set role pg_monitor`;
    const ask = async (statements: string) => {
      await sql.unsafe(statements);
      return await observe(() => requireReadable(reader));
    };
    const refusalOf = (objects: string, ...grants: string[]) => ({
      message: `the role pg_monitor may not read all of the database: ${objects}`,
      code: "NOT_READABLE",
      exitCode: 2,
      hint: `let an administrator run \`${grants.join("; ")}\``,
    });
    const grantsOn = (schema: string) => [
      `GRANT USAGE ON SCHEMA ${schema} TO pg_monitor`,
      `GRANT SELECT ON ALL TABLES IN SCHEMA ${schema} TO pg_monitor`,
      `GRANT SELECT ON ALL SEQUENCES IN SCHEMA ${schema} TO pg_monitor`,
    ];
    const bypass = "ALTER ROLE pg_monitor BYPASSRLS";

    const none = await ask(`
      create view seen as select 1; create temporary table passing ();
      create table of_extension (); alter extension plpgsql add table of_extension`);
    const kinds = ["table", "sequence", "materialized view", "table"];
    const rest = ["()", "", "as select 1", "(x int) partition by list (x)"];
    const refused = [];
    for (const [index, kind] of kinds.entries()) {
      refused.push(await ask(`create ${kind} one ${rest[index]}`));
      await sql.unsafe(`drop ${kind} one`);
    }
    const guarded = await ask(`
      create table guarded (); alter table guarded enable row level security;
      grant select on guarded to pg_monitor`);
    const hidden = await observe(() => countRows(reader));
    const both = await ask(`
      create schema "Other"; create table "Other".t ();
      grant select on "Other".t to pg_monitor`);
    const [first = ""] = /guarded|"Other".t/.exec(both.message ?? "") ?? [];

    expect(none).toEqual({ done: undefined, notes: "" });
    for (const refusal of refused)
      expect(refusal).toMatchObject(refusalOf("one", ...grantsOn("public")));
    expect(guarded).toMatchObject(refusalOf("guarded", bypass));
    expect(hidden.message).toBe(
      'query would be affected by row-level security policy for table "guarded"',
    );
    expect(both).toMatchObject(
      refusalOf(`${first} and 1 more`, ...grantsOn('"Other"'), bypass),
    );
  },
);

testDatabase(
  "leaves out an extension that it may not create, and says where that is missed",
  "empty",
  async ({ sql, address }) => {
    const folder = mkdtempSync(join(tmpdir(), "backups-"));
    const path = join(folder, "a.dump");
    writeFileSync(path, "PGDMP");
    const restore = async (reason: string, ...extensions: string[]) => {
      const fails = `echo 'psql:<stdin>:3: ERROR:  ${reason}' >&2; exit 3`;
      const program = makeProgram(join(folder, "program"), fails);
      const options = {
        psql: program,
        isWithoutOwner: true,
        isWithoutGrants: true,
        extensions: extensions.map((name) => ({ name, home: '"Its own"' })),
      };
      await using own = await openConnection(address, "tests");
      return await observe(() =>
        restoreInto(own, program, path, address, options, "18.4"),
      );
    };

    const lacking = await restore(
      'type "t" does not exist',
      "one",
      "dblink",
      "two",
    );
    const other = await restore("division by zero", "one");
    const whole = await restore('type "t" does not exist', "dblink");
    const [left] = await sql`
      select from pg_namespace where nspname = 'Its own'
      union all select from pg_extension where extname = 'dblink'`;
    rmSync(folder, { recursive: true });

    expect(lacking).toMatchObject({
      message: 'psql failed: type "t" does not exist',
      hint: "it may need one or two, which this role may not create: let an administrator run this command",
      notes: expect.stringMatching(
        /^Warning: not restored: the extension one: .*\nWarning: not restored: the extension two: .*\n$/,
      ),
    });
    expect(other).toMatchObject({
      message: "psql failed: division by zero",
      hint: undefined,
    });
    expect(whole).toMatchObject({ hint: undefined, notes: "" });
    expect(left).toBeUndefined();
  },
);

testBackup(
  "brings back a dropped table, with settings and grants, and can be undone",
  "seeded",
  async (given) => {
    const { run, sql, name, folder, list } = given;
    await sql.unsafe(`
    alter database ${name} set search_path to public, "other one";
    alter database ${name} set statement_timeout to '3min'`);
    await sql.unsafe(`
    revoke connect on database ${name} from public;
    comment on database ${name} is 'it''s ours'`);
    await run("db:backup");
    const [file = ""] = list();
    await sql`drop table builds`;
    const restored = await run(`db:restore ${file}`);
    const builds = await countBuilds(given);
    const settings = await look(
      given,
      (own) => own`
    select unnest(setconfig) as setting from pg_db_role_setting
    where setdatabase = (select oid from pg_database where datname = ${name})`,
    );
    const [kept] = await look(
      given,
      (own) => own`
    select has_database_privilege('pg_monitor', ${name}, 'connect') as allowed,
      shobj_description(oid, 'pg_database') as comment
    from pg_database where datname = ${name}`,
    );
    const undone = await run("db:restore --undo");
    const [gone] = await look(
      given,
      (own) => own`select to_regclass('builds') as table`,
    );
    const again = await run(`db:restore ${file} --json`);

    expect(restored).toEqual({
      exitCode: 0,
      stdout: `Restored: ${name} from ${file}, at ${ownHead}\nKept: ${name}__previous, which \`bun run db:restore --undo\` brings back\n`,
      stderr: "",
    });
    expect(builds).toBe(3);
    expect(settings.map(({ setting }) => setting)).toEqual([
      'search_path=public, "other one"',
      "statement_timeout=3min",
    ]);
    expect(kept).toMatchObject({ allowed: false, comment: "it's ours" });
    expect(undone).toEqual({
      exitCode: 0,
      stdout: `Restored: ${name} from ${name}__previous\nKept: ${name}__previous, the database until now; \`--undo\` once more swaps back\n`,
      stderr: "",
    });
    expect(gone?.table).toBeNull();
    expect(again.stderr).toBe(`Dropped: the older ${name}__previous\n`);
    expect(JSON.parse(again.stdout)).toEqual({
      database: name,
      previous: `${name}__previous`,
      file: join(folder, file),
      head: ownHead,
      tables: expect.objectContaining({ builds: 3 }),
    });
    expect(await listDatabases(given)).toEqual(["", "__previous"]);
  },
);

testBackup(
  "refuses an archive that was cut or changed, before it touches anything",
  "seeded",
  async (given) => {
    const { run, folder, list } = given;
    await run("db:backup");
    const [file = ""] = list();
    const path = join(folder, file);
    const whole = readFileSync(path);
    const bad = [
      Buffer.from("ustar, or any other format"),
      whole.subarray(0, whole.length - 1),
      whole.subarray(0, 100),
      new Uint8Array(),
      whole.map((byte, index) => (index === 60 ? byte ^ 1 : byte)),
      whole.map((byte, index) =>
        index === whole.length - 9 ? byte ^ 1 : byte,
      ),
    ];
    for (const bytes of bad) {
      writeFileSync(path, bytes);
      for (const isReread of [true, false]) {
        const { problem } = await verifyBackup(pgRestore, path, isReread);
        expect(problem).toBeString();
      }
    }
    const verified = await run(`db:backup --verify ${file}`);
    const restored = await run(`db:restore ${file}`);
    const listed = await run("db:backup --list --json");
    writeFileSync(path, whole);
    await run(`db:backup --verify ${file}`);
    const fixed = await run("db:backup --list --json");
    const manifest = readFileSync(`${path}.json`, "utf8");
    writeFileSync(`${path}.json`, manifest.replace('"users": 1', '"users": 2'));
    const changed = await run(`db:backup --drill ${file} --json`);
    const absent = await run("db:restore absent.dump");

    const hint = "Hint: `bun run db:backup --list` lists the backups\n";
    const differs = "its checksum differs from the one in its manifest";
    expect(verified).toEqual({
      exitCode: 3,
      stdout: `Bad: ${path}: ${differs}\n`,
      stderr: "",
    });
    expect(restored).toEqual({
      exitCode: 1,
      stdout: "",
      stderr: `Error: ${path} is bad: ${differs}\n${hint}`,
    });
    expect(JSON.parse(listed.stdout).backups[0].verified).toBe(false);
    expect(JSON.parse(fixed.stdout).backups[0].verified).toBe(true);
    expect(JSON.parse(changed.stdout)).toEqual({
      file: path,
      bytes: whole.length,
      sha256: digestOf(whole),
      head: null,
      verified: false,
      problem: `${file}.json is not a manifest, or was changed`,
    });
    expect(changed.exitCode).toBe(3);
    expect(absent.exitCode).toBe(1);
    expect(absent.stderr).toEndWith(`/absent.dump\n${hint}`);
    expect(await listDatabases(given)).toEqual([""]);
  },
);

testBackup(
  "takes a dump without a manifest, says so, and keeps the old one where it fails",
  "seeded",
  async (given) => {
    const { run, folder, list } = given;
    await run("db:backup");
    const [file = ""] = list();
    rmSync(join(folder, `${file}.json`));
    const read = await run(`db:backup --verify ${file}`);
    const restored = await run(`db:restore ${file}`);
    await look(given, async (own) => {
      // Its check looks into a table whose rows come later.
      await own.unsafe(`
        create table zz (id int);
        create function is_late() returns bool language sql as 'select exists (select from public.zz)';
        insert into zz values (1);
        create table aa (id int check (is_late())); insert into aa values (1)`);
    });
    await run("db:backup");
    const broken = list().at(-1);
    const drilled = await run(`db:backup --drill ${broken}`);
    const listed = await run("db:backup --list --json");
    await run(`db:backup --verify ${broken}`);
    const verified = await run("db:backup --list --json");
    const failed = await run(`db:restore ${broken}`);

    expect(read).toEqual({
      exitCode: 0,
      stdout: `Read: ${join(folder, file)}, to its end\n`,
      stderr: "It has no manifest: its checksum could not be compared\n",
    });
    expect(restored.exitCode).toBe(0);
    expect(restored.stderr).toBe(
      "It has no manifest: neither its checksum nor its rows can be compared\n",
    );
    expect(failed.exitCode).toBe(1);
    expect(failed.stderr).toContain('violates check constraint "aa_check"');
    expect(drilled.exitCode).toBe(1);
    for (const { stdout } of [listed, verified])
      expect(JSON.parse(stdout).backups[0].verified).toBe(false);
    expect(await countBuilds(given)).toBe(3);
    expect(await listDatabases(given)).toEqual(["", "__previous"]);
  },
);

testBackup(
  "names the roles that are not there, and does without them where it is told to",
  "seeded",
  async (given) => {
    const { run, list, name } = given;
    const roles = [`${name}_owner`, `${name}_reader`];
    await look(given, async (own) => {
      await own.unsafe(`
        create role ${roles[0]}; create role ${roles[1]};
        create table owned (); alter table owned owner to ${roles[0]};
        grant select on builds to ${roles[1]}`);
    });
    await run("db:backup");
    const [file = ""] = list();
    await look(given, async (own) => {
      await own.unsafe(`
        drop owned by ${roles[0]}, ${roles[1]}; drop role ${roles[0]}, ${roles[1]}`);
    });
    const refused = await run(`db:restore ${file}`);
    const drilled = await run(`db:backup --drill ${file}`);
    const before = await listDatabases(given);
    const restored = await run(`db:restore ${file} --no-owner`);

    expect(refused.exitCode).toBe(2);
    expect(refused.stderr).toContain(`does not have: ${roles.join(", ")}\n`);
    expect(refused.stderr).toContain("`--no-owner`");
    expect(drilled.exitCode).toBe(0);
    expect(before).toEqual([""]);
    expect(restored.exitCode).toBe(0);
    expect(restored.stderr).toContain("not restored: all grants");
    expect(await countBuilds(given)).toBe(3);
  },
);

testBackup(
  "names what a plain owner may not read, and leaves out an extension that it may not make",
  "seeded",
  (given) =>
    withRoles(given, 1, async (role) => {
      const { sql, run, list, name } = given;
      await sql.unsafe(`
        alter role ${role.name} createdb;
        create extension dblink; create schema others; create table others.secret ();
        grant usage on schema drizzle to ${role.name};
        grant select on all tables in schema public, drizzle to ${role.name};
        grant select on all sequences in schema public, drizzle to ${role.name};
        alter table builds enable row level security`);
      const refused = await run("db:backup", role.variables);
      await sql.unsafe(`
        alter table builds disable row level security;
        grant usage on schema others to ${role.name};
        grant select on all tables in schema others to ${role.name}`);
      await run("db:backup", role.variables);
      const [file = ""] = list();
      const drilled = await run(`db:backup --drill ${file}`, role.variables);
      await sql.unsafe(`alter database ${name} owner to ${role.name}`);
      const foreign = await run(`db:restore ${file}`, role.variables);

      expect(foreign.exitCode).toBe(2);
      expect(foreign.stderr).toStartWith(
        "Error: the archive names roles that this role may not act for: ",
      );
      expect(refused.exitCode).toBe(2);
      expect(refused.stderr).toContain(
        `GRANT USAGE ON SCHEMA others TO ${role.name}; GRANT SELECT ON ALL TABLES IN SCHEMA others`,
      );
      expect(refused.stderr).toEndWith(
        `; ALTER ROLE ${role.name} BYPASSRLS\`\n`,
      );
      expect(drilled.stderr).toStartWith(
        "Warning: not restored: the extension dblink: ",
      );
      expect(drilled.exitCode).toBe(0);
    }),
);

testBackup(
  "leaves the old database in place where it is killed, and the next run works",
  "seeded",
  async (given) => {
    const { run, start, sql, list, name } = given;
    await sql.unsafe(`
    create function wait() returns int language plpgsql as $$ begin
      if current_database() like '%next' then perform pg_sleep(60); end if;
      return 1;
    end $$;
    create materialized view slow as select wait()`);
    await run("db:backup");
    const slow = list().at(-1);
    await sql.unsafe(
      "drop materialized view slow; delete from drizzle.__drizzle_migrations",
    );
    await run("db:backup");
    const good = list().at(-1);
    const child = start(`scripts/restore.ts ${slow}`);
    await until(
      sql,
      `datname = '${name}__next' and query ilike '%refresh materialized%'`,
    );
    child.kill("SIGKILL");
    await child.exited;
    const builds = await countBuilds(given);
    const next = await run(`db:restore ${good}`);

    expect(builds).toBe(3);
    expect(next.exitCode).toBe(0);
    expect(next.stdout).toStartWith(
      `Restored: ${name} from ${good}, at no migration\n`,
    );
    expect(next.stderr).toBe(
      "Warning: the backup is older than this checkout: 1 pending, for `bun run db:migrate`\n",
    );
    expect(await countBuilds(given)).toBe(3);
    expect(await listDatabases(given)).toEqual(["", "__previous"]);
  },
);

testBackup(
  "wants the name of a stamped database, and stamps what takes its place",
  "empty",
  async (given) => {
    const { run, list, name } = given;
    await run("db:migrate", { NODE_ENV: "production" });
    await given.sql`
      insert into drizzle.__drizzle_migrations (hash, created_at)
      values ('newer', 9999999999999)`;
    await run("db:backup");
    const [file] = list();
    const refused = await run(`db:restore ${file}`);
    const restored = await run(`db:restore ${file} --confirm ${name}`);
    const previous = await run(`db:restore ${file} --confirm ${name}`);
    const dropped = await run(
      `db:restore ${file} --confirm ${name} --drop-previous`,
    );
    const status = await run("db:status --json");

    expect(refused.exitCode).toBe(2);
    expect(refused.stderr).toContain(`\`--confirm ${name}\``);
    expect(restored.exitCode).toBe(0);
    expect(restored.stderr).toBe(
      "Warning: the backup is newer than this checkout: 1 of its migrations are not in it\n",
    );
    expect(previous.exitCode).toBe(2);
    expect(previous.stderr).toContain("--drop-previous");
    expect(dropped.exitCode).toBe(0);
    expect(dropped.stdout).toStartWith(
      `Dropped: the older ${name}__previous\nRestored: `,
    );
    expect(JSON.parse(status.stdout).environment).toBe("production");
  },
);
