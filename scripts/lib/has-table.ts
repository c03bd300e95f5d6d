// Looks whether a table is there before it is read.
import type { Sql } from "postgres";
import { quoteLiteral } from "./quote";

/**
 * True where a table is there. To read one that is not would leave an error in
 * the server's log.
 *
 * @param table its name as SQL has it, with its schema.
 */
export async function hasTable(sql: Sql, table: string): Promise<boolean> {
  const [row] = await sql.unsafe<{ exists: boolean }[]>(
    `select pg_catalog.to_regclass(${quoteLiteral(table)}) is not null as exists`,
  );
  return row?.exists === true;
}
