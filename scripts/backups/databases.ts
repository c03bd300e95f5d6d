// The names of the databases that are used while one is replaced.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { dropDatabase } from "../lib/drop-database";
import { quoteIdentifier } from "../lib/quote";
import { failure } from "../lib/report";

/** Returns the name under which the old database is kept. */
export const previousOf = (database: string) => `${database}__previous`;

/** Returns the name under which the new database is made. */
export const nextOf = (database: string) => `${database}__next`;

/** Returns the name of an older `__previous` until the swap is committed. */
export const droppedOf = (database: string) => `${database}__dropped`;

/** Returns the address of another database of the same server, to connect to. */
export function toMaintenance(address: DatabaseAddress): DatabaseAddress {
  const isTaken = address.database === "postgres";
  return { ...address, database: isTaken ? "template1" : "postgres" };
}

/** True when the server has a database of that name. */
export async function databaseExists(
  server: Sql,
  database: string,
): Promise<boolean> {
  const [row] = await server<{ found: boolean }[]>`
    select exists (select from pg_database where datname = ${database}) as found`;
  return row?.found === true;
}

/**
 * Drops a database that an interrupted run may have left.
 *
 * @throws with the SQL to run by hand.
 */
export async function dropLeftover(
  server: Sql,
  database: string,
): Promise<void> {
  try {
    await dropDatabase(server, database);
  } catch (error) {
    throw failure(
      `${database}, which is left over, cannot be dropped: ${describeObstacle(error)}`,
      { hint: `drop it with \`DROP DATABASE ${quoteIdentifier(database)}\`` },
    );
  }
}

/** Returns an error's message with the server's detail, which names the obstacle. */
export function describeObstacle(error: unknown): string {
  const { message, detail } = error as Error & { detail?: string };
  return detail ? `${message}: ${detail.replace(/\.$/, "")}` : message;
}
