// What was renamed between two snapshots. Nobody can tell from the snapshots: it
// is answered by flags, on a terminal, or read from the SQL of a migration.
import { quoteIdentifier } from "./quote-sql";
import type { Snapshot, SnapshotTable } from "./snapshots";
import { readWords, splitStatements, type Token } from "./sql-statements";

/** One name that becomes another, or an object that moves to another schema. */
export interface Rename {
  kind: "schema" | "type" | "sequence" | "table" | "column";
  schema: string;
  /** Of a column. */
  table?: string;
  from: string;
  to: string;
  /** Where the object moves to; its name stays. */
  toSchema?: string;
}

/** Of one kind and in one place something is gone and something is new. */
export interface Ambiguity {
  kind: Rename["kind"];
  schema: string;
  table?: string;
  gone: string[];
  made: string[];
}

/** Where a name may have become another; none where there is nothing to ask. */
export function listAmbiguities(
  before: Snapshot,
  after: Snapshot,
): Ambiguity[] {
  const found: Ambiguity[] = [];
  const compare = (
    old: Iterable<string>,
    current: Iterable<string>,
    place: Omit<Ambiguity, "gone" | "made">,
  ) => {
    const [was, is] = [new Set(old), new Set(current)];
    const gone = [...was.difference(is)];
    const made = [...is.difference(was)];
    if (gone.length > 0 && made.length > 0)
      found.push({ ...place, gone, made });
  };

  const schemas = [before, after].map((snapshot) =>
    Object.values(snapshot.schemas),
  );
  compare(schemas[0] ?? [], schemas[1] ?? [], { kind: "schema", schema: "" });
  for (const schema of ["public", ...(schemas[0] ?? [])])
    for (const [kind, part] of PARTS) {
      const names = (snapshot: Snapshot) =>
        Object.values(snapshot[part])
          .filter((object) => (object.schema || "public") === schema)
          .map(({ name }) => name);
      compare(names(before), names(after), { kind, schema });
    }
  for (const [key, { name, schema, columns }] of Object.entries(before.tables))
    compare(
      Object.keys(columns),
      Object.keys(after.tables[key]?.columns ?? {}),
      { kind: "column", schema: schema || "public", table: name },
    );
  return found;
}

const PARTS = [
  ["type", "enums"],
  ["sequence", "sequences"],
  ["table", "tables"],
] as const;

/** What `--rename` would take for it: `users`, or `users.bio`. */
export function nameOld(
  { schema, table }: Ambiguity | Rename,
  name: string,
): string {
  return [schema === "public" ? "" : schema, table, name]
    .filter(Boolean)
    .join(".");
}

/**
 * Takes answers such as `users=people` and `users.bio=about`; a column's table
 * may be called by its old name.
 *
 * @returns the renames, and the answers that fit nothing.
 */
export function answerRenames(
  before: Snapshot,
  after: Snapshot,
  answers: string[],
): { renames: Rename[]; unused: string[] } {
  const renames: Rename[] = [];
  let renamed = before;
  let unused = answers;
  for (let last = -1; unused.length !== last;) {
    last = unused.length;
    unused = unused.filter((answer) => {
      const rename = listAmbiguities(renamed, after)
        .flatMap(listRenames)
        .find((choice) => spell(choice, renames).includes(answer));
      if (!rename) return true;
      renames.push(rename);
      renamed = applyRename(renamed, rename);
      return false;
    });
  }
  return { renames, unused };
}

function listRenames({ gone, made, ...place }: Ambiguity): Rename[] {
  return gone.flatMap((from) => made.map((to) => ({ ...place, from, to })));
}

/** Every way in which an answer may be written. */
function spell(rename: Rename, earlier: Rename[]): string[] {
  const { schema, table, from, to } = rename;
  const old = earlier.find(
    ({ kind, to: name }) => kind === "table" && name === table,
  );
  const tables =
    table === undefined ? [undefined] : [table, old?.from ?? table];
  return tables.flatMap((name) =>
    ["", schema].flatMap((place) => {
      const start = [place, name].filter(Boolean).map((part) => `${part}.`);
      const prefix = start.join("");
      return [`${prefix}${from}=${to}`, `${prefix}${from}=${prefix}${to}`];
    }),
  );
}

/** The snapshot with the new name; the same where it has no such object. */
export function applyRename(snapshot: Snapshot, rename: Rename): Snapshot {
  const { kind, schema, from, to, toSchema = schema } = rename;
  if (kind === "column") return renameColumn(snapshot, rename);
  if (kind === "schema") {
    const moved = [...PARTS].flatMap(([part, record]) =>
      Object.values(snapshot[record])
        .filter((object) => object.schema === from)
        .map(({ name }) => ({
          ...rename,
          kind: part,
          schema: from,
          from: name,
          to: name,
          toSchema: to,
        })),
    );
    const { [from]: gone, ...schemas } = snapshot.schemas;
    if (gone === undefined) return snapshot;
    return moved.reduce(applyRename, {
      ...snapshot,
      schemas: { ...schemas, [to]: to },
    });
  }
  const [oldKey, newKey] = [`${schema}.${from}`, `${toSchema}.${to}`];
  const part = PARTS.find(([name]) => name === kind)?.[1] ?? "tables";
  const { [oldKey]: object, ...others } = snapshot[part];
  if (!object) return snapshot;
  const stored = part === "tables" && toSchema === "public" ? "" : toSchema;
  const changed = {
    ...snapshot,
    [part]: { ...others, [newKey]: { ...object, name: to, schema: stored } },
  };
  if (kind === "sequence") return changed;
  return {
    ...changed,
    tables: mapTables(changed.tables, (table, key) =>
      kind === "type"
        ? retypeColumns(table, rename)
        : redirect(table, rename, key === newKey),
    ),
  };
}

function mapTables(
  tables: Snapshot["tables"],
  change: (table: SnapshotTable, key: string) => SnapshotTable,
): Snapshot["tables"] {
  return Object.fromEntries(
    Object.entries(tables).map(([key, table]) => [key, change(table, key)]),
  );
}

/** Foreign keys name the tables that they connect. */
function redirect(
  table: SnapshotTable,
  { schema, from, to, toSchema = schema }: Rename,
  isOwn: boolean,
): SnapshotTable {
  const changed = isOwn ? requote(table, `"${from}".`, `"${to}".`) : table;
  const references = Object.entries(changed.foreignKeys).map(
    ([key, reference]) => {
      const isTarget =
        reference.tableTo === from &&
        (reference.schemaTo || "public") === schema;
      return [
        key,
        {
          ...reference,
          ...(isOwn && { tableFrom: to }),
          ...(isTarget && { tableTo: to }),
          ...(isTarget && reference.schemaTo && { schemaTo: toSchema }),
        },
      ];
    },
  );
  return { ...changed, foreignKeys: Object.fromEntries(references) };
}

function retypeColumns(
  table: SnapshotTable,
  { schema, from, to, toSchema = schema }: Rename,
): SnapshotTable {
  const columns = Object.entries(table.columns).map(([key, column]) => {
    const { type, typeSchema } = column;
    const isOfType =
      typeSchema === schema && type.replace(/(\[\d*\])+$/, "") === from;
    return [
      key,
      isOfType
        ? {
            ...column,
            type: to + type.slice(from.length),
            typeSchema: toSchema,
          }
        : column,
    ];
  });
  return { ...table, columns: Object.fromEntries(columns) };
}

function renameColumn(
  snapshot: Snapshot,
  { schema, table: name, from, to }: Rename,
): Snapshot {
  const key = `${schema}.${name}`;
  const table = snapshot.tables[key];
  if (!table?.columns[from]) return snapshot;
  const renamed = (column: string) => (column === from ? to : column);
  const map = <T>(parts: Record<string, T>, change: (part: T) => Partial<T>) =>
    Object.fromEntries(
      Object.entries(parts).map(([part, value]) => [
        part,
        { ...value, ...change(value) },
      ]),
    );
  const inLists = <T extends { columns: string[] }>(parts: Record<string, T>) =>
    map(
      parts,
      (part) => ({ columns: part.columns.map(renamed) }) as Partial<T>,
    );
  const changed = requote(table, `"${from}"`, `"${to}"`);
  return {
    ...snapshot,
    tables: mapTables(
      {
        ...snapshot.tables,
        [key]: {
          ...changed,
          columns: Object.fromEntries(
            Object.values(changed.columns).map((column) => [
              renamed(column.name),
              { ...column, name: renamed(column.name) },
            ]),
          ),
          indexes: map(changed.indexes, ({ columns }) => ({
            columns: columns.map((column) =>
              column.isExpression
                ? column
                : { ...column, expression: renamed(column.expression) },
            ),
          })),
          compositePrimaryKeys: inLists(changed.compositePrimaryKeys),
          uniqueConstraints: inLists(changed.uniqueConstraints),
          foreignKeys: map(changed.foreignKeys, ({ columnsFrom }) => ({
            columnsFrom: columnsFrom.map(renamed),
          })),
        },
      },
      (other) => ({
        ...other,
        foreignKeys: map(other.foreignKeys, (reference) =>
          reference.tableTo === name &&
          (reference.schemaTo || "public") === schema
            ? { columnsTo: reference.columnsTo.map(renamed) }
            : {},
        ),
      }),
    ),
  };
}

/** In expressions, which PostgreSQL keeps by column and not by text. */
function requote(table: SnapshotTable, from: string, to: string) {
  const inJson = (text: string) => JSON.stringify(text).slice(1, -1);
  const text = JSON.stringify(table).replaceAll(inJson(from), inJson(to));
  return JSON.parse(text) as SnapshotTable;
}

/** The other way round. */
export function invertRename(rename: Rename): Rename {
  const { schema, from, to, toSchema } = rename;
  const inverse = { ...rename, from: to, to: from };
  return toSchema
    ? { ...inverse, schema: toSchema, toSchema: schema }
    : inverse;
}

/** The SQL of it, as drizzle-kit writes it. */
export function printRename(rename: Rename): string {
  const { kind, schema, table, from, to, toSchema } = rename;
  const qualify = (name: string) =>
    schema === "public"
      ? quoteIdentifier(name)
      : `${quoteIdentifier(schema)}.${quoteIdentifier(name)}`;
  if (kind === "schema")
    return `ALTER SCHEMA ${quoteIdentifier(from)} RENAME TO ${quoteIdentifier(to)};`;
  if (kind === "column")
    return `ALTER TABLE ${qualify(table ?? "")} RENAME COLUMN ${quoteIdentifier(from)} TO ${quoteIdentifier(to)};`;
  const change = toSchema
    ? `SET SCHEMA ${quoteIdentifier(toSchema)}`
    : `RENAME TO ${quoteIdentifier(to)}`;
  return `ALTER ${kind.toUpperCase()} ${qualify(from)} ${change};`;
}

/** The renames in the SQL of a migration, in their order. */
export function readRenames(text: string): Rename[] {
  return splitStatements(text).flatMap(
    ({ tokens }) => readRename(tokens) ?? [],
  );
}

function readRename(tokens: Token[]): Rename | undefined {
  const [alter, kind] = readWords(tokens, 2);
  if (alter !== "ALTER") return undefined;
  if (!["SCHEMA", "TYPE", "SEQUENCE", "TABLE"].includes(kind ?? ""))
    return undefined;
  let rest = tokens.slice(2);
  for (const word of ["IF", "EXISTS", "ONLY"])
    if (rest[0]?.text.toUpperCase() === word) rest = rest.slice(1);
  const first = readName(rest[0]);
  const isQualified = rest[1]?.text === ".";
  const name = isQualified ? readName(rest[2]) : first;
  const schema = isQualified ? first : "public";
  rest = rest.slice(isQualified ? 3 : 1);
  const words = readWords(rest, rest.length);
  const place = { kind: kind?.toLowerCase() as Rename["kind"], schema };
  if (words[0] === "SET" && words[1] === "SCHEMA")
    return { ...place, from: name, to: name, toSchema: readName(rest[2]) };
  if (words[0] !== "RENAME") return undefined;
  if (words[1] === "TO") return { ...place, from: name, to: readName(rest[2]) };
  if (kind !== "TABLE" || words[1] === "CONSTRAINT") return undefined;
  const [from, , to] = rest.slice(words[1] === "COLUMN" ? 2 : 1);
  return {
    ...place,
    kind: "column",
    table: name,
    from: readName(from),
    to: readName(to),
  };
}

function readName(token: Token | undefined): string {
  const text = token?.text ?? "";
  return text.startsWith('"')
    ? text.slice(1, -1).replaceAll('""', '"')
    : text.toLowerCase();
}
