// What the commands know of a server before they use it: whose it is, whether its
// database is protected, and what a new database beside it has to be like.
import { expect, spyOn, test as plainTest } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Sql } from "postgres";
import { liftTimeouts, openConnection } from "../../scripts/lib/connection";
import {
  askBetween,
  type Consent,
  requireConsent,
  requireDevelopment,
} from "../../scripts/lib/consent";
import { readDatabaseOptions } from "../../scripts/lib/database-options";
import { dropDatabase } from "../../scripts/lib/drop-database";
import {
  keepMigrationLock,
  lockOnceMore,
  nameHolder,
  readLockHolder,
  withLock,
} from "../../scripts/lib/lock";
import {
  isAnotherClones,
  isGuarded,
  isOwnServer,
  mayUse,
  type OwnServer,
  ownServerFile,
  readIdentity,
  readOwnServer,
} from "../../scripts/lib/own-server";
import { probe } from "../../scripts/lib/probe";
import {
  isProductionDatabase,
  isProtected,
  isStamped,
  nameReason,
  stampProduction,
} from "../../scripts/lib/protection";
import type { FailureFields } from "../../scripts/lib/report";
import { withScratchDatabase } from "../../scripts/lib/scratch-database";
import { parseDatabaseUrl } from "../../src/database-url";
import { root } from "../../src/env";
import { openDatabase } from "../lib/database";
import { withRoles } from "../lib/roles";
import { test } from "../lib/test";

const localhost = parseDatabaseUrl("postgres://u:p@localhost:5432/app", "X");
const chosen = { isChosen: true, isUrl: false };

/** Makes a folder as of DB_DATA_DIR, with a record of a server, or without one. */
function makeDataDir(record?: Partial<OwnServer>): string {
  const dataDir = mkdtempSync(join(tmpdir(), "starter-data-"));
  const own = { folder: root, port: 5432, identity: "1", ...record };
  if (record) writeFileSync(ownServerFile(dataDir), JSON.stringify(own));
  return dataDir;
}

plainTest(
  "a server is this clone's where the record says so, and may be used where nothing says that it is another's",
  () => {
    const told: Record<string, string> = {};
    const judge = (
      name: string,
      given: { isChosen: boolean; isUrl: boolean } | undefined,
      record?: Partial<OwnServer>,
      identity = "1",
    ) => {
      const dataDir = makeDataDir(record);
      const address = { ...localhost, guard: given && { dataDir, ...given } };
      told[name] = Object.entries({
        guarded: isGuarded(address),
        own: isOwnServer(address, identity),
        "another's": isAnotherClones(address, identity),
        usable: mayUse(address, identity),
      })
        .flatMap(([word, isTrue]) => (isTrue ? [word] : []))
        .join(", ");
      rmSync(dataDir, { recursive: true });
    };
    const usual = { isChosen: false, isUrl: false };
    const clone = "71clone-0123456789ab";
    judge("no guard", undefined, {});
    judge("the usual port, no record", usual);
    judge("the usual port, its record", usual, {});
    judge("the usual port, a record with another", usual, { port: 5433 });
    judge("a record of another folder", usual, { folder: "/elsewhere" });
    judge("a record of another server", usual, { identity: "2" });
    judge("a port, no record", chosen);
    judge("a port, its record", chosen, {});
    judge("a port, a record with another", chosen, { port: 5433 });
    judge("a port, a record of another server", chosen, { identity: "2" });
    judge("a port, another's cluster", chosen, undefined, clone);
    judge("a port, a name like it", chosen, undefined, `${clone}-copy`);
    judge(
      "a URL, another's cluster",
      { isChosen: true, isUrl: true },
      undefined,
      clone,
    );
    judge("the usual port, its own cluster", usual, { identity: clone }, clone);

    expect(told).toEqual({
      "no guard": "usable",
      "the usual port, no record": "guarded",
      "the usual port, its record": "guarded, own, usable",
      "the usual port, a record with another": "guarded",
      "a record of another folder": "guarded",
      "a record of another server": "guarded",
      "a port, no record": "usable",
      "a port, its record": "guarded, own, usable",
      "a port, a record with another": "usable",
      "a port, a record of another server": "guarded",
      "a port, another's cluster": "another's",
      "a port, a name like it": "usable",
      "a URL, another's cluster": "usable",
      "the usual port, its own cluster": "guarded, own, another's, usable",
    });
    const broken = makeDataDir();
    expect(readOwnServer(broken)).toBeUndefined();
    mkdirSync(ownServerFile(broken));
    expect(() => readOwnServer(broken)).toThrow("EISDIR");
    rmSync(broken, { recursive: true });
  },
);

test("a connection to a server that may be another clone's is closed, with what to do instead", async ({
  sql,
  address,
  name,
}) => {
  const [cluster] = await sql`
    select system_identifier || current_setting('cluster_name') as identity from pg_control_system()`;
  const identity = String(cluster?.identity);
  const dataDir = makeDataDir({ port: address.port, identity });
  const guard = { dataDir, ...chosen };
  const own = await openConnection({ ...address, guard }, "tests: own");
  await own.end();
  writeFileSync(
    ownServerFile(dataDir),
    JSON.stringify({ folder: root, port: address.port, identity: "other" }),
  );
  const open = (isChosen: boolean) =>
    openConnection(
      { ...address, guard: { ...guard, isChosen } },
      `tests: ${name}`,
    );

  const server = `${address.host}:${address.port}`;
  const refusal = (hint: string) => ({
    message: `this clone did not start the server on ${server}: it may be another clone's`,
    code: "OTHER_SERVER",
    exitCode: 2,
    hint,
  });
  await expect(open(true)).rejects.toMatchObject(
    refusal(
      "run `bun run db:start`, which checks again; or set another `POSTGRES_PORT` in `.env.local`; or, if you mean that server, set `DB_ENGINE=external`",
    ),
  );
  await expect(open(false)).rejects.toMatchObject(
    refusal(
      "run `bun run db:setup`, which gives this clone its own server; or, if you mean that server, name it with `DATABASE_URL`",
    ),
  );
  expect(await readIdentity(sql)).toBe(identity);
  rmSync(dataDir, { recursive: true });
  const left = () =>
    sql`select from pg_stat_activity where application_name = ${`tests: ${name}`}`;
  const deadline = Date.now() + 5000;
  while ((await left()).length > 0 && Date.now() < deadline)
    await Bun.sleep(10);
  expect(await left()).toHaveLength(0);
});

test("what answers at an address is told: a server with its version, or what is in the way", async ({
  sql,
  address,
}) => {
  const [server] = await sql`
    select split_part(current_setting('server_version'), ' ', 1) as version`;

  const ready = await probe(address);
  const missing = await probe({ ...address, database: "nowhere" });
  const silent = await probe({ ...address, port: 1 });

  expect(ready).toEqual({
    state: "ready",
    version: server?.version,
    identity: await readIdentity(sql),
  });
  expect(missing).toMatchObject({
    state: "no-database",
    error: { code: "UNREACHABLE", exitCode: 1 },
  });
  expect(silent).toMatchObject({
    state: "silent",
    error: { message: `nothing listens on ${address.host}:1` },
  });
});

test("a database is protected by its own stamp, by NODE_ENV, or elsewhere, and the first of these is named", async ({
  sql,
  address,
}) => {
  const none = { isStamped: false, isProduction: false, isRemote: false };
  const far = {
    ...address,
    host: "localhost",
    otherHosts: [{ host: "db.example.com", port: 5432 }],
  };
  const judge = (protection: Partial<typeof none>) => {
    const whole = { ...none, ...protection };
    return [
      isProtected(whole),
      isProductionDatabase(whole),
      isProtected(whole) && nameReason(whole, far),
    ];
  };
  const count = async () =>
    (await sql`select from drizzle.__environment`).length;
  await using session = await openConnection(address, "tests");
  await session`set default_transaction_read_only = on`;

  const unstamped = await isStamped(sql);
  const first = await stampProduction(session);
  const second = await stampProduction(session);
  const stamps = await count();
  await sql`update drizzle.__environment set name = 'staging'`;
  const staging = await isStamped(sql);
  const again = await stampProduction(session);

  expect([unstamped, first, second, stamps]).toEqual([false, true, false, 1]);
  expect([staging, again, await isStamped(sql), await count()]).toEqual([
    false,
    true,
    true,
    1,
  ]);
  expect(
    [
      {},
      { isRemote: true },
      { isProduction: true, isRemote: true },
      { isStamped: true, isProduction: true },
    ].map(judge),
  ).toEqual([
    [false, false, false],
    [true, false, "it is on db.example.com"],
    [true, true, "NODE_ENV is production"],
    [true, true, "it is stamped production"],
  ]);
});

test("a database that is made with the options of another has its encoding, locale and tablespace", async ({
  sql,
  name,
}) => {
  const [server] = await sql<{ version: number; isUnsafe: boolean }[]>`
    select current_setting('server_version_num')::int / 10000 as version,
      current_setting('fsync') = 'off' as "isUnsafe"`;
  const { version = 0, isUnsafe } = server ?? {};
  const libc = version >= 15 ? "locale_provider libc" : "";
  const kinds: Record<string, string> = {
    libc: `encoding 'SQL_ASCII' ${libc} lc_collate 'C' lc_ctype 'POSIX'`,
  };
  if (version >= 16)
    kinds.icu =
      "encoding 'UTF8' locale_provider icu icu_locale 'de' icu_rules '&a < g' lc_collate 'C' lc_ctype 'C'";
  if (version >= 17)
    kinds.builtin =
      "encoding 'UTF8' locale_provider builtin builtin_locale 'C.UTF-8' lc_collate 'C' lc_ctype 'C'";
  const describe = async (database: string) =>
    await sql`
      select to_jsonb(d) - 'oid' - 'datname' - 'datfrozenxid' - 'datminmxid' - 'dattablespace' as settings
      from pg_database as d where datname = ${database}`;

  for (const [kind, options] of Object.entries(kinds)) {
    const [one, other] = [`${name}_${kind}`, `${name}_${kind}_2`];
    await sql.unsafe(`create database ${one} template template0 ${options}`);
    const read = await readDatabaseOptions(sql, one);
    await sql.unsafe(`create database ${other} ${read}`);

    expect(await describe(other)).toEqual(await describe(one));
    expect(read).toStartWith("template template0 ");
    if (version >= 15)
      expect(read.endsWith("strategy file_copy")).toBe(isUnsafe === true);
    await sql.unsafe(`drop database ${other}`);
  }
  await sql.unsafe(`
    update pg_database set datcollate = 'it''s', datctype = 'other' where datname = '${name}_libc'`);
  expect(await readDatabaseOptions(sql, `${name}_libc`)).toContain(
    " encoding 'SQL_ASCII' lc_collate 'it''s' lc_ctype 'other'",
  );
  expect(await readDatabaseOptions(sql, "nowhere")).toBe("");
});

test("a database stays in the tablespace of another, where this role may use that", async (database) => {
  const { sql, name, address } = database;
  const [server] = await sql<{ version: number }[]>`
    select current_setting('server_version_num')::int / 10000 as version`;
  if (Number(server?.version) < 15) return; // no tablespace without a folder for it
  const made = await sql.reserve();
  await made`set allow_in_place_tablespaces = on`;
  await made.unsafe(`create tablespace "${name} 2" location ''`);
  made.release();
  try {
    await sql.unsafe(`create database ${name}_2 tablespace "${name} 2"`);
    await withRoles(database, 1, async (role) => {
      await using session = await openConnection(address, "tests");
      const warned = spyOn(process.stderr, "write").mockReturnValue(true);

      const allowed = await readDatabaseOptions(session, `${name}_2`);
      await session.unsafe(`set role ${role?.name}`);
      const denied = await readDatabaseOptions(session, `${name}_2`);
      const notes = warned.mock.calls
        .flat()
        .filter((text) => String(text).includes(name));
      warned.mockRestore();

      expect(allowed).toEndWith(` tablespace "${name} 2"`);
      expect(allowed.replace(/ tablespace .*/, "")).toBe(denied);
      expect(notes).toEqual([
        `Warning: not carried over: the tablespace ${name} 2 (this role may not use it)\n`,
      ]);
    });
  } finally {
    await sql.unsafe(`drop database if exists ${name}_2`);
    await sql.unsafe(`drop tablespace "${name} 2"`);
  }
});

test("a database is dropped with the sessions in it, but not with one that this role may not end", async (database) => {
  const { sql, name, address } = database;
  await withRoles(database, 1, async (role) => {
    const { name: owner = "" } = role ?? {};
    const inside = { ...address, database: `${name}_2` };
    const login = { user: owner, password: owner };
    await sql.unsafe(`alter role ${owner} createdb`);
    await using server = await openConnection(
      { ...address, ...login },
      "tests",
    );
    await server.unsafe(`create database ${name}_2`);
    await using own = await openConnection({ ...inside, ...login }, "tests");
    const others = openDatabase(inside);
    await others`select 1`;

    const dropped = dropDatabase(server, `${name}_2`);
    await own`select pg_sleep(20)`.catch(() => {}); // is ended, to no avail
    await others.end();
    await dropped;
    const left = await sql`
      select from pg_database where datname = ${`${name}_2`}`;
    await dropDatabase(server, `${name}_2`); // it is not there

    expect(left).toHaveLength(0);
  });
});

test("the timeouts of a session are lifted, and the wait for a lock has an end", async ({
  sql,
}) => {
  const session = await sql.reserve();
  const names = await session<{ name: string }[]>`
    select name from pg_settings
    where name ~ '^(statement|transaction|lock|idle.*session)_timeout$'`;
  for (const { name } of names)
    await session`select set_config(${name}, '5min', false)`;

  await session.unsafe(liftTimeouts);
  const lifted = await session<{ name: string; setting: string }[]>`
    select name, current_setting(name) as setting from pg_settings
    where name in ${session(names.map(({ name }) => name))}`;
  session.release();

  expect(names.length).toBeGreaterThanOrEqual(4);
  for (const { name, setting } of lifted)
    expect({ name, setting }).toEqual({
      name,
      setting: name === "lock_timeout" ? "1min" : "0",
    });
});

plainTest(
  "a name confirms what is protected and what would be lost, unless the database is for production",
  async () => {
    const none = { isStamped: false, isProduction: false, isRemote: false };
    const remote = { ...none, isRemote: true };
    const stamped = { ...none, isStamped: true };
    const at = (database: string) => ({
      ...localhost,
      host: "db.example.com",
      database,
    });
    const consent = (more: Partial<Consent> = {}): Consent => ({
      ...{ command: "db:it", address: at("app"), confirmed: undefined },
      ...{ accepted: [], ...more },
    });
    const judge = (work: () => void) => {
      try {
        work();
        return "goes on";
      } catch (error) {
        const { message, hint, exitCode, ask } = error as Error & FailureFields;
        return `${exitCode}${ask ? "?" : ""} ${message} | ${hint}`;
      }
    };
    const isProtected = "app is protected: it is on db.example.com";
    const confirm = "to go ahead, add `--confirm app`";

    const accepted = [isProtected, "data would be lost", "rows"];

    const judged = [
      judge(() => requireConsent(consent(), none)),
      judge(() => requireConsent(consent(), remote)),
      judge(() => requireConsent(consent(), none, ["rows"])),
      judge(() => requireConsent(consent(), remote, ["rows"])),
      judge(() =>
        requireConsent(consent({ confirmed: "app" }), remote, ["rows"]),
      ),
      judge(() => requireConsent(consent({ confirmed: "other" }), none)),
      judge(() => requireConsent(consent({ accepted }), remote, ["rows"])),
      judge(() =>
        requireConsent(consent({ accepted }), remote, ["rows", "more"]),
      ),
      judge(() =>
        requireConsent(consent({ address: at("a-b.c") }), none, ["rows"]),
      ),
      judge(() =>
        requireConsent(consent({ address: at("a b") }), none, ["rows"]),
      ),
      judge(() => requireDevelopment(consent(), none)),
      judge(() => requireDevelopment(consent(), remote)),
      judge(() => requireDevelopment(consent({ confirmed: "app" }), stamped)),
    ];

    expect(judged).toEqual([
      "goes on",
      `2? db:it needs confirmation: ${isProtected} | ${confirm}`,
      `2? db:it needs confirmation: data would be lost | ${confirm}`,
      `2? db:it needs confirmation: ${isProtected}; data would be lost | ${confirm}`,
      "goes on",
      `2 "other" is not the name of the database | ${confirm}`,
      "goes on",
      `2? db:it needs confirmation: ${isProtected}; data would be lost | ${confirm}`,
      "2? db:it needs confirmation: data would be lost | to go ahead, add `--confirm a-b.c`",
      "2? db:it needs confirmation: data would be lost | to go ahead, add `--confirm 'a b'`",
      "goes on",
      `2? db:it needs confirmation: ${isProtected} | ${confirm}`,
      "2 db:it is for development, and app is not: it is stamped production | docs/DATABASE_SETUP.md lists the commands for production",
    ]);
    const asked = askBetween(async () => requireConsent(consent(), remote));
    if (!process.stdin.isTTY)
      await expect(asked).rejects.toThrow("needs confirmation");
  },
);

test("a lock is held during its work, and no longer, and its holder is named", async ({
  address,
  sql,
}) => {
  const key = "77";
  await using first = await openConnection(address, "tests: first");
  await using second = await openConnection(address, "tests: second");
  const pidOf = async (session: Sql) =>
    (await session`select pg_backend_pid() as pid`)[0]?.pid;
  const pid = await pidOf(first);

  const during = await withLock(
    first,
    0,
    async () => ({
      holder: await readLockHolder(second, key),
      other: await readLockHolder(second),
      refused: await withLock(second, 0, async () => "held", key).catch(
        (error) => error,
      ),
    }),
    key,
  );
  const failed = await withLock(
    first,
    0,
    async () => {
      throw new Error("of the work");
    },
    key,
  ).catch(({ message }) => message);
  const broken = await withLock(first, 0, async () => {}, "no_key").catch(
    ({ code }) => code,
  );
  const free = await readLockHolder(second, key);
  await first.unsafe(lockOnceMore);
  const own = await keepMigrationLock(first);
  const taken = await keepMigrationLock(second).catch((error) => error);
  const named = nameHolder(
    (await readLockHolder(sql)) ?? {
      pid: 0,
      application: null,
      client: null,
      since: null,
    },
  );

  const holder = {
    pid,
    application: "tests: first",
    client: expect.any(String),
    since: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/),
  };
  expect(during.holder).toEqual(holder);
  expect(during.other).toBeNull();
  expect(during.refused).toMatchObject({
    message: expect.stringMatching(
      new RegExp(
        `^another command \\(pid ${pid}, tests: first, .*, since .*Z\\) holds the lock for swapping$`,
      ),
    ),
    code: "BUSY",
    exitCode: 75,
    hint: "try again when it is done, or wait longer with `--wait <seconds>`",
    details: { holder },
  });
  expect([failed, broken, free, own]).toEqual([
    ...["of the work", "42703", null, undefined],
  ]);
  expect(taken).toMatchObject({
    message:
      "the file released the migration lock, and another command took it",
    code: "BUSY",
    exitCode: 75,
    hint: "take `pg_advisory_unlock_all()` out of the file, or try again when the other is done",
  });
  expect(named).toStartWith(`pid ${pid}, tests: first, `);
  expect(
    nameHolder({ pid: 1, application: null, client: null, since: null }),
  ).toBe("pid 1");
  expect(
    nameHolder({ pid: 1, application: "a", client: "local", since: "now" }),
  ).toBe("pid 1, a, local, since now");
});

test("a scratch database has the settings that this role may set, and clears away those of runs that were killed", async (database) => {
  const { sql, name, address } = database;
  const scratch = `${name}__scratch_`;
  const beside = ["0000abcd", "1111abcd", "0000abcde"].map(
    (suffix) => scratch + suffix,
  );
  const list = async (made = "") =>
    (
      await sql<{ datname: string }[]>`
        select datname from pg_database where starts_with(datname, ${scratch}) order by datname = ${made}, 1`
    ).map(({ datname }) => datname);
  await withRoles(database, 1, async (role) => {
    const login = {
      ...address,
      user: role?.name ?? "",
      password: role?.name ?? "",
    };
    for (const one of beside)
      await sql.unsafe(`create database ${one} owner ${role?.name}`);
    await using session = await openConnection(address, "tests");
    await session`select pg_advisory_lock(hashtextextended(${String(beside[1])}, 0))`;
    const denied = (command: string) =>
      withScratchDatabase(login, command, async () => {}).catch(
        (error) => error,
      );
    const [backup, check] = [
      await denied("db:backup"),
      await denied("db:check"),
    ];
    await sql.unsafe(`alter role ${role?.name} createdb`);
    const settings = [
      { name: "work_mem", value: "1MB" },
      { name: "search_path", value: `"it's", public` },
      { name: "work_mem", value: "none" },
      { name: "log_statement", value: "all" },
      { name: "no_such_setting", value: "1" },
    ];

    const found = await withScratchDatabase(
      login,
      "tests: scratch",
      async (own, { database: made }) => {
        const [row] = await own`
          select current_database() as name, current_setting('work_mem') as memory,
            current_setting('search_path') as path, current_setting('log_statement') as log`;
        // Its other session may be ended meanwhile.
        await sql`
          select pg_terminate_backend(pid) from pg_stat_activity
          where application_name = 'tests: scratch' and datname = ${name}`;
        return { ...row, isIts: row?.name === made, left: await list(made) };
      },
      settings,
    );

    const left = await list();
    const own = await withScratchDatabase(
      address,
      "tests",
      (scratch) => scratch`select current_setting('my.own') as own`,
      [{ name: "my.own", value: "it's" }],
    );

    expect([...own]).toEqual([{ own: "it's" }]);
    expect(found).toMatchObject({
      ...{ memory: "1MB", path: `"it's", public`, log: "none", isIts: true },
      left: [
        ...[beside[2], beside[1]].map(String),
        expect.stringMatching(/__scratch_[0-9a-f]{8}$/),
      ],
    });
    expect(left).toEqual([beside[2], beside[1]].map(String).sort());
    const refusal = {
      message: `the role ${role?.name} may not create a scratch database`,
      exitCode: 2,
    };
    const alter = `let an administrator run \`ALTER ROLE "${role?.name}" CREATEDB\``;
    expect(backup).toMatchObject({ ...refusal, hint: alter });
    expect(check).toMatchObject({
      ...refusal,
      hint: `${alter}, or set \`TEST_DATABASE_URL\` to another server`,
    });
    for (const one of await list()) await sql.unsafe(`drop database ${one}`);
  });
});
