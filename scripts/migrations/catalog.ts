// What is in a database, as SQL in the server's own words, so that two databases
// can be compared. Left out: what PostgreSQL, an extension or this project's own
// bookkeeping brought along, the order of columns, and who owns what.
import type { Sql } from "postgres";

/** One object, or a part of one. */
export interface CatalogEntry {
  /** What makes it. */
  sql: string;
  /** What takes it away, where it can be made again without loss. */
  drop: string | null;
  /** The object that it is a part of. */
  parent: string | null;
}

/** By the kind and name of the object, such as `column public.users.id`. */
export type Catalog = Map<string, CatalogEntry>;

/** An object that is in one of two databases only, or differs in them. */
export interface Difference {
  object: string;
  /** The SQL that makes it in the first and in the second database. */
  expected: string | undefined;
  found: string | undefined;
}

/** Reads every schema but `drizzle`. */
export async function readCatalog(sql: Sql): Promise<Catalog> {
  const rows = await sql.unsafe<(CatalogEntry & { object: string })[]>(query);
  return new Map(rows.map(({ object, ...entry }) => [object, entry]));
}

/**
 * What is not the same in two databases, by the names of the objects. A table
 * or the like that is in one of them only stands for its parts.
 */
export function compareCatalogs(
  expected: Catalog,
  found: Catalog,
): Difference[] {
  const objects = new Set([...expected.keys(), ...found.keys()]);
  return [...objects].sort().flatMap((object) => {
    const [one, other] = [expected.get(object), found.get(object)];
    if (one?.sql === other?.sql) return [];
    const { parent } = one ?? other ?? {};
    if (parent && expected.has(parent) !== found.has(parent)) return [];
    return [
      {
        object,
        expected: one && printEntry(expected, object, one),
        found: other && printEntry(found, object, other),
      },
    ];
  });
}

/** A table with its columns, where it is listed alone. */
function printEntry(
  catalog: Catalog,
  object: string,
  { sql }: CatalogEntry,
): string {
  if (!object.startsWith("table ")) return sql;
  const columns = [...catalog]
    .filter(([part, entry]) => entry.parent === object && /^column /.test(part))
    .map(([, entry]) => entry.sql.replace(/^.* ADD COLUMN /s, ""));
  return sql.replace("()", () => `(${columns.join(", ")})`);
}

/**
 * Leaves out what differs in its spelling only: a condition is printed in
 * another way once its print was read back, as a dump does.
 *
 * @param sql a database with the expected catalog; what is tried there is
 * rolled back.
 */
export async function respell(
  sql: Sql,
  differences: Difference[],
  found: Catalog,
): Promise<Difference[]> {
  const doubtful = differences.filter(
    ({ object, expected, found: other }) =>
      expected && other && found.get(object)?.drop,
  );
  if (doubtful.length === 0) return differences;
  const spell = async (side: "expected" | "found") => {
    await sql.unsafe("begin");
    for (const difference of doubtful) {
      const drop = found.get(difference.object)?.drop;
      await sql.unsafe("savepoint respell");
      await sql
        .unsafe(`${drop}; ${difference[side]}`)
        .catch(() => sql.unsafe("rollback to savepoint respell"));
    }
    const catalog = await readCatalog(sql);
    await sql.unsafe("rollback");
    return catalog;
  };
  const [one, other] = [await spell("expected"), await spell("found")];
  return differences.filter((difference) => {
    const text = one.get(difference.object)?.sql;
    const isSame = text && text === other.get(difference.object)?.sql;
    return !(doubtful.includes(difference) && isSame);
  });
}

/** A difference, as SQL. */
export function describeDifference({
  object,
  expected,
  found,
}: Difference): string {
  if (found === undefined) return `missing: ${flatten(expected)}`;
  if (expected === undefined) return `surplus: ${flatten(found)}`;
  return `different: ${object}: ${flatten(found)}, not ${flatten(expected)}`;
}

function flatten(sql = ""): string {
  const text = sql.replace(/\s+/g, " ").trim();
  return text.length > 300 ? `${text.slice(0, 300)} …` : text;
}

/** Objects that came with an extension have such a dependency. */
const isOwn = (oid: string, catalog: string) => `not exists (
  select from pg_depend
  where classid = '${catalog}'::regclass and objid = ${oid} and deptype = 'e')`;

/** One row for each role that was granted something and does not own it. */
const grants = (
  from: string,
  kind: string,
  name: string,
  acl: string,
  owner: string,
  parent = "null",
) => `
select format('grants on %s %s to %s', kind, name, coalesce(rolname, 'public')),
  format('GRANT %s ON %s %s TO %s',
    string_agg(privilege_type || case when is_grantable then ' WITH GRANT OPTION' else '' end, ', ' order by privilege_type),
    upper(kind), name, coalesce(quote_ident(rolname), 'PUBLIC')),
  null, parent
from (select ${kind} as kind, ${name} as name, ${acl} as acl, ${owner} as owner, ${parent} as parent from ${from}) as target
  cross join lateral aclexplode(acl) left join pg_roles on pg_roles.oid = grantee
where grantee <> owner
group by kind, name, parent, rolname`;

const query = `
with schemas as (
  select oid, nspname, nspacl, nspowner, quote_ident(nspname) as name from pg_namespace
  where nspname not in ('pg_catalog', 'information_schema', 'drizzle')
    and nspname !~ '^pg_(toast|temp)'
), relations as (
  select class.*, format('%I.%I', nspname, relname) as name,
    case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else 'table' end as kind
  from pg_class as class join schemas on schemas.oid = relnamespace
  where ${isOwn("class.oid", "pg_class")}
), columns as (
  select relations.*, pg_attribute.*, format('%I', attname) as "column",
    pg_get_expr(adbin, adrelid) as expression, adbin is not null as has_default, typcollation
  from relations join pg_attribute on attrelid = relations.oid
    join pg_type on pg_type.oid = atttypid
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
  where relkind in ('r', 'p', 'f', 'c') and attnum > 0 and not attisdropped
), routines as (
  select pg_proc.*, case prokind when 'p' then 'procedure' else 'function' end as kind,
    format('%I.%I(%s)', nspname, proname, pg_get_function_identity_arguments(pg_proc.oid)) as name
  from pg_proc join schemas on schemas.oid = pronamespace
  where ${isOwn("pg_proc.oid", "pg_proc")}
), own_types as (
  select pg_type.*, format('%I.%I', nspname, typname) as name
  from pg_type join schemas on schemas.oid = typnamespace
  where typtype in ('e', 'd', 'r') and ${isOwn("pg_type.oid", "pg_type")}
)
select 'schema ' || name as object, 'CREATE SCHEMA ' || name as sql, null as drop, null as parent
from schemas where nspname <> 'public' and ${isOwn("schemas.oid", "pg_namespace")}
union all
select 'extension ' || extname, format('CREATE EXTENSION %I', extname), null, null from pg_extension
union all
select 'table ' || name, concat_ws(' ',
  'CREATE', case when relpersistence = 'u' then 'UNLOGGED' end, case relkind when 'f' then 'FOREIGN' end, 'TABLE ' || name || ' ()',
  case relkind when 'p' then 'PARTITION BY ' || pg_get_partkeydef(oid) end,
  case when relispartition then 'AS PARTITION ' || pg_get_expr(relpartbound, oid) end,
  'WITH (' || array_to_string(reloptions, ', ') || ')'), null, null
from relations where relkind in ('r', 'p', 'f')
union all
select 'row security of ' || name, concat_ws('; ',
  case when relrowsecurity then 'ALTER TABLE ' || name || ' ENABLE ROW LEVEL SECURITY' end,
  case when relforcerowsecurity then 'ALTER TABLE ' || name || ' FORCE ROW LEVEL SECURITY' end),
  null, 'table ' || name
from relations where relrowsecurity or relforcerowsecurity
union all
select 'column ' || name || '.' || "column", concat_ws(' ', 'ALTER TABLE', name, 'ADD COLUMN', "column",
  format_type(atttypid, atttypmod),
  case when attcollation <> typcollation then 'COLLATE ' || attcollation::regcollation end,
  case when attnotnull then 'NOT NULL' end,
  case attidentity when 'a' then 'GENERATED ALWAYS AS IDENTITY' when 'd' then 'GENERATED BY DEFAULT AS IDENTITY' end,
  case attgenerated when 's' then 'GENERATED ALWAYS AS (' || expression || ') STORED' when 'v' then 'GENERATED ALWAYS AS (' || expression || ') VIRTUAL' end),
  case when attgenerated <> '' then 'ALTER TABLE ' || name || ' DROP COLUMN ' || "column" || ' CASCADE' end,
  'table ' || name
from columns
union all
select 'default of ' || name || '.' || "column", 'ALTER TABLE ' || name || ' ALTER COLUMN ' || "column" || ' SET DEFAULT ' || expression,
  'ALTER TABLE ' || name || ' ALTER COLUMN ' || "column" || ' DROP DEFAULT', 'table ' || name
from columns where has_default and attgenerated = ''
union all
select 'constraint ' || quote_ident(conname) || ' on ' || name, 'ALTER TABLE ' || name || ' ADD CONSTRAINT ' || quote_ident(conname) || ' ' || pg_get_constraintdef(pg_constraint.oid),
  'ALTER TABLE ' || name || ' DROP CONSTRAINT ' || quote_ident(conname) || ' CASCADE', 'table ' || name
from relations join pg_constraint on conrelid = relations.oid where contype not in ('n', 't')
union all
select 'index ' || relations.name, pg_get_indexdef(relations.oid) || case when indisvalid then '' else ' -- invalid' end,
  'DROP INDEX ' || relations.name, 'table ' || owner.name
from relations join pg_index on indexrelid = relations.oid
  join relations as owner on owner.oid = indrelid
where not exists (select from pg_constraint where conindid = indexrelid and contype in ('p', 'u', 'x'))
union all
select 'sequence ' || name, concat_ws(' ', 'CREATE SEQUENCE', name, 'AS', format_type(seqtypid, null),
  'START', seqstart, 'INCREMENT', seqincrement, 'MINVALUE', seqmin,
  'MAXVALUE', seqmax, 'CACHE', seqcache, case when seqcycle then 'CYCLE' end), null, null
from relations join pg_sequence on seqrelid = relations.oid
union all
select kind || ' ' || name, concat_ws(' ', 'CREATE', upper(kind), name,
  'WITH (' || array_to_string(reloptions, ', ') || ')', 'AS', pg_get_viewdef(oid)),
  'DROP ' || upper(kind) || ' ' || name || ' CASCADE', null
from relations where relkind in ('v', 'm')
union all
select 'type ' || name, case typtype
  when 'e' then 'CREATE TYPE ' || name || ' AS ENUM (' || (select string_agg(quote_literal(enumlabel), ', ' order by enumsortorder) from pg_enum where enumtypid = own_types.oid) || ')'
  when 'd' then concat_ws(' ', 'CREATE DOMAIN', name, 'AS', format_type(typbasetype, typtypmod), 'DEFAULT ' || typdefault, case when typnotnull then 'NOT NULL' end,
    (select string_agg(pg_get_constraintdef(oid), ' ' order by conname) from pg_constraint where contypid = own_types.oid and contype <> 'n'))
  else 'CREATE TYPE ' || name || ' AS RANGE' end, null, null
from own_types
union all
select kind || ' ' || name,
  case prokind when 'a' then 'CREATE AGGREGATE ' || name else pg_get_functiondef(oid) end, null, null
from routines
union all
select 'trigger ' || quote_ident(tgname) || ' on ' || name, pg_get_triggerdef(pg_trigger.oid)
    || case tgenabled when 'O' then '' when 'D' then format('; ALTER TABLE %s DISABLE TRIGGER %I', name, tgname)
      else format('; ALTER TABLE %s ENABLE %s TRIGGER %I', name, case tgenabled when 'R' then 'REPLICA' else 'ALWAYS' end, tgname) end,
  'DROP TRIGGER ' || quote_ident(tgname) || ' ON ' || name, 'table ' || name
from relations join pg_trigger on tgrelid = relations.oid where not tgisinternal
union all
select 'rule ' || quote_ident(rulename) || ' on ' || name, pg_get_ruledef(pg_rewrite.oid), null, 'table ' || name
from relations join pg_rewrite on ev_class = relations.oid where rulename <> '_RETURN'
union all
select 'policy ' || quote_ident(polname) || ' on ' || name, concat_ws(' ', 'CREATE POLICY', quote_ident(polname), 'ON', name,
  'AS', case when polpermissive then 'PERMISSIVE' else 'RESTRICTIVE' end,
  'FOR', case polcmd when 'r' then 'SELECT' when 'a' then 'INSERT' when 'w' then 'UPDATE' when 'd' then 'DELETE' else 'ALL' end,
  'TO', (select string_agg(coalesce(quote_ident(rolname), 'PUBLIC'), ', ' order by rolname) from unnest(polroles) as role left join pg_roles on pg_roles.oid = role),
  'USING (' || pg_get_expr(polqual, polrelid) || ')', 'WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')'),
  'DROP POLICY ' || quote_ident(polname) || ' ON ' || name, 'table ' || name
from relations join pg_policy on polrelid = relations.oid
union all
${grants("relations", "kind", "name", "relacl", "relowner", "case kind when 'table' then 'table ' || name end")}
union all
${grants("columns", "'column'", `name || '.' || "column"`, "attacl", "relowner", "'table ' || name")}
union all
${grants("routines", "kind", "name", "coalesce(proacl, acldefault('f', proowner))", "proowner", "kind || ' ' || name")}
union all
${grants("(select * from schemas where nspname <> 'public') as schemas", "'schema'", "name", "nspacl", "nspowner")}
union all
${grants("own_types", "'type'", "name", "coalesce(typacl, acldefault('T', typowner))", "typowner", "'type ' || name")}`;
