// What JavaScript values go to PostgreSQL and come back from it. pg would parse
// points, intervals and dates into objects of its own; drizzle takes them as text.
import { types } from "pg";

type Parse = (text: string) => unknown;

const parseNumber: Parse = (text) => Number(text);
const keep: Parse = (text) => text;

/** The parser of a type, under its oid. What is not named stays PostgreSQL's text. */
const parsers = new Map<number, Parse>([
  [types.builtins.INT2, parseNumber],
  [types.builtins.INT4, parseNumber],
  [types.builtins.OID, parseNumber],
  [types.builtins.FLOAT4, parseNumber],
  [types.builtins.FLOAT8, parseNumber],
  [types.builtins.BOOL, (text) => text === "t"],
  [types.builtins.BYTEA, (text) => Buffer.from(text.slice(2), "hex")],
  [types.builtins.JSON, (text) => JSON.parse(text)],
  [types.builtins.JSONB, (text) => JSON.parse(text)],
  // Arrays that drizzle takes apart itself: dates, timestamps and numerics.
  [1182, keep],
  [1115, keep],
  [1185, keep],
  [1231, keep],
]);

/** The statement that `makeTypes` needs the rows of: every array and its element. */
export const SELECT_ARRAY_TYPES = `select typarray::int4, oid::int4 from pg_type
  where typarray <> 0`;

/**
 * Returns how pg is to read the columns of one server.
 *
 * @param arrays oids of array types and of their elements: enums and domains
 * have other ones on each server.
 */
export function makeTypes(arrays: [array: number, element: number][]) {
  const own = new Map(parsers);
  for (const [array, element] of arrays) {
    const parse = parsers.get(element) ?? keep;
    if (!own.has(array))
      own.set(array, (text) => parseElements(splitArray(text), parse));
  }
  // The only type whose arrays are separated by another character.
  own.set(1020, (text) => text.slice(1, -1).split(";"));
  return { getTypeParser: (oid: number) => own.get(oid) ?? keep };
}

/** pg's parser of text[]: PostgreSQL writes the arrays of every type alike. */
const TEXT_ARRAY: number = 1009;
const splitArray: Parse = types.getTypeParser(TEXT_ARRAY);

function parseElements(value: unknown, parse: Parse): unknown {
  if (Array.isArray(value))
    return value.map((element) => parseElements(element, parse));
  return typeof value === "string" ? parse(value) : null;
}

/** Returns the values as pg is to send them. @throws where one is undefined. */
export function encodeValues(values: unknown[]): unknown[] {
  return values.map((value) => {
    if (value === undefined)
      throw new Error("a parameter is undefined: write null for SQL's NULL");
    return value instanceof Date ? value.toISOString() : value;
  });
}

/**
 * Returns the oids to declare for the values: what JavaScript knows better than
 * PostgreSQL, which takes an undeclared parameter that stands alone for text.
 */
export function typesOf(values: unknown[]): number[] {
  return values.map((value) =>
    typeof value === "boolean"
      ? types.builtins.BOOL
      : typeof value === "bigint"
        ? types.builtins.INT8
        : value instanceof Date
          ? types.builtins.TIMESTAMPTZ
          : value instanceof Uint8Array
            ? types.builtins.BYTEA
            : 0,
  );
}
