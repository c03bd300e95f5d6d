// Columns that count become serials, identities or neither: statements that
// drizzle-kit does not write, or that would begin at 1 again.
import { quoteIdentifier, quoteLiteral } from "../lib/quote";
import type { Snapshot, SnapshotColumn } from "./snapshots";

/** The snapshots before and after a change. */
export interface Counters {
  before: Snapshot;
  after: Snapshot;
}

/** What the serial types are short for. */
const SERIALS: Record<string, string> = {
  smallserial: "smallint",
  serial: "integer",
  bigserial: "bigint",
};

/** The comment above what takes a sequence away. */
export const COUNT_LOST = "-- Loses: how far the sequence has counted.";

/** A column of both snapshots that counts in another way afterwards. */
interface Turned {
  table: string;
  column: string;
  old: SnapshotColumn;
  next: SnapshotColumn;
}

/**
 * A snapshot without what `writeCounters` writes: a serial that comes, goes or
 * grows is an integer here, and an identity in its place is none.
 */
export function hideCounters(snapshot: Snapshot, other: Snapshot): Snapshot {
  const tables = Object.entries(snapshot.tables).map(([key, table]) => {
    const columns = Object.entries(table.columns).map(([name, column]) => {
      const same = other.tables[key]?.columns[name];
      const isTurned =
        same &&
        same.type !== column.type &&
        (isSerial(same) || isSerial(column));
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

/** The SQL for what was hidden: before and after everything else. */
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

function isSerial({ type }: SnapshotColumn): boolean {
  return type in SERIALS;
}

type Place = Pick<Turned, "table" | "column">;

const sequenceOf = ({ table, column }: Place) =>
  `pg_get_serial_sequence(${quoteLiteral(table)}, ${quoteLiteral(column)})`;

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

/** A serial or an identity in the place of the other, or of neither. */
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
  const counted = [
    "IF sequence IS NOT NULL THEN",
    `  EXECUTE format('SELECT last_value + is_called::int FROM %s', sequence) INTO next;`,
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

/** drizzle-kit starts it where a table without rows would. */
function startIdentity(place: Place, next: SnapshotColumn): string {
  return `DO $$ BEGIN
  ${restart(place, `(${nextOf(place, next)})`)}
END $$;`;
}

function restart(place: Place, next: string): string {
  return `EXECUTE format('ALTER SEQUENCE %s RESTART WITH %s', ${sequenceOf(place)}, ${next});`;
}

/** The number after those of the rows, where it is beyond the start. */
function nextOf(
  { table, column }: Place,
  { identity }: SnapshotColumn,
): string {
  const { startWith = "1", increment = "1" } = identity ?? {};
  const name = quoteIdentifier(column);
  return increment.startsWith("-")
    ? `SELECT least(min(${name}) - 1, ${startWith}) FROM ${table}`
    : `SELECT greatest(max(${name}) + 1, ${startWith}) FROM ${table}`;
}

/** As PostgreSQL names the sequence of a serial, where the name is not too long. */
function nameSequence({ table, column }: Place): string {
  return `${table.slice(0, -1)}_${column.replaceAll('"', '""')}_seq"`;
}

function printIdentity(
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
