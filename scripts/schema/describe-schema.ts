// Describes schema.ts as a snapshot of drizzle-kit. It corrects what drizzle-kit
// gets wrong: values that need quotes, big integers, parameters.
import { is, SQL, sql } from "drizzle-orm";
import {
  getTableConfig,
  PgArray,
  PgDialect,
  PgTable,
  type PgColumn,
} from "drizzle-orm/pg-core";
import { loadSchema, type Project, readProject } from "../../src/project";
import { failure, refusal } from "../lib/report";
import { loadDrizzleKit, withoutTalk } from "./drizzle-kit";
import { nameEnums, nameSchema, type Snapshot } from "./snapshots";

/**
 * Returns the schema that schema.ts describes.
 *
 * @throws when schema.ts cannot be loaded.
 */
export async function describeSchema(prevId: string): Promise<Snapshot> {
  await loadDrizzleKit();
  const snapshot = await describeFiles(prevId);
  refuseFiltered(snapshot);
  return snapshot;
}

/** @throws for objects outside of schemaFilter: drizzle-kit would leave them out and
 * find nothing to generate. */
function refuseFiltered(snapshot: Snapshot): void {
  const { config, schemaFilter } = readProject();
  if (!schemaFilter) return;
  const { tables, enums, views, sequences, schemas } = snapshot;
  const used = [tables, enums, views, sequences]
    .flatMap((objects) => Object.values<{ schema?: string }>(objects))
    .map(({ schema }) => schema || "public");
  const outside = [...new Set([...used, ...Object.values(schemas)])].filter(
    (schema) => !schemaFilter.includes(schema),
  );
  if (outside.length === 0) return;
  const all = [...schemaFilter, ...outside].map((schema) => `"${schema}"`);
  throw refusal(
    `${nameSchema()} has objects in ${outside.join(", ")}, outside of the schemaFilter of ${config}`,
    {
      code: "SCHEMA_FILTERED",
      hint: `set \`schemaFilter: [${all.join(", ")}]\` in \`${config}\``,
    },
  );
}

async function describeFiles(prevId: string): Promise<Snapshot> {
  try {
    const { casing } = readProject();
    return await describeExports(await loadSchema(), prevId, casing);
  } catch (error) {
    // Bun lists syntax errors in an AggregateError.
    const { message, errors = [] } = error as AggregateError;
    const [first] = errors as (Error & { position?: { line: number } })[];
    const line = first?.position ? `:${first.position.line}` : "";
    throw failure(
      `${nameSchema()}${line} cannot be loaded: ${first?.message ?? message}`,
      { code: "SCHEMA_INVALID", hint: "`bun run check` shows more" },
    );
  }
}

/** Returns the snapshot of the exports of a schema's module. */
export async function describeExports(
  exported: Record<string, unknown>,
  prevId: string,
  casing?: Project["casing"],
): Promise<Snapshot> {
  const { generateDrizzleJson } = await loadDrizzleKit();
  const tables = Object.values(exported).filter((value) => is(value, PgTable));
  const names = tables.flatMap(listNames);
  const twice = findRepeated(names);
  if (twice) throw new Error(`${twice} exists twice`);
  for (const table of tables)
    for (const column of getTableConfig(table).columns)
      try {
        const text = printDefault(column);
        if (text) Object.assign(column, { default: text });
      } catch (error) {
        const place = `${getTableConfig(table).name}.${column.name}`;
        throw new Error(`default of ${place}: ${(error as Error).message}`);
      }

  const { sqlToQuery } = PgDialect.prototype;
  PgDialect.prototype.sqlToQuery = function (query, ...rest) {
    return sqlToQuery.call(this, query.inlineParams(), ...rest);
  };
  try {
    const {
      id,
      prevId: parent,
      ...snapshot
    } = withoutTalk(() =>
      generateDrizzleJson(exported, prevId, undefined, casing),
    );
    const described = nameEnums(
      JSON.parse(JSON.stringify({ id, prevId: parent, ...snapshot }, printBig)),
    );
    const shared = findShared(described);
    if (shared)
      throw new Error(
        `two of its tables, indexes, keys, views, sequences and enums have the name ${shared}`,
      );
    return described;
  } finally {
    PgDialect.prototype.sqlToQuery = sqlToQuery;
  }
}

/** Prints a big integer as text for JSON, as in the default of a view's column. */
function printBig(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}

/** Lists the names that must be unique; drizzle-kit's error does not name the one
 * that is not. */
function listNames(table: PgTable): string[] {
  const { name, schema = "public", indexes, ...parts } = getTableConfig(table);
  const own = [
    ...parts.columns.map((column) => `the column ${column.name}`),
    ...parts.checks.map((check) => `the check ${check.name}`),
    ...parts.policies.map((policy) => `the policy ${policy.name}`),
    ...parts.uniqueConstraints.map((key) => `the unique key ${key.getName()}`),
  ];
  return [
    `the table ${schema}.${name}`,
    ...own.map((part) => `${part} of ${schema}.${name}`),
    ...indexes.flatMap(({ config }) =>
      config.name ? [`the index ${schema}.${config.name}`] : [],
    ),
  ];
}

function findRepeated(names: string[]): string | undefined {
  const seen = new Set<string>();
  return names.find((name) => seen.size === seen.add(name).size);
}

/** Returns the first name that two relations of a schema share, or a relation with
 * columns and an enum; PostgreSQL cuts names at 63 bytes. */
function findShared({ tables, views, sequences, enums }: Snapshot) {
  const whole = [tables, views, sequences].flatMap((parts) =>
    Object.values<{ schema: string; name: string }>(parts),
  );
  const parts = Object.values(tables).flatMap(({ schema, ...table }) =>
    [
      ...[table.indexes, table.uniqueConstraints, table.compositePrimaryKeys],
      Object.values(table.columns).flatMap(({ identity }) => identity ?? []),
    ]
      .flatMap((parts) => Object.values<{ name: string }>(parts))
      .map(({ name }) => ({ schema, name })),
  );
  for (const others of [parts, Object.values(enums)]) {
    const named = [...whole, ...others].map(({ schema, name }) => {
      const clipped = Buffer.from(name).subarray(0, 63).toString();
      return `${schema || "public"}.${clipped}`;
    });
    const shared = findRepeated(named);
    if (shared) return shared;
  }
}

/** Returns the SQL of a default when drizzle-kit's would be wrong. */
function printDefault(column: PgColumn): SQL | undefined {
  const { default: value } = column;
  if (value === undefined) return undefined;
  const type = column.getSQLType();
  if (is(value, SQL)) return inline(value);
  if (typeof value === "bigint") return sql.raw(String(value));
  if (typeof value === "number" && !Number.isFinite(value))
    return sql.raw(quote(String(value)));
  if (/^jsonb?$/.test(type))
    return isJson(value)
      ? undefined
      : sql.raw(`${quote(JSON.stringify(value))}::${type}`);
  if (is(column, PgArray) && Array.isArray(value))
    return sql.raw(quote(printArray(value, column)));
  if (value instanceof Uint8Array)
    return sql.raw(`'\\x${Buffer.from(value).toString("hex")}'`);
  if (typeof value !== "object" || value instanceof Date) return undefined;
  const driven = column.mapToDriverValue(value);
  return is(driven, SQL) ? inline(driven) : sql.raw(quote(String(driven)));
}

/** Writes parameters as literals, which drizzle-kit refuses to. */
function inline(value: SQL): SQL {
  return sql.raw(new PgDialect().sqlToQuery(value.inlineParams()).sql);
}

/** True for a string that is JSON; like drizzle-kit, it is used as JSON. */
function isJson(value: unknown): boolean {
  if (typeof value !== "string") return false;
  try {
    JSON.parse(value);
    return true;
  } catch {
    return false;
  }
}

/** Prints an array for PostgreSQL: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO */
function printArray(values: unknown[], column: PgColumn): string {
  const base = is(column, PgArray) ? (column.baseColumn as PgColumn) : column;
  const items = values.map((value) => {
    if (value === null || value === undefined) return "NULL";
    if (Array.isArray(value) && is(base, PgArray))
      return printArray(value, base);
    const driven =
      value instanceof Date
        ? printDate(value, base)
        : base.mapToDriverValue(value);
    if (/^(number|bigint|boolean)$/.test(typeof driven)) return String(driven);
    return `"${String(driven).replace(/["\\]/g, "\\$&")}"`;
  });
  return `{${items.join(",")}}`;
}

/** Prints a date as drizzle-kit does, so that older snapshots stay the same. */
function printDate(value: Date, column: PgColumn): string {
  const text = value.toISOString();
  const type = column.getSQLType();
  if (type === "date") return text.slice(0, 10);
  return type === "timestamp" ? text.replace("T", " ").slice(0, 23) : text;
}

function quote(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}
