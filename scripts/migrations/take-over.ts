// Copies objects from the real database to a scratch database. Migrations may refer
// to objects that no migration creates: a table of the platform, an extension, a
// type created by hand. Such an object is copied when a statement needs it, without
// rows, and only the parts that others can refer to.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { quoteIdentifier, quoteLiteral } from "../lib/quote";
import type { Catalog, CatalogEntry } from "./catalog";
import { findCodeReach } from "./reach";
import { splitStatements } from "./statements";

/** A scratch database, and the real database that it replaces in a trial. */
export interface Trial {
  real: Sql;
  scratch: Sql;
  /** The address of the scratch database. */
  address: DatabaseAddress;
  /** The catalog of the real database. */
  found: Catalog;
  /** True when it is on another server, where roles may be created temporarily. */
  isScratchServer: boolean;
  /** The schemas in which the real database looks for a name without a schema. */
  path: string[];
  /** What our migrations create: objects as `schema.name`, schemas as `name`. */
  own: Set<string>;
  /** What was copied, by its key in the catalog. */
  taken: Set<string>;
  /** What was tried to copy. */
  tried: Set<string>;
  /** True when something was left out that others may refer to. */
  isIncomplete?: boolean;
  /** What can be copied, by its name without the schema. */
  supply?: Map<string, Supply[]>;
}

/** Something that can be copied from the real database. */
interface Supply {
  object: string;
  /** Null when it has no schema, or is found without one. */
  schema: string | null;
  make: (trial: Trial) => Promise<boolean>;
}

/** undefined_table, invalid_schema_name, undefined_function, undefined_object. */
const MISSING = ["42P01", "3F000", "42883", "42704"];
/** Matches a name in SQL. */
export const NAME =
  '"(?:[^"]|"")+"|[A-Za-z_\\u0080-\\uffff][\\w$\\u0080-\\uffff]*';

/** True for an error about an object that does not exist. */
export const isMissing = (error: unknown) =>
  MISSING.includes((error as { code?: string }).code ?? "");

/** Runs SQL in the scratch database, and copies the objects that it needs. */
export async function runTaking(trial: Trial, text: string): Promise<void> {
  for (;;)
    try {
      await trial.scratch.unsafe(text);
      return;
    } catch (error) {
      if (!isMissing(error) || !(await takeOver(trial, text))) throw error;
    }
}

/**
 * Copies what a statement mentions, if the real database has it and no migration
 * of ours creates it.
 *
 * @returns true when something was copied.
 */
export async function takeOver(trial: Trial, text: string): Promise<boolean> {
  trial.supply ??= await listSupply(trial);
  let isTaken = false;
  for (const { schema, name } of readMentions(text)) {
    if (schema && (await makeSchema(trial, schema))) isTaken = true;
    for (const supply of trial.supply.get(name) ?? []) {
      const isMeant = schema
        ? supply.schema === schema
        : supply.schema === null || trial.path.includes(supply.schema);
      const isOwn = trial.own.has(
        supply.schema === null ? name : `${supply.schema}.${name}`,
      );
      if (!isMeant || isOwn || trial.tried.has(supply.object)) continue;
      trial.tried.add(supply.object);
      if (await supply.make(trial)) isTaken = true;
    }
  }
  return isTaken;
}

/** Reads the names in SQL, also those inside strings. */
export function readMentions(text: string) {
  const pattern = new RegExp(`(?:(${NAME})\\s*\\.\\s*)?(${NAME})`, "g");
  const mentions = new Map<string, { schema?: string; name: string }>();
  const tokens = splitStatements(text).flatMap((statement) =>
    statement.tokens.map((token) => token.text),
  );
  // Read strings apart: a double quote in a string must not begin a name outside it.
  const isString = (token: string) => /^(\$|[eE]?')/.test(token);
  const names = tokens.filter((token) => !isString(token)).join(" ");
  for (const part of [names, ...tokens.filter(isString)])
    for (const [whole, schema, name = ""] of part.matchAll(pattern))
      mentions.set(whole, {
        schema: schema && foldName(schema),
        name: foldName(name),
      });
  return [...mentions.values()];
}

/** Returns a name as PostgreSQL stores it: folded, or without its quotes. */
export function foldName(name: string): string {
  if (!name.startsWith('"')) return name.toLowerCase();
  return name.slice(1, -1).replaceAll('""', '"');
}

async function listSupply({ real, found, isScratchServer }: Trial) {
  const supply = new Map<string, Supply[]>();
  const add = (name: string, entry: Supply) =>
    supply.set(name, [...(supply.get(name) ?? []), entry]);
  for (const [object, { schema, name }] of found) {
    if (object.startsWith("schema "))
      add(name, { object, schema: null, make: (t) => makeSchema(t, name) });
    else if (KINDS.test(object))
      add(name, { object, schema, make: (t) => makeObject(t, object) });
  }
  for (const { name, schema, extension, home, stub } of await listMembers(real))
    add(name, {
      object: `member ${schema}.${name} ${stub ?? extension}`,
      schema,
      make: async (trial) =>
        (await makeExtension(trial, extension, home)) ||
        (stub !== null && (await makeStub(trial, schema, name, stub))),
    });
  const roles = isScratchServer ? await listRoles(real) : [];
  for (const name of roles)
    add(name, {
      object: `role ${name}`,
      schema: null,
      make: (trial) => makeRole(trial, name),
    });
  return supply;
}

async function listRoles(sql: Sql): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    select rolname as name from pg_roles where rolname !~ '^pg_'`;
  return rows.map(({ name }) => name);
}

/** Creates the roles that texts mention, on a scratch server only. */
export async function takeRoles(trial: Trial, texts: string[]): Promise<void> {
  if (!trial.isScratchServer) return;
  const text = texts.join("\n");
  for (const name of await listRoles(trial.real))
    if (text.includes(name)) await makeRole(trial, name);
}

async function makeRole(trial: Trial, name: string): Promise<boolean> {
  const isMade = await attempt(trial, `create role ${quoteIdentifier(name)}`);
  if (isMade) trial.taken.add(`role ${name}`);
  return isMade;
}

const KINDS =
  /^(table|view|materialized view|sequence|type|domain|range|composite type|collation|function|procedure) /;

interface Member {
  name: string;
  schema: string | null;
  extension: string;
  /** The schema of the extension. */
  home: string;
  /** SQL that creates a substitute when the extension cannot be created. */
  stub: string | null;
}

/** Lists extensions and the objects that they have created. */
async function listMembers(sql: Sql): Promise<Member[]> {
  return await sql.unsafe<Member[]>(`
    with members as (
      select extname as extension, extnamespace::regnamespace::text as home, classid, objid
      from pg_depend join pg_extension on pg_extension.oid = refobjid
      where refclassid = 'pg_extension'::regclass and deptype = 'e'
    ), named as (
      select proname as name, pronamespace as namespace, objid, classid,
        format('function %I.%I(%s) returns %s %s language plpgsql as %L', pronamespace::regnamespace::text, proname,
          pg_get_function_arguments(pg_proc.oid), pg_get_function_result(pg_proc.oid),
          case provolatile when 'i' then 'immutable' when 's' then 'stable' end,
          case when prorettype = 'trigger'::regtype then 'begin return new; end'
            when proretset or prorettype = 'void'::regtype or proallargtypes is not null then 'begin return; end'
            else 'begin return null; end' end) as stub
      from members join pg_proc on pg_proc.oid = objid and classid = 'pg_proc'::regclass where prokind = 'f'
      union all
      select typname, typnamespace, objid, classid, format('domain %I.%I as text', typnamespace::regnamespace::text, typname)
      from members join pg_type on pg_type.oid = objid and classid = 'pg_type'::regclass
      union all
      select opcname, opcnamespace, objid, classid, null from members join pg_opclass on oid = objid and classid = 'pg_opclass'::regclass
      union all
      select relname, relnamespace, objid, classid, null from members join pg_class on oid = objid and classid = 'pg_class'::regclass
      union all
      select cfgname, cfgnamespace, objid, classid, null from members join pg_ts_config on oid = objid and classid = 'pg_ts_config'::regclass
      union all
      select dictname, dictnamespace, objid, classid, null from members join pg_ts_dict on oid = objid and classid = 'pg_ts_dict'::regclass
      union all
      select collname, collnamespace, objid, classid, null from members join pg_collation on oid = objid and classid = 'pg_collation'::regclass
      union all
      select lanname, null, objid, classid, null from members join pg_language on oid = objid and classid = 'pg_language'::regclass
      union all
      select amname, null, objid, classid, null from members join pg_am on oid = objid and classid = 'pg_am'::regclass
      union all
      select fdwname, null, objid, classid, null from members join pg_foreign_data_wrapper on oid = objid and classid = 'pg_foreign_data_wrapper'::regclass
    )
    select name, nspname as schema, extension, home, stub
    from named join members using (objid, classid) left join pg_namespace on pg_namespace.oid = namespace
    union all
    select extname, null, extname, extnamespace::regnamespace::text, null from pg_extension`);
}

async function makeSchema(trial: Trial, schema: string): Promise<boolean> {
  const object = `schema ${quoteIfNeeded(trial, schema)}`;
  if (!trial.found.has(object) || trial.own.has(schema)) return false;
  if (trial.tried.has(object)) return false;
  trial.tried.add(object);
  const isMade = await attempt(
    trial,
    `create schema ${quoteIdentifier(schema)}`,
  );
  if (isMade) trial.taken.add(object);
  return isMade;
}

/** Returns the name of a schema as it is in the catalog's keys. */
function quoteIfNeeded({ found }: Trial, schema: string): string {
  return found.has(`schema ${schema}`) ? schema : quoteIdentifier(schema);
}

async function makeExtension(
  trial: Trial,
  extension: string,
  home: string,
): Promise<boolean> {
  const object = `extension ${extension}`;
  if (trial.tried.has(object)) return false;
  trial.tried.add(object);
  await makeSchema(trial, foldName(home));
  const isMade = await attempt(
    trial,
    `create extension if not exists ${quoteIdentifier(extension)} schema ${home} cascade`,
  );
  if (isMade) trial.taken.add(object);
  return isMade;
}

/** True for an object that was copied, or is a substitute for a member of an
 * extension. */
export function isTaken(
  { taken }: Trial,
  object: string,
  { schema, name }: CatalogEntry,
): boolean {
  return taken.has(object) || taken.has(`stub ${schema}.${name}`);
}

/** True for such an object, and for its parts. */
export function isTakenOver(
  trial: Trial,
  object: string,
  entry: CatalogEntry,
): boolean {
  const { parent } = entry;
  return (
    isTaken(trial, object, entry) ||
    (parent !== null && trial.taken.has(parent))
  );
}

/** Creates a substitute for a member of an extension that cannot be created here. */
async function makeStub(
  trial: Trial,
  schema: string | null,
  name: string,
  stub: string,
): Promise<boolean> {
  if (schema) await makeSchema(trial, schema);
  const isMade = await attempt(trial, `create ${stub}`);
  if (isMade) trial.taken.add(`stub ${schema}.${name}`);
  return isMade;
}

async function makeObject(trial: Trial, object: string): Promise<boolean> {
  const { found, taken } = trial;
  const entry = found.get(object);
  if (!entry) return false;
  if (entry.schema) await makeSchema(trial, entry.schema);
  const [first = "", ...rest] = writeObject(found, object);
  if (!(await attempt(trial, first))) return false;
  for (const part of rest) await attempt(trial, part);
  taken.add(object);
  return true;
}

/** Returns the SQL that creates an object; of a table only columns and keys, which
 * others can refer to. */
function writeObject(found: Catalog, object: string): string[] {
  const sql = found.get(object)?.sql ?? "";
  if (object.startsWith("table ")) {
    const parts = [...found].filter(([, { parent }]) => parent === object);
    const columns = parts.filter(([part]) => part.startsWith("column "));
    const keys = parts.filter(
      ([part, key]) =>
        part.startsWith("constraint ") &&
        / (PRIMARY KEY|UNIQUE) /.test(key.sql),
    );
    return [
      `create table ${object.slice("table ".length)} ()`,
      ...[...columns, ...keys].map(([, part]) => part.sql),
    ];
  }
  if (!/^(function|procedure) /.test(object)) return [sql];
  return [`set local check_function_bodies = off; ${disableFarCode(sql)}`];
}

/** Replaces the body of a function that reaches beyond the database with an error,
 * so that it never runs in a trial. */
function disableFarCode(sql: string): string {
  if (findCodeReach(sql) === "database") return sql;
  const stub = "begin raise exception 'not run in a scratch database'; end";
  return `${sql
    .replace(/\n LANGUAGE \S+/, "\n LANGUAGE plpgsql")
    .replace(/\n(AS |BEGIN ATOMIC)[^]*$/, "")}\nAS ${quoteLiteral(stub)}`;
}

/** Runs SQL and copies what it needs; returns false when it still fails. */
async function attempt(trial: Trial, text: string): Promise<boolean> {
  try {
    await runTaking(trial, text);
    return true;
  } catch {
    return false; // the statement that needs it fails with its own error
  }
}
