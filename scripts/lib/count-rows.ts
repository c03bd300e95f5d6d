// How many rows each table has, to compare a copy with its original.
import type { Sql } from "postgres";

/** Rows by table; those of `public` go without their schema. */
export type RowCounts = Record<string, number>;

/** Every table but those that came with an extension, by the name of its count. */
export async function listTables(sql: Sql): Promise<Map<string, string>> {
  const tables = await sql.unsafe<{ name: string; qualified: string }[]>(`
    select format('%I.%I', nspname, relname) as qualified,
      case nspname when 'public' then '' else nspname || '.' end || relname as name
    from pg_class join pg_namespace on pg_namespace.oid = relnamespace
    where relkind = 'r' and relpersistence <> 't'
      and nspname not in ('pg_catalog', 'information_schema')
      and not exists (
        select from pg_depend where classid = 'pg_class'::regclass
          and objid = pg_class.oid and deptype = 'e')
    order by name`);
  return new Map(tables.map(({ name, qualified }) => [name, qualified]));
}

/** Counts the rows of every table. */
export async function countRows(sql: Sql): Promise<RowCounts> {
  const counts: RowCounts = {};
  // Without row security: a policy would hide what is there.
  await sql.unsafe("set row_security = off");
  for (const [name, qualified] of await listTables(sql)) {
    const [row] = await sql.unsafe<{ rows: string }[]>(
      `select count(*) as rows from ${qualified}`,
    );
    counts[name] = Number(row?.rows);
  }
  return counts;
}

/** What differs in the counts of a copy, one line each. */
export function compareRows(original: RowCounts, copy: RowCounts): string[] {
  return Object.entries(original).flatMap(([name, rows]) =>
    rows === copy[name]
      ? []
      : [`${name} has ${copy[name] ?? "no"} rows, not ${rows}`],
  );
}
