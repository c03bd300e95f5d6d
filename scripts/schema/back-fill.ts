// Writes the parts that a migration for large tables is made of: a back-fill in small
// transactions, a NOT NULL that is set without a scan under a strong lock, and a wait
// for a disk that answers quickly.
import { quoteBody, quoteIdentifier, quoteLiteral } from "../lib/quote";

/** Returns the name of a table, function or sequence in SQL; `public` is left out. */
export function printName(part: { schema: string; name: string }): string {
  const isPublic = part.schema === "" || part.schema === "public";
  const schema = isPublic ? "" : `${quoteIdentifier(part.schema)}.`;
  return schema + quoteIdentifier(part.name);
}

/** Adds a suffix to a name, and cuts the name to what PostgreSQL keeps: 63 bytes. */
export function addSuffix(name: string, suffix: string): string {
  const bytes = Buffer.from(name).subarray(0, 63 - suffix.length);
  return bytes.toString().replace(/\uFFFD+$/, "") + suffix;
}

/** SQL that ends when the disk has all that was committed, and holds no lock meanwhile. */
const ANSWERED =
  "SET LOCAL synchronous_commit = local; PERFORM pg_logical_emit_message(true, 'db:migrate', ''); COMMIT;";

/**
 * Returns SQL that updates the rows that match a condition, page after page, each few
 * pages in a transaction of their own. It waits for no row, and can be interrupted.
 *
 * @param table its name in SQL.
 * @param assignments what follows SET; afterwards the row must not match any more.
 */
export function printBackFill(
  table: string,
  assignments: string,
  condition: string,
): string {
  const body = ` DECLARE
  pages int := 4; -- in one transaction: fewer where that takes long, more where it does not
  page bigint;
  start timestamptz;
  took interval;
  last bigint;
BEGIN
  FOR attempt IN 1..5 LOOP
    page := 0;
    SELECT coalesce(max(pg_relation_size(relid)), pg_relation_size(${quoteLiteral(table)})) / current_setting('block_size')::int
      INTO last FROM pg_partition_tree(${quoteLiteral(table)}); -- empty where there are no partitions
    WHILE page < last LOOP
      start := clock_timestamp();
      UPDATE ${table} SET ${assignments}
      WHERE (${condition}) AND ctid = ANY (ARRAY(
        SELECT ctid FROM ${table}
        WHERE ctid >= format('(%s,0)', page)::tid AND ctid < format('(%s,0)', page + pages)::tid AND (${condition})
        FOR NO KEY UPDATE SKIP LOCKED));
      COMMIT;
      ${ANSWERED} -- a slow disk slows this down, and not the others
      page := page + pages;
      took := clock_timestamp() - start;
      pages := CASE WHEN took > '25 ms' THEN greatest(pages / 2, 1) ELSE least(pages * 2, 16) END;
      PERFORM pg_sleep_for(took); -- leaves others as much time as it takes
    END LOOP;
    IF NOT EXISTS (SELECT FROM ${table} WHERE ${condition}) THEN
      RETURN;
    END IF;
    PERFORM pg_sleep(1);
  END LOOP;
  RAISE 'rows of % stay locked by others', ${quoteLiteral(table)} USING ERRCODE = 'lock_not_available';
END `;
  return `-- Fills the rows that are there, in small transactions. It skips rows that somebody has
-- locked and comes back to them. An interrupted run does it again, for the rest.
-- resumable
DO ${quoteBody(body)};`;
}

/**
 * Returns SQL that makes a column NOT NULL: the scan is that of a check, which blocks
 * nobody, and PostgreSQL takes the check as the proof.
 * https://www.postgresql.org/docs/current/sql-altertable.html (SET NOT NULL)
 */
export function printNotNull(table: string, column: string): string[] {
  const check = quoteIdentifier(addSuffix(column, "_is_set"));
  const name = quoteIdentifier(column);
  return [
    `ALTER TABLE ${table} ADD CONSTRAINT ${check} CHECK (${name} IS NOT NULL) NOT VALID;`,
    `ALTER TABLE ${table} VALIDATE CONSTRAINT ${check};`,
    `ALTER TABLE ${table} ALTER COLUMN ${name} SET NOT NULL;`,
    `ALTER TABLE ${table} DROP CONSTRAINT ${check};`,
  ];
}

/**
 * SQL for the step before one that removes files, such as those of an index. The commit
 * of that step waits for the disk, with its locks, whatever `synchronous_commit` is set
 * to: RecordTransactionCommit in PostgreSQL's xact.c flushes the WAL before files go.
 */
export const WAIT_FOR_DISK = `-- The next step removes files, so its commit waits for the disk, while it holds its locks. This waits
-- until the disk answers quickly, up to fifty times.
-- resumable
DO $$ DECLARE
  start timestamptz;
BEGIN
  FOR attempt IN 1..50 LOOP
    start := clock_timestamp();
    ${ANSWERED}
    EXIT WHEN clock_timestamp() - start < '20 ms';
    PERFORM pg_sleep(0.1);
  END LOOP;
END $$;`;
