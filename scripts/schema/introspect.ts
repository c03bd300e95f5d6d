// Reads a database's schema as a snapshot, with the server's spelling. drizzle-kit
// does not export its own reader, which queries information_schema once per table.
import type { Sql } from "postgres";
import { quoteLiteral } from "../lib/quote";
import {
  emptySnapshot,
  type Snapshot,
  type SnapshotColumn,
  type SnapshotPolicy,
  type SnapshotTable,
  type SnapshotView,
} from "./snapshots";

interface FoundColumn {
  name: string;
  type: string;
  dimensions: number;
  enumName: string | null;
  enumSchema: string | null;
  notNull: boolean;
  default: string | null;
  generated: string | null;
  identity: "a" | "d" | "";
  isSerial: boolean;
  sequence: Record<string, string> | null;
}

interface FoundConstraint {
  name: string;
  type: "p" | "u" | "c" | "f";
  columns: string[] | null;
  schemaTo: string | null;
  tableTo: string | null;
  columnsTo: string[] | null;
  onUpdate: string;
  onDelete: string;
  nullsNotDistinct: boolean | null;
  definition: string;
}

interface FoundIndex {
  name: string;
  isUnique: boolean;
  method: string;
  where: string | null;
  with: string[] | null;
  columns: {
    expression: string;
    isExpression: boolean;
    asc: boolean;
    nulls: string;
    opclass: string | null;
  }[];
}

interface FoundTable {
  schema: string;
  name: string;
  isRLSEnabled: boolean;
  columns: FoundColumn[] | null;
  constraints: FoundConstraint[] | null;
  indexes: FoundIndex[] | null;
  policies: SnapshotPolicy[] | null;
}

interface FoundView {
  schema: string;
  name: string;
  definition: string;
  materialized: boolean;
  with: string[] | null;
  columns: FoundColumn[] | null;
}

/** All that is found; the server sends each by itself, with the name of its list. */
interface Found {
  schemas: string[];
  tables: FoundTable[];
  enums: { schema: string; name: string; values: string[] }[];
  sequences: (Record<string, string> & { schema: string; name: string })[];
  views: FoundView[];
}

/**
 * Reads the tables, enums, sequences and views of these schemas, without partitions
 * and without the objects of extensions.
 *
 * @param isNamed true to keep the name of a primary key when it is not PostgreSQL's
 * default name.
 */
export async function introspect(
  sql: Sql,
  schemas: string[],
  isNamed = false,
): Promise<Snapshot> {
  const found: Found = {
    schemas: [],
    tables: [],
    enums: [],
    sequences: [],
    views: [],
  };
  const results = await sql.unsafe<{ list: keyof Found; value: never }[][]>(
    `set local jit = off; ${printQuery(schemas)}`,
  );
  for (const { list, value } of results.flat()) found[list].push(value);
  return {
    ...emptySnapshot,
    schemas: Object.fromEntries(found.schemas.map((name) => [name, name])),
    tables: keyByName(found.tables, (table) => describeTable(table, isNamed)),
    enums: keyByName(found.enums, (part) => part),
    sequences: keyByName(found.sequences, describeSequence),
    views: keyByName(found.views, describeView),
  };
}

/** Describes the parts, keyed by schema and name. */
function keyByName<T extends { schema: string; name: string }, U>(
  parts: T[],
  describe: (part: T) => U,
): Record<string, U> {
  return Object.fromEntries(
    parts.map((part) => [`${part.schema}.${part.name}`, describe(part)]),
  );
}

function named<T extends { name: string }, U>(
  parts: T[] | null,
  describe: (part: T) => U,
): Record<string, U> {
  return Object.fromEntries(
    (parts ?? []).map((part) => [part.name, describe(part)]),
  );
}

function describeTable(found: FoundTable, isNamed: boolean): SnapshotTable {
  const { schema, name, isRLSEnabled } = found;
  const ofType = (type: FoundConstraint["type"]) =>
    (found.constraints ?? []).filter((part) => part.type === type);
  const [key] = ofType("p");
  const isPlain = !isNamed || key?.name === `${name}_pkey`;
  const single =
    key?.columns?.length === 1 && isPlain ? key.columns[0] : undefined;
  return {
    name,
    schema: schema === "public" ? "" : schema,
    columns: named(found.columns, (column) => ({
      ...describeColumn(column, schema),
      primaryKey: column.name === single,
    })),
    indexes: named(found.indexes, (index) => ({
      ...index,
      columns: index.columns.map(({ opclass, ...column }) => ({
        ...column,
        ...(opclass && { opclass }),
      })),
      where: index.where ?? undefined,
      with: readOptions(index.with) ?? {},
      concurrently: false,
    })),
    foreignKeys: named(ofType("f"), (part) => ({
      name: part.name,
      tableFrom: name,
      tableTo: part.tableTo ?? "",
      schemaTo: part.schemaTo ?? undefined,
      columnsFrom: part.columns ?? [],
      columnsTo: part.columnsTo ?? [],
      onUpdate: part.onUpdate,
      onDelete: part.onDelete,
    })),
    compositePrimaryKeys:
      key && !single
        ? { [key.name]: { name: key.name, columns: key.columns ?? [] } }
        : {},
    uniqueConstraints: named(ofType("u"), (part) => ({
      name: part.name,
      columns: part.columns ?? [],
      nullsNotDistinct: part.nullsNotDistinct === true,
    })),
    checkConstraints: named(ofType("c"), (part) => ({
      name: part.name,
      value: part.definition.replace(
        /^CHECK \(+?(.*)\)( NO INHERIT)?( NOT VALID| NOT ENFORCED)?$/s,
        "$1",
      ),
    })),
    policies: named(found.policies, (policy) => ({
      ...policy,
      using: policy.using ?? undefined,
      withCheck: policy.withCheck ?? undefined,
    })),
    isRLSEnabled,
  };
}

const SERIALS: Record<string, string> = {
  smallint: "smallserial",
  integer: "serial",
  bigint: "bigserial",
};

function describeColumn(found: FoundColumn, schema: string): SnapshotColumn {
  const { name, notNull, identity, isSerial, sequence } = found;
  const type = nameType(found);
  const serial = isSerial ? SERIALS[type] : undefined;
  return {
    name,
    type: serial ?? type,
    typeSchema: found.enumSchema ?? undefined,
    primaryKey: false,
    notNull,
    default: serial ? undefined : (found.default ?? undefined),
    ...(found.generated && {
      generated: { as: found.generated, type: "stored" },
    }),
    ...(identity &&
      sequence && {
        identity: {
          type: identity === "a" ? "always" : "byDefault",
          ...describeSequence({
            ...sequence,
            schema,
            name: sequence.name ?? "",
          }),
        },
      }),
  };
}

/** Returns drizzle's name of a type. */
function nameType({ type, dimensions, enumName }: FoundColumn): string {
  const base = enumName ?? type.replace(/(\[\])+$/, "");
  const words = base
    .replace(/^character varying/, "varchar")
    .replace(/^character/, "char")
    .replace(/^(time|timestamp)\((\d)\)/, "$1 ($2)")
    .replace(/^numeric\((\d+),(-?\d+)\)/, "numeric($1, $2)")
    .replace(/^(time|timestamp)(.*) without time zone$/, "$1$2");
  const isArray = type.endsWith("[]");
  return words + "[]".repeat(isArray ? Math.max(1, dimensions) : 0);
}

function describeSequence(
  found: Record<string, string> & { schema: string; name: string },
) {
  const { schema, name, increment, minValue, maxValue, startWith, cache } =
    found;
  const cycle = found.cycle === "true";
  return {
    schema,
    name,
    increment,
    minValue,
    maxValue,
    startWith,
    cache,
    cycle,
  };
}

function describeView({
  schema,
  name,
  definition,
  materialized,
  ...found
}: FoundView): SnapshotView {
  return {
    name,
    schema,
    columns: named(found.columns, (column) => describeColumn(column, schema)),
    definition: definition.replace(/;$/, "").trim(),
    isExisting: false,
    materialized,
    with: readViewOptions(found.with) ?? undefined,
  };
}

/** Reads a view's options: `security_barrier=on` becomes `{ securityBarrier: true }`. */
const readViewOptions = (options: string[] | null) =>
  options &&
  Object.fromEntries(
    Object.entries(readOptions(options) ?? {}).map(([key, value]) => {
      const name = key.replace(/_(\w)/g, (_, letter) => letter.toUpperCase());
      if (!BOOLEANS.test(name)) return [name, value];
      return [name, /^(t|y|on|1)/i.test(String(value))]; // `yes` may be `y`
    }),
  );
const BOOLEANS =
  /^(security(Barrier|Invoker)|autovacuumEnabled|vacuumTruncate)$/;

/** Reads options: `fillfactor=70` becomes `{ fillfactor: 70 }`. */
function readOptions(options: string[] | null) {
  if (!options) return undefined;
  return Object.fromEntries(
    options.map((option) => {
      const [name = "", value = ""] = option.split("=");
      if (/^(true|false)$/.test(value)) return [name, value === "true"];
      return [
        name,
        value !== "" && !isNaN(Number(value)) ? Number(value) : value,
      ];
    }),
  );
}

const isOwn = (oid: string, catalog: string) => `not exists (
  select from pg_depend
  where classid = '${catalog}'::regclass and objid = ${oid} and deptype = 'e')`;

const SEQUENCE = `json_build_object('name', relname, 'increment', seqincrement::text,
  'minValue', seqmin::text, 'maxValue', seqmax::text, 'startWith', seqstart::text,
  'cache', seqcache::text, 'cycle', seqcycle::text`;

const columnsOf = (relation: string) => `(
  select json_agg(json_build_object(
    'name', attname, 'type', format_type(atttypid, atttypmod), 'dimensions', attndims,
    'enumName', enum.typname, 'enumSchema', enum.nspname, 'notNull', attnotnull,
    'default', case when attgenerated = '' then pg_get_expr(adbin, adrelid) end,
    'generated', case when attgenerated <> '' then pg_get_expr(adbin, adrelid) end,
    'identity', attidentity,
    'isSerial', attidentity = '' and pg_get_expr(adbin, adrelid) like 'nextval(%' and sequence.options is not null,
    'sequence', sequence.options) order by attnum)
  from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
    left join lateral (
      select typname, nspname from pg_type join pg_namespace on pg_namespace.oid = typnamespace
      where typtype = 'e' and pg_type.oid in (atttypid, (select typelem from pg_type where oid = atttypid and typcategory = 'A'))
    ) as enum on true
    left join lateral (
      select ${SEQUENCE}) as options from pg_depend
        join pg_sequence on seqrelid = objid join pg_class on pg_class.oid = seqrelid
      where classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass
        and refobjid = attrelid and refobjsubid = attnum and deptype in ('a', 'i') limit 1
    ) as sequence on true
  where attrelid = ${relation}.oid and attnum > 0 and not attisdropped)`;

const columnNames = (relation: string, numbers: string) => `(
  select json_agg(attname order by position)
  from unnest(${numbers}) with ordinality as numbers (number, position)
    join pg_attribute on attrelid = ${relation} and attnum = number)`;

const action = (column: string) =>
  `case ${column} when 'r' then 'restrict' when 'n' then 'set null' when 'c' then 'cascade' when 'd' then 'set default' else 'no action' end`;

const printQuery = (schemas: string[]) => `
with schemas as (
  select oid, nspname from pg_namespace where nspname in (${schemas.map(quoteLiteral).join(", ")})
), relations as (
  select class.*, nspname from pg_class as class join schemas on schemas.oid = relnamespace
  where not relispartition and ${isOwn("class.oid", "pg_class")}
)
select list, value from (
  select 'schemas' as list, nspname as schema, ''::name as name, to_json(nspname) as value
  from schemas where nspname <> 'public'
  union all select 'tables', nspname, relname, json_build_object(
    'schema', nspname, 'name', relname, 'isRLSEnabled', relrowsecurity,
    'columns', ${columnsOf("relations")},
    'constraints', (
      select json_agg(json_build_object(
        'name', conname, 'type', contype, 'columns', ${columnNames("conrelid", "conkey")},
        'schemaTo', target.nspname, 'tableTo', target.relname, 'columnsTo', ${columnNames("confrelid", "confkey")},
        'onUpdate', ${action("confupdtype")}, 'onDelete', ${action("confdeltype")},
        'nullsNotDistinct', (select to_jsonb(pg_index) -> 'indnullsnotdistinct' from pg_index where indexrelid = conindid),
        'definition', pg_get_constraintdef(pg_constraint.oid, true)) order by conname)
      from pg_constraint left join (
        select pg_class.oid, relname, nspname from pg_class join pg_namespace on pg_namespace.oid = relnamespace
      ) as target on target.oid = confrelid
      where conrelid = relations.oid and contype in ('p', 'u', 'c', 'f')),
    'indexes', (
      select json_agg(json_build_object(
        'name', index.relname, 'isUnique', indisunique, 'method', amname,
        'where', pg_get_expr(indpred, indrelid, true), 'with', to_json(index.reloptions),
        'columns', (
          select json_agg(json_build_object(
            'expression', case indkey[position - 1] when 0 then pg_get_indexdef(indexrelid, position, true) else attname end,
            'isExpression', indkey[position - 1] = 0, 'asc', indoption[position - 1] & 1 = 0,
            'nulls', case indoption[position - 1] & 2 when 0 then 'last' else 'first' end,
            'opclass', case when not opcdefault then opcname end) order by position)
          from generate_series(1, indnkeyatts::int) as position
            left join pg_attribute on attrelid = indrelid and attnum = indkey[position - 1] and attnum > 0
            left join pg_opclass on pg_opclass.oid = indclass[position - 1])) order by index.relname)
      from pg_index join pg_class as index on index.oid = indexrelid join pg_am on pg_am.oid = index.relam
      where indrelid = relations.oid
        and not exists (select from pg_depend where classid = 'pg_class'::regclass and objid = indexrelid
          and refclassid = 'pg_constraint'::regclass and deptype = 'i')),
    'policies', (
      select json_agg(json_build_object(
        'name', polname, 'as', case when polpermissive then 'PERMISSIVE' else 'RESTRICTIVE' end,
        'for', case polcmd when 'r' then 'SELECT' when 'a' then 'INSERT' when 'w' then 'UPDATE' when 'd' then 'DELETE' else 'ALL' end,
        'to', (select json_agg(coalesce(rolname, 'public') order by rolname) from unnest(polroles) as role left join pg_roles on pg_roles.oid = role),
        'using', pg_get_expr(polqual, polrelid), 'withCheck', pg_get_expr(polwithcheck, polrelid)) order by polname)
      from pg_policy where polrelid = relations.oid))
  from relations where relkind in ('r', 'p')
  union all select 'enums', nspname, typname, json_build_object('schema', nspname, 'name', typname, 'values',
      (select json_agg(enumlabel order by enumsortorder) from pg_enum where enumtypid = type.oid))
  from pg_type as type join schemas on schemas.oid = typnamespace
  where typtype = 'e' and ${isOwn("type.oid", "pg_type")}
  union all select 'sequences', nspname, relname, ${SEQUENCE}, 'schema', nspname)
  from relations join pg_sequence on seqrelid = relations.oid
  where not exists (select from pg_depend where classid = 'pg_class'::regclass and objid = seqrelid
    and refclassid = 'pg_class'::regclass and deptype in ('a', 'i'))
  union all select 'views', nspname, relname, json_build_object('schema', nspname, 'name', relname,
      'definition', pg_get_viewdef(relations.oid, true), 'materialized', relkind = 'm',
      'with', to_json(reloptions), 'columns', ${columnsOf("relations")})
  from relations where relkind in ('v', 'm')
) as parts order by schema, name`;
