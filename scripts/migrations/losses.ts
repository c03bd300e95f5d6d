// Counts the data that SQL would remove. It runs the SQL in a transaction that is
// rolled back, asks the server which columns and rows are gone, and counts these.
import type { Sql } from "postgres";
import { quoteIdentifier } from "../lib/quote";
import { explainFailure, type PostgresError } from "./failure";
import { followReach } from "./reach";
import { mentionsName } from "./statements";
import type { Script } from "./steps";

/** A column or a table, identified by numbers that a rename does not change. */
interface Part {
  key: string;
  /** The key of the table, and of the table that it is a partition of. */
  tableKey: string;
  parentKey: string | null;
  table: string;
  /** Null for the table itself. */
  column: string | null;
  type: string | null;
  /** The file of its rows, which changes when they are rewritten; null for a
   * partitioned table. */
  file: string | null;
}

/** A sequence. */
interface Counter {
  oid: string;
  name: string;
  /** The oid of the table that it belongs to, and the number of the column. */
  owner: string | null;
  column: number | null;
  /** Null when it was never used. */
  last: string | null;
}

/** A view, or a foreign key of a table, which CASCADE may drop unasked. */
interface Dependent {
  oid: string;
  /** Such as `the view audit.sums`. */
  what: string;
  schema: string;
  /** The name of the view, or of the table. */
  name: string;
  /** The key of the table; null for a view. */
  tableKey: string | null;
}

/** How many rows of a table were deleted and updated. */
interface Changed {
  oid: string;
  table: string;
  deleted: number;
  updated: number;
}

/** Errors of statements that cannot run in this transaction (see steps.ts), or that
 * need more locks than one transaction can have. */
const UNTRIABLE = ["25001", "2D000", "55P04", "53200"];
/** SQL whose effect a rollback does not undo. */
const LASTING =
  /prepare\s+transaction|setval|pg_advisory|pg_(terminate|cancel)_backend|pg_reload_conf|pg_switch_wal|pg_replication_origin/i;

/**
 * Counts what the scripts would remove when they run one after the other.
 *
 * @param done how many statements of each script are already committed.
 * @returns texts such as `drops users.bio: 412 values`; none when nothing is lost.
 * @throws when a statement fails, with its place in the file.
 */
export async function countLosses(
  sql: Sql,
  scripts: Script[],
  lockTimeout: number,
  done: number[] = [],
): Promise<string[]> {
  const before = await listParts(sql);
  const counters = await listCounters(sql);
  const dependents = await listDependents(sql);
  const follow = followReach(await listForeignTables(sql));
  const found: string[] = [];
  let after = new Map<string, Part>();
  /** How many rows are left in truncated or rewritten tables, by table key. */
  const kept = new Map<string, number>();
  await sql.unsafe(`begin; set local lock_timeout = ${lockTimeout}`);
  try {
    const earlier = await listChanged(sql);
    for (const [index, script] of scripts.entries()) {
      const reaches = follow(script.statements, script.text);
      const untried = reaches.some(({ reach }) => reach === "outside")
        ? "it reaches outside the server"
        : await tryScript(sql, script, done[index] ?? 0);
      if (untried)
        return [
          `an unknown amount of data (${script.tag} cannot be tried first: ${untried})`,
        ];
    }
    await sql.unsafe("reset session authorization; reset role");
    after = new Map((await listParts(sql)).map((part) => [part.key, part]));
    found.push(...describeChanges(await listChanged(sql), earlier));
    found.push(...findLostCounts(counters, await listCounters(sql), after));
    const left = await listDependents(sql);
    const texts = scripts.map(({ text }) => text);
    found.push(...findUnnamed(dependents, left, after, texts.join("\n;\n")));
    for (const { key, column, file } of before) {
      const now = after.get(key);
      if (now && column === null && now.file !== file)
        kept.set(key, await count(sql, "*", now.table));
    }
  } finally {
    await sql.unsafe("rollback");
  }
  for (const part of before) {
    const { key, table, column } = part;
    const verb = nameLoss(part, after, kept);
    if (verb === undefined) continue;
    const lost =
      (await count(sql, column ?? "*", table)) - (kept.get(key) ?? 0);
    const what = column === null ? table : `${table}.${column}`;
    const unit = column === null ? "row" : "value";
    if (lost > 0) found.push(`${verb} ${what}: ${printCount(lost, unit)}`);
  }
  return found;
}

/** Names what takes the rows or values of a part away; undefined when nothing does. */
function nameLoss(
  { key, tableKey, parentKey, column, type, file }: Part,
  after: Map<string, Part>,
  kept: Map<string, number>,
): string | undefined {
  const now = after.get(key);
  if (!now) {
    // The rows are counted once, with the whole that was dropped.
    const whole = column === null ? parentKey : tableKey;
    return whole === null || after.has(whole) ? "drops" : undefined;
  }
  if (column === null) return kept.has(key) ? "truncates" : undefined;
  const isRewritten = file === null || now.file !== file;
  return now.type !== type && isRewritten ? "changes the type of" : undefined;
}

/** Names what is gone with something else, and that the SQL does not name. */
function findUnnamed(
  before: Dependent[],
  left: Dependent[],
  after: Map<string, Part>,
  text: string,
): string[] {
  const kept = new Set(left.flatMap(({ oid, what }) => [oid, what]));
  return before
    .filter(({ oid, what }) => !kept.has(oid) && !kept.has(what))
    .filter(({ tableKey }) => tableKey === null || after.has(tableKey))
    .filter(({ name }) => !mentionsName(text, quoteIdentifier(name)))
    .filter(({ schema }) => !mentionsDrop(text, schema))
    .map(({ what }) => `drops ${what} with it`);
}

/** True when the SQL drops the schema. */
const mentionsDrop = (text: string, schema: string) =>
  /\bdrop\s+schema\b/i.test(text) &&
  mentionsName(text, quoteIdentifier(schema));

/** Names the used sequences that are gone, while the table of their column is not. */
function findLostCounts(
  before: Counter[],
  left: Counter[],
  after: Map<string, Part>,
): string[] {
  const isKept = (count: Counter) =>
    left.some(
      ({ oid, name, last, owner, column }) =>
        oid === count.oid ||
        (name === count.name && last !== null) ||
        // An identity in the place of a serial counts on, and so the reverse.
        (owner !== null && owner === count.owner && column === count.column),
    );
  return before
    .filter(({ last }) => last !== null)
    .filter(({ owner }) => owner === null || after.has(owner))
    .filter((count) => !isKept(count))
    .map(({ name, last }) => `drops the count of ${name}, which is at ${last}`);
}

/** @returns why the script cannot be tried, or undefined. */
async function tryScript(
  sql: Sql,
  script: Script,
  done: number,
): Promise<string | undefined> {
  for (const [index, statement] of script.statements.entries()) {
    if (statement.kind !== "plain") continue;
    if (index < done && !statement.isSetting) continue;
    const [lasting] = statement.text.match(LASTING) ?? [];
    if (lasting) return `${lasting.toUpperCase()} is not undone by a rollback`;
    try {
      await sql.unsafe(statement.text);
    } catch (thrown) {
      const error = thrown as PostgresError;
      if (UNTRIABLE.includes(error.code ?? "")) return error.message;
      throw explainFailure(error, script, index, done);
    }
  }
}

async function listForeignTables(sql: Sql): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    select relname as name from pg_class where relkind = 'f'`;
  return rows.map(({ name }) => name);
}

async function listParts(sql: Sql): Promise<Part[]> {
  return await sql.unsafe<Part[]>(`
    select concat_ws('.', class.oid, attnum) as key,
      class.oid::text as "tableKey", inhparent::text as "parentKey",
      class.oid::regclass::text as table, quote_ident(attname) as column, type,
      pg_relation_filenode(class.oid)::text as file
    from pg_class as class
      join pg_namespace on pg_namespace.oid = relnamespace
      left join pg_inherits on inhrelid = class.oid and relispartition
      cross join lateral (
        select null::int2 as attnum, null::name as attname, null as type
        union all
        select attnum, attname, format_type(atttypid, atttypmod)
        from pg_attribute
        where attrelid = class.oid and attnum > 0 and not attisdropped
          and attgenerated = '' -- those are computed again
          and not relispartition
      ) as part
    where relkind in ('r', 'p')
      and nspname not in ('pg_catalog', 'information_schema', 'drizzle')
      and nspname !~ '^pg_(toast|temp)'
    order by class.oid, attnum nulls first`);
}

async function listDependents(sql: Sql): Promise<Dependent[]> {
  return await sql.unsafe<Dependent[]>(`
    select one.oid::text, what || format('%I.%I', nspname, relname) as what,
      nspname as schema, relname as name, "tableKey"
    from (
      select oid, oid as relation, null as "tableKey",
        case relkind when 'v' then 'the view ' else 'the materialized view ' end as what
      from pg_class where relkind in ('v', 'm')
      union all
      select oid, conrelid, conrelid::text, format('the foreign key %I of ', conname)
      from pg_constraint where contype = 'f' and conparentid = 0
    ) as one join pg_class on pg_class.oid = relation
      join pg_namespace on pg_namespace.oid = relnamespace
    where nspname not in ('pg_catalog', 'information_schema', 'drizzle')
    order by relation, what`);
}

/** Lists the sequences, and how far each has counted. */
async function listCounters(sql: Sql): Promise<Counter[]> {
  return await sql.unsafe<Counter[]>(`
    select seqrelid::text as oid, seqrelid::regclass::text as name,
      case when has_sequence_privilege(seqrelid, 'select') then pg_sequence_last_value(seqrelid) end as last,
      refobjid::text as owner, refobjsubid as column
    from pg_sequence left join pg_depend on objid = seqrelid and classid = 'pg_class'::regclass
      and refclassid = 'pg_class'::regclass and deptype in ('a', 'i')
    order by seqrelid`);
}

/** Counts deleted and updated rows of tables that still exist. The session's earlier
 * transactions count as well, until it has reported them. */
async function listChanged(sql: Sql): Promise<Changed[]> {
  return await sql.unsafe<Changed[]>(`
    select relid::text as oid, relid::regclass::text as table,
      n_tup_del::float8 as deleted, n_tup_upd::float8 as updated
    from pg_stat_xact_user_tables where schemaname <> 'drizzle'
    order by relid`);
}

function describeChanges(all: Changed[], earlier: Changed[]): string[] {
  const describe = (verb: string, kind: "deleted" | "updated") =>
    all.flatMap(({ oid, table, [kind]: sum }) => {
      const known = earlier.find((one) => one.oid === oid)?.[kind] ?? 0;
      const rows = sum - known;
      return rows > 0 ? [`${verb} ${table}: ${printCount(rows, "row")}`] : [];
    });
  return [
    ...describe("deletes from", "deleted"),
    ...describe("updates", "updated"),
  ];
}

const printCount = (count: number, unit: string) =>
  `${count} ${unit}${count > 1 ? "s" : ""}`;

async function count(
  sql: Sql,
  counted: string,
  table: string,
): Promise<number> {
  const [row] = await sql.unsafe<{ count: string }[]>(
    `select count(${counted}) from ${table}`,
  );
  return Number(row?.count);
}
