// Writes the SQL that turns a column into a serial or an identity, or back. These
// are statements that drizzle-kit does not write, or that would restart at 1.
import { quoteIdentifier, quoteLiteral } from "../lib/quote";
import type { Snapshot, SnapshotColumn } from "./snapshots";

/** The snapshots before and after a change. */
export interface Counters {
  before: Snapshot;
  after: Snapshot;
}

/** The integer types of the serial types. */
export const SERIALS: Record<string, string> = {
  smallserial: "smallint",
  serial: "integer",
  bigserial: "bigint",
};

/** The comment above a statement that drops a sequence. */
export const COUNT_LOST = "-- Loses: how far the sequence has counted.";

/** A column whose way of counting differs between the snapshots. */
interface Turned {
  table: string;
  column: string;
  old: SnapshotColumn;
  next: SnapshotColumn;
}

/**
 * Returns a snapshot without what `writeCounters` writes: a serial that is added,
 * removed or changes its size is an integer, and an identity in its place is removed.
 */
export function hideCounters(snapshot: Snapshot, other: Snapshot): Snapshot {
  const tables = Object.entries(snapshot.tables).map(([key, table]) => {
    const columns = Object.entries(table.columns).map(([name, column]) => {
      const same = other.tables[key]?.columns[name];
      const isTurned = same && same.type !== column.type;
      const hidden = {
        ...column,
        type: SERIALS[column.type] ?? column.type,
        identity: same && isSerial(same) ? undefined : column.identity,
      };
      return [name, isTurned ? hidden : column];
    });
    return [key, { ...table, columns: Object.fromEntries(columns) }];
  });
  return { ...snapshot, tables: Object.fromEntries(tables) };
}

/** Returns the SQL for what was hidden, to run before and after all other SQL. */
export function writeCounters({ before, after }: Counters): {
  first: string[];
  last: string[];
} {
  const turned = Object.entries(before.tables).flatMap(([key, table]) =>
    Object.values(table.columns).flatMap((old): Turned[] => {
      const next = after.tables[key]?.columns[old.name];
      const { schema, name } = table;
      const place = schema ? `${quoteIdentifier(schema)}.` : "";
      return next
        ? [
            {
              table: `${place}${quoteIdentifier(name)}`,
              column: old.name,
              old,
              next,
            },
          ]
        : [];
    }),
  );
  return {
    first: turned
      .filter(
        ({ old, next }) => isSerial(old) && !isSerial(next) && !next.identity,
      )
      .map(dropSerial),
    last: turned.flatMap(({ old, next, ...place }) => {
      const isCounted = isSerial(old) || old.identity !== undefined;
      if (isSerial(next) && isSerial(old))
        return old.type === next.type ? [] : [resizeSerial(place, next.type)];
      if (isSerial(next) || (isSerial(old) && next.identity))
        return [turn(place, old, next)];
      return next.identity && !isCounted ? [startIdentity(place, next)] : [];
    }),
  };
}

/** True for a column of a serial type. */
export function isSerial({ type }: SnapshotColumn): boolean {
  return type in SERIALS;
}

type Place = Pick<Turned, "table" | "column">;

/** This function, unlike a statement, does not cut a column's name at 63 bytes. */
const sequenceOf = ({ table, column }: Place) =>
  `pg_get_serial_sequence(${quoteLiteral(table)}, ${quoteLiteral(column)}${Buffer.byteLength(column) > 63 ? "::name" : ""})`;

function dropSerial({ table, column }: Place): string {
  return `${COUNT_LOST}
DO $$ DECLARE sequence text := ${sequenceOf({ table, column })}; BEGIN
  ALTER TABLE ${table} ALTER COLUMN ${quoteIdentifier(column)} DROP DEFAULT;
  EXECUTE 'DROP SEQUENCE ' || sequence;
END $$;`;
}

function resizeSerial(place: Place, type: string): string {
  return `DO $$ BEGIN
  EXECUTE format('ALTER SEQUENCE %s AS ${SERIALS[type]}', ${sequenceOf(place)});
END $$;`;
}

/** Returns SQL that replaces a serial or an identity, adds one or removes one. */
function turn(place: Place, old: SnapshotColumn, next: SnapshotColumn): string {
  const { table } = place;
  const column = quoteIdentifier(place.column);
  const change = `ALTER TABLE ${table} ALTER COLUMN ${column}`;
  const name = nameSequence(place);
  const made = next.identity
    ? [`${change} ADD ${printIdentity(next.identity, table)};`]
    : [
        `CREATE SEQUENCE ${name} AS ${SERIALS[next.type]} OWNED BY ${table}.${column};`,
        `${change} SET DEFAULT nextval(${quoteLiteral(name)});`,
      ];
  const taken = old.identity
    ? [`${change} DROP IDENTITY;`]
    : [`${change} DROP DEFAULT;`, `EXECUTE 'DROP SEQUENCE ' || sequence;`];
  const isCounted = isSerial(old) || old.identity;
  const further = isDescending(next) ? "least" : "greatest";
  const counted = [
    "IF sequence IS NOT NULL THEN",
    `  EXECUTE format('SELECT ${further}($1, last_value + is_called::int) FROM %s', sequence) INTO next USING next;`,
    ...taken.map((line) => `  ${line}`),
    "END IF;",
  ];
  const lines = [
    `LOCK TABLE ${table};`,
    `next := (${nextOf(place, next)});`,
    ...(isCounted ? counted : []),
    ...made,
    restart(place, "next"),
  ];
  return `DO $$ DECLARE sequence text := ${sequenceOf(place)}; next bigint; BEGIN
${lines.map((line) => `  ${line}`).join("\n")}
END $$;`;
}

/** Returns SQL that starts an identity after the rows; drizzle-kit starts it as for
 * a table without rows. */
function startIdentity(place: Place, next: SnapshotColumn): string {
  return `DO $$ BEGIN
  ${restart(place, `(${nextOf(place, next)})`)}
END $$;`;
}

function restart(place: Place, next: string): string {
  return `EXECUTE format('ALTER SEQUENCE %s RESTART WITH %s', ${sequenceOf(place)}, ${next});`;
}

/** Returns SQL for the next number: the one after the rows, but not before the start. */
function nextOf({ table, column }: Place, next: SnapshotColumn): string {
  const { startWith = "1" } = next.identity ?? {};
  const name = quoteIdentifier(column);
  return isDescending(next)
    ? `SELECT least(min(${name}) - 1, ${startWith}) FROM ${table}`
    : `SELECT greatest(max(${name}) + 1, ${startWith}) FROM ${table}`;
}

function isDescending({ identity }: SnapshotColumn): boolean {
  return identity?.increment?.startsWith("-") ?? false;
}

/** Returns PostgreSQL's name for the sequence of a serial, unless that is too long. */
export function nameSequence({ table, column }: Place): string {
  return `${table.slice(0, -1)}_${column.replaceAll('"', '""')}_seq"`;
}

/** Returns `GENERATED … AS IDENTITY (…)`, for a table with that name in SQL. */
export function printIdentity(
  identity: NonNullable<SnapshotColumn["identity"]>,
  table: string,
): string {
  const { type, name, increment, minValue, maxValue, startWith, cache, cycle } =
    identity;
  const schema = /^(".*"\.)?"/.exec(table)?.[1] ?? "";
  const options = [
    `sequence name ${schema}${quoteIdentifier(name)}`,
    increment && `INCREMENT BY ${increment}`,
    minValue && `MINVALUE ${minValue}`,
    maxValue && `MAXVALUE ${maxValue}`,
    startWith && `START WITH ${startWith}`,
    cache && `CACHE ${cache}`,
    cycle && "CYCLE",
  ].filter(Boolean);
  return `GENERATED ${type === "always" ? "ALWAYS" : "BY DEFAULT"} AS IDENTITY (${options.join(" ")})`;
}
