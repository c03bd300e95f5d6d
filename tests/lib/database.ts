import { afterAll, beforeAll, test as bunTest } from "bun:test";
import postgres, { type Sql } from "postgres";
import {
  connectionOptions,
  type DatabaseAddress,
} from "../../src/database-url";
import { isServerKept, testServer } from "../setup";
import { type Outcome, run, urlOf } from "./command";

const TIMEOUT_MS = 60_000;

/** A database with a random name on the server for the tests. */
export interface TestDatabase {
  name: string;
  address: DatabaseAddress;
  url: string;
  sql: Sql;
  /** Runs a command on it, in the project or in a copy of it. */
  run(
    command: string,
    variables?: Record<string, string>,
    cwd?: string,
  ): Promise<Outcome>;
}

/**
 * A test with a database of its own, beside others of its kind. The database,
 * and those that commands made beside it, are dropped at the end; where the
 * test failed they are kept and named.
 */
export function testDatabase(
  sentence: string,
  body: (database: TestDatabase) => Promise<void>,
): void {
  bunTest.concurrent(
    sentence,
    async () => {
      const database = await createDatabase();
      let hasPassed = false;
      try {
        await body(database);
        hasPassed = true;
      } finally {
        await disposeOf(database, hasPassed);
      }
    },
    TIMEOUT_MS,
  );
}

/**
 * One database for all tests of a file.
 *
 * @param prepare commands to run on it first, such as `db:migrate`.
 */
export function useDatabase(...prepare: string[]) {
  const database = describeDatabase();
  let hasPassed = true;
  beforeAll(async () => {
    await createDatabase(database);
    for (const command of prepare) {
      const { exitCode, stderr } = await database.run(command);
      if (exitCode !== 0) throw new Error(`${command} failed: ${stderr}`);
    }
  }, TIMEOUT_MS);
  afterAll(() => disposeOf(database, hasPassed), TIMEOUT_MS);

  const test = (sentence: string, body: () => Promise<void>) =>
    bunTest(sentence, async () => {
      try {
        await body();
      } catch (error) {
        hasPassed = false;
        throw error;
      }
    });
  return { database, test };
}

/** Connects to a database of the test server. */
export function openDatabase(address: DatabaseAddress): Sql {
  const options = connectionOptions(address);
  return postgres({ ...options, max: 2, onnotice: () => {} });
}

function describeDatabase(): TestDatabase {
  const name = `test_${crypto.randomUUID().slice(0, 8)}`;
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
    run: (command, variables, cwd) =>
      run(command, { ...own, ...variables }, cwd),
  };
}

async function createDatabase(
  database = describeDatabase(),
): Promise<TestDatabase> {
  await onServer((server) => server.unsafe(`create database ${database.name}`));
  return database;
}

async function disposeOf(
  { name, sql }: TestDatabase,
  hasPassed: boolean,
): Promise<void> {
  await sql.end({ timeout: 5 });
  if (!hasPassed && isServerKept)
    return console.error(`Kept: ${name} on ${testServer.host}`);
  await onServer(async (server) => {
    const databases = await server<{ datname: string }[]>`
      select datname from pg_database where starts_with(datname, ${name})`;
    for (const { datname } of databases)
      await server.unsafe(`drop database "${datname}" with (force)`);
  });
}

async function onServer<T>(work: (server: Sql) => Promise<T>): Promise<T> {
  const server = openDatabase(testServer);
  try {
    return await work(server);
  } finally {
    await server.end({ timeout: 5 });
  }
}
