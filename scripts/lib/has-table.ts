// Checks that a table exists before it is read.
import type { Sql } from "postgres";
import { quoteLiteral } from "./quote";

/**
 * True when a table exists. Reading one that does not would leave an error in the
 * server's log.
 *
 * @param table its name with its schema, quoted as in SQL.
 */
export async function hasTable(sql: Sql, table: string): Promise<boolean> {
  const [row] = await sql.unsafe<{ exists: boolean }[]>(
    `select pg_catalog.to_regclass(${quoteLiteral(table)}) is not null as exists`,
  );
  return row?.exists === true;
}
