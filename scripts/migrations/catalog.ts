// Reads the objects of a database as SQL that the server prints, so that two
// databases can be compared. It leaves out the objects of PostgreSQL, of extensions
// and of this project's records, the order of columns, and owners.
import type { Sql } from "postgres";
import { readProject } from "../../src/project";
import { quoteLiteral } from "../lib/quote";

/** An object, or a part of one. */
export interface CatalogEntry {
  /** The statement that creates it. */
  sql: string;
  /** The statement that drops it; null when creating it again would lose data. */
  drop: string | null;
  /** The key of the object that it is a part of. */
  parent: string | null;
  /** Its schema; null for an extension. */
  schema: string | null;
  /** Its name without the schema; for a part, the name of its table. */
  name: string;
  /** True for a partition of a table, and for a part of a partition. */
  isPartition: boolean;
  /** For grants: the role (null means PUBLIC), its privileges, and those of them
   * that default privileges gave. */
  grantee: string | null;
  privileges: string[] | null;
  defaults: string[] | null;
}

/** Entries by the kind and name of the object, such as `column public.users.id`. */
export type Catalog = Map<string, CatalogEntry>;

/** An object that only one of two databases has, or that differs in them. */
export interface Difference {
  object: string;
  /** The SQL that creates it in the first and in the second database. */
  expected: string | undefined;
  found: string | undefined;
}

/**
 * Reads every schema except `drizzle`. All names are qualified, whatever the
 * search path.
 */
export async function readCatalog(sql: Sql): Promise<Catalog> {
  const results = await sql.unsafe<Row[][]>(`
    select set_config('starter.search_path', current_setting('search_path'), false);
    set search_path = ''; set local jit = off; set local enable_hashjoin = on;
    set local enable_mergejoin = on; set local enable_seqscan = on;
    ${query(readProject().records)};
    select set_config('search_path', current_setting('starter.search_path'), false)`);
  return toCatalog(results.flat().filter((row) => "object" in row));
}

/**
 * Prepares a query for the objects of given names and all parts of their tables.
 * It also counts all objects, which shows when another one appears or disappears.
 * It is prepared because planning it takes longer than running it, with indexes and
 * few names.
 *
 * @param sql a session that is used for nothing else.
 * @returns a function that reads them, or the whole catalog when there are no names;
 * its names have no schema and no quotes.
 */
export async function prepareObjects(
  sql: Sql,
): Promise<(names: string[] | undefined) => Promise<Catalog>> {
  await sql.unsafe(`
    set search_path = ''; set jit = off; set plan_cache_mode = force_generic_plan;
    set enable_hashjoin = off; set enable_mergejoin = off; set enable_seqscan = off;
    prepare objects (json) as ${query(readProject().records, true)} union all ${counts}`);
  return async (names) => {
    if (!names) return await readCatalog(sql); // slow in a large schema
    const list = quoteLiteral(JSON.stringify(names));
    return toCatalog(await sql.unsafe<Row[]>(`execute objects (${list})`));
  };
}

/** Lists the routines that may change an object when they are called: all but
 * PostgreSQL's own and those that cannot write. */
export async function listRoutines(sql: Sql): Promise<Set<string>> {
  const rows = await sql.unsafe<{ name: string }[]>(`
    select distinct proname as name from pg_proc where oid >= ${FIRST} and provolatile = 'v'`);
  return new Set(rows.map(({ name }) => name));
}

type Row = CatalogEntry & { object: string };

const toCatalog = (rows: Row[]): Catalog =>
  new Map(rows.map(({ object, ...entry }) => [object, entry]));

/**
 * Returns what differs between two databases, sorted by object. If only one of
 * them has a table, its parts are not listed.
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

/** Returns the SQL of an object; a table is printed with its columns. */
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
 * Leaves out differences in spelling only: PostgreSQL prints a condition
 * differently after its printed form was read back, as after a dump and restore.
 * A difference that cannot be tried stays.
 *
 * @param sql a database with the expected catalog. Both forms are created there
 * and rolled back.
 */
export async function dropSpellingDifferences(
  sql: Sql,
  differences: Difference[],
  found: Catalog,
): Promise<Difference[]> {
  const doubtful = differences.filter(
    ({ object, expected, found: other }) =>
      expected && other && found.get(object)?.drop,
  );
  if (doubtful.length === 0) return differences;
  const failed = new Set<Difference>();
  const spell = async (side: "expected" | "found") => {
    await sql.unsafe("begin");
    for (const difference of doubtful) {
      const drop = found.get(difference.object)?.drop;
      await sql.unsafe("savepoint spelling");
      await sql.unsafe(`${drop}; ${difference[side]}`).catch(() => {
        failed.add(difference);
        return sql.unsafe("rollback to savepoint spelling");
      });
    }
    const catalog = await readCatalog(sql);
    await sql.unsafe("rollback");
    return catalog;
  };
  const [one, other] = [await spell("expected"), await spell("found")];
  return differences.filter((difference) => {
    if (!doubtful.includes(difference) || failed.has(difference)) return true;
    const text = one.get(difference.object)?.sql;
    return !text || text !== other.get(difference.object)?.sql;
  });
}

/** Returns a difference as one line of text. */
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

/** Returns a condition that is true for objects without a dependency of these types;
 * `e` means that an extension has created the object. */
const isOwn = (oid: string, catalog: string, types = "'e'") => `not exists (
  select from pg_depend
  where classid = '${catalog}'::regclass and objid = ${oid} and deptype in (${types}))`;

const NAMES = "nspname, relname, relispartition";
/** The last columns of each row, for a relation. */
const PLACE = `${NAMES}, null, null::json, null::json`;
const placeOf = (schema: string, name: string) =>
  `${schema}, ${name}, false, null, null::json, null::json`;

/** The first number of an object that is not PostgreSQL's own. */
const FIRST = 16384;

/** Counts all objects but columns, which would take long in a large schema: to
 * notice changes of those that are not read one by one. */
const counts = `
select 'number of objects', concat_ws(', ', ${[
  ["relations", "pg_class where oid >= FIRST and relnamespace <> TOAST"],
  ["defaults", "pg_attrdef where oid >= FIRST"],
  ["constraints", "pg_constraint where oid >= FIRST and contype <> 'n'"],
  ["routines", "pg_proc where oid >= FIRST"],
  ["types", "pg_type where oid >= FIRST"],
  ["enum values", "pg_enum"],
  ["triggers", "pg_trigger"],
  ["rules", "pg_rewrite where oid >= FIRST"],
  ["policies", "pg_policy"],
]
  .map(([name, from]) => `(select count(*) || ' ${name}' from ${from})`)
  .join(", ")
  .replaceAll("FIRST", String(FIRST))
  .replaceAll(
    "TOAST",
    "'pg_toast'::regnamespace",
  )}), null, null, null, '', false, null, null, null`;

/** The named relations, and the tables, indexes and sequences that belong to them. */
const NAMED = `names as (
  select json_array_elements_text($1::json)::name as name
), hits as (
  select oid from pg_class where relname in (select name from names)
), owners as (
  select oid from hits union select indrelid from pg_index where indexrelid in (select oid from hits)
), named as (
  select oid from owners union select indexrelid from pg_index where indrelid in (select oid from owners)
  union select objid from pg_depend where classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass
    and deptype in ('a', 'i') and refobjid in (select oid from owners)
), `;

/** @param isNamed true to read only the objects whose names are in $1. */
const query = (records: { schema: string; table: string }, isNamed = false) => `
with ${isNamed ? NAMED : ""}schemas as (
  select oid, nspname, nspacl, nspowner, quote_ident(nspname) as name from pg_namespace
  where nspname not in ('pg_catalog', 'information_schema', 'drizzle')
    and nspname !~ '^pg_(toast|temp)'
), all_relations as (
  select class.*, nspname, format('%I.%I', nspname, relname) as name,
    case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else 'table' end as kind
  from pg_class as class join schemas on schemas.oid = relnamespace
  where ${isOwn("class.oid", "pg_class")} ${isNamed ? "and class.oid in (select oid from named)" : ""}
), relations as (
  select * from all_relations
  where not (nspname = ${quoteLiteral(records.schema)}
    and relname in (${quoteLiteral(records.table)}, ${quoteLiteral(`${records.table}_id_seq`)}, ${quoteLiteral(`${records.table}_pkey`)}))
), columns as (
  select relations.*, pg_attribute.*, format('%I', attname) as "column",
    pg_get_expr(adbin, adrelid) as expression, adbin is not null as has_default, typcollation
  from relations join pg_attribute on attrelid = relations.oid
    join pg_type on pg_type.oid = atttypid
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
  where relkind in ('r', 'p', 'f') and attnum > 0 and not attisdropped
), routines as (
  select pg_proc.*, nspname, case prokind when 'p' then 'procedure' else 'function' end as kind,
    format('%I.%I(%s)', nspname, proname, pg_get_function_identity_arguments(pg_proc.oid)) as name
  from pg_proc join schemas on schemas.oid = pronamespace
  where ${isOwn("pg_proc.oid", "pg_proc", "'e', 'i'")} ${isNamed ? "and proname in (select name from names)" : ""}
), own_types as (
  select pg_type.*, nspname, format('%I.%I', nspname, typname) as name,
    case typtype when 'd' then 'domain' when 'r' then 'range' when 'c' then 'composite type' else 'type' end as kind
  from pg_type join schemas on schemas.oid = typnamespace
  where (typtype in ('e', 'd', 'r') or typtype = 'c' and exists (
      select from pg_class where pg_class.oid = typrelid and relkind = 'c'))
    and ${isOwn("pg_type.oid", "pg_type")} ${isNamed ? "and typname in (select name from names)" : ""}
), own_collations as (
  select pg_collation.*, to_jsonb(pg_collation) as j, nspname, format('%I.%I', nspname, collname) as name
  from pg_collation join schemas on schemas.oid = collnamespace
  where ${isOwn("pg_collation.oid", "pg_collation")} ${isNamed ? "and collname in (select name from names)" : ""}
), grantable as (
  select kind, name, relacl as acl, relowner as owner, kind || ' ' || name as parent, ${NAMES},
    case relkind when 'S' then 'S' else 'r' end as type from relations
  union all
  select 'column', name || '.' || "column", attacl, relowner, 'table ' || name, ${NAMES}, null from columns
  union all
  select kind, name, coalesce(proacl, acldefault('f', proowner)), proowner, kind || ' ' || name, nspname, proname, false, 'f' from routines
  union all
  select 'type', name, coalesce(typacl, acldefault('T', typowner)), typowner, kind || ' ' || name, nspname, typname, false, 'T' from own_types
  union all
  select 'schema', name, nspacl, nspowner, 'schema ' || name, nspname, nspname, false, 'n' from schemas
  where nspname <> 'public' and (nspname <> ${quoteLiteral(records.schema)} or exists (
    select from pg_class where relnamespace = schemas.oid and not starts_with(relname, ${quoteLiteral(records.table)})))
), granted as (
  select grantable.*, grantee, privilege_type, is_grantable,
    case when grantee <> 0 then pg_get_userbyid(grantee) end as role
  from grantable cross join lateral aclexplode(acl) where grantee <> owner
)
select 'schema ' || name as object, 'CREATE SCHEMA ' || name as sql, null as drop, null as parent,
  nspname as schema, nspname as name, false as "isPartition", null as grantee, null::json as privileges, null::json as defaults
from schemas where nspname not in ('public', ${quoteLiteral(records.schema)}) and ${isOwn("schemas.oid", "pg_namespace")}
union all
select 'extension ' || extname, format('CREATE EXTENSION %I', extname), null, null, ${placeOf("null", "extname")} from pg_extension
union all
select 'table ' || name, concat_ws(' ',
  'CREATE', case when relpersistence = 'u' then 'UNLOGGED' end, case relkind when 'f' then 'FOREIGN' end, 'TABLE ' || name || ' ()',
  case relkind when 'p' then 'PARTITION BY ' || pg_get_partkeydef(oid) end,
  case when relispartition then 'AS PARTITION ' || pg_get_expr(relpartbound, oid) end,
  'WITH (' || array_to_string(reloptions, ', ') || ')'), null, null, ${PLACE}
from relations where relkind in ('r', 'p', 'f')
union all
select 'row security of ' || name, concat_ws('; ',
  case when relrowsecurity then 'ALTER TABLE ' || name || ' ENABLE ROW LEVEL SECURITY' end,
  case when relforcerowsecurity then 'ALTER TABLE ' || name || ' FORCE ROW LEVEL SECURITY' end),
  null, 'table ' || name, ${PLACE}
from relations where relrowsecurity or relforcerowsecurity
union all
select 'column ' || name || '.' || "column", concat_ws(' ', 'ALTER TABLE', name, 'ADD COLUMN', "column",
  format_type(atttypid, atttypmod),
  case when attcollation <> typcollation then 'COLLATE ' || attcollation::regcollation end,
  case when attnotnull then 'NOT NULL' end,
  case attidentity when 'a' then 'GENERATED ALWAYS AS IDENTITY' when 'd' then 'GENERATED BY DEFAULT AS IDENTITY' end,
  case attgenerated when 's' then 'GENERATED ALWAYS AS (' || expression || ') STORED' when 'v' then 'GENERATED ALWAYS AS (' || expression || ') VIRTUAL' end),
  case when attgenerated <> '' then 'ALTER TABLE ' || name || ' DROP COLUMN ' || "column" || ' CASCADE' end,
  'table ' || name, ${PLACE}
from columns
union all
select 'default of ' || name || '.' || "column", 'ALTER TABLE ' || name || ' ALTER COLUMN ' || "column" || ' SET DEFAULT ' || expression,
  'ALTER TABLE ' || name || ' ALTER COLUMN ' || "column" || ' DROP DEFAULT', 'table ' || name, ${PLACE}
from columns where has_default and attgenerated = ''
union all
-- One with a parent belongs to a partition.
select 'constraint ' || quote_ident(conname) || ' on ' || name, 'ALTER TABLE ' || name || ' ADD CONSTRAINT ' || quote_ident(conname) || ' ' || pg_get_constraintdef(pg_constraint.oid),
  'ALTER TABLE ' || name || ' DROP CONSTRAINT ' || quote_ident(conname) || ' CASCADE', 'table ' || name, ${PLACE}
from relations join pg_constraint on conrelid = relations.oid where contype not in ('n', 't') and conparentid = 0
union all
select 'index ' || relations.name, pg_get_indexdef(relations.oid) || case when indisvalid then '' else ' -- invalid' end,
  'DROP INDEX ' || relations.name, 'table ' || owner.name,
  owner.nspname, owner.relname, relations.relispartition or owner.relispartition, null, null, null
from relations join pg_index on indexrelid = relations.oid
  join relations as owner on owner.oid = indrelid
where not exists (select from pg_depend where classid = 'pg_class'::regclass and objid = indexrelid
  and refclassid = 'pg_constraint'::regclass and deptype = 'i')
union all
select 'sequence ' || relations.name, concat_ws(' ', 'CREATE SEQUENCE', relations.name, 'AS', format_type(seqtypid, null),
  'START', seqstart, 'INCREMENT', seqincrement, 'MINVALUE', seqmin,
  'MAXVALUE', seqmax, 'CACHE', seqcache, case when seqcycle then 'CYCLE' end), null, 'table ' || owner.name,
  relations.nspname, coalesce(owner.relname, relations.relname), coalesce(owner.relispartition, false), null, null, null
from relations join pg_sequence on seqrelid = relations.oid
  left join pg_depend on classid = 'pg_class'::regclass and objid = seqrelid
    and refclassid = 'pg_class'::regclass and deptype in ('a', 'i')
  left join all_relations as owner on owner.oid = refobjid
union all
select kind || ' ' || name, concat_ws(' ', 'CREATE', upper(kind), name,
  'WITH (' || array_to_string(reloptions, ', ') || ')', 'AS', pg_get_viewdef(oid)),
  'DROP ' || upper(kind) || ' ' || name || ' CASCADE', null, ${PLACE}
from relations where relkind in ('v', 'm')
union all
select kind || ' ' || name, case typtype
  when 'e' then 'CREATE TYPE ' || name || ' AS ENUM (' || (select string_agg(quote_literal(enumlabel), ', ' order by enumsortorder) from pg_enum where enumtypid = own_types.oid) || ')'
  when 'd' then concat_ws(' ', 'CREATE DOMAIN', name, 'AS', format_type(typbasetype, typtypmod), 'DEFAULT ' || typdefault, case when typnotnull then 'NOT NULL' end,
    (select string_agg(pg_get_constraintdef(oid), ' ' order by conname) from pg_constraint where contypid = own_types.oid and contype <> 'n'))
  when 'c' then 'CREATE TYPE ' || name || ' AS (' || coalesce((
    select string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' order by attnum)
    from pg_attribute where attrelid = typrelid and attnum > 0 and not attisdropped), '') || ')'
  else 'CREATE TYPE ' || name || ' AS RANGE (' || (
    select concat_ws(', ', 'SUBTYPE = ' || format_type(rngsubtype, null),
      case when rngsubdiff <> 0 then 'SUBTYPE_DIFF = ' || rngsubdiff end)
    from pg_range where rngtypid = own_types.oid) || ')' end, null, null, ${placeOf("nspname", "typname")}
from own_types
union all
select 'collation ' || name, 'CREATE COLLATION ' || name || ' (' || concat_ws(', ',
  'PROVIDER = ' || case collprovider when 'i' then 'icu' when 'b' then 'builtin' else 'libc' end,
  'LOCALE = ' || quote_literal(coalesce(j ->> 'colllocale', j ->> 'colliculocale', case when collcollate = collctype then collcollate end)),
  'DETERMINISTIC = ' || collisdeterministic) || ')', null, null, ${placeOf("nspname", "collname")}
from own_collations
union all
select kind || ' ' || name, case prokind
  when 'a' then (select format('CREATE AGGREGATE %s (SFUNC = %s, STYPE = %s%s%s)', name, aggtransfn, format_type(aggtranstype, null),
      case when aggfinalfn <> 0 then ', FINALFUNC = ' || aggfinalfn end, ', INITCOND = ' || quote_literal(agginitval))
    from pg_aggregate where aggfnoid = routines.oid)
  else pg_get_functiondef(oid) end, null, null, ${placeOf("nspname", "proname")}
from routines
union all
select 'trigger ' || quote_ident(tgname) || ' on ' || name, pg_get_triggerdef(pg_trigger.oid)
    || case tgenabled when 'O' then '' when 'D' then format('; ALTER TABLE %s DISABLE TRIGGER %I', name, tgname)
      else format('; ALTER TABLE %s ENABLE %s TRIGGER %I', name, case tgenabled when 'R' then 'REPLICA' else 'ALWAYS' end, tgname) end,
  'DROP TRIGGER ' || quote_ident(tgname) || ' ON ' || name, 'table ' || name, ${PLACE}
from relations join pg_trigger on tgrelid = relations.oid where not tgisinternal
union all
select 'rule ' || quote_ident(rulename) || ' on ' || name, pg_get_ruledef(pg_rewrite.oid), null, 'table ' || name, ${PLACE}
from relations join pg_rewrite on ev_class = relations.oid where rulename <> '_RETURN'
union all
select 'policy ' || quote_ident(polname) || ' on ' || name, concat_ws(' ', 'CREATE POLICY', quote_ident(polname), 'ON', name,
  'AS', case when polpermissive then 'PERMISSIVE' else 'RESTRICTIVE' end,
  'FOR', case polcmd when 'r' then 'SELECT' when 'a' then 'INSERT' when 'w' then 'UPDATE' when 'd' then 'DELETE' else 'ALL' end,
  'TO', (select string_agg(coalesce(quote_ident(role), 'PUBLIC'), ', ' order by role)
    from (select case when oid <> 0 then pg_get_userbyid(oid) end as role from unnest(polroles) as oid) as roles),
  'USING (' || pg_get_expr(polqual, polrelid) || ')', 'WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')'),
  'DROP POLICY ' || quote_ident(polname) || ' ON ' || name, 'table ' || name, ${PLACE}
from relations join pg_policy on polrelid = relations.oid
union all
select format('grants on %s %s to %s', kind, name, coalesce(role, 'public')),
  format('GRANT %s ON %s %s TO %s',
    string_agg(privilege_type || case when is_grantable then ' WITH GRANT OPTION' else '' end, ', ' order by privilege_type),
    upper(kind), name, coalesce(quote_ident(role), 'PUBLIC')),
  null, parent, ${NAMES}, role,
  json_agg(privilege_type order by privilege_type), json_agg(privilege_type order by privilege_type) filter (where exists (
    select from pg_default_acl cross join lateral aclexplode(defaclacl) as given
    where given.grantee = granted.grantee and (
      defaclobjtype::text = type and defaclnamespace in (0, coalesce(to_regnamespace(quote_ident(nspname))::oid, 0))
        and given.privilege_type = granted.privilege_type
      -- whoever gets what will be made in a schema may use the schema
      or kind = 'schema' and granted.privilege_type = 'USAGE' and defaclnamespace = to_regnamespace(quote_ident(nspname))::oid)))
from granted group by kind, name, parent, ${NAMES}, role`;
