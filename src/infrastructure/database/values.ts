// Converts values from JavaScript to PostgreSQL and back. pg would parse points,
// intervals and dates into its own objects; drizzle takes them as text.
import { PgTimestamp } from "drizzle-orm/pg-core";
import pg, { types } from "pg";

type Parse = (text: string) => unknown;

const parseNumber: Parse = (text) => Number(text);
const keep: Parse = (text) => text;

/** The parser of a type, by its oid. Other types stay text. */
const parsers = new Map<number, Parse>([
  [types.builtins.INT2, parseNumber],
  [types.builtins.INT4, parseNumber],
  [types.builtins.OID, parseNumber],
  [types.builtins.FLOAT4, parseNumber],
  [types.builtins.FLOAT8, parseNumber],
  [types.builtins.BOOL, (text) => text === "t"],
  [types.builtins.BYTEA, types.getTypeParser(types.builtins.BYTEA)],
  [types.builtins.JSON, (text) => JSON.parse(text)],
  [types.builtins.JSONB, (text) => JSON.parse(text)],
  // Arrays that drizzle parses itself: dates, timestamps and numerics.
  [1182, keep],
  [1115, keep],
  [1185, keep],
  [1231, keep],
]);

/** SQL that lists every array type and its element type, for `makeTypes`. */
export const SELECT_ARRAY_TYPES = `select typarray::int4, oid::int4 from pg_type
  where typarray <> 0`;

/**
 * Returns pg's type parsers for one server.
 *
 * @param arrays the oids of array types and of their elements: those of enums and
 * domains differ on each server.
 */
export function makeTypes(arrays: [array: number, element: number][]) {
  const own = new Map(parsers);
  for (const [array, element] of arrays) {
    const parse = parsers.get(element) ?? keep;
    if (!own.has(array))
      own.set(array, (text) => parseElements(splitArray(text), parse));
  }
  // box: the only type whose arrays are separated by a semicolon.
  own.set(1020, (text) => text.slice(1, -1).split(";"));
  return { getTypeParser: (oid: number) => own.get(oid) ?? keep };
}

/** pg's parser of text[]: arrays of every type are written in the same way. */
const TEXT_ARRAY: number = 1009;
const splitArray: Parse = types.getTypeParser(TEXT_ARRAY);

function parseElements(value: unknown, parse: Parse): unknown {
  if (Array.isArray(value))
    return value.map((element) => parseElements(element, parse));
  return typeof value === "string" ? parse(value) : null;
}

const parseTimestamp = types.getTypeParser(types.builtins.TIMESTAMPTZ);

// drizzle's own, `new Date(text)`, takes the year 1 for 2001 and infinity for 2000, and
// refuses a zone with seconds, as zones had before 1900, and years BC.
PgTimestamp.prototype.mapFromDriverValue = function (text) {
  if (typeof text !== "string") return text;
  const zoned = this.withTimezone
    ? text
    : text.replace(/(?<=\d)( BC)?$/, "+00$1");
  // Rows in JSON have a T between date and time.
  return new Date(parseTimestamp(zoned.replace("T", " ")));
};

/** The protocol counts the parameters of a statement in two bytes. */
const MOST_VALUES = 65_535;

/** pg's own encoding: objects as JSON, arrays as PostgreSQL writes them. */
const { prepareValue } = (
  pg as unknown as { utils: { prepareValue(value: unknown): unknown } }
).utils;

/**
 * Returns the values in the form that pg sends. pg itself would encode them only
 * after it has sent the statement's text.
 *
 * @throws when one is undefined or cannot be encoded, or when there are too many:
 * pg would send a wrong count, and PostgreSQL would refuse the message as invalid.
 */
export function encodeValues(values: unknown[]): unknown[] {
  if (values.length > MOST_VALUES)
    throw new Error(
      `a statement has ${values.length} parameters, and may have ${MOST_VALUES}: write the rows in several statements`,
    );
  return values.map((value) => {
    if (value === undefined)
      throw new Error("a parameter is undefined: write null for SQL's NULL");
    return prepareValue(encodeDates(value));
  });
}

/** Writes dates in UTC, also in arrays: pg would use the time zone of the process. */
function encodeDates(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(encodeDates);
  return value instanceof Date ? value.toISOString() : value;
}

/**
 * Returns the oids to declare for the values. PostgreSQL takes a parameter without
 * a declared type and without a context for text; 0 leaves the choice to it.
 */
export function typesOf(values: unknown[]): number[] {
  return values.map((value) =>
    typeof value === "boolean"
      ? types.builtins.BOOL
      : typeof value === "bigint"
        ? types.builtins.INT8
        : value instanceof Uint8Array
          ? types.builtins.BYTEA
          : 0,
  );
}
