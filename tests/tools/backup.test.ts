// db:backup: what is proven, kept and deleted, and what a backup that was ended leaves.
import { expect, test } from "bun:test";
import {
  existsSync,
  globSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { spawnSync } from "bun";
import {
  dumpDatabase,
  readArchive,
  restoreArchive,
} from "../../scripts/backups/archive";
import { compareRows } from "../../scripts/backups/count-rows";
import {
  describeObstacle,
  toMaintenance,
} from "../../scripts/backups/databases";
import {
  discard,
  formatBytes,
  listBackups,
  locateArchive,
  type Manifest,
  namePartial,
  openFolder,
  publish,
  verifyBackup,
} from "../../scripts/backups/folder";
import type { PostgresTool } from "../../scripts/server/client-programs";
import {
  digestOf,
  isInContainer,
  listDatabases,
  rewrite,
  testBackup,
  testFolder,
} from "../lib/backups";
import { clusterAddress } from "../lib/cluster";
import { until } from "../lib/database";
import { ownHead } from "../lib/migrations";

/** A pg_restore that the system ends. */
const cutOff = `#!/bin/sh
if [ "$1" = --version ]; then echo 'pg_restore (PostgreSQL) 99'; exit; fi
exit 137
`;

/** The manifest of an archive with that content. */
const manifestOf = (content: string): Manifest => ({
  file: "a.dump",
  database: "app",
  systemIdentifier: "1",
  createdAt: "2026-01-01T00:00:00Z",
  bytes: content.length,
  sha256: digestOf(content),
  head: null,
  serverVersion: "18.4",
  tables: {},
  verified: true,
  ms: 1,
});

test("the folder keeps what is under way, and believes no manifest that was changed", async () => {
  const folder = mkdtempSync(join(tmpdir(), "backups-"));
  const path = join(folder, "a.dump");
  const partialOf = (pid: number) =>
    namePartial(path).replace(/\d+$/, String(pid));
  const ended = spawnSync([process.execPath, "--version"]).pid;
  const elsewhere = join(folder, `b.dump.partial-elsewhere-${ended}`);
  const forgotten = join(folder, "c.dump.partial-elsewhere-1");
  for (const pid of [process.ppid, process.pid, ended])
    writeFileSync(partialOf(pid), "");
  for (const other of [elsewhere, forgotten]) writeFileSync(other, "");
  const daysAgo = Date.now() / 1000 - 25 * 3600;
  utimesSync(forgotten, daysAgo, daysAgo);
  openFolder(folder);
  const left = readdirSync(folder);
  writeFileSync(namePartial(path), "data");
  publish(path, manifestOf("data"));
  const { mode } = statSync(`${path}.json`);
  const verify = async (isReread = false) =>
    (await verifyBackup({} as PostgresTool, path, isReread)).problem;
  const whole = [listBackups(folder)[0]?.verified, await verify()];
  writeFileSync(path, "DATA");
  const other = await verify();
  writeFileSync(path, "more data");
  const longer = await verify();
  const manifest = readFileSync(`${path}.json`, "utf8");
  writeFileSync(`${path}.json`, manifest.replace("18.4", "17.1"));
  const changed = listBackups(folder)[0]?.verified;
  rmSync(`${path}.json`);
  const foreign = await verify(true);
  rmSync(folder, { recursive: true });

  expect(left.sort()).toEqual(
    [partialOf(process.ppid), elsewhere].map((file) => basename(file)).sort(),
  );
  expect(mode & 0o777).toBe(0o600);
  expect(whole).toEqual([true, undefined]);
  expect(other).toBe("its checksum differs from the one in its manifest");
  expect(longer).toBe(`${other}: 9 bytes, not 4`);
  expect(changed).toBe(false);
  expect(foreign).toStartWith("it is not an archive of ");
});

test("a backup that failed leaves nothing, and the newest is listed first", () => {
  const folder = mkdtempSync(join(tmpdir(), "backups-"));
  const [one, two] = [join(folder, "one.dump"), join(folder, "two.dump")];
  expect(() => publish(one, manifestOf(""))).toThrow("ENOENT");
  for (const file of [one, `${one}.json`]) writeFileSync(namePartial(file), "");
  discard(one);
  const left = readdirSync(folder);
  for (const path of [two, one]) {
    writeFileSync(path, "");
    utimesSync(path, 1, path === one ? 1 : 2);
  }
  const listed = listBackups(folder).map(({ file }) => file);
  const inFolder = locateArchive(folder, "one.dump");

  expect(left).toEqual([]);
  expect(listed).toEqual(["two.dump", "one.dump"]);
  expect(inFolder).toBe(one);
  expect(() => locateArchive("/", folder)).toThrow(`${folder} is not a file`);
  expect(() => locateArchive(folder, "three.dump")).toThrow(
    "there is no file ",
  );
  rmSync(folder, { recursive: true });
});

test("sizes, differences, obstacles and the other database are named", () => {
  const address = clusterAddress(5432);
  const error = Object.assign(new Error("in use"), { detail: "1 session." });

  expect(formatBytes(1_047_552)).toBe("1023.0 kB");
  expect(formatBytes(37_853_594)).toBe("36.1 MB");
  expect(compareRows({ a: 1, b: 2, c: 0 }, { a: 1, b: 3 })).toEqual([
    "b has 3 rows, not 2",
    "c has no rows, not 0",
  ]);
  expect(describeObstacle(error)).toBe("in use: 1 session");
  expect(describeObstacle(new Error("gone"))).toBe("gone");
  expect(toMaintenance(address).database).toBe("template1");
  expect(toMaintenance({ ...address, database: "app" }).database).toBe(
    "postgres",
  );
});

test("the programs are called as meant, and their errors told from those around them", async () => {
  const folder = mkdtempSync(join(tmpdir(), "backups-"));
  const [path, called] = [join(folder, "a.dump"), join(folder, "called")];
  let count = 0;
  const program = (script: string, major = 18): PostgresTool => {
    const file = join(folder, `program-${(count += 1)}`);
    writeFileSync(file, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    const login = (database: string) => ["--dbname", database];
    return { command: [file], variables: process.env, login, major };
  };
  const dump = (script: string) => {
    rmSync(path, { force: true });
    const address = clusterAddress(5432);
    return dumpDatabase(program(script), address, "1-2", "us", 5000, path);
  };
  const fails = (line: string) => `echo '${line}' >&2; exit 1`;

  await dump('echo "$@"');
  const arguments_ = readFileSync(path, "utf8");
  const { mode } = statSync(path);
  const full = "pg_dump: error: could not write: No space left on device";
  await expect(dump(fails(full))).rejects.toMatchObject({
    message: "pg_dump failed: could not write: No space left on device",
    hint: `free some space for ${folder}, or set another \`BACKUP_DIR\``,
  });

  writeFileSync(path, "PGDMP");
  const errors: [line: string, message: string, code: string, hint?: string][] =
    [
      [
        "pg_restore: error: unexpected end of file",
        "unexpected end of file",
        "FAILED",
      ],
      [
        "pg_restore: error: unsupported version (1.16) in file header",
        "unsupported version (1.16) in file header",
        "TOOL_FAILED",
        "the archive was written by a newer pg_dump: install PostgreSQL's client programs of that version",
      ],
      [
        "Error response from daemon: no such container",
        "Error response from daemon: no such container",
        "TOOL_FAILED",
      ],
    ];
  for (const [line, message, code, hint] of errors)
    await expect(readArchive(program(fails(line)), path)).rejects.toMatchObject(
      { message: `pg_restore failed: ${message}`, code, hint },
    );

  const extension = (name: string) =>
    `CREATE EXTENSION IF NOT EXISTS ${name} WITH SCHEMA public;\nCOMMENT ON EXTENSION ${name} IS 'it''s';\n`;
  const rows = `-- Data for Name: t; Type: TABLE DATA; Schema: public\nCOPY public.t (x) FROM stdin;\n${extension("one")}\\.\n`;
  const settings = "SET transaction_timeout = 0;\n";
  writeFileSync(
    join(folder, "script"),
    settings + extension("one") + extension("two") + rows,
  );
  const restore = async (major: number, server: number, leftOut: string[]) => {
    const reader = program(
      `echo "$@" >${called}; cat ${join(folder, "script")}`,
      major,
    );
    const psql = program(`cat >${called}.sql`);
    const flags = { isWithoutOwner: true, isWithoutGrants: true };
    rmSync(`${called}.sql`, { force: true });
    await restoreArchive(
      reader,
      path,
      "next",
      { psql, extensions: [], ...flags },
      leftOut,
      server,
    );
    const isDirect = !existsSync(`${called}.sql`);
    return isDirect
      ? readFileSync(called, "utf8")
      : readFileSync(`${called}.sql`, "utf8");
  };
  const direct = "--exit-on-error --no-owner --no-acl --dbname next\n";
  const extensions = extension("one") + extension("two");

  expect(arguments_).toBe(
    "--format=custom --snapshot=1-2 --lock-wait-timeout=5000 --dbname postgres\n",
  );
  expect(mode & 0o777).toBe(0o600);
  expect(await restore(17, 17, [])).toBe(direct);
  expect(await restore(16, 15, [])).toBe(direct);
  expect(await restore(17, 16, [])).toBe(`\n${extensions}${rows}`);
  expect(await restore(16, 16, ["one"])).toBe(
    `\n\n\n${extension("two")}${rows}`,
  );
  rmSync(folder, { recursive: true });
});

testBackup(
  "dumps, proves, lists, verifies and drills",
  "seeded",
  async (given) => {
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
      sha256: digestOf(readFileSync(path)),
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
    expect(drilled.stderr).toBe("");
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
  },
);

testBackup(
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

testBackup(
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
    insert into "s.t" values (1);
    create table "q""uote" (i int); insert into "q""uote" values (1)`);
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
      '"q""uote"': 1,
    });
    expect(JSON.parse(drilled.stdout)).toMatchObject({
      verified: true,
      tables,
    });
  },
);

testFolder(
  "keeps no archive that a table is missing from",
  "empty",
  async ({ run, sql, folder }) => {
    const [server] = await sql<{ major: number }[]>`
      select current_setting('server_version_num')::int / 10000 as major`;
    await sql`create table "the table" ()`;
    for (const name of ["pg_dump", "pg_restore"])
      writeFileSync(
        join(folder, name),
        `#!/bin/sh\ncase "$1" in --version) echo ${server?.major};; *) echo PGDMP;; esac\n`,
        { mode: 0o755 },
      );
    const { exitCode, stdout, stderr } = await run("db:backup", {
      PATH: `${folder}:${dirname(process.execPath)}:/bin`,
    });

    expect({ exitCode, stdout, stderr }).toEqual({
      exitCode: 1,
      stdout: "",
      stderr: "Error: the table is missing from the archive\n",
    });
    expect(readdirSync(folder).sort()).toEqual(["pg_dump", "pg_restore"]);
  },
);

testBackup(
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

testBackup(
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

testBackup(
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

// In Docker they would be the container's.
if (!isInContainer) {
  testBackup(
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

  testFolder(
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
