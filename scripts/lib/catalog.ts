// What is in a database, as the server itself words it, so that two databases of
// one server can be compared. Left out: what PostgreSQL, an extension or this
// project's own bookkeeping brought along, and the order of columns.
import type { Sql } from "postgres";

/** Definitions by the name of their object, such as `column public.users.id`. */
export type Catalog = Map<string, string>;

/** An object that is in one of two databases only, or differs in them. */
export interface Difference {
  object: string;
  /** What the first and the second database have. */
  expected: string | undefined;
  found: string | undefined;
}

/** Reads every schema but `drizzle`. */
export async function readCatalog(sql: Sql): Promise<Catalog> {
  const rows =
    await sql.unsafe<{ object: string; definition: string }[]>(query);
  return new Map(rows.map(({ object, definition }) => [object, definition]));
}

/** What is not the same in two databases, by the names of the objects. */
export function compareCatalogs(
  expected: Catalog,
  found: Catalog,
): Difference[] {
  const objects = new Set([...expected.keys(), ...found.keys()]);
  return [...objects]
    .sort()
    .map((object) => ({
      object,
      expected: expected.get(object),
      found: found.get(object),
    }))
    .filter((difference) => difference.expected !== difference.found);
}

/** One line on a difference. */
export function describeDifference({
  object,
  expected,
  found,
}: Difference): string {
  if (found === undefined) return `missing: ${object}, ${flatten(expected)}`;
  if (expected === undefined)
    return `not of the migrations: ${object}, ${flatten(found)}`;
  return `different: ${object} is ${flatten(found)}, and the migrations make ${flatten(expected)}`;
}

function flatten(definition = ""): string {
  const text = definition.replace(/\s+/g, " ").trim();
  return text.length > 200 ? `${text.slice(0, 200)} …` : text;
}

/** Objects that came with an extension have such a dependency. */
const isOwn = (oid: string, catalog: string) => `not exists (
  select from pg_depend
  where classid = '${catalog}'::regclass and objid = ${oid} and deptype = 'e')`;

const query = `
with schemas as (
  select oid, nspname from pg_namespace
  where nspname not in ('pg_catalog', 'information_schema', 'drizzle')
    and nspname !~ '^pg_(toast|temp)'
), relations as (
  select class.*, nspname || '.' || relname as name
  from pg_class as class join schemas on schemas.oid = relnamespace
  where ${isOwn("class.oid", "pg_class")}
)
select 'schema ' || nspname as object, 'schema' as definition
from schemas where nspname <> 'public' and ${isOwn("schemas.oid", "pg_namespace")}
union all
select 'extension ' || extname, 'extension' from pg_extension
union all
select 'table ' || name, concat_ws(' ',
  case when relpersistence = 'u' then 'unlogged' end,
  case relkind when 'p' then 'partitioned table by ' || pg_get_partkeydef(oid) when 'f' then 'foreign table' else 'table' end,
  case when relispartition then 'partition ' || pg_get_expr(relpartbound, oid) end,
  case when relrowsecurity then 'row security' end,
  case when relforcerowsecurity then 'forced' end,
  array_to_string(reloptions, ', '))
from relations where relkind in ('r', 'p', 'f')
union all
select 'column ' || name || '.' || attname, concat_ws(' ',
  format_type(atttypid, atttypmod),
  case when attcollation <> typcollation then 'collate ' || attcollation::regcollation end,
  case when attnotnull then 'not null' end,
  case attidentity when 'a' then 'identity always' when 'd' then 'identity by default' end,
  case attgenerated when 's' then 'generated' when 'v' then 'generated virtual' else case when adbin is not null then 'default' end end,
  pg_get_expr(adbin, adrelid))
from relations join pg_attribute on attrelid = relations.oid
  join pg_type on pg_type.oid = atttypid
  left join pg_attrdef on adrelid = attrelid and adnum = attnum
where relkind in ('r', 'p', 'f', 'c') and attnum > 0 and not attisdropped
union all
select 'constraint ' || conname || ' on ' || name, pg_get_constraintdef(pg_constraint.oid)
from relations join pg_constraint on conrelid = relations.oid where contype <> 'n'
union all
select 'index ' || relations.name, pg_get_indexdef(relations.oid)
  || case when indisvalid then '' else ' (invalid)' end
from relations join pg_index on indexrelid = relations.oid
where not exists (select from pg_constraint where conindid = indexrelid and contype in ('p', 'u', 'x'))
union all
select 'sequence ' || name, concat_ws(' ', format_type(seqtypid, null),
  'start', seqstart, 'increment', seqincrement, 'minimum', seqmin,
  'maximum', seqmax, 'cache', seqcache, case when seqcycle then 'cycle' end)
from relations join pg_sequence on seqrelid = relations.oid
union all
select case relkind when 'v' then 'view ' else 'materialized view ' end || name,
  concat_ws(' ', array_to_string(reloptions, ', '), pg_get_viewdef(oid))
from relations where relkind in ('v', 'm')
union all
select 'type ' || nspname || '.' || typname, case typtype
  when 'e' then 'enum ' || (select string_agg(quote_literal(enumlabel), ', ' order by enumsortorder) from pg_enum where enumtypid = pg_type.oid)
  when 'd' then concat_ws(' ', 'domain', format_type(typbasetype, typtypmod), case when typnotnull then 'not null' end, typdefault,
    (select string_agg(pg_get_constraintdef(oid), ' ' order by conname) from pg_constraint where contypid = pg_type.oid and contype <> 'n'))
  else 'range' end
from pg_type join schemas on schemas.oid = typnamespace
where typtype in ('e', 'd', 'r') and ${isOwn("pg_type.oid", "pg_type")}
union all
select case prokind when 'p' then 'procedure ' else 'function ' end || nspname || '.' || proname
  || '(' || pg_get_function_identity_arguments(pg_proc.oid) || ')',
  case prokind when 'a' then 'aggregate' else pg_get_functiondef(pg_proc.oid) end
from pg_proc join schemas on schemas.oid = pronamespace
where ${isOwn("pg_proc.oid", "pg_proc")}
union all
select 'trigger ' || tgname || ' on ' || name, pg_get_triggerdef(pg_trigger.oid) || ' ' || tgenabled::text
from relations join pg_trigger on tgrelid = relations.oid where not tgisinternal
union all
select 'rule ' || rulename || ' on ' || name, pg_get_ruledef(pg_rewrite.oid)
from relations join pg_rewrite on ev_class = relations.oid where rulename <> '_RETURN'
union all
select 'policy ' || polname || ' on ' || name, concat_ws(' ',
  case when polpermissive then 'permissive' else 'restrictive' end, 'for', polcmd::text,
  'to', (select string_agg(coalesce(rolname, 'public'), ', ' order by rolname) from unnest(polroles) as role left join pg_roles on pg_roles.oid = role),
  'using ' || pg_get_expr(polqual, polrelid), 'check ' || pg_get_expr(polwithcheck, polrelid))
from relations join pg_policy on polrelid = relations.oid`;
