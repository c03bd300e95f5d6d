// Creates a scratch database on the server of another one, and always drops it.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { openConnection, liftTimeouts } from "./connection";
import { readDatabaseOptions } from "./database-options";
import { dropDatabase } from "./drop-database";
import { onInterrupt } from "./interrupt";
import { quoteIdentifier } from "./quote";
import { note, refusal } from "./report";

const SUFFIX = "__scratch_";

/**
 * Creates an empty database with a random name on the server of `address`, with
 * the same locale, runs `work` with a connection to it, and drops it.
 *
 * @param settings settings for the database, in the form that set_config takes;
 * those that this role may not set are left out.
 * @throws with exit code 2 when the role may not create databases.
 */
export async function withScratchDatabase<T>(
  address: DatabaseAddress,
  name: string,
  work: (sql: Sql, scratch: DatabaseAddress) => Promise<T>,
  settings: { name: string; value: string }[] = [],
): Promise<T> {
  // PostgreSQL truncates names to 63 bytes, which would remove the suffix.
  let base = address.database;
  while (Buffer.byteLength(base + SUFFIX) > 63 - 8) base = base.slice(0, -1);
  base += SUFFIX;
  const database = base + crypto.randomUUID().slice(0, 8);
  const scratch = { ...address, database };
  await using server = await openConnection(address, name);
  const drop = () => dropDatabase(server, database);
  const forget = onInterrupt(drop);
  try {
    await server.unsafe(liftTimeouts);
    await tryLock(server, database);
    await dropAbandoned(server, base);
    const options = await readDatabaseOptions(server, address.database);
    await server
      .unsafe(`create database ${quoteIdentifier(database)} ${options}`)
      .catch((error: Error & { code?: string }) => {
        if (error.code !== "42501") throw error;
        throw refusal(
          `the role ${address.user} may not create a scratch database`,
          {
            hint: `let an administrator run \`ALTER ROLE ${quoteIdentifier(address.user)} CREATEDB\`${name === "db:backup" ? "" : ", or set `TEST_DATABASE_URL` to another server"}`,
          },
        );
      });
    try {
      for (const setting of settings)
        await carrySetting(server, database, setting);
      await using sql = await openConnection(scratch, name);
      return await work(sql, scratch);
    } finally {
      await drop()
        .catch(() => dropAgain(address, name, database))
        .catch(({ message }: Error) =>
          note(`Warning: ${database} may be left over: ${message}`),
        );
    }
  } finally {
    forget();
  }
}

async function carrySetting(
  server: Sql,
  database: string,
  { name, value }: { name: string; value: string },
): Promise<void> {
  await server
    .begin((transaction) => [
      transaction`select set_config(${name}, ${value}, true)`,
      transaction.unsafe(
        `alter database ${quoteIdentifier(database)} set ${quoteIdentifier(name)} from current`,
      ),
    ])
    .catch((error: { code?: string }) => {
      if (!/^(42501|22023|42704)$/.test(error.code ?? "")) throw error;
    });
}

/** Drops it over a new connection: the idle session may have been closed. */
async function dropAgain(
  address: DatabaseAddress,
  name: string,
  database: string,
): Promise<void> {
  await using server = await openConnection(address, name);
  await dropDatabase(server, database);
}

/** Drops the scratch databases of runs that were killed: their lock is free. */
async function dropAbandoned(server: Sql, base: string): Promise<void> {
  const rows = await server<{ database: string }[]>`
    select datname as database from pg_database
    where starts_with(datname, ${base}) and length(datname) = length(${base}) + 8`;
  for (const { database } of rows) {
    if (!(await tryLock(server, database))) continue;
    await server
      .unsafe(`drop database ${quoteIdentifier(database)}`)
      .catch(() => {}); // still in use, or another role's
    await server`select pg_advisory_unlock(hashtextextended(${database}, 0))`;
  }
}

/**
 * Tries to take the lock that marks a scratch database as in use. Advisory locks
 * belong to the database of the session: here the one in `address`.
 */
async function tryLock(server: Sql, database: string): Promise<boolean> {
  const [row] = await server<{ locked: boolean }[]>`
    select pg_try_advisory_lock(hashtextextended(${database}, 0)) as locked`;
  return row?.locked === true;
}
