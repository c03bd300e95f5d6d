import { afterAll, beforeAll, test as bunTest } from "bun:test";
import postgres, { type Sql } from "postgres";
import {
  connectionOptions,
  type DatabaseAddress,
} from "../../src/database-url";
import { isServerKept, testServer } from "../setup";
import { type Outcome, run, urlOf } from "./command";

/** A database of one test file's own. */
export interface TestDatabase {
  name: string;
  address: DatabaseAddress;
  url: string;
  sql: Sql;
  /** Runs a command on this database. */
  run(
    command: string,
    variables?: Record<string, string>,
    cwd?: string,
  ): Promise<Outcome>;
}

/**
 * Gives a test file a database with a random name, and drops it, and those that
 * commands made beside it, at the end. Where a test failed it is kept and named.
 *
 * @param prepare commands to run on it first, such as `db:migrate`.
 */
export function useDatabase(...prepare: string[]) {
  const name = `test_${crypto.randomUUID().slice(0, 8)}`;
  const database = describeDatabase(name);
  let hasFailed = false;

  beforeAll(async () => {
    await onServer((server) => server.unsafe(`create database ${name}`));
    for (const command of prepare) {
      const { exitCode, stderr } = await database.run(command);
      if (exitCode !== 0) throw new Error(`${command} failed: ${stderr}`);
    }
  }, 60_000);

  afterAll(async () => {
    await database.sql.end({ timeout: 5 });
    if (hasFailed && isServerKept) {
      console.error(`Kept: ${name} on ${testServer.host}:${testServer.port}`);
      return;
    }
    await onServer(async (server) => {
      const rows = await server<{ datname: string }[]>`
        select datname from pg_database where datname like ${`${name}%`}`;
      for (const { datname } of rows)
        await server.unsafe(`drop database "${datname}" with (force)`);
    });
  }, 60_000);

  const test = (sentence: string, body: () => Promise<void>) =>
    bunTest(
      sentence,
      async () => {
        try {
          await body();
        } catch (error) {
          hasFailed = true;
          throw error;
        }
      },
      60_000,
    );
  return { database, test };
}

/** Runs `work` on the server's own database. */
export async function onServer<T>(
  work: (server: Sql) => Promise<T>,
): Promise<T> {
  const server = open(testServer);
  try {
    return await work(server);
  } finally {
    await server.end({ timeout: 5 });
  }
}

/** Connects to one of the test server's databases. */
export function open(address: DatabaseAddress): Sql {
  return postgres({
    ...connectionOptions(address),
    max: 2,
    onnotice: () => {},
  });
}

function describeDatabase(name: string): TestDatabase {
  const address = { ...testServer, database: name };
  const url = urlOf(address);
  return {
    name,
    address,
    url,
    sql: open(address),
    run: (command, variables = {}, cwd) =>
      run(
        command,
        {
          DATABASE_URL: url,
          DATABASE_URL_UNPOOLED: url,
          DB_ENGINE: "external",
          ...variables,
        },
        cwd,
      ),
  };
}
