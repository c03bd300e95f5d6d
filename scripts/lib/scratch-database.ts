// A database to try something in, beside another one, that is always dropped.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { openConnection } from "./connection";
import { quoteIdentifier } from "./quote-sql";
import { onInterrupt, refusal } from "./report";

/**
 * Makes an empty database with a random name on the server of `address`, runs
 * `work` connected to it, and drops it.
 *
 * @throws with exit code 2 when the role may not make databases.
 */
export async function withScratchDatabase<T>(
  address: DatabaseAddress,
  name: string,
  work: (sql: Sql, scratch: DatabaseAddress) => Promise<T>,
): Promise<T> {
  const suffix = `__scratch_${crypto.randomUUID().slice(0, 8)}`;
  // PostgreSQL cuts names at 63 bytes, and would cut the suffix away.
  let base = address.database;
  while (Buffer.byteLength(base + suffix) > 63) base = base.slice(0, -1);
  const database = base + suffix;
  const scratch = { ...address, database };
  const server = await openConnection(address, name);
  const dropText = `drop database if exists ${quoteIdentifier(database)} with (force)`;
  const drop = async () => await server.unsafe(dropText);
  const keep = onInterrupt(drop);
  try {
    await server
      .unsafe(`create database ${quoteIdentifier(database)} template template0`)
      .catch((error: Error & { code?: string }) => {
        if (error.code !== "42501") throw error;
        throw refusal(
          `the role ${address.user} may not make a database to compare with`,
          {
            hint: `let an administrator run \`ALTER ROLE ${quoteIdentifier(address.user)} CREATEDB\`, or set \`TEST_DATABASE_URL\` to another server`,
          },
        );
      });
    try {
      const sql = await openConnection(scratch, name);
      try {
        return await work(sql, scratch);
      } finally {
        await sql.end({ timeout: 5 });
      }
    } finally {
      await drop().catch(async () => {
        // Its session was lost while it had nothing to do.
        const again = await openConnection(address, name);
        await again.unsafe(dropText);
        await again.end({ timeout: 5 });
      });
    }
  } finally {
    keep();
    await server.end({ timeout: 5 });
  }
}
