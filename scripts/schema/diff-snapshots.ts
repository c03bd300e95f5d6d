// Writes the SQL that leads from one snapshot of drizzle-kit to another. drizzle-kit
// writes the statements, through stages that each only remove or only add objects.
// So it has nothing to ask, and an object is dropped before what it depends on and
// created after it. Tested with drizzle-kit 0.31.11.
//
//   stage      is without                              because
//   valued     nothing: enums have their new values    a new value must be committed first
//   unread     views, one more in each such stage      a view is dropped before those it reads
//   detached   policies and foreign keys               they depend on columns and keys
//   unbound    constraints and indexes                 they depend on columns
//   bare       defaults, identities, remade enums      they depend on the type of a column
//   shared     what only one side has, remade enums    both snapshots are the same here
//
// The statements go down these stages of the first snapshot, and up those of the
// second. A stage leaves out only what changes or depends on a change.
import { quoteIdentifier, quoteLiteral } from "../lib/quote";
import {
  COUNT_LOST,
  type Counters,
  hideCounters,
  writeCounters,
} from "./counters";
import { printType, writeStatements } from "./drizzle-kit";
import { keepExtras } from "./keep-extras";
import { renameParts } from "./rename-parts";
import type {
  Snapshot,
  SnapshotColumn,
  SnapshotReference,
  SnapshotTable,
} from "./snapshots";

/** Column names by the key of their table, such as `public.users`. */
type ColumnNames = Record<string, string[]>;

/** What changes between two snapshots, and what depends on it. */
interface Change {
  /** Columns whose type or expression changes. */
  rebuilt: ColumnNames;
  /** Those of them that are generated; they are dropped and added. */
  recomputed: ColumnNames;
  /** Those of them whose old expressions may not fit the new type. */
  converted: ColumnNames;
  /** Enums that lose a value or change their order, by their key. */
  remade: Set<string>;
}

export interface DiffOptions {
  /**
   * True when everything must run in one transaction. A new value of an enum cannot
   * be used there, so the enum is created again instead.
   */
  isAtOnce?: boolean;
  /** The SQL of earlier migrations, for their grants on views. */
  history?: string;
}

/**
 * Compares two snapshots. What only the first has is dropped, and what only the
 * second has is created. renames.ts handles what was renamed.
 *
 * @returns SQL in the order in which it must run; none when they are the same.
 */
export async function diffSnapshots(
  first: Snapshot,
  second: Snapshot,
  { isAtOnce = false, history }: DiffOptions = {},
): Promise<string[]> {
  const [from, to] = leaveOutUnchanged(
    leaveOutPublic(first),
    leaveOutPublic(second),
  );
  const { statements: renames, renamed } = renameParts(from, to);
  const counters: Counters = { before: renamed, after: to };
  const before = completeSnapshot(hideCounters(renamed, to), to);
  const after = completeSnapshot(hideCounters(to, renamed), renamed);
  const change = findChange(before, after, isAtOnce);
  const valued = addValues(before, after, change);
  const old = takeApart(valued, after, change);
  const next = takeApart(withoutNewReferences(after, before), before, change);
  const stages = [
    valued,
    ...removeViews(valued, old.detached),
    old.detached,
    old.unbound,
    old.settled,
    old.bare,
    share(old.bare, after, change),
    ...[
      next.bare,
      next.unbound,
      next.detached,
      ...removeViews(
        { ...next.detached, views: after.views },
        next.detached,
      ).reverse(),
    ].map((stage) => keepTypes(stage, before)),
    after,
  ];
  const written: string[] = [];
  let current = before;
  for (const stage of stages) {
    if (isSame(current, stage)) continue;
    written.push(...(await writeStatements(current, stage)));
    current = stage;
  }
  const statements = correct(written, before, after);
  const count = writeCounters(counters);
  return buildIndexesLast(
    keepExtras(
      [...renames, ...count.first, ...statements, ...count.last],
      Object.keys(before.views)
        .filter((key) => key in after.views && !(key in old.detached.views))
        .filter((key) => !after.views[key]?.isExisting)
        .flatMap((key) => before.views[key] ?? []),
      history,
    ),
    after,
  );
}

/** Leaves out the name of the schema `public` in foreign keys: `drizzle-kit pull` writes
 * it, and `drizzle-kit generate` does not. */
function leaveOutPublic(snapshot: Snapshot): Snapshot {
  return mapTables(snapshot, ({ foreignKeys }) => ({
    foreignKeys: mapValues(foreignKeys, ({ schemaTo, ...reference }) =>
      schemaTo === "public" ? reference : { ...reference, schemaTo },
    ),
  }));
}

/** Leaves out the tables that are the same in both, unless something else that
 * changes may reach them: the work is then that of the change, not of the schema. */
function leaveOutUnchanged(from: Snapshot, to: Snapshot): [Snapshot, Snapshot] {
  const isChanged = (kind: "tables" | "enums", key: string) =>
    !isSame(from[kind][key], to[kind][key]);
  const keys = Object.keys({ ...from.tables, ...to.tables });
  const changed = new Set(keys.filter((key) => isChanged("tables", key)));
  const isReached = ({ foreignKeys, columns, policies }: SnapshotTable) =>
    Object.keys(policies).length > 0 ||
    Object.values(foreignKeys).some((reference) =>
      changed.has(keyOfTarget(reference)),
    ) ||
    Object.values(columns).some((column) =>
      isChanged("enums", keyOfEnum(column)),
    );
  const leaveOut = (snapshot: Snapshot) => ({
    ...snapshot,
    tables: filter(
      snapshot.tables,
      (table, key) => changed.has(key) || isReached(table),
    ),
  });
  return [leaveOut(from), leaveOut(to)];
}

/**
 * Adds what drizzle-kit's snapshots do not say: the columns of a primary key are
 * not null, and row security is on when a table has policies. Leaves out the columns
 * of views, which follow from their definition.
 */
function completeSnapshot(snapshot: Snapshot, other: Snapshot): Snapshot {
  const views = mapValues(snapshot.views, (view) => ({ ...view, columns: {} }));
  const secured = mapTables({ ...snapshot, views }, (table) => ({
    isRLSEnabled: table.isRLSEnabled || Object.keys(table.policies).length > 0,
  }));
  return mapShared(secured, other, (table) => {
    const keys = Object.values(table.compositePrimaryKeys).flatMap(
      ({ columns }) => columns,
    );
    return {
      columns: mapValues(table.columns, (column) => ({
        ...column,
        notNull:
          column.notNull || column.primaryKey || keys.includes(column.name),
      })),
    };
  });
}

function findChange(
  before: Snapshot,
  after: Snapshot,
  isAtOnce: boolean,
): Change {
  const remade = new Set(
    Object.entries(before.enums)
      .filter(([key, { values }]) => {
        const next = after.enums[key]?.values;
        if (!next) return false;
        const kept = next.filter((value) => values.includes(value));
        return !isSame(kept, values) || (isAtOnce && !isSame(next, values));
      })
      .map(([key]) => key),
  );
  const rebuilt: ColumnNames = {};
  const converted: ColumnNames = {};
  for (const [key, { columns }] of Object.entries(before.tables)) {
    const pairs = Object.values(columns).flatMap((column) => {
      const next = after.tables[key]?.columns[column.name];
      return next ? [{ column, next, name: column.name }] : [];
    });
    const changed = pairs.filter(
      ({ column, next }) =>
        printType(column) !== printType(next) ||
        remade.has(keyOfEnum(column)) ||
        !isSame(column.generated, next.generated),
    );
    const names = changed.map(({ name }) => name);
    const computed = pairs
      .filter(({ column: { generated } }) => mentions(generated?.as, names))
      .map(({ name }) => name);
    rebuilt[key] = [...new Set([...names, ...computed])];
    converted[key] = [
      ...computed,
      ...changed
        .filter(
          ({ column, next }) =>
            remade.has(keyOfEnum(column)) ||
            next.generated ||
            column.generated ||
            familyOf(column) !== familyOf(next) ||
            isPadded(column) !== isPadded(next),
        )
        .map(({ name }) => name),
    ];
  }
  const recomputed = mapValues(rebuilt, (names, key) =>
    names.filter((name) => after.tables[key]?.columns[name]?.generated),
  );
  return { rebuilt, recomputed, converted, remade };
}

function keyOfEnum({ type, typeSchema = "public" }: SnapshotColumn): string {
  return `${typeSchema}.${type.replace(/(\[\d*\])+$/, "")}`;
}

/** Returns the family of a column's type. Expressions keep their meaning when a type
 * changes within its family. */
function familyOf(column: SnapshotColumn): string {
  const [array = ""] = /(\[\d*\])+$/.exec(column.type) ?? [];
  const type = printType(column)
    .replace(/(\[\d*\])+$|\(.*?\)/g, "")
    .trim();
  const family = FAMILIES.find((words) => words.includes(type.toLowerCase()));
  return `${family?.[0] ?? type}${array && "[]"}`;
}

const FAMILIES = [
  ["text", "varchar", "char", "character", "character varying"],
  ["integer", "smallint", "bigint"],
  ["bit", "varbit", "bit varying"],
];

/** True for a type that compares without the blanks at the end. */
function isPadded(column: SnapshotColumn): boolean {
  return /^char(acter)?\b(?! varying)/i.test(printType(column));
}

/** Of expressions like these PostgreSQL casts the other values to the new type, also
 * within its family, and casts them once more on the way back. */
const CASTING = /%|\b(array|case|coalesce|greatest|in|least|nullif)\b/i;

/** Returns the stages of a snapshot on the way to or from another one. */
function takeApart(snapshot: Snapshot, other: Snapshot, change: Change) {
  const detached = detach(snapshot, other, change);
  const unbound = unbind(detached, other, change);
  // Before any type changes: a column that is computed from another holds its type.
  const settled = mapShared(unbound, other, ({ columns }, same, key) => ({
    columns: filter(
      columns,
      ({ name }) =>
        !(name in same.columns && change.recomputed[key]?.includes(name)),
    ),
  }));
  const bare = removeDefaults(settled, other, change);
  return { detached, unbound, settled, bare };
}

/** Adds new values to the enums that only get more values, before other changes. */
function addValues(
  before: Snapshot,
  after: Snapshot,
  { remade }: Change,
): Snapshot {
  return {
    ...before,
    enums: mapValues(before.enums, (type, key) =>
      remade.has(key) ? type : (after.enums[key] ?? type),
    ),
  };
}

/** Removes the views, policies and foreign keys that do not stay. */
function detach(
  snapshot: Snapshot,
  other: Snapshot,
  { rebuilt, converted }: Change,
): Snapshot {
  const changed = Object.entries(rebuilt)
    .filter(([, names]) => names.length > 0)
    .map(([key, names]) => ({
      key,
      table: snapshot.tables[key]?.name ?? "",
      names: [...names, "*"],
    }));
  const reads = (text: string | undefined, own?: string) =>
    changed.some(
      ({ key, table, names }) =>
        (key === own || mentions(text, [table])) && mentions(text, names),
    );
  const stays = (reference: SnapshotReference, key: string) => {
    const { columnsFrom, columnsTo } = reference;
    const target = keyOfTarget(reference);
    const [keys, sameKeys] = [snapshot, other].map(({ tables }) =>
      listKeys(tables[target], columnsTo),
    );
    return (
      isSame(keys, sameKeys) &&
      !includesAny(columnsFrom, converted[key]) &&
      !includesAny(columnsTo, converted[target])
    );
  };
  const shared = mapShared(snapshot, other, (table, same, key) => ({
    policies: filter(
      filterSame(table.policies, same.policies),
      ({ using, withCheck }) => !reads(`${using} ${withCheck}`, key),
    ),
    foreignKeys: filterSame(table.foreignKeys, same.foreignKeys),
  }));
  return {
    ...mapTables(shared, (table, key) => ({
      // Where both tables go, so does the reference.
      foreignKeys: filter(
        table.foreignKeys,
        (reference) =>
          !(key in other.tables || keyOfTarget(reference) in other.tables) ||
          stays(reference, key),
      ),
    })),
    policies: filterSame(snapshot.policies, other.policies),
    views: dropReaders(
      filter(
        filterSame(snapshot.views, other.views),
        ({ definition }) => !reads(definition),
      ),
      snapshot.views,
    ),
  };
}

/** Removes each view that reads a removed view. */
function dropReaders(
  kept: Snapshot["views"],
  all: Snapshot["views"],
): Snapshot["views"] {
  const gone = Object.keys(all).filter((key) => !(key in kept));
  const names = gone.flatMap((key) => all[key]?.name ?? []);
  const left = filter(kept, ({ definition }) => !mentions(definition, names));
  return isSame(left, kept) ? kept : dropReaders(left, all);
}

/**
 * Removes the constraints and indexes that do not stay. When the type of a column
 * changes, PostgreSQL rebuilds those whose expressions stay as they are.
 */
function unbind(
  snapshot: Snapshot,
  other: Snapshot,
  { rebuilt, recomputed, converted }: Change,
): Snapshot {
  return mapShared(snapshot, other, (table, same, key) => {
    const staying = <T>(parts: Record<string, T>, others: Record<string, T>) =>
      filter(filterSame(parts, others), (part) => {
        const { columns } = part as { columns?: string[] };
        return !includesAny(columns ?? [], recomputed[key]);
      });
    const isChanged = (text = "") =>
      mentions(text, CASTING.test(text) ? rebuilt[key] : converted[key]);
    return {
      indexes: filter(
        filterSame(table.indexes, same.indexes),
        ({ columns, where }) =>
          !isChanged(where) &&
          !columns.some(({ expression, isExpression, opclass }) =>
            isExpression
              ? isChanged(expression)
              : recomputed[key]?.includes(expression) ||
                (opclass && converted[key]?.includes(expression)),
          ),
      ),
      uniqueConstraints: staying(
        table.uniqueConstraints,
        same.uniqueConstraints,
      ),
      compositePrimaryKeys: staying(
        table.compositePrimaryKeys,
        same.compositePrimaryKeys,
      ),
      checkConstraints: filter(
        filterSame(table.checkConstraints, same.checkConstraints),
        ({ value }) => !isChanged(value),
      ),
      columns: mapValues(table.columns, (column) => ({
        ...column,
        primaryKey:
          column.primaryKey && same.columns[column.name]?.primaryKey !== false,
      })),
    };
  });
}

/**
 * Removes defaults of another type, identities that only one snapshot has, and
 * generated columns that change. Columns of remade enums become text; those that
 * only one snapshot has are removed, with their table if that is new or dropped.
 */
function removeDefaults(
  snapshot: Snapshot,
  other: Snapshot,
  { rebuilt, remade }: Change,
): Snapshot {
  const isRemade = (column: SnapshotColumn) => remade.has(keyOfEnum(column));
  const left = mapShared(snapshot, other, (table, same, key) => {
    const columns = filter(
      table.columns,
      (column) =>
        column.name in same.columns || !(column.generated || isRemade(column)),
    );
    return {
      columns: mapValues(columns, (column) => {
        const { name, type, identity } = column;
        const old = same.columns[name];
        const [array = ""] = /(\[\d*\])+$/.exec(type) ?? [];
        const isRebuilt = rebuilt[key]?.includes(name);
        return {
          ...column,
          ...(isRemade(column) && {
            type: `text${array}`,
            typeSchema: undefined,
          }),
          default: isRebuilt ? undefined : column.default,
          identity: old && !old.identity ? undefined : identity,
          generated: old && !old.generated ? undefined : column.generated,
        };
      }),
    };
  });
  return {
    ...left,
    tables: filter(
      left.tables,
      ({ columns }) => !Object.values(columns).some(isRemade),
    ),
  };
}

/** Keeps only tables and columns that the other snapshot also has, and no remade enum. */
function share(
  snapshot: Snapshot,
  other: Snapshot,
  { remade }: Change,
): Snapshot {
  const left = mapShared(snapshot, other, (table, same) => ({
    columns: filter(table.columns, ({ name }) => name in same.columns),
  }));
  return {
    ...left,
    enums: filter(left.enums, (_, key) => !remade.has(key)),
    tables: filter(left.tables, (_, key) => key in other.tables),
  };
}

/** Removes the foreign keys of new tables, until all tables exist. */
function withoutNewReferences(after: Snapshot, before: Snapshot): Snapshot {
  return mapTables(after, (table, key) =>
    key in before.tables ? {} : { foreignKeys: {} },
  );
}

/** Keeps enums, sequences, schemas and roles, which are dropped last because columns
 * and defaults use them. */
function keepTypes(snapshot: Snapshot, before: Snapshot): Snapshot {
  return {
    ...snapshot,
    enums: { ...before.enums, ...snapshot.enums },
    sequences: { ...before.sequences, ...snapshot.sequences },
    schemas: { ...before.schemas, ...snapshot.schemas },
    roles: { ...before.roles, ...snapshot.roles },
  };
}

/**
 * Returns the stages between a snapshot and one with fewer views. Each stage removes
 * one view; a view is removed before the views that it reads.
 */
function removeViews(from: Snapshot, to: Snapshot): Snapshot[] {
  const leaving = Object.keys(from.views).filter((key) => !(key in to.views));
  const stages: Snapshot[] = [];
  let left = from.views;
  while (leaving.length > 1) {
    const index = leaving.findLastIndex((key) => {
      const { name } = left[key] ?? {};
      return !Object.entries(left).some(
        ([other, { definition }]) =>
          other !== key && mentions(definition, name ? [name] : []),
      );
    });
    const [gone] = leaving.splice(index, 1); // in a circle of views, the last one
    left = filter(left, (_, key) => key !== gone);
    stages.push({ ...from, views: left });
  }
  return stages;
}

/** Corrects statements of drizzle-kit that PostgreSQL refuses, or that are wrong. */
function correct(
  statements: string[],
  before: Snapshot,
  after: Snapshot,
): string[] {
  const casts = listCasts(before, after);
  return statements
    .map((statement) => statement.trim())
    .map((statement) => cast(statement, casts))
    .map(dropPrimaryKey)
    .map(endCycle)
    .map((statement) => sayLoss(statement, before, after));
}

/** Returns the `USING` that changes of type need, by the start of their statements. */
function listCasts(before: Snapshot, after: Snapshot): Map<string, string> {
  const casts = new Map<string, string>();
  for (const [key, { columns, name, schema }] of Object.entries(after.tables)) {
    const table = `${schema ? `${quoteIdentifier(schema)}.` : ""}${quoteIdentifier(name)}`;
    for (const column of Object.values(columns)) {
      const old = before.tables[key]?.columns[column.name];
      if (!old) continue;
      const quoted = quoteIdentifier(column.name);
      const isOfEnums = old.typeSchema && column.typeSchema;
      // An explicit cast would cut texts that are too long.
      const isShortened =
        familyOf(old) === familyOf(column) &&
        /^(text|bit)/.test(familyOf(column));
      casts.set(
        `ALTER TABLE ${table} ALTER COLUMN ${quoted} SET DATA TYPE `,
        isShortened ? "" : `${quoted}${isOfEnums ? "::text" : ""}`,
      );
    }
  }
  return casts;
}

function cast(statement: string, casts: Map<string, string>): string {
  const [, start = "", type = ""] =
    /^(ALTER TABLE .+? ALTER COLUMN .+? SET DATA TYPE )(.+);$/s.exec(
      statement,
    ) ?? [];
  const using = casts.get(start);
  // Every type is cast to text without USING.
  if (!using || /^(text|varchar|char)\b[^[]*$/.test(type)) return statement;
  const suffix = /\[\d*\]$/.test(type)
    ? using.replace("::text", "::text[]")
    : using;
  return `${start}${type} USING ${suffix}::${type};`;
}

/**
 * Writes the SQL that drops a primary key. drizzle-kit writes only a comment, because
 * it does not know the name: the key of a renamed table keeps its old name.
 */
function dropPrimaryKey(statement: string): string {
  if (!statement.includes('DROP CONSTRAINT "<constraint_name>"'))
    return statement;
  const [, schema = "", table = ""] =
    /table_schema = '(.*)'\s+AND table_name = '(.*)'/.exec(statement) ?? [];
  // drizzle-kit writes these names as they are between double quotes.
  const name = `"${schema}"."${table}"`;
  return `DO $$ BEGIN
  EXECUTE (SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)
    FROM pg_constraint WHERE contype = 'p' AND conrelid = ${quoteLiteral(name)}::regclass);
END $$;`;
}

/** Adds a comment to a statement that loses what it does not name. */
function sayLoss(statement: string, before: Snapshot, after: Snapshot): string {
  if (/^DROP SEQUENCE | DROP IDENTITY;$/.test(statement))
    return `${COUNT_LOST}\n${statement}`;
  const isRemadeType = Object.values(after.enums).some(
    ({ schema, name }) =>
      statement ===
      `DROP TYPE ${quoteIdentifier(schema)}.${quoteIdentifier(name)};`,
  );
  const column = findRemade(statement, before, after);
  if (!isRemadeType && !column) return statement;
  const values =
    column && !column.generated ? "the values of the column, and " : "";
  return `-- Loses: ${values}comments and privileges on what is made again here.\n${statement}`;
}

/** Returns the column, as it was, that the statement drops and a later one adds. */
function findRemade(
  statement: string,
  before: Snapshot,
  after: Snapshot,
): SnapshotColumn | undefined {
  for (const [key, { schema, name, columns }] of Object.entries(after.tables)) {
    const place = schema ? `${quoteIdentifier(schema)}.` : "";
    const start = `ALTER TABLE ${place}${quoteIdentifier(name)} DROP COLUMN `;
    if (!statement.startsWith(start)) continue;
    for (const column of Object.keys(columns))
      if (statement === `${start}${quoteIdentifier(column)};`)
        return before.tables[key]?.columns[column];
  }
}

/** Adds NO CYCLE, which drizzle-kit leaves out. */
function endCycle(statement: string): string {
  return /^ALTER SEQUENCE .* CACHE \d+;$/s.test(statement)
    ? statement.replace(/;$/, " NO CYCLE;")
    : statement;
}

/**
 * Moves indexes that are built concurrently to the end, because each commits what is
 * before it. Only the foreign keys that refer to their tables follow them.
 */
function buildIndexesLast(statements: string[], after: Snapshot): string[] {
  const isConcurrent = (statement: string) =>
    /^CREATE (UNIQUE )?INDEX CONCURRENTLY /.test(statement);
  const concurrent = statements.filter(isConcurrent);
  const keyed = Object.values(after.tables)
    .filter(({ indexes }) =>
      Object.values(indexes).some(
        ({ name, isUnique }) =>
          isUnique &&
          concurrent.some((text) =>
            text.includes(` INDEX CONCURRENTLY ${quoteIdentifier(name)} `),
          ),
      ),
    )
    .map(({ name }) => `${quoteIdentifier(name)}(`);
  const refers = (statement: string) =>
    keyed.some((name) =>
      new RegExp(
        ` FOREIGN KEY .* REFERENCES (".*"\\.)?${name.replace(/[^\w\s]/g, "\\$&")}`,
      ).test(statement),
    );
  return [
    ...statements.filter((text) => !isConcurrent(text) && !refers(text)),
    ...concurrent,
    ...statements.filter(refers),
  ];
}

function keyOfTarget({ tableTo, schemaTo }: SnapshotReference): string {
  return `${schemaTo || "public"}.${tableTo}`;
}

/** Lists the keys of a table that a foreign key to these columns can refer to. */
function listKeys(table: SnapshotTable | undefined, to: string[]) {
  if (!table) return undefined;
  const { columns, compositePrimaryKeys, uniqueConstraints, indexes } = table;
  const isOf = (names: string[]) => isSame(names.toSorted(), to.toSorted());
  const primary = Object.values(columns)
    .filter(({ primaryKey }) => primaryKey)
    .map(({ name }) => name);
  return {
    primary: isOf(primary),
    compositePrimaryKeys: filter(compositePrimaryKeys, (key) =>
      isOf(key.columns),
    ),
    uniqueConstraints: filter(uniqueConstraints, (key) => isOf(key.columns)),
    indexes: filter(
      indexes,
      (index) =>
        index.isUnique && isOf(index.columns.map((part) => part.expression)),
    ),
  };
}

function mapTables(
  snapshot: Snapshot,
  change: (table: SnapshotTable, key: string) => Partial<SnapshotTable>,
): Snapshot {
  return {
    ...snapshot,
    tables: mapValues(snapshot.tables, (table, key) => ({
      ...table,
      ...change(table, key),
    })),
  };
}

/** Changes each table that the other snapshot also has. */
function mapShared(
  snapshot: Snapshot,
  other: Snapshot,
  change: (
    table: SnapshotTable,
    same: SnapshotTable,
    key: string,
  ) => Partial<SnapshotTable>,
): Snapshot {
  return mapTables(snapshot, (table, key) => {
    const same = other.tables[key];
    return same ? change(table, same, key) : {};
  });
}

/** Returns the parts that are the same in both. */
function filterSame<T>(
  parts: Record<string, T>,
  others: Record<string, T>,
): Record<string, T> {
  return filter(parts, (part, key) => isSame(part, others[key]));
}

/** True when one of the names is in the SQL, as a word. */
export function mentions(
  text: string | undefined,
  names: string[] = [],
): boolean {
  if (!text) return false;
  return names.some((name) => {
    const word = name.replace(/[^\w\s]/g, "\\$&");
    return new RegExp(`(?<![\\w$])${word}(?![\\w$])`).test(text);
  });
}

function includesAny(names: string[], others: string[] = []): boolean {
  return names.some((name) => others.includes(name));
}

function isSame(one: unknown, other: unknown): boolean {
  return Bun.deepEquals(one, other);
}

function filter<T>(
  record: Record<string, T>,
  isKept: (value: T, key: string) => boolean,
): Record<string, T> {
  return Object.fromEntries(
    Object.entries(record).filter(([key, value]) => isKept(value, key)),
  );
}

function mapValues<T, U>(
  record: Record<string, T>,
  change: (value: T, key: string) => U,
): Record<string, U> {
  return Object.fromEntries(
    Object.entries(record).map(([key, value]) => [key, change(value, key)]),
  );
}
