// Counts the rows of each table, to compare a copy with its original.
import type { Sql } from "postgres";

/**
 * The number of rows of each table. A table in `public` is named without its
 * schema. A partitioned table includes its partitions, since a row may be in
 * another partition of a copy.
 */
export type RowCounts = Record<string, number>;

/** A table, and where its rows are counted. */
export interface CountedTable {
  schema: string;
  table: string;
  /** Its name in the counts. */
  name: string;
  /** The text for FROM; null when its rows are in its partitions. */
  source: string | null;
}

/** Lists every table, except those of extensions. */
export async function listTables(sql: Sql): Promise<CountedTable[]> {
  return await sql.unsafe<CountedTable[]>(`
    with tables as (
      select pg_class.oid, nspname, relname, relkind,
        case when nspname ~ '[."]' then quote_ident(nspname) else nspname end as schema,
        case when relname ~ '[."]' then quote_ident(relname) else relname end as "table"
      from pg_class join pg_namespace on pg_namespace.oid = relnamespace
      where relkind in ('r', 'p') and relpersistence <> 't'
        and nspname not in ('pg_catalog', 'information_schema')
        and not exists (
          select from pg_depend where classid = 'pg_class'::regclass
            and objid = pg_class.oid and deptype = 'e')
    )
    select own.nspname as schema, own.relname as "table",
      case root.nspname when 'public' then '' else root.schema || '.' end || root."table" as name,
      case own.relkind when 'r' then format('only %I.%I', own.nspname, own.relname) end as source
    from tables as own
      join tables as root on root.oid = coalesce(pg_partition_root(own.oid), own.oid)
    order by name`);
}

/** Counts the rows of every table. */
export async function countRows(sql: Sql): Promise<RowCounts> {
  const counts: RowCounts = Object.create(null);
  // With row security, a policy would hide rows.
  await sql.unsafe("set row_security = off");
  for (const { name, source } of await listTables(sql)) {
    counts[name] ??= 0;
    if (source === null) continue;
    const [row] = await sql.unsafe<{ rows: string }[]>(
      `select count(*) as rows from ${source}`,
    );
    counts[name] += Number(row?.rows);
  }
  return counts;
}

/** Returns the differences in the counts of a copy, one line each. */
export function compareRows(original: RowCounts, copy: RowCounts): string[] {
  return Object.entries(original).flatMap(([name, rows]) =>
    rows === copy[name]
      ? []
      : [`${name} has ${copy[name] ?? "no"} rows, not ${rows}`],
  );
}
