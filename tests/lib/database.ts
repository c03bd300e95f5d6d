// A database for a test or for a file of tests, migrated and seeded as this
// project is, dropped at the end. It is a copy of one that is made once, which
// takes tens of milliseconds. Tests of the commands use tests/lib/test.ts.
import { afterAll, beforeAll, test as bunTest } from "bun:test";
import postgres, { type Sql } from "postgres";
import { connectionOptions } from "../../src/database-tls";
import type { DatabaseAddress } from "../../src/database-url";
import { readEnv, root } from "../../src/env";
import type { db as application } from "../../src/infrastructure/database/client";
import { isServerKept, templatePrefix, testServer } from "../setup";
import { type Outcome, run, start, urlOf, withCommandLog } from "./command";
import { isPart } from "./run";
import { attend, type Attended } from "./terminal";

/** Long enough for a machine that has other things to do. */
export const TIMEOUT_MS = 120_000;
const QUEUE_MS = 1_200_000;
/** More at once would only wait for each other, and take more memory. */
const AT_ONCE = isPart ? 2 : 6;

/** A database with a random name on the server for the tests. */
export interface TestDatabase {
  name: string;
  address: DatabaseAddress;
  url: string;
  sql: Sql;
  /** Runs a command on it, in the project or in another folder. */
  run(
    command: string,
    variables?: Record<string, string>,
    cwd?: string,
  ): Promise<Outcome>;
  /** Starts a script on it, to be stopped by a signal. */
  start(
    script: string,
    variables?: Record<string, string>,
    cwd?: string,
  ): ReturnType<typeof start>;
  /** Runs a command on it on a terminal. */
  attend(command: string, cwd?: string): Attended;
}

/** What a test's database holds at its start. */
export type State = "empty" | "migrated" | "seeded";

/** The same for the application's tests. */
export interface ApplicationDatabase extends TestDatabase {
  /** The application's client, on this database. */
  db: typeof application;
}

/**
 * A test with a database of its own; several run at once. The database is
 * dropped at the end; where the test failed it is kept and named.
 */
export function testDatabase(
  sentence: string,
  state: State,
  body: (database: ApplicationDatabase) => Promise<void>,
): void {
  const work = async (database: TestDatabase) => {
    const { db, end } = await openApplication(database);
    try {
      await body({ ...database, db });
    } finally {
      end();
    }
  };
  testBeside(sentence, () => withDatabase(state, work));
}

let free = AT_ONCE;
const waiting: (() => void)[] = [];

/**
 * A test that runs beside others of its file, a few at once. Its time begins
 * with its turn, and when that is up, so is its turn.
 */
export function testBeside(sentence: string, body: () => Promise<void>): void {
  const takeTurn = async () => {
    if (free > 0) free -= 1;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    const isLate = Promise.withResolvers<never>();
    const late = new Error(`it took longer than ${TIMEOUT_MS / 1000} seconds`);
    const timer = setTimeout(() => isLate.reject(late), TIMEOUT_MS);
    try {
      await Promise.race([withCommandLog(body), isLate.promise]);
    } finally {
      clearTimeout(timer);
      const next = waiting.shift();
      if (next) next();
      else free += 1;
    }
  };
  bunTest.concurrent(sentence, takeTurn, QUEUE_MS);
}

/**
 * Opens the application's client, which is loaded only here: a test of the
 * commands is to work whatever the application's schema is.
 */
async function openApplication({ address }: TestDatabase) {
  const { makeClient } =
    await import("../../src/infrastructure/database/client");
  const { openPools } = await import("../../src/infrastructure/database/pools");
  const client = { ...readEnv().client, isPooled: false };
  const pools = openPools({ database: address, replicas: [], client });
  const end = () => {
    for (const pool of pools.all) pool.close();
  };
  return { db: makeClient(pools).db, end };
}

/**
 * Does something with a database, which is dropped unless that throws.
 *
 * @param folder the project whose migrations and seeds it gets.
 */
export async function withDatabase(
  state: State,
  body: (database: TestDatabase) => Promise<void>,
  folder = root,
): Promise<void> {
  const database = describeDatabase(folder);
  await createDatabase(database.name, state, folder);
  let hasPassed = false;
  try {
    await body(database);
    hasPassed = true;
  } finally {
    await disposeOf(database, hasPassed);
  }
}

/**
 * One database for all tests of a file, which run one after another.
 *
 * @returns the database, and the `test` to use in its file.
 */
export function useDatabase(state: State) {
  const shared = shareDatabase(state, root);
  const database = shared.database as ApplicationDatabase;
  let end = () => {};
  beforeAll(async () => {
    ({ db: database.db, end } = await openApplication(database));
  });
  afterAll(() => end());
  return { database, test: shared.test };
}

/** The same for tests of the commands, on the project in a folder. */
export function shareDatabase(state: State, folder: string) {
  const database = describeDatabase(folder);
  let hasPassed = true;
  beforeAll(() => createDatabase(database.name, state, folder), TIMEOUT_MS);
  afterAll(() => disposeOf(database, hasPassed), TIMEOUT_MS);

  const test = (sentence: string, body: () => Promise<void>) => {
    const keepFailed = async () => {
      try {
        await withCommandLog(body);
      } catch (error) {
        hasPassed = false;
        throw error;
      }
    };
    bunTest(sentence, keepFailed, TIMEOUT_MS);
  };
  return { database, test };
}

/** Connects to a database of the test server. */
export function openDatabase(address: DatabaseAddress): Sql {
  const options = connectionOptions(address);
  return postgres({ ...options, max: 2, onnotice: () => {} });
}

/** Waits until a session of the server does what the condition says. */
export async function until(sql: Sql, condition: string): Promise<void> {
  const deadline = Date.now() + TIMEOUT_MS / 2;
  while (Date.now() < deadline) {
    const [row] = await sql.unsafe(
      `select count(*)::int as found from pg_stat_activity where ${condition}`,
    );
    if (row?.found > 0) return;
    await Bun.sleep(10);
  }
  throw new Error(`no session came to be where ${condition}`);
}

function describeDatabase(
  folder: string,
  name = `test_${crypto.randomUUID().slice(0, 8)}`,
): TestDatabase {
  const address = { ...testServer, database: name };
  const url = urlOf(address);
  const own = {
    DATABASE_URL: url,
    DATABASE_URL_UNPOOLED: url,
    DB_ENGINE: "external",
  };
  return {
    name,
    address,
    url,
    sql: openDatabase(address),
    run: (command, variables, cwd = folder) =>
      run(command, { ...own, ...variables }, cwd),
    start: (script, variables, cwd = folder) =>
      start(script, { ...own, ...variables }, cwd),
    attend: (command, cwd = folder) => attend(command, own, cwd),
  };
}

async function createDatabase(
  name: string,
  state: State,
  folder: string,
): Promise<void> {
  const template =
    state === "empty" ? "template1" : await templateOf(state, folder);
  // Half the work where a checkpoint costs nothing.
  const strategy = isServerKept ? "" : "strategy file_copy";
  await onServer().unsafe(
    `create database ${name} template ${template} ${strategy}`,
  );
}

const templates = new Map<string, Promise<string>>();

/** A database of that state to copy, made when it is first asked for. */
function templateOf(
  state: "migrated" | "seeded",
  folder: string,
): Promise<string> {
  const key = `${state} ${folder}`;
  const template = templates.get(key) ?? makeTemplate(state, folder);
  templates.set(key, template);
  return template;
}

async function makeTemplate(
  state: "migrated" | "seeded",
  folder: string,
): Promise<string> {
  const name = `${templatePrefix}${crypto.randomUUID().slice(0, 8)}`;
  const database = describeDatabase(folder, name);
  const isSeeded = state === "seeded";
  await createDatabase(name, isSeeded ? "migrated" : "empty", folder);
  const { exitCode, stderr } = await database.run(
    isSeeded ? "db:seed" : "db:migrate",
  );
  if (exitCode !== 0) throw new Error(stderr);
  return name;
}

async function disposeOf(
  { name, sql }: TestDatabase,
  hasPassed: boolean,
): Promise<void> {
  await sql.end({ timeout: 0 });
  if (!hasPassed && isServerKept)
    return console.error(`Kept: ${name} on ${testServer.host}`);
  const server = onServer();
  const databases = await server<{ datname: string }[]>`
    select datname from pg_database where starts_with(datname, ${name})`;
  for (const { datname } of databases)
    await server.unsafe(`drop database "${datname}" with (force)`);
}

let administrator: Sql | undefined;

/** What makes and drops databases: one client for all tests. */
function onServer(): Sql {
  administrator ??= openDatabase(testServer);
  return administrator;
}
