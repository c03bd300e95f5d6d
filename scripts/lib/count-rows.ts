// How many rows each table has, to compare a copy with its original.
import type { Sql } from "postgres";

/** Rows by table; those of `public` go without their schema. */
export type RowCounts = Record<string, number>;

/** Counts the rows of every table but those that came with an extension. */
export async function countRows(sql: Sql): Promise<RowCounts> {
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
  if (tables.length === 0) return {};
  // Without row security: a policy would hide what is there.
  await sql.unsafe("set row_security = off");
  const counts: RowCounts = {};
  for (const { name, qualified } of tables) {
    const [row] = await sql.unsafe<{ rows: string }[]>(
      `select count(*) as rows from ${qualified}`,
    );
    counts[name] = Number(row?.rows);
  }
  return counts;
}

/** What differs in the counts of a copy, one line each. */
export function compareRows(original: RowCounts, copy: RowCounts): string[] {
  const names = new Set([...Object.keys(original), ...Object.keys(copy)]);
  return [...names].sort().flatMap((name) => {
    const [rows, copied] = [original[name], copy[name]];
    if (rows === copied) return [];
    return [`${name} has ${copied ?? "no"} rows, not ${rows ?? "none"}`];
  });
}
