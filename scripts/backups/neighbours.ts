// The databases that stand beside one while it is replaced, and their names.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { dropDatabase } from "../lib/drop-database";
import { quoteIdentifier } from "../lib/quote";
import { failure } from "../lib/report";

/** Where the old database is kept. */
export const previousOf = (database: string) => `${database}__previous`;

/** Where its successor is made. */
export const nextOf = (database: string) => `${database}__next`;

/** Where a `__previous` waits until the swap that replaces it is committed. */
export const droppedOf = (database: string) => `${database}__dropped`;

/** Another database of the same server. */
export function beside(address: DatabaseAddress): DatabaseAddress {
  const isTaken = address.database === "postgres";
  return { ...address, database: isTaken ? "template1" : "postgres" };
}

/** Whether the server has a database of that name. */
export async function databaseExists(
  server: Sql,
  database: string,
): Promise<boolean> {
  const [row] = await server<{ found: boolean }[]>`
    select exists (select from pg_database where datname = ${database}) as found`;
  return row?.found === true;
}

/**
 * Drops what a run that was cut off may have left, which is nobody's.
 *
 * @throws with the SQL that is to be run by hand.
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

/** An error's message with the server's detail, which says what is in the way. */
export function describeObstacle(error: unknown): string {
  const { message, detail } = error as Error & { detail?: string };
  return detail ? `${message}: ${detail.replace(/\.$/, "")}` : message;
}
