// Creates a database for a test or a test file, migrated and seeded like this
// project, and drops it at the end. It is a copy of a database that is created once;
// a copy takes tens of milliseconds. Tests of the commands use tests/lib/test.ts.
import { afterAll, beforeAll, test as bunTest } from "bun:test";
import postgres, { type Sql } from "postgres";
import { projectOf } from "../../scripts/server/compose";
import { connectionOptions } from "../../src/database-tls";
import type { DatabaseAddress } from "../../src/database-url";
import { readEnv, root } from "../../src/env";
import type { db as application } from "../../src/infrastructure/database/client";
import { isServerKept, templatePrefix, testServer } from "../setup";
import { type Outcome, run, start, urlOf, withCommandLog } from "./command";
import { isPart } from "./run";
import { attend, type Attended } from "./terminal";

/** The time limit of a test, long enough for a busy machine. */
export const TIMEOUT_MS = 300_000;
const QUEUE_MS = 1_200_000;
/** How many tests run at once; more would wait for each other and use more memory. */
const AT_ONCE = isPart ? 2 : 6;

/** A database with a random name on the server for the tests. */
export interface TestDatabase {
  name: string;
  address: DatabaseAddress;
  url: string;
  sql: Sql;
  /** Runs a command on this database, in the project or in another folder. */
  run(
    command: string,
    variables?: Record<string, string>,
    cwd?: string,
  ): Promise<Outcome>;
  /** Starts a script on this database, for tests that send it a signal. */
  start(
    script: string,
    variables?: Record<string, string>,
    cwd?: string,
  ): ReturnType<typeof start>;
  /** Runs a command on this database, on a terminal. */
  attend(command: string, cwd?: string): Attended;
}

/** What a test's database has at the start. */
export type State = "empty" | "migrated" | "seeded";

/** A database for the application's tests. */
export interface ApplicationDatabase extends TestDatabase {
  /** The application's client, on this database. */
  db: typeof application;
}

/**
 * Registers a test that gets its own database. Several run at once. The database is
 * dropped at the end; when the test fails, it is kept and its name is printed.
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
 * Registers a test that runs at the same time as a few others of its file. Its time
 * limit counts from its own start, not while it waits for its turn.
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
 * Opens the application's client. It is loaded only here, because the tests of the
 * commands must work with any schema of the application.
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
 * Runs `work` with a new database, and drops it unless `work` throws.
 *
 * @param folder the project whose migrations and seeds the database gets.
 * @param server the server on which it is made.
 */
export async function withDatabase(
  state: State,
  body: (database: TestDatabase) => Promise<void>,
  folder = root,
  server = testServer,
): Promise<void> {
  const database = describeDatabase(folder, server);
  await createDatabase(database, state, folder);
  let hasPassed = false;
  try {
    await body(database);
    hasPassed = true;
  } finally {
    await disposeOf(database, hasPassed);
  }
}

/**
 * Creates one database for all tests of a file, which run one after another.
 *
 * @returns the database, and the `test` function to use in the file.
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

/** Does the same for tests of the commands, with the project in a folder. */
export function shareDatabase(state: State, folder: string) {
  const database = describeDatabase(folder);
  let hasPassed = true;
  beforeAll(() => createDatabase(database, state, folder), TIMEOUT_MS);
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

/** Waits until the condition is true for a session of the server, or for several. */
export async function until(
  sql: Sql,
  condition: string,
  sessions = 1,
): Promise<void> {
  const deadline = Date.now() + TIMEOUT_MS / 2;
  while (Date.now() < deadline) {
    const [row] = await sql.unsafe(
      `select count(*)::int as found from pg_stat_activity where ${condition}`,
    );
    if (row?.found >= sessions) return;
    await Bun.sleep(10);
  }
  throw new Error(`no session came to be where ${condition}`);
}

function describeDatabase(
  folder: string,
  server = testServer,
  name = `test_${crypto.randomUUID().slice(0, 8)}`,
): TestDatabase {
  const address = { ...server, database: name };
  const url = urlOf(address);
  const own = {
    DATABASE_URL: url,
    DATABASE_URL_UNPOOLED: url,
    DB_ENGINE: "external",
    // pg_dump may be in the container of this clone's server only.
    COMPOSE_PROJECT_NAME: projectOf(readEnv()),
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
  { name, address }: TestDatabase,
  state: State,
  folder: string,
): Promise<void> {
  const template =
    state === "empty" ? "template1" : await templateOf(state, folder, address);
  const { sql, strategy } = onServer(address);
  await sql.unsafe(
    `create database ${name} template ${template} ${await strategy}`,
  );
}

/** Copying files is half the work where a checkpoint is cheap. */
async function chooseStrategy(sql: Sql): Promise<string> {
  const [row] = await sql`select current_setting('fsync') as fsync`;
  return row?.fsync === "off" ? "strategy file_copy" : "";
}

const templates = new Map<string, Promise<string>>();

/** Returns the name of the database to copy for a state; creates it at first use. */
function templateOf(
  state: "migrated" | "seeded",
  folder: string,
  server: DatabaseAddress,
): Promise<string> {
  const key = `${state} ${folder} ${server.port}`;
  const template = templates.get(key) ?? makeTemplate(state, folder, server);
  templates.set(key, template);
  return template;
}

async function makeTemplate(
  state: "migrated" | "seeded",
  folder: string,
  server: DatabaseAddress,
): Promise<string> {
  const name = `${templatePrefix}${crypto.randomUUID().slice(0, 8)}`;
  const database = describeDatabase(folder, server, name);
  const isSeeded = state === "seeded";
  await createDatabase(database, isSeeded ? "migrated" : "empty", folder);
  const { exitCode, stderr } = await database.run(
    isSeeded ? "db:seed" : "db:migrate",
  );
  if (exitCode !== 0) throw new Error(stderr);
  return name;
}

async function disposeOf(
  { name, sql, address }: TestDatabase,
  hasPassed: boolean,
): Promise<void> {
  await sql.end({ timeout: 0 });
  if (!hasPassed && isServerKept)
    return console.error(`Kept: ${name} on ${testServer.host}`);
  const { sql: server } = onServer(address);
  const databases = await server<{ datname: string }[]>`
    select datname from pg_database where starts_with(datname, ${name})`;
  for (const { datname } of databases)
    await server.unsafe(`drop database "${datname}" with (force)`);
}

const administrators = new Map<number, ReturnType<typeof openServer>>();

/** Returns the client that creates and drops databases of a server, one for all tests,
 * and how to copy one. */
function onServer(address: DatabaseAddress) {
  const opened = administrators.get(address.port) ?? openServer(address);
  administrators.set(address.port, opened);
  return opened;
}

function openServer(address: DatabaseAddress) {
  const sql = openDatabase({ ...address, database: testServer.database });
  return { sql, strategy: chooseStrategy(sql) };
}
