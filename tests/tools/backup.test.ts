// db:backup: what is proven, kept and deleted, and what a backup that was ended leaves.
import { expect, test } from "bun:test";
import {
  existsSync,
  globSync,
  mkdirSync,
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
  countArchived,
  dumpDatabase,
  nameCopied,
  readArchive,
  readSchema,
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
  recordFinding,
  removeBackup,
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
import { observe } from "../lib/observe";

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
  const late = join(folder, "c.dump.partial-elsewhere-1");
  const forgotten = join(folder, "d.dump.partial-elsewhere-1");
  // Process 1 is alive, and may be another user's.
  for (const pid of [1, process.ppid, process.pid, ended])
    writeFileSync(partialOf(pid), "");
  for (const other of [elsewhere, late, forgotten]) writeFileSync(other, "");
  for (const [file, hours] of [
    [late, 23],
    [forgotten, 25],
  ] as const) {
    const time = Date.now() / 1000 - hours * 3600;
    utimesSync(file, time, time);
  }
  openFolder(folder);
  const left = readdirSync(folder);
  writeFileSync(namePartial(path), "data");
  publish(path, manifestOf("data"));
  const { mode } = statSync(`${path}.json`);
  const written = readFileSync(`${path}.json`, "utf8");
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
  const unbelieved = [await verify()];
  for (const text of ["{", "null", "1"]) {
    writeFileSync(`${path}.json`, text);
    unbelieved.push(await verify());
  }
  rmSync(`${path}.json`);
  mkdirSync(`${path}.json`);
  const unread = await verify();
  rmSync(`${path}.json`, { recursive: true });
  const foreign = await verify(true);
  rmSync(folder, { recursive: true });

  expect(left.sort()).toEqual(
    [partialOf(1), partialOf(process.ppid), elsewhere, late]
      .map((file) => basename(file))
      .sort(),
  );
  const manifestText = JSON.stringify(manifestOf("data"));
  const digest = digestOf(manifestText);
  expect(written).toBe(
    `${JSON.stringify({ ...JSON.parse(manifestText), digest }, null, 2)}\n`,
  );
  expect(mode & 0o777).toBe(0o600);
  expect(whole).toEqual([true, undefined]);
  expect(other).toBe("its checksum differs from the one in its manifest");
  expect(longer).toBe(`${other}: 9 bytes, not 4`);
  expect(changed).toBe(false);
  expect(unbelieved).toEqual(
    Array(4).fill("a.dump.json is not a manifest, or was changed"),
  );
  expect(unread).toStartWith("EISDIR: ");
  expect(foreign).toStartWith("it is not an archive of ");
});

test("a backup that failed leaves nothing, and the newest is listed first", async () => {
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
  mkdirSync(join(folder, "three.dump"));
  const listed = listBackups(folder);
  const inFolder = locateArchive(folder, "one.dump");
  writeFileSync(join(folder, "tsconfig.json"), "");
  const inBoth = locateArchive(folder, "tsconfig.json");

  expect(left).toEqual([]);
  expect(listed).toEqual(
    [two, one].map((path, index) => ({
      file: basename(path),
      bytes: 0,
      createdAt: `1970-01-01T00:00:0${2 - index}.000Z`,
      verified: false,
    })),
  );
  expect(inFolder).toBe(one);
  expect(inBoth).toBe(join(process.cwd(), "tsconfig.json"));
  expect(await observe(() => locateArchive("/", folder))).toMatchObject({
    message: `${folder} is not a file`,
    code: "FILE_MISSING",
    hint: "name an archive of `pg_dump --format=custom`",
  });
  expect(await observe(() => locateArchive(folder, "four.dump"))).toMatchObject(
    {
      message: `there is no file ${join(process.cwd(), "four.dump")}`,
      hint: "`bun run db:backup --list` lists the backups",
    },
  );
  removeBackup(folder, "one.dump");
  for (const file of [two, `${two}.json`]) writeFileSync(file, "");
  for (const _ of ["once", "twice"]) removeBackup(folder, "two.dump");
  expect(readdirSync(folder).sort()).toEqual(["three.dump", "tsconfig.json"]);
  rmSync(folder, { recursive: true });
});

test("what is listed is of the file, and verified only where all of it is", async () => {
  const folder = mkdtempSync(join(tmpdir(), "backups-"));
  const path = join(folder, "b.dump");
  const list = (changes: Partial<Manifest>) => {
    writeFileSync(namePartial(path), "data");
    publish(path, { ...manifestOf("data"), ...changes });
    return listBackups(folder)[0];
  };
  const whole = list({ drill: "passed" });
  const doubtful = [
    list({ bytes: 5 }),
    list({ verified: false }),
    list({ drill: "failed" }),
  ].map((listed) => [listed?.bytes, listed?.verified]);
  const manifest = manifestOf("data");
  recordFinding(path, { ...manifest, drill: "failed" });
  const noted = JSON.parse(readFileSync(`${path}.json`, "utf8"));
  const files = readdirSync(folder).sort();
  const { notes } = await observe(() =>
    recordFinding(join(folder, "gone/a.dump"), manifest),
  );
  const fresh = join(folder, "one/two");
  openFolder(fresh);
  const refused = await observe(() => openFolder(path));
  const unlisted = await observe(() => listBackups(path));

  expect(whole).toEqual({ ...manifest, file: "b.dump", drill: "passed" });
  expect(doubtful).toEqual(Array(3).fill([4, false]));
  expect(noted).toMatchObject({ drill: "failed" });
  expect(files).toEqual(["b.dump", "b.dump.json"]);
  expect(notes).toStartWith(
    "Warning: the manifest was not updated: ENOENT: no such file or directory",
  );
  expect(statSync(fresh).mode & 0o777).toBe(0o700);
  expect(listBackups(join(folder, "none"))).toEqual([]);
  expect(refused).toMatchObject({
    message: "the backup folder cannot be used: it is a file",
    hint: `\`BACKUP_DIR\` is ${path}: set it to a folder that this user may write to`,
    code: "BACKUP_DIR",
    exitCode: 2,
  });
  expect(unlisted).toMatchObject({
    message: expect.stringContaining(
      "the backup folder cannot be used: ENOTDIR",
    ),
    exitCode: 2,
  });
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

/** A program that is a script of the shell. */
function makeProgram(folder: string, script: string, major = 18): PostgresTool {
  const file = join(folder, crypto.randomUUID());
  writeFileSync(file, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return {
    command: [file],
    variables: { ...process.env, OWN: "own" },
    login: (database, application = "?") => [database, application],
    major,
  };
}

test("the programs are called as meant, and their errors told from those around them", async () => {
  const folder = mkdtempSync(join(tmpdir(), "backups-"));
  const path = join(folder, "a.dump");
  const program = (script: string) => makeProgram(folder, script);
  const dump = (script: string) => {
    const address = clusterAddress(5432);
    return dumpDatabase(program(script), address, "1-2", "us", 5000, path);
  };
  const fails = (line: string) => `echo '${line}' >&2; exit 1`;

  await dump('echo "$@" $OWN');
  const written = readFileSync(path, "utf8");
  const { mode } = statSync(path);
  const again = dump("echo again");
  await expect(again).rejects.toThrow("EEXIST");
  const full = "pg_dump: error: could not write: No space left on device";
  rmSync(path);
  await expect(dump(fails(full))).rejects.toMatchObject({
    message: "pg_dump failed: could not write: No space left on device",
    hint: `free some space for ${folder}, or set another \`BACKUP_DIR\``,
  });
  rmSync(path);
  await expect(dump(fails("pg_dump: error: no"))).rejects.toMatchObject({
    message: "pg_dump failed: no",
    hint: undefined,
  });

  writeFileSync(path, "PGDMP");
  const errors: [
    lines: string,
    message: string,
    code: string,
    hint?: string,
  ][] = [
    [
      "pg_restore: warning: one\n \npg_restore: error: unexpected end of file",
      "unexpected end of file",
      "FAILED",
    ],
    ["pg_restore: [archiver] bad header", "[archiver] bad header", "FAILED"],
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
    ["", "exit code 1", "TOOL_FAILED"],
  ];
  for (const [text, message, code, hint] of errors) {
    const lines = text.split("\n").filter((line) => line.trim());
    await expect(readArchive(program(fails(text)), path)).rejects.toMatchObject(
      {
        message: `pg_restore failed: ${message}`,
        code,
        hint,
        lines: lines.map((line) => `  ${line}`),
      },
    );
  }
  const many = program("seq 12 >&2; exit 1");
  await expect(readArchive(many, path)).rejects.toMatchObject({
    message: "pg_restore failed: 1",
    lines: [...Array(10).keys()].map((index) => `  ${index + 1}`),
  });
  const problem = async (script: string, isReread: boolean) =>
    (await verifyBackup(program(script), path, isReread)).problem;
  const broken = fails("pg_restore: error: broken");
  const manifest = { ...manifestOf("PGDMP"), verified: false };
  const unproven = [await problem(broken, true), await problem("exit 0", true)];
  recordFinding(path, manifest);
  unproven.push(await problem(broken, false), await problem("exit 0", false));
  recordFinding(path, { ...manifest, verified: true });
  const proven = [await problem(broken, false), await problem(broken, true)];
  await expect(problem("exit 137", true)).rejects.toMatchObject({
    code: "TOOL_FAILED",
  });
  const byDefault = await verifyBackup(program(broken), path);
  const broke = "pg_restore failed: broken";
  // What this process started ends with it.
  const before = process.listeners("exit");
  const reading = readArchive(program("exec sleep 20"), path);
  const added = process
    .listeners("exit")
    .filter((one) => !before.includes(one));
  for (const stop of added) stop(0);
  await expect(reading).rejects.toThrow("pg_restore failed: exit code 143");

  expect(written).toBe(
    "--format=custom --snapshot=1-2 --lock-wait-timeout=5000 postgres us own\n",
  );
  expect(mode & 0o777).toBe(0o600);
  expect(unproven).toEqual([broke, undefined, broke, undefined]);
  expect(proven).toEqual([undefined, broke]);
  expect(byDefault).toEqual({
    bytes: 5,
    sha256: digestOf("PGDMP"),
    manifest: { ...manifest, verified: true },
    problem: broke,
  });
  expect(added).toHaveLength(1);
  expect(process.listeners("exit")).toEqual(before);
  rmSync(folder, { recursive: true });
});

test("an archive is read as meant, and each row in it counted once", async () => {
  const folder = mkdtempSync(join(tmpdir(), "backups-"));
  const [path, script] = [join(folder, "a.dump"), join(folder, "script")];
  const called = join(folder, "called");
  const reader = makeProgram(
    folder,
    `{ echo "$@" $OWN; cat; } >${called}; cat ${script}`,
  );
  const count = async (text: string) => {
    writeFileSync(script, text);
    return Object.fromEntries(await countArchived(reader, path));
  };
  writeFileSync(path, "PGDMP");

  // 2 MB, so that what is read at once ends at each byte of it.
  const many = await count(
    "COPY s.t (x) FROM stdin;\na\n\\.\n\n".repeat(65_537),
  );
  const few = await count(
    `CREATE TABLE t ();
COPY public."a ""b"".c" (x) FROM stdin;
a.
\\N
COPY public.other (x) FROM stdin;
\\\\.
\\.
COPY public."two
lines" ("x
y") FROM stdin;

\\.
COPY "public"."none" (x) FROM stdin;
\\.
COPY public.cut (x) FROM stdin;
1
`,
  );
  const data = readFileSync(called, "utf8");
  const schema = await readSchema(reader, path);
  const others = readFileSync(called, "utf8");
  const failing = makeProgram(folder, "echo no >&2; exit 1");
  await expect(countArchived(failing, path)).rejects.toThrow("failed: no");
  await expect(readSchema(failing, path)).rejects.toThrow("failed: no");
  writeFileSync(path, "PGDM");
  for (const read of [readArchive, countArchived, readSchema])
    await expect(read(reader, path)).rejects.toThrow("it is not an archive");

  expect(many).toEqual({ [nameCopied("s", "t")]: 65_537 });
  expect(few).toEqual({
    [nameCopied("public", 'a "b".c')]: 4,
    [nameCopied("public", "two\nlines")]: 1,
    [nameCopied("public", "none")]: 0,
    [nameCopied("public", "cut")]: 1,
  });
  expect(data).toBe("--data-only --file=- own\nPGDMP");
  expect(others).toBe("--schema-only --file=- own\nPGDMP");
  expect(schema).toBe(readFileSync(script, "utf8"));
  rmSync(folder, { recursive: true });
});

test("an archive is restored as meant, with what is left out", async () => {
  const folder = mkdtempSync(join(tmpdir(), "backups-"));
  const [path, script] = [join(folder, "a.dump"), join(folder, "script")];
  const [called, fed] = [join(folder, "called"), join(folder, "fed")];
  writeFileSync(path, "PGDMP");
  const psql = makeProgram(
    folder,
    `echo "$@" $OWN $LC_ALL >${fed}; cat >>${fed}`,
  );
  const restore = async (
    major: number,
    serverMajor: number,
    leftOut: string[],
    flags = { isWithoutOwner: true, isWithoutGrants: true },
    writer = psql,
    end = "exit 0",
  ) => {
    const read = `{ echo "$@" $OWN; cat; } >${called}; cat ${script}; ${end}`;
    const reader = makeProgram(folder, read, major);
    for (const file of [called, fed]) rmSync(file, { force: true });
    const options = { psql: writer, extensions: [], ...flags };
    await restoreArchive(reader, path, "next", options, leftOut, serverMajor);
    return [called, fed].map((file) =>
      existsSync(file) ? readFileSync(file, "utf8") : undefined,
    );
  };
  const header = (name: string, type: string) =>
    `-- Name: ${name}; Type: ${type}; Schema: -; Owner: -\n`;
  const create = (name: string) =>
    `CREATE EXTENSION IF NOT EXISTS ${name} WITH SCHEMA public;\n`;
  const comment = (name: string) =>
    `COMMENT ON EXTENSION ${name} IS 'it''s\nlong';\n`;
  const extension = (name: string) =>
    `${header(name, "EXTENSION")}${create(name)}${header(name, "COMMENT")}${comment(name)}`;
  const names = ["one", '"a+b"', "one_more"];
  const settings = "SET transaction_timeout = 0;\n";
  const schema = `${header("é", "SCHEMA")}CREATE SCHEMA "é";\n`;
  const objects = `${header("f()", "FUNCTION")}${create("one")}-- Data for Name: t; Type: TABLE DATA; Schema: public\nCOPY public.t (x) FROM stdin;\n${settings}${create("one")}\\.\n`;
  const rest = schema + names.map(extension).join("") + objects;
  writeFileSync(script, settings + rest);
  const direct = (flags: string) => [
    `--exit-on-error ${flags}next ? own\nPGDMP`,
    undefined,
  ];
  const through = (text: string) => [
    "--file=- --no-owner --no-acl own\nPGDMP",
    `--no-psqlrc --quiet --set=ON_ERROR_STOP=1 next ? own C\n${text}`,
  ];
  const without = (...left: string[]) =>
    left.reduce(
      (text, name) =>
        text.replace(create(name), "\n").replace(comment(name), "\n"),
      `\n${rest}`,
    );

  expect(await restore(17, 17, [])).toEqual(direct("--no-owner --no-acl "));
  for (const [isWithoutOwner, isWithoutGrants, flags] of [
    [true, false, "--no-owner "],
    [false, true, "--no-acl "],
    [false, false, ""],
  ] as const)
    expect(
      await restore(16, 15, [], { isWithoutOwner, isWithoutGrants }),
    ).toEqual(direct(flags));
  expect(await restore(17, 16, [])).toEqual(through(`\n${rest}`));
  expect(await restore(16, 16, ["one"])).toEqual(through(without("one")));
  expect(await restore(18, 18, ['"a+b"', "one"])).toEqual(
    through(without("one", '"a+b"')),
  );
  writeFileSync(script, extension("one"));
  expect(await restore(18, 18, ["one"])).toEqual(
    through(
      extension("one")
        .replace(create("one"), "\n")
        .replace(comment("one"), "\n"),
    ),
  );
  const cut = restore(18, 16, [], undefined, psql, "echo cut >&2; exit 1");
  await expect(cut).rejects.toThrow("pg_restore failed: cut");
  const full = makeProgram(folder, "echo full >&2; exit 3");
  for (const end of ["exec sleep 20", "exec yes"]) {
    const failed = restore(18, 16, [], undefined, full, end);
    await expect(failed).rejects.toThrow("psql failed: full");
  }
  rmSync(folder, { recursive: true });
});

testBackup(
  "dumps, proves, lists, verifies and drills",
  "seeded",
  async (given) => {
    const { run, sql, folder, list, name } = given;
    const none = await run("db:backup --list");
    const first = await run("db:backup --json");
    const [file = ""] = list();
    const path = join(folder, file);
    const listed = await run("db:backup --list");
    const verified = await run(`db:backup --verify ${file} --json`);
    const drilled = await run(`db:backup --drill ${path} --json`);
    const written = readdirSync(folder);
    const manifest = readFileSync(`${path}.json`, "utf8");
    const [server] = await sql`
      select system_identifier::text as id,
        split_part(current_setting('server_version'), ' ', 1) as version
      from pg_control_system()`;

    const { tables, ms, ...rest } = JSON.parse(first.stdout);
    const bytes = statSync(path).size;
    expect(none.stdout).toBe(`No backups: ${folder}\n`);
    expect(rest).toEqual({
      file: path,
      bytes,
      sha256: digestOf(readFileSync(path)),
      head: ownHead,
      serverVersion: server?.version,
      verified: true,
    });
    expect(tables).toMatchObject({ users: 1, builds: 3, sessions: 0 });
    for (const one of written)
      expect(statSync(join(folder, one)).mode & 0o777).toBe(0o600);
    expect(written.sort()).toEqual([file, `${file}.json`]);
    expect(JSON.parse(manifest)).toEqual({
      ...rest,
      file,
      database: name,
      createdAt: expect.any(String),
      systemIdentifier: server?.id,
      tables,
      ms,
      drill: "passed",
      digest: expect.any(String),
    });
    const { createdAt } = JSON.parse(manifest);
    expect(Date.now() - Date.parse(createdAt)).toBeWithin(ms, 120_000);
    const time = createdAt.replace(/[-:.Z]/g, "");
    expect(file).toMatch(new RegExp(`^${name}_${time}\\d{3}Z\\.dump$`));
    const size = formatBytes(bytes).padStart(9);
    expect(listed.stdout).toMatch(
      new RegExp(`^${file}  ${size}    [0-2] min  ${ownHead}  verified\n$`),
    );
    expect(JSON.parse(verified.stdout)).toEqual({
      ...rest,
      tables,
      ms: expect.any(Number),
    });
    const { serverVersion: _, ...archive } = rest;
    expect(JSON.parse(drilled.stdout)).toEqual({
      ...archive,
      tables,
      ms: expect.any(Number),
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
    expect(restored).toEqual({
      exitCode: 1,
      stdout: "",
      stderr: `Error: the rows restored from ${path} differ from its manifest\n  users has 1 rows, not 2\nNothing was changed: ${name} is still the old database\n`,
    });
    expect(listBackups(folder)[0]).toMatchObject({
      drill: "failed",
      verified: false,
    });
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
    const { stdout } = await run("db:backup --keep 1");

    const newest = left.at(-1) ?? "";
    const size = formatBytes(statSync(join(folder, newest)).size);
    expect(kept.stdout.replace(/\d+ ms/, "5 ms")).toBe(
      `Backed up: ${join(folder, newest)} (${size}, 5 ms)\nDeleted: ${oldest}\n`,
    );
    // The newest one, the newest that is verified, and the one just made.
    expect(list()).toEqual([...left, expect.any(String)]);
    expect(left).toHaveLength(4);
    expect(left).toContain("other.dump");
    expect(left).toContain(elsewhere);
    expect(stdout).not.toContain("Deleted");
  },
);

testBackup(
  "counts each row once, whatever its table is",
  "empty",
  async (given) => {
    const { run, sql, list, name } = given;
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
    create table "q""uote" (i int); insert into "q""uote" values (1);
    create table of_extension (); alter extension plpgsql add table of_extension;
    create temporary table passing ();
    create schema drizzle; create table drizzle.__drizzle_migrations (other int);
    alter database ${name} set idle_in_transaction_session_timeout = 1`);
    const { stdout, stderr } = await run("db:backup --json");
    const [file] = list();
    const drilled = await run(`db:backup --drill ${file} --json`);

    const { tables, head } = JSON.parse(stdout);
    expect(head).toBeNull();
    expect(stderr).toStartWith(
      "Warning: cannot tell which migration is the newest: ",
    );
    const plain = Object.keys(tables).filter((one) => /^[a-z]+$/.test(one));
    expect(plain).toEqual(["child", "constructor", "none", "parent", "parts"]);
    expect(tables).toEqual({
      "drizzle.__drizzle_migrations": 0,
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
    const { run, sql, folder, list, name } = given;
    await run("db:backup");
    const [file = ""] = list();
    const abandoned = `${name}__scratch_00000000`;
    await sql.unsafe(`create database ${abandoned}`);
    const count = Object.keys(listBackups(folder)[0]?.tables ?? {}).length;
    rmSync(join(folder, `${file}.json`));
    const drilled = await run(`db:backup --drill ${file}`);

    expect(drilled.exitCode).toBe(0);
    expect(drilled.stderr).toBe(
      "It has no manifest: its rows could not be compared\n",
    );
    expect(drilled.stdout.replace(/\d+ ms/, "5 ms")).toBe(
      `Drilled: ${join(folder, file)}, restored in 5 ms (${count} tables)\n`,
    );
    expect(await listDatabases(given)).toEqual([""]);
  },
);

testFolder(
  "lists what is there with its age, and says that it cannot use a folder",
  "empty",
  async ({ run, folder }) => {
    const ages = [0, 119, 120, 47 * 60, 48 * 60];
    for (const [index, minutes] of ages.entries()) {
      const path = join(folder, `${index}.dump`);
      writeFileSync(path, "data");
      const time = Date.now() / 1000 - minutes * 60;
      utimesSync(path, time, time);
    }
    const { stdout } = await run("db:backup --list");
    const BACKUP_DIR = join(folder, "0.dump");
    const made = await run("db:backup", { BACKUP_DIR });
    const listed = await run("db:backup --list", { BACKUP_DIR });

    const shown = ["  0 min", "119 min", "    2 h", "   47 h", " 2 days"];
    expect(stdout).toBe(
      shown
        .map(
          (age, index) =>
            `${index}.dump     0.0 kB  ${age}  no migration  not verified\n`,
        )
        .join(""),
    );
    for (const { exitCode, stdout, stderr } of [made, listed]) {
      expect(exitCode).toBe(2);
      expect(stdout).toBe("");
      expect(stderr).toStartWith("Error: the backup folder cannot be used: ");
    }
  },
);

testBackup(
  "leaves nothing that looks like a backup where it was interrupted or killed",
  "seeded",
  async (given) => {
    const { run, start, sql, folder, list, name } = given;
    const holder = await sql.reserve();
    await holder`begin`;
    await holder`lock table builds in access exclusive mode`;
    const dumping = `datname = '${name}' and application_name like 'pg_dump %'`;
    const interrupted = start("scripts/backup.ts");
    await until(sql, `${dumping} and wait_event_type = 'Lock'`);
    interrupted.kill("SIGINT");
    const stderr = await new Response(interrupted.stderr).text();
    const exitCode = await interrupted.exited;
    const gone = readdirSync(folder);
    await until(
      sql,
      `pid = pg_backend_pid() and not exists (select from pg_stat_activity where ${dumping})`,
    );
    const child = start("scripts/backup.ts");
    await until(sql, `${dumping} and wait_event_type = 'Lock'`);
    child.kill("SIGKILL");
    await child.exited;
    const left = list();
    await holder`rollback`;
    holder.release();
    const next = await run("db:backup");

    expect({ exitCode, stderr, gone }).toEqual({
      exitCode: 130,
      stderr: "Error: interrupted\nNo backup was made\n",
      gone: [],
    });
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

      expect(verified).toEqual({
        exitCode: 0,
        stdout: `Verified: ${join(folder, file)}\n`,
        stderr: "",
      });
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
