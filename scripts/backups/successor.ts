// Creates the database that is to replace another one.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { openConnection, liftTimeouts } from "../lib/connection";
import { readDatabaseOptions } from "../lib/database-options";
import { dropDatabase } from "../lib/drop-database";
import { onInterrupt } from "../lib/interrupt";
import { quoteIdentifier } from "../lib/quote";
import { failure, type FailureFields } from "../lib/report";
import { carrySettings } from "./carry-settings";
import {
  toMaintenance,
  droppedOf,
  dropLeftover,
  nextOf,
  previousOf,
} from "./databases";

/** How long a server may take to come back after a crash. */
const RECOVERY_MS = 30_000;

/**
 * Creates an empty database with the options, settings and grants of another, and
 * runs `fill` on it. First drops what an interrupted run may have left. When
 * `fill` throws, drops the new database.
 */
export async function makeNext(
  server: Sql,
  address: DatabaseAddress,
  fill: (next: DatabaseAddress) => Promise<void>,
): Promise<void> {
  const { database } = address;
  const next = nextOf(database);
  await requireDroppable(server, previousOf(database));
  await dropLeftover(server, droppedOf(database));
  await dropLeftover(server, next);
  const options = await readDatabaseOptions(server, database);
  const state = `Nothing was changed: ${database} is still the old database`;
  const forget = onInterrupt(() => dropDatabase(server, next), state);
  try {
    await server.unsafe(`create database ${quoteIdentifier(next)} ${options}`);
    if (await isRestricted(server, database))
      await server.unsafe(
        `revoke all on database ${quoteIdentifier(next)} from public`,
      );
    await fill({ ...address, database: next });
    // Last: a setting may make every session read-only.
    await carrySettings(server, database, next);
  } catch (error) {
    throw await clearNext(server, address, error as Error, state);
  } finally {
    forget();
  }
}

/**
 * Drops the new database after an error.
 *
 * @returns the error, with a line if the database may be left over, and the lines
 * of `state`.
 */
export async function clearNext(
  server: Sql,
  address: DatabaseAddress,
  error: Error & FailureFields,
  ...state: string[]
): Promise<Error> {
  const { message, lines = [] } = error;
  const next = nextOf(address.database);
  // On a full disk the checkpoint of DROP DATABASE would crash the server.
  if (/no space left|free disk space/i.test([message, ...lines].join()))
    await emptyDatabase({ ...address, database: next }).catch(() => {});
  const isGone = await dropDatabase(server, next)
    .catch(() => dropOnceRecovered(address, next))
    .then(() => true)
    .catch(() => false);
  const left = isGone
    ? []
    : [`${next} may be left over: the next run drops it`];
  return Object.assign(error, { lines: [...lines, ...left, ...state] });
}

/** Drops the tables and materialized views of the database, to free their space. */
async function emptyDatabase(address: DatabaseAddress): Promise<void> {
  await using sql = await openConnection(address, "db:swap");
  const objects = await sql<{ name: string }[]>`
    select format('%s if exists %I.%I', case relkind when 'm' then 'materialized view'
      else 'table' end, nspname, relname) as name
    from pg_class join pg_namespace on pg_namespace.oid = relnamespace
    where relkind in ('r', 'm')
      and nspname not in ('pg_catalog', 'information_schema')`;
  for (const { name } of objects)
    await sql.unsafe(`drop ${name} cascade`).catch(() => {});
}

/** Drops a database once a crashed server has recovered. */
async function dropOnceRecovered(
  address: DatabaseAddress,
  database: string,
): Promise<void> {
  const deadline = Date.now() + RECOVERY_MS;
  for (;;)
    try {
      await using again = await openConnection(
        toMaintenance(address),
        "db:swap",
      );
      await again.unsafe(liftTimeouts);
      return await dropDatabase(again, database);
    } catch (error) {
      const { details } = error as { details?: { sqlstate?: string } };
      const isRecovering = details?.sqlstate === "57P03";
      if (!isRecovering || Date.now() > deadline) throw error;
      await Bun.sleep(500);
    }
}

/** @throws when an older `__previous` could not be dropped. */
async function requireDroppable(server: Sql, database: string): Promise<void> {
  const [row] = await server<{ keeper: string | null }[]>`
    select case when datistemplate then 'it is a template'
      when exists (select from pg_subscription where subdbid = d.oid)
        then 'it has a subscription'
      when exists (
        select from pg_replication_slots where database = datname and active)
        then 'it has an active replication slot' end as keeper
    from pg_database as d where datname = ${database}`;
  if (!row?.keeper) return;
  throw failure(`${database} cannot be dropped: ${row.keeper}`, {
    hint: `remove that, or keep the database under another name: \`ALTER DATABASE ${quoteIdentifier(database)} RENAME TO …\``,
  });
}

/** True when the database has grants of its own, so that CONNECT may be restricted. */
async function isRestricted(server: Sql, database: string): Promise<boolean> {
  const [row] = await server<{ restricted: boolean }[]>`
    select datacl is not null as restricted from pg_database
    where datname = ${database}`;
  return row?.restricted === true;
}
