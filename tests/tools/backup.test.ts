// db:backup and db:restore: what is proven, what is refused, and that the old
// database is in place whatever happens. They need pg_dump as new as the server.
import { describe, expect, test as bunTest } from "bun:test";
import {
  chmodSync,
  globSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { spawnSync } from "bun";
import type { Sql } from "postgres";
import {
  listBackups,
  namePartial,
  openFolder,
  publish,
  verifyBackup,
} from "../../scripts/backups/folder";
import {
  findPostgresTools,
  type PostgresTool,
} from "../../scripts/server/client-programs";
import { readEnv } from "../../src/env";
import {
  openDatabase,
  type State,
  type TestDatabase,
  until,
} from "../lib/database";
import { ownHead } from "../lib/migrations";
import { withRoles } from "../lib/roles";
import { test as testCommand } from "../lib/test";

/** A pg_restore that the system ends. */
const cutOff = `#!/bin/sh
if [ "$1" = --version ]; then echo 'pg_restore (PostgreSQL) 99'; exit; fi
exit 137
`;

const hash = (bytes: string | Uint8Array) =>
  new Bun.CryptoHasher("sha256").update(bytes).digest("hex");

interface Given extends TestDatabase {
  folder: string;
  /** The archives that are there. */
  list(): string[];
}

bunTest(
  "the folder keeps what is under way, and believes no manifest that was changed",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "backups-"));
    const path = join(folder, "a.dump");
    const partialOf = (pid: number) =>
      namePartial(path).replace(/\d+$/, String(pid));
    const ended = spawnSync([process.execPath, "--version"]).pid;
    for (const pid of [process.ppid, process.pid, ended])
      writeFileSync(partialOf(pid), "");
    openFolder(folder);
    const left = readdirSync(folder);
    writeFileSync(namePartial(path), "data");
    publish(path, {
      file: "a.dump",
      database: "app",
      systemIdentifier: "1",
      createdAt: "2026-01-01T00:00:00Z",
      bytes: 4,
      sha256: hash("data"),
      head: null,
      serverVersion: "18.4",
      tables: {},
      verified: true,
      ms: 1,
    });
    const { mode } = statSync(`${path}.json`);
    const verify = async () =>
      (await verifyBackup({} as PostgresTool, path, false)).problem;
    const whole = [listBackups(folder)[0]?.verified, await verify()];
    writeFileSync(path, "DATA");
    const other = await verify();
    const manifest = readFileSync(`${path}.json`, "utf8");
    writeFileSync(`${path}.json`, manifest.replace("18.4", "17.1"));
    const changed = listBackups(folder)[0]?.verified;
    rmSync(folder, { recursive: true });

    expect(left).toEqual([basename(partialOf(process.ppid))]);
    expect(mode & 0o777).toBe(0o600);
    expect(whole).toEqual([true, undefined]);
    expect(other).toBe("its checksum differs from the one in its manifest");
    expect(changed).toBe(false);
  },
);

const { missing, isInContainer } = await findPrograms();
if (missing) console.warn(`Left out: backups, for ${missing}`);
const suite = missing ? () => {} : describe;

async function findPrograms(): Promise<{
  missing?: string;
  isInContainer: boolean;
}> {
  try {
    const programs = ["pg_dump" as const, "pg_restore" as const];
    const { tools } = await findPostgresTools(programs, readEnv());
    return { isInContainer: tools.pg_dump.command[0] === "docker" };
  } catch (error) {
    return { missing: (error as Error).message, isInContainer: false };
  }
}

function test(
  sentence: string,
  state: State,
  body: (given: Given) => Promise<void>,
) {
  testCommand(sentence, state, async ({ database }) => {
    const folder = mkdtempSync(join(tmpdir(), "starter-backups-"));
    chmodSync(folder, 0o755);
    const run: Given["run"] = (command, variables) =>
      database.run(command, { BACKUP_DIR: folder, ...variables });
    const start: Given["start"] = (script) =>
      database.start(script, { BACKUP_DIR: folder });
    const list = () =>
      readdirSync(folder)
        .filter((name) => name.endsWith(".dump"))
        .sort();
    try {
      await body({ ...database, run, start, folder, list });
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}

/** With a connection of its own, for a swap ends those that are open. */
async function look<T>(
  { address }: TestDatabase,
  work: (sql: Sql) => Promise<T>,
  database = address.database,
): Promise<T> {
  const sql = openDatabase({ ...address, database });
  try {
    return await work(sql);
  } finally {
    await sql.end();
  }
}

/** Changes the manifest of an archive, so that it is believed. */
function rewrite(path: string, changes: Record<string, unknown>): void {
  const file = `${path}.json`;
  const { digest, ...manifest } = JSON.parse(readFileSync(file, "utf8"));
  Object.assign(manifest, changes);
  writeFileSync(
    file,
    JSON.stringify({ ...manifest, digest: hash(JSON.stringify(manifest)) }),
  );
}

const countBuilds = (given: Given) =>
  look(given, async (sql) => (await sql`select from builds`).length);

async function listDatabases(given: Given): Promise<string[]> {
  const { name } = given;
  const rows = await look(
    given,
    (sql) => sql`
    select substr(datname, ${name.length + 1}) as suffix from pg_database
    where starts_with(datname, ${name}) order by 1`,
  );
  return rows.map(({ suffix }) => suffix);
}

suite("db:backup", () => {
  test("dumps, proves, lists, verifies and drills", "seeded", async (given) => {
    const { run, folder, list, name } = given;
    const first = await run("db:backup --json");
    const [file = ""] = list();
    const path = join(folder, file);
    const listed = await run("db:backup --list");
    const verified = await run(`db:backup --verify ${file}`);
    const drilled = await run(`db:backup --drill ${path} --json`);
    const written = readdirSync(folder);
    const manifest = readFileSync(`${path}.json`, "utf8");

    const { tables, ...rest } = JSON.parse(first.stdout);
    expect(rest).toEqual({
      file: path,
      bytes: statSync(path).size,
      sha256: hash(readFileSync(path)),
      head: ownHead,
      serverVersion: expect.any(String),
      verified: true,
      ms: expect.any(Number),
    });
    expect(tables).toMatchObject({ users: 1, builds: 3, sessions: 0 });
    for (const one of written)
      expect(statSync(join(folder, one)).mode & 0o777).toBe(0o600);
    expect(JSON.parse(manifest)).toMatchObject({
      database: name,
      tables,
    });
    expect(listed.stdout).toMatch(
      new RegExp(`^${file} .* 0 min  ${ownHead}  verified\n$`),
    );
    expect(verified).toEqual({
      exitCode: 0,
      stdout: `Verified: ${path}\n`,
      stderr: "",
    });
    expect(JSON.parse(drilled.stdout)).toMatchObject({
      verified: true,
      tables,
    });
    rewrite(path, { tables: { ...tables, users: 2 } });
    const [bad, restored] = [
      await run(`db:backup --drill ${path}`),
      await run(`db:restore ${path}`),
    ];
    expect([bad.exitCode, bad.stdout]).toEqual([
      3,
      `Bad: ${path}: users has 1 rows, not 2\n`,
    ]);
    expect(restored.exitCode).toBe(1);
    expect(restored.stderr).toContain("\n  users has 1 rows, not 2\n");
    expect(await listDatabases(given)).toEqual([""]);
  });

  test(
    "keeps as many as it is told, and deletes no other's",
    "migrated",
    async ({ run, folder, list }) => {
      writeFileSync(join(folder, "other.dump"), "by hand");
      await run("db:backup");
      const [, elsewhere = ""] = list();
      rewrite(join(folder, elsewhere), { systemIdentifier: "another" });
      await run("db:backup");
      await run("db:backup");
      const [, , oldest] = list();
      const kept = await run("db:backup --keep 2");
      const left = list();
      const [, , proven = "", doubtful = ""] = left;
      const future = (year: number) => `${year}-01-01T00:00:00Z`;
      rewrite(join(folder, doubtful), {
        createdAt: future(2099),
        verified: false,
      });
      rewrite(join(folder, proven), { createdAt: future(2098) });
      await run("db:backup --keep 1");
      const none = await run("db:backup --keep 0");

      expect(kept.stdout).toEndWith(`Deleted: ${oldest}\n`);
      // The newest one, the newest that is verified, and the one just made.
      expect(list()).toEqual([...left, expect.any(String)]);
      expect(left).toHaveLength(4);
      expect(left).toContain("other.dump");
      expect(left).toContain(elsewhere);
      expect(none.exitCode).toBe(2);
    },
  );

  test(
    "counts each row once, whatever its table is",
    "empty",
    async (given) => {
      const { run, sql, list } = given;
      await sql.unsafe(`
      create table parent (x int); create table child () inherits (parent);
      insert into parent values (1); insert into child values (2), (3);
      create table parts (n int) partition by list (n);
      create table part_1 partition of parts for values in (1);
      create table part_2 partition of parts for values in (2);
      insert into parts values (1), (2), (2);
      create table no_parts (n int) partition by list (n);
      create table "a\nb" ("c\nd" text);
      insert into "a\nb" values ('COPY public.child (x) FROM stdin;'), ('\\.'), (null);
      create table constructor (i int); create table __proto__ (i int);
      create table none (); insert into none default values;
      create schema s; create table s.t (); create table "s.t" (i int);
      insert into "s.t" values (1)`);
      const { stdout } = await run("db:backup --json");
      const [file] = list();
      const drilled = await run(`db:backup --drill ${file} --json`);

      const { tables } = JSON.parse(stdout);
      expect(tables).toEqual({
        parent: 1,
        child: 2,
        parts: 3,
        no_parts: 0,
        "a\nb": 3,
        none: 1,
        constructor: 0,
        ["__proto__"]: 0,
        "s.t": 0,
        '"s.t"': 1,
      });
      expect(JSON.parse(drilled.stdout)).toMatchObject({
        verified: true,
        tables,
      });
    },
  );

  test(
    "a drill drops what a drill that was killed has left",
    "migrated",
    async (given) => {
      const { run, sql, list, name } = given;
      await run("db:backup");
      const [file] = list();
      const abandoned = `${name}__scratch_00000000`;
      await sql.unsafe(`create database ${abandoned}`);
      const drilled = await run(`db:backup --drill ${file}`);

      expect(drilled.exitCode).toBe(0);
      expect(await listDatabases(given)).toEqual([""]);
    },
  );

  test(
    "says that it cannot use a folder, and never that there is no backup",
    "empty",
    async ({ run, folder }) => {
      const BACKUP_DIR = join(folder, "file");
      writeFileSync(BACKUP_DIR, "");
      const made = await run("db:backup", { BACKUP_DIR });
      const listed = await run("db:backup --list", { BACKUP_DIR });

      for (const { exitCode, stdout, stderr } of [made, listed]) {
        expect(exitCode).toBe(2);
        expect(stdout).toBe("");
        expect(stderr).toStartWith("Error: the backup folder cannot be used: ");
      }
    },
  );

  test(
    "leaves nothing that looks like a backup where it was killed",
    "seeded",
    async (given) => {
      const { run, start, sql, folder, list, name } = given;
      const holder = await sql.reserve();
      await holder`begin`;
      await holder`lock table builds in access exclusive mode`;
      const child = start("scripts/backup.ts");
      await until(
        sql,
        `datname = '${name}' and application_name like 'pg_dump %' and wait_event_type = 'Lock'`,
      );
      child.kill("SIGKILL");
      await child.exited;
      const left = list();
      await holder`rollback`;
      holder.release();
      const next = await run("db:backup");

      expect(left).toEqual([]);
      expect(next.exitCode).toBe(0);
      expect(readdirSync(folder)).toHaveLength(2);
    },
  );
});

suite("db:restore", () => {
  test(
    "brings back a dropped table, with settings and grants, and can be undone",
    "seeded",
    async (given) => {
      const { run, sql, name, list } = given;
      await sql.unsafe(`
      alter database ${name} set search_path to public, "other one";
      alter database ${name} set statement_timeout to '3min'`);
      await sql.unsafe(`
      revoke connect on database ${name} from public;
      comment on database ${name} is 'it''s ours'`);
      await run("db:backup");
      const [file] = list();
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
      expect(undone.exitCode).toBe(0);
      expect(gone?.table).toBeNull();
      expect(JSON.parse(again.stdout)).toMatchObject({
        database: name,
        previous: `${name}__previous`,
        head: ownHead,
        tables: { builds: 3 },
      });
      expect(await listDatabases(given)).toEqual(["", "__previous"]);
    },
  );

  test(
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
        const verified = await run(`db:backup --verify ${file}`);
        const restored = await run(`db:restore ${file}`);

        expect(verified.exitCode).toBe(3);
        expect(restored.exitCode).toBe(1);
        expect(restored.stderr).toStartWith(`Error: ${path} is bad: `);
      }
      const listed = await run("db:backup --list --json");
      writeFileSync(path, whole);
      await run(`db:backup --verify ${file}`);
      const fixed = await run("db:backup --list --json");
      const manifest = readFileSync(`${path}.json`, "utf8");
      writeFileSync(
        `${path}.json`,
        manifest.replace('"users": 1', '"users": 2'),
      );
      const changed = await run(`db:backup --verify ${file}`);
      const absent = await run("db:restore absent.dump");

      expect(JSON.parse(listed.stdout).backups[0].verified).toBe(false);
      expect(JSON.parse(fixed.stdout).backups[0].verified).toBe(true);
      expect(changed.stdout).toEndWith("is not a manifest, or was changed\n");
      expect(changed.exitCode).toBe(3);
      expect(absent.exitCode).toBe(1);
      expect(await listDatabases(given)).toEqual([""]);
    },
  );

  test(
    "takes a dump without a manifest, says so, and keeps the old one where it fails",
    "seeded",
    async (given) => {
      const { run, folder, list } = given;
      await run("db:backup");
      const [file = ""] = list();
      rmSync(join(folder, `${file}.json`));
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

      expect(restored.exitCode).toBe(0);
      expect(restored.stderr).toContain("It has no manifest: ");
      expect(failed.exitCode).toBe(1);
      expect(failed.stderr).toContain('violates check constraint "aa_check"');
      expect(drilled.exitCode).toBe(1);
      for (const { stdout } of [listed, verified])
        expect(JSON.parse(stdout).backups[0].verified).toBe(false);
      expect(await countBuilds(given)).toBe(3);
      expect(await listDatabases(given)).toEqual(["", "__previous"]);
    },
  );

  test(
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

  test(
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
          grant select on all sequences in schema public, drizzle to ${role.name}`);
        const refused = await run("db:backup", role.variables);
        await sql.unsafe(`
          grant usage on schema others to ${role.name};
          grant select on all tables in schema others to ${role.name}`);
        await run("db:backup", role.variables);
        const [file = ""] = list();
        const drilled = await run(`db:backup --drill ${file}`, role.variables);
        await sql.unsafe(`alter database ${name} owner to ${role.name}`);
        const foreign = await run(`db:restore ${file}`, role.variables);

        expect(foreign.exitCode).toBe(2);
        expect(foreign.stderr).toContain(` TO ${role.name}\` first\n`);
        expect(refused.exitCode).toBe(2);
        expect(refused.stderr).toContain(
          `GRANT USAGE ON SCHEMA others TO ${role.name}; GRANT SELECT ON ALL TABLES IN SCHEMA others`,
        );
        expect(drilled.stderr).toStartWith(
          "Warning: not restored: the extension dblink: ",
        );
        expect(drilled.exitCode).toBe(0);
      }),
  );

  test(
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
      await sql.unsafe("drop materialized view slow");
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
      expect(await countBuilds(given)).toBe(3);
      expect(await listDatabases(given)).toEqual(["", "__previous"]);
    },
  );

  test(
    "wants the name of a stamped database, and stamps what takes its place",
    "empty",
    async (given) => {
      const { run, list, name } = given;
      await run("db:migrate", { NODE_ENV: "production" });
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
      expect(previous.exitCode).toBe(2);
      expect(previous.stderr).toContain("--drop-previous");
      expect(dropped.exitCode).toBe(0);
      expect(JSON.parse(status.stdout).environment).toBe("production");
    },
  );
});

// In Docker they would be the container's.
if (!isInContainer) {
  if (!missing)
    test(
      "verifies without a server, and calls no backup bad that it could not read",
      "empty",
      async ({ run, folder, list }) => {
        await run("db:backup");
        const [file = ""] = list();
        const url = "postgres://app@127.0.0.1:1/app";
        const down = { DATABASE_URL: url, DATABASE_URL_UNPOOLED: url };
        const verified = await run(`db:backup --verify ${file}`, down);
        writeFileSync(join(folder, "pg_restore"), cutOff, { mode: 0o755 });
        const unread = await run(`db:backup --verify ${file}`, {
          ...down,
          PATH: `${folder}:${dirname(process.execPath)}:/bin`,
        });

        expect(verified.exitCode).toBe(0);
        expect(unread).toMatchObject({
          exitCode: 1,
          stderr: "Error: pg_restore failed: exit code 137\n",
        });
      },
    );

  test(
    "says what to install where pg_dump is older than the server",
    "empty",
    async ({ run, folder, sql }) => {
      const [server] = await sql<{ major: number }[]>`
        select current_setting('server_version_num')::int / 10000 as major`;
      writeFileSync(
        join(folder, "pg_dump"),
        "#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6'\n",
        { mode: 0o755 },
      );
      const { exitCode, stderr } = await run("db:backup", {
        PATH: `${folder}:${dirname(process.execPath)}:/bin`,
      });

      // Debian keeps one of each version, which is found.
      const isElsewhere = globSync("/usr/lib/postgresql/*/bin/pg_dump").some(
        (path) => Number(path.split("/")[4]) >= (server?.major ?? 0),
      );
      if (isElsewhere) expect(exitCode).toBe(0);
      else {
        expect(exitCode).toBe(2);
        expect(stderr).toMatch(
          /^Error: pg_dump is version 9(, .*)?, and the server is PostgreSQL \d+\nHint: install /,
        );
      }
    },
  );
}
