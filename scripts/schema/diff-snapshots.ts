// The SQL that leads from one of drizzle-kit's snapshots to another. drizzle-kit
// writes the statements, and is led over stages of which each only takes away
// or only adds: so it has nothing to ask, and what depends on something else
// goes before it and comes after it. Seen with drizzle-kit 0.31.11.
import { quoteIdentifier, quoteLiteral } from "../lib/quote";
import { loadDrizzleKit } from "./drizzle-kit";
import type { Snapshot, SnapshotColumn, SnapshotTable } from "./snapshots";

/** Names of columns, by the key of their table, such as `public.users`. */
type ColumnNames = Record<string, string[]>;

/**
 * Compares two snapshots. What is in the first only is dropped, and what is in
 * the second only is made; for what was renamed see renames.ts.
 *
 * @returns SQL in the order in which it has to run; none where they are the same.
 */
export async function diffSnapshots(
  from: Snapshot,
  to: Snapshot,
): Promise<string[]> {
  const before = plain(from, to);
  const after = plain(to, from);
  const rebuilt = listRebuilt(before, after);
  const remade = mapValues(rebuilt, (names, key) =>
    names.filter((name) => after.tables[key]?.columns[name]?.generated),
  );
  const isEnumRemade = (column: SnapshotColumn) =>
    losesValues(column, before, after);
  const strip = (snapshot: Snapshot, other: Snapshot) => {
    const detached = detach(snapshot, other, rebuilt);
    const thinned = thin(detached, other, rebuilt);
    const stripped = bare(thinned, other, rebuilt, remade, isEnumRemade);
    return { detached, thinned, stripped };
  };
  const old = strip(before, after);
  const next = strip(withoutNewReferences(after, before), before);
  const stages = [
    ...peelViews(before, old.detached),
    old.detached,
    old.thinned,
    old.stripped,
    intersect(old.stripped, after),
    ...[
      next.stripped,
      next.thinned,
      next.detached,
      ...peelViews(
        { ...next.detached, views: after.views },
        next.detached,
      ).reverse(),
    ].map((stage) => keepTypes(stage, before)),
    after,
  ];
  const { generateMigration } = await loadDrizzleKit();
  const statements: string[] = [];
  let current = before;
  for (const stage of stages) {
    if (isSame(current, stage)) continue;
    statements.push(...(await generateMigration(current, stage)));
    current = stage;
  }
  return [
    ...dropSerials(from, to),
    ...mend(statements, before),
    ...makeSerials(from, to),
  ];
}

/**
 * What drizzle-kit's snapshots leave unsaid, or it cannot change: a key's
 * columns are not null, and a serial that comes or goes is an integer here.
 */
function plain(snapshot: Snapshot, other: Snapshot): Snapshot {
  return mapShared(snapshot, other, (table, same) => {
    const keys = Object.values(table.compositePrimaryKeys).flatMap(
      ({ columns }) => columns,
    );
    return {
      columns: mapValues(table.columns, (column) => {
        const { name, type, notNull, primaryKey } = column;
        const isChanged =
          name in same.columns && same.columns[name]?.type !== type;
        return {
          ...column,
          type: isChanged ? (SERIALS[type] ?? type) : type,
          notNull: notNull || primaryKey || keys.includes(name),
        };
      }),
    };
  });
}

/** What they are short for. */
const SERIALS: Record<string, string> = {
  smallserial: "smallint",
  serial: "integer",
  bigserial: "bigint",
};

function dropSerials(from: Snapshot, to: Snapshot): string[] {
  return listSerials(from, to).flatMap(({ table, column, sequence }) => [
    `ALTER TABLE ${table} ALTER COLUMN ${column} DROP DEFAULT;`,
    `DROP SEQUENCE IF EXISTS ${sequence};`,
  ]);
}

/** https://www.postgresql.org/docs/current/datatype-numeric.html#DATATYPE-SERIAL */
function makeSerials(from: Snapshot, to: Snapshot): string[] {
  return listSerials(to, from).flatMap(({ table, column, sequence, type }) => [
    `CREATE SEQUENCE ${sequence} AS ${SERIALS[type]} OWNED BY ${table}.${column};`,
    `SELECT setval(${quoteLiteral(sequence)}, coalesce((SELECT max(${column}) FROM ${table}), 0) + 1, false);`,
    `ALTER TABLE ${table} ALTER COLUMN ${column} SET DEFAULT nextval(${quoteLiteral(sequence)});`,
  ]);
}

/** Columns of a serial type that have another one in the other snapshot. */
function listSerials(snapshot: Snapshot, other: Snapshot) {
  return Object.entries(snapshot.tables).flatMap(([key, table]) =>
    Object.values(table.columns)
      .filter(({ name, type }) => {
        const same = other.tables[key]?.columns[name];
        return type in SERIALS && same !== undefined && same.type !== type;
      })
      .map(({ name, type }) => {
        const schema = table.schema ? `${quoteIdentifier(table.schema)}.` : "";
        return {
          type,
          table: `${schema}${quoteIdentifier(table.name)}`,
          column: quoteIdentifier(name),
          sequence: `${schema}${quoteIdentifier(`${table.name}_${name}_seq`)}`,
        };
      }),
  );
}

/**
 * Columns whose type or expression changes: what mentions them has to go
 * meanwhile.
 */
function listRebuilt(before: Snapshot, after: Snapshot): ColumnNames {
  return mapValues(before.tables, ({ columns }, key) => {
    const names = Object.values(columns)
      .filter((column) => {
        const next = after.tables[key]?.columns[column.name];
        if (!next) return false;
        const isRetyped =
          column.type !== next.type || column.typeSchema !== next.typeSchema;
        return (
          isRetyped ||
          losesValues(column, before, after) ||
          !isSame(column.generated, next.generated)
        );
      })
      .map(({ name }) => name);
    const dependent = Object.values(columns)
      .filter(({ generated }) => generated && mentions(generated, names))
      .map(({ name }) => name);
    return [...new Set([...names, ...dependent])];
  });
}

/** PostgreSQL cannot take a value from an enum: the type is made again. */
function losesValues(
  { type, typeSchema = "public" }: SnapshotColumn,
  before: Snapshot,
  after: Snapshot,
): boolean {
  const key = `${typeSchema}.${type.replace(/(\[\d*\])+$/, "")}`;
  const left = after.enums[key]?.values;
  const values = before.enums[key]?.values ?? [];
  return left !== undefined && values.some((value) => !left.includes(value));
}

/** Without the views, policies and foreign keys that do not stay. */
function detach(
  snapshot: Snapshot,
  other: Snapshot,
  rebuilt: ColumnNames,
): Snapshot {
  const everyName = Object.values(rebuilt).flat();
  const names = everyName.length > 0 ? [...everyName, "*"] : [];
  return {
    ...mapShared(snapshot, other, (table, same, key) => ({
      policies: filterSame(table.policies, same.policies, everyName),
      foreignKeys: filter(
        filterSame(table.foreignKeys, same.foreignKeys, rebuilt[key]),
        ({ tableTo, schemaTo, columnsTo }) => {
          const target = `${schemaTo || "public"}.${tableTo}`;
          const [keys, sameKeys] = [snapshot, other].map(({ tables }) =>
            listKeys(tables[target]),
          );
          return (
            isSame(keys, sameKeys) && !mentions(columnsTo, rebuilt[target])
          );
        },
      ),
    })),
    views: dropReaders(
      filterSame(snapshot.views, other.views, names),
      snapshot.views,
    ),
  };
}

/** A view goes as well where one that it reads goes. */
function dropReaders<T>(
  kept: Record<string, T>,
  all: Snapshot["views"],
): Record<string, T> {
  const gone = Object.keys(all).filter((key) => !(key in kept));
  const names = gone.flatMap((key) => all[key]?.name ?? []);
  const left = filter(kept, (view) => !mentions(view, names));
  return isSame(left, kept) ? kept : dropReaders(left, all);
}

/** Without the constraints and indexes that do not stay. */
function thin(
  snapshot: Snapshot,
  other: Snapshot,
  rebuilt: ColumnNames,
): Snapshot {
  return mapShared(snapshot, other, (table, same, key) => ({
    indexes: filterSame(table.indexes, same.indexes, rebuilt[key]),
    uniqueConstraints: filterSame(
      table.uniqueConstraints,
      same.uniqueConstraints,
      rebuilt[key],
    ),
    checkConstraints: filterSame(
      table.checkConstraints,
      same.checkConstraints,
      rebuilt[key],
    ),
    compositePrimaryKeys: filterSame(
      table.compositePrimaryKeys,
      same.compositePrimaryKeys,
      rebuilt[key],
    ),
    columns: mapValues(table.columns, (column) => ({
      ...column,
      primaryKey:
        column.primaryKey && same.columns[column.name]?.primaryKey !== false,
    })),
  }));
}

/**
 * Without defaults of another type, identities that come or go, and columns
 * that are computed anew, or are of an enum that is made again.
 */
function bare(
  snapshot: Snapshot,
  other: Snapshot,
  rebuilt: ColumnNames,
  remade: ColumnNames,
  isEnumRemade: (column: SnapshotColumn) => boolean,
): Snapshot {
  return mapShared(snapshot, other, (table, same, key) => ({
    columns: mapValues(
      filter(table.columns, (column) => {
        const { name, generated } = column;
        if (name in same.columns) return !remade[key]?.includes(name);
        return !generated && !isEnumRemade(column);
      }),
      (column) => {
        const { name, type, typeSchema, identity } = column;
        const isRebuilt = rebuilt[key]?.includes(name);
        const other = same.columns[name];
        const isIdentity = identity && other?.identity;
        // It does not see that an enum of the same name is in another schema.
        const isMoved = other?.type === type && other.typeSchema !== typeSchema;
        return {
          ...column,
          ...(isMoved && { type: "text", typeSchema: undefined }),
          default: isRebuilt ? undefined : column.default,
          identity: isIdentity ? identity : undefined,
        };
      },
    ),
  }));
}

/** Only the tables and columns that are in the other as well. */
function intersect(snapshot: Snapshot, other: Snapshot): Snapshot {
  const left = mapShared(snapshot, other, (table, same) => ({
    columns: filter(table.columns, ({ name }) => name in same.columns),
  }));
  return {
    ...left,
    tables: filter(left.tables, (_, key) => key in other.tables),
  };
}

/** New tables refer to others once all of them are there. */
function withoutNewReferences(after: Snapshot, before: Snapshot): Snapshot {
  return {
    ...after,
    tables: mapValues(after.tables, (table, key) =>
      key in before.tables ? table : { ...table, foreignKeys: {} },
    ),
  };
}

/** Types and the like are dropped last: columns and defaults use them. */
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
 * The stages between a snapshot with views and one with fewer, one view each.
 * A view goes before those that it reads.
 */
function peelViews(from: Snapshot, to: Snapshot): Snapshot[] {
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
    const [gone] = leaving.splice(index, 1); // the last one in a circle
    left = filter(left, (_, key) => key !== gone);
    stages.push({ ...from, views: left });
  }
  return stages;
}

/** Rewrites what drizzle-kit spells so that PostgreSQL would refuse it. */
function mend(statements: string[], before: Snapshot): string[] {
  return statements
    .map((statement) => statement.replaceAll('"undefined".', "").trim())
    .map(quoteEnumValues)
    .map(castToNewType)
    .map(dropPrimaryKey)
    .map(endCycle)
    .filter((statement) => !isIdle(statement, before));
}

function quoteEnumValues(statement: string): string {
  return statement.replace(
    /^(ALTER TYPE .+ ADD VALUE) '(.+?)'(?:( BEFORE) '(.+)')?;$/s,
    (_, start, value, place = "", next) =>
      `${start} ${quoteLiteral(value)}${place}${next ? ` ${quoteLiteral(next)}` : ""};`,
  );
}

/** Only to text is every type cast without being asked. */
function castToNewType(statement: string): string {
  return statement.replace(
    /^(ALTER TABLE .+ ALTER COLUMN (".+") SET DATA TYPE (.+));$/,
    (whole, start, column, type) =>
      /^(text|varchar|char)\b[^[]*$| USING /.test(type)
        ? whole
        : `${start} USING ${column}::${type};`,
  );
}

/**
 * It leaves this one to the reader, in a comment, for it does not know the
 * name: a table that was renamed has kept that of its key.
 */
function dropPrimaryKey(statement: string): string {
  if (!statement.includes('DROP CONSTRAINT "<constraint_name>"'))
    return statement;
  const [, schema = "", table = ""] =
    /table_schema = '(.*)'\s+AND table_name = '(.*)'/.exec(statement) ?? [];
  const name = `${quoteIdentifier(schema)}.${quoteIdentifier(table)}`;
  return `DO $$ BEGIN
  EXECUTE (SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)
    FROM pg_constraint WHERE contype = 'p' AND conrelid = ${quoteLiteral(name)}::regclass);
END $$;`;
}

/** It leaves out that a sequence is to end. */
function endCycle(statement: string): string {
  return /^ALTER SEQUENCE .* CACHE \d+;$/s.test(statement)
    ? statement.replace(/;$/, " NO CYCLE;")
    : statement;
}

/** Switches row security off where it never was on. */
function isIdle(statement: string, before: Snapshot): boolean {
  const [, name] =
    /^ALTER TABLE (.+) DISABLE ROW LEVEL SECURITY;$/.exec(statement) ?? [];
  if (!name) return false;
  return !Object.values(before.tables).some(
    (table) =>
      name.endsWith(`"${table.name}"`) &&
      (table.isRLSEnabled || Object.keys(table.policies).length > 0),
  );
}

/** What a foreign key can refer to. */
function listKeys(table: SnapshotTable | undefined) {
  if (!table) return undefined;
  const { columns, compositePrimaryKeys, uniqueConstraints, indexes } = table;
  return {
    primary: Object.values(columns).filter(({ primaryKey }) => primaryKey),
    compositePrimaryKeys,
    uniqueConstraints,
    indexes: filter(indexes, ({ isUnique }) => isUnique),
  };
}

/** Changes each table that the other snapshot has as well. */
function mapShared(
  snapshot: Snapshot,
  other: Snapshot,
  change: (
    table: SnapshotTable,
    same: SnapshotTable,
    key: string,
  ) => Partial<SnapshotTable>,
): Snapshot {
  return {
    ...snapshot,
    tables: mapValues(snapshot.tables, (table, key) => {
      const same = other.tables[key];
      return same ? { ...table, ...change(table, same, key) } : table;
    }),
  };
}

/** What is the same in both, and mentions none of the columns. */
function filterSame<T>(
  parts: Record<string, T>,
  others: Record<string, T>,
  columns: string[] = [],
): Record<string, T> {
  return filter(
    parts,
    (part, key) => isSame(part, others[key]) && !mentions(part, columns),
  );
}

/** Whether one of the names stands somewhere in it, as a word. */
function mentions(part: unknown, names: string[] = []): boolean {
  const text = JSON.stringify(part) ?? "";
  return names.some((name) => {
    const word = name.replace(/[^\w\s]/g, "\\$&");
    return new RegExp(`(?<![\\w$])${word}(?![\\w$])`).test(text);
  });
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
