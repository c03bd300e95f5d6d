// Creates a scratch database in which migrations are tried, so that the real
// database is only read.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { openConnection } from "../lib/connection";
import { quoteIdentifier } from "../lib/quote";
import { note } from "../lib/report";
import { withScratchDatabase } from "../lib/scratch-database";
import { readCatalog } from "./catalog";
import { createTables } from "./log";
import { listOwn, type Made } from "./ours";
import { splitStatements } from "./statements";
import { takeOver, type Trial, takeRoles } from "./take-over";

/** A server on which a scratch database may be created. */
export interface Place {
  address: DatabaseAddress;
  /** True when it is not the server of the real database. */
  isScratchServer: boolean;
}

/** What is read of a server: its major version and system identifier, and whether the
 * role may create databases. */
interface Server {
  major: number;
  id: string;
  maker: boolean;
}

/**
 * Chooses between the real server and the one of TEST_DATABASE_URL. The latter is a
 * scratch server when its system identifier differs.
 */
export async function choosePlace(
  real: Sql,
  address: DatabaseAddress,
  test: DatabaseAddress | undefined,
): Promise<Place> {
  if (!test) return { address, isScratchServer: false };
  await using sql = await openConnection(test, "db:scratch");
  const [own, other] = [await readServer(real), await readServer(sql)];
  return chooseBetween({ ...own, address }, { ...other, address: test });
}

/** Chooses the second server, unless it is another version and the first may be used. */
export function chooseBetween(
  own: Server & Pick<Place, "address">,
  other: Server & Pick<Place, "address">,
): Place {
  const isScratchServer = own.id !== other.id;
  if (!isScratchServer || own.major === other.major || !own.maker)
    return { address: other.address, isScratchServer };
  note(
    `Warning: not compared on TEST_DATABASE_URL: it has PostgreSQL ${other.major}, the database has ${own.major}`,
  );
  return { address: own.address, isScratchServer: false };
}

/**
 * Starts a server for the scratch database, where this role may not create one on
 * the real server and TEST_DATABASE_URL names no other.
 *
 * @param startServer starts a server of that major version; returns undefined
 * when it cannot.
 */
export async function startBeside<T extends { address: DatabaseAddress }>(
  real: Sql,
  test: DatabaseAddress | undefined,
  startServer: (major: number) => Promise<T | undefined>,
): Promise<T | undefined> {
  const { major, maker } = await readServer(real);
  return test || maker ? undefined : await startServer(major);
}

/** Reads the schemas in which the server looks for a name without a schema. */
async function readPath(sql: Sql): Promise<string[]> {
  const [row] = await sql<{ path: string[] }[]>`
    select to_json(current_schemas(true)) as path`;
  return row?.path ?? ["pg_catalog", "public"];
}

/** Reads the server of a connection. */
export async function readServer(sql: Sql): Promise<Server> {
  const [row] = await sql.unsafe<Server[]>(`
    select current_setting('server_version_num')::int / 10000 as major,
      system_identifier::text as id,
      (select rolcreatedb or rolsuper from pg_roles where rolname = current_user) as maker
    from pg_control_system()`);
  return row ?? { major: 0, id: "", maker: false };
}

/**
 * Runs `work` with an empty scratch database that has the settings of the real
 * one, and drops it afterwards.
 *
 * @param made what our migrations create, which is never copied.
 * @param texts the SQL of our files, for the roles that they mention.
 */
export async function withTrial<T>(
  real: Sql,
  place: Place,
  name: string,
  made: Made,
  texts: string[],
  work: (trial: Trial) => Promise<T>,
): Promise<T> {
  const settings = await real<{ name: string; value: string }[]>`
    select name, setting as value from pg_settings
    where source in ('database', 'user', 'database user')
      and name !~ '(timeout|read_only|^log_)'
    union all select name, current_setting(name, true)
    from (
      -- pg_settings leaves out those that only an application knows
      select distinct split_part(entry, '=', 1) as name
      from pg_db_role_setting, unnest(setconfig) as entry
    ) as own
    where name like '%.%' and current_setting(name, true) is not null and name not in (select name from pg_settings)`;
  // Nothing in it has to survive a crash.
  settings.push({ name: "synchronous_commit", value: "off" });
  const path = await readPath(real);
  const own = listOwn(made, path);
  const found = await readCatalog(real);
  const { address, isScratchServer } = place;
  const roles = new Set<string>();
  const taken = new Set<string>();
  const tryIt = async (scratch: Sql, beside: DatabaseAddress) => {
    const trial: Trial = {
      real,
      scratch,
      address: beside,
      found,
      isScratchServer,
      path,
      own,
      taken,
      tried: new Set(),
    };
    await scratch.unsafe(createTables());
    if (isScratchServer) await collectRoles(scratch, roles);
    await takeRoles(trial, texts);
    for (const schema of path) {
      if (own.has(schema) || !found.has(`schema ${schema}`)) continue;
      await scratch.unsafe(
        `create schema if not exists ${quoteIdentifier(schema)}`,
      );
      trial.taken.add(`schema ${schema}`);
    }
    // A block that tests for an object does not fail without it: copy it first.
    for (const text of texts)
      if (/\bdo\b/i.test(text) && /\b(exists|to_reg\w+)\b/i.test(text))
        for (const statement of splitStatements(text))
          if (/^do\b/i.test(statement.text))
            await takeOver(trial, statement.text);
    return await work(trial);
  };
  try {
    return await withScratchDatabase(address, name, tryIt, settings);
  } finally {
    if (roles.size > 0)
      await dropRoles(
        address,
        name,
        roles,
        (role) => taken.has(`role ${role}`) || texts.join().includes(role),
      );
  }
}

async function collectRoles(sql: Sql, names: Set<string>): Promise<void> {
  const rows = await sql<{ name: string }[]>`
    select rolname as name from pg_roles`;
  for (const { name } of rows) names.add(name);
}

/** Drops the roles that the trial has created on a scratch server, and no others
 * that have come to be there in the meantime. */
async function dropRoles(
  address: DatabaseAddress,
  name: string,
  before: Set<string>,
  isOurs: (role: string) => boolean,
): Promise<void> {
  await using sql = await openConnection(address, name);
  const after = new Set<string>();
  await collectRoles(sql, after);
  for (const role of after)
    if (!before.has(role) && isOurs(role))
      // Another run of the same migrations may still use it.
      await sql.unsafe(`drop role ${quoteIdentifier(role)}`).catch(() => {});
}
