// Handles what was renamed between two snapshots. The snapshots do not show it: flags
// or the keyboard answer it, or it is read from the SQL of a migration.
import { quoteIdentifier } from "../lib/quote";
import {
  readWords,
  splitStatements,
  type Token,
} from "../migrations/statements";
import type { Snapshot, SnapshotTable } from "./snapshots";

/** A changed name, or a move to another schema. */
export interface Rename {
  kind: "schema" | "type" | "sequence" | "table" | "column" | "value";
  schema: string;
  /** The table of a column, or the enum of a value. */
  table?: string;
  from: string;
  to: string;
  /** The schema that the object moves to; its name stays. */
  toSchema?: string;
}

/** Objects of one kind that are gone, and new ones; for columns, of one table. */
export interface Ambiguity {
  kind: Rename["kind"];
  schema: string;
  table?: string;
  gone: string[];
  made: string[];
}

/**
 * Lists where something may have been renamed; none when there is nothing to ask.
 * Names outside of `public` begin with their schema.
 */
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

  compare(Object.values(before.schemas), Object.values(after.schemas), {
    kind: "schema",
    schema: "",
  });
  for (const [kind, part] of PARTS) {
    const names = (snapshot: Snapshot) =>
      Object.values(snapshot[part]).map(qualify);
    compare(names(before), names(after), { kind, schema: "public" });
  }
  for (const [key, { name, schema, columns }] of Object.entries(before.tables))
    compare(
      Object.keys(columns),
      Object.keys(after.tables[key]?.columns ?? {}),
      { kind: "column", schema: schema || "public", table: name },
    );
  for (const [key, { name, schema, values }] of Object.entries(before.enums))
    compare(values, after.enums[key]?.values ?? [], {
      kind: "value",
      schema,
      table: name,
    });
  return found;
}

const PARTS = [
  ["type", "enums"],
  ["sequence", "sequences"],
  ["table", "tables"],
] as const;

function qualify({ schema, name }: { schema: string; name: string }): string {
  return !schema || schema === "public" ? name : `${schema}.${name}`;
}

/** Returns the old name as `--rename` accepts it: `users`, or `users.bio`. */
export function nameOld({ schema, table }: Ambiguity, name: string): string {
  return table === undefined
    ? name
    : `${qualify({ schema, name: table })}.${name}`;
}

/**
 * Reads answers such as `users=people` and `users.bio=about`. The table of a column
 * may have its old name.
 *
 * @returns the renames, and the answers that match nothing.
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
      const choice = listAmbiguities(renamed, after)
        .flatMap((place) => listChoices(place, renamed, after))
        .find(({ steps, labels }) =>
          listSpellings(steps, labels, renames).has(answer),
        );
      if (!choice) return true;
      renames.push(...choice.steps);
      renamed = choice.steps.reduce(applyRename, renamed);
      return false;
    });
  }
  return { renames, unused };
}

interface Choice {
  /** A new name, a new schema, or first the one and then the other. */
  steps: Rename[];
  labels: [from: string, to: string];
}

function listChoices(
  { gone, made, ...place }: Ambiguity,
  before: Snapshot,
  after: Snapshot,
): Choice[] {
  const pairs = gone.flatMap((from) =>
    made.map((to): [string, string] => [from, to]),
  );
  const part = PARTS.find(([kind]) => kind === place.kind)?.[1];
  return pairs.map(([from, to]) => {
    if (!part) return { steps: [{ ...place, from, to }], labels: [from, to] };
    const find = (snapshot: Snapshot, label: string) =>
      Object.values(snapshot[part]).find((object) => qualify(object) === label);
    const [old, current] = [find(before, from), find(after, to)];
    const schema = old?.schema || "public";
    const toSchema = current?.schema || "public";
    const [oldName, name] = [old?.name ?? from, current?.name ?? to];
    const { kind } = place;
    const steps: Rename[] = [];
    if (oldName !== name) steps.push({ kind, schema, from: oldName, to: name });
    if (schema !== toSchema)
      steps.push({ kind, schema, from: name, to: name, toSchema });
    return { steps, labels: [from, to] };
  });
}

/** Returns every way to write an answer. */
function listSpellings(
  [step]: Rename[],
  [from, to]: Choice["labels"],
  earlier: Rename[],
): Set<string> {
  if (!step) return new Set();
  const { kind, schema, table, from: name, to: next } = step;
  if (kind === "schema") return new Set([`${from}=${to}`]);
  if (table === undefined) {
    const full = `${schema}.${name}`;
    const both = to.includes(".") ? to : `${schema}.${next}`;
    return new Set([`${from}=${to}`, `${full}=${to}`, `${full}=${both}`]);
  }
  const old = earlier.find(
    (other) => other.kind === "table" && other.to === table,
  );
  const prefixes = [table, old?.from ?? table].flatMap((of) => [
    `${of}.`,
    `${schema}.${of}.`,
  ]);
  return new Set(
    prefixes.flatMap((prefix) => [
      `${prefix}${from}=${to}`,
      `${prefix}${from}=${prefix}${to}`,
    ]),
  );
}

/** Returns the snapshot with the new name; unchanged when it has no such object. */
export function applyRename(snapshot: Snapshot, rename: Rename): Snapshot {
  const { kind, schema, from, to, toSchema = schema } = rename;
  if (kind === "column") return renameColumn(snapshot, rename);
  if (kind === "value") return renameValue(snapshot, rename);
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
    const [old, next] = [
      `${quoteIdentifier(from)}.`,
      `${quoteIdentifier(to)}.`,
    ];
    const views = Object.values(snapshot.views).map((view) => {
      const schema = view.schema === from ? to : view.schema;
      const definition = view.definition?.replaceAll(old, () => next);
      return [`${schema}.${view.name}`, { ...view, schema, definition }];
    });
    return moved.reduce(applyRename, {
      ...snapshot,
      schemas: { ...schemas, [to]: to },
      views: Object.fromEntries(views),
    });
  }
  const [oldKey, newKey] = [`${schema}.${from}`, `${toSchema}.${to}`];
  const part = PARTS.find(([name]) => name === kind)?.[1] ?? "tables";
  const { [oldKey]: object, ...others } = snapshot[part];
  if (!object) return snapshot;
  const stored = part === "tables" && toSchema === "public" ? "" : toSchema;
  const changed = {
    ...snapshot,
    schemas:
      toSchema === "public"
        ? snapshot.schemas
        : { ...snapshot.schemas, [toSchema]: toSchema },
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

/** Changes the names in foreign keys, which name the tables that they connect. */
function redirect(
  table: SnapshotTable,
  { schema, from, to, toSchema = schema }: Rename,
  isOwn: boolean,
): SnapshotTable {
  const place = (name: string) => (name === "public" ? "" : `"${name}".`);
  const [old, next] = [
    `${place(schema)}"${from}".`,
    `${place(toSchema)}"${to}".`,
  ];
  const isMoved = toSchema !== schema;
  const changed = isOwn ? requote(table, old, next) : table;
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
          ...(isTarget && isMoved && { schemaTo: toSchema }),
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

/** Renames a value of an enum, also in the defaults of columns. */
function renameValue(
  snapshot: Snapshot,
  { schema, table: name = "", from, to }: Rename,
): Snapshot {
  const key = `${schema}.${name}`;
  const type = snapshot.enums[key];
  if (!type?.values.includes(from)) return snapshot;
  const values = type.values.map((value) => (value === from ? to : value));
  const [old, next] = [from, to].map((value) => value.replaceAll("'", "''"));
  const renamed = (text: unknown) =>
    typeof text === "string"
      ? text
          .replaceAll(`'${old}'`, () => `'${next}'`)
          .replaceAll(`"${old}"`, () => `"${next}"`)
      : text;
  return {
    ...snapshot,
    enums: { ...snapshot.enums, [key]: { ...type, values } },
    tables: mapTables(snapshot.tables, (table) => ({
      ...table,
      columns: Object.fromEntries(
        Object.entries(table.columns).map(([column, part]) => {
          const isOfType =
            part.typeSchema === schema &&
            part.type.replace(/(\[\d*\])+$/, "") === name;
          const changed = { ...part, default: renamed(part.default) };
          return [
            column,
            isOfType && part.default !== undefined ? changed : part,
          ];
        }),
      ),
    })),
  };
}

/** Changes a quoted name in expressions: PostgreSQL stores columns there, not text. */
function requote(table: SnapshotTable, from: string, to: string) {
  const inJson = (text: string) => JSON.stringify(text).slice(1, -1);
  const text = JSON.stringify(table).replaceAll(inJson(from), inJson(to));
  return JSON.parse(text) as SnapshotTable;
}

/** Returns the rename that undoes this one. */
export function invertRename(rename: Rename): Rename {
  const { schema, from, to, toSchema } = rename;
  const inverse = { ...rename, from: to, to: from };
  return toSchema
    ? { ...inverse, schema: toSchema, toSchema: schema }
    : inverse;
}

/**
 * Returns the SQL of renames, in their order, as drizzle-kit writes it.
 *
 * @param before the snapshot that they start from. A schema that only `after` has is
 * created.
 */
export function printRenames(
  before: Snapshot,
  after: Snapshot,
  renames: Rename[],
): string[] {
  const schemas = new Set(Object.values(before.schemas));
  const statements = renames.flatMap((rename) => {
    const { toSchema = "public" } = rename;
    const isMade = toSchema in after.schemas && !schemas.has(toSchema);
    schemas.add(toSchema);
    const made = isMade ? [`CREATE SCHEMA ${quoteIdentifier(toSchema)};`] : [];
    return [...made, printRename(rename)];
  });
  return [...statements, ...renameOwned(before, renames)];
}

/**
 * Returns the SQL that renames what PostgreSQL has named after a renamed table or
 * column and schema.ts does not name: primary keys, and the sequences of columns.
 * Where a database has another name for it, as after an earlier rename, the SQL
 * changes nothing.
 */
function renameOwned(before: Snapshot, renames: Rename[]): string[] {
  const statements: string[] = [];
  let current = before;
  for (const rename of renames) {
    const { kind, schema, from, to, toSchema } = rename;
    const isTable = kind === "table";
    const name = isTable ? from : (rename.table ?? "");
    const table = current.tables[`${schema}.${name}`];
    const isTaken = isTable && `${schema}.${to}` in before.tables;
    current = applyRename(current, rename);
    if (!table || toSchema || isTaken) continue;
    if (!isTable && kind !== "column") continue;
    const place = schema === "public" ? "" : `${quoteIdentifier(schema)}.`;
    const add = (type: "INDEX" | "SEQUENCE", old: string, next: string) => {
      if (Math.max(Buffer.byteLength(old), Buffer.byteLength(next)) <= 63)
        statements.push(
          `ALTER ${type} IF EXISTS ${place}${quoteIdentifier(old)} RENAME TO ${quoteIdentifier(next)};`,
        );
    };
    const columns = Object.values(table.columns);
    if (isTable && columns.some(({ primaryKey }) => primaryKey))
      add("INDEX", `${from}_pkey`, `${to}_pkey`);
    for (const { name: column, type, identity } of columns) {
      if (!isTable && column !== from) continue;
      const old = `${name}_${column}_seq`;
      const isUnnamed = /serial$/.test(type) || identity?.name === old;
      if (isUnnamed)
        add(
          "SEQUENCE",
          old,
          isTable ? `${to}_${column}_seq` : `${name}_${to}_seq`,
        );
    }
  }
  return statements;
}

function printRename(rename: Rename): string {
  const { kind, schema, table, from, to, toSchema } = rename;
  const qualified = (name: string) =>
    schema === "public"
      ? quoteIdentifier(name)
      : `${quoteIdentifier(schema)}.${quoteIdentifier(name)}`;
  if (kind === "schema")
    return `ALTER SCHEMA ${quoteIdentifier(from)} RENAME TO ${quoteIdentifier(to)};`;
  if (kind === "column")
    return `ALTER TABLE ${qualified(table ?? "")} RENAME COLUMN ${quoteIdentifier(from)} TO ${quoteIdentifier(to)};`;
  if (kind === "value")
    return `ALTER TYPE ${qualified(table ?? "")} RENAME VALUE ${literal(from)} TO ${literal(to)};`;
  const change = toSchema
    ? `SET SCHEMA ${quoteIdentifier(toSchema)}`
    : `RENAME TO ${quoteIdentifier(to)}`;
  return `ALTER ${kind.toUpperCase()} ${qualified(from)} ${change};`;
}

function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

/** Reads the renames in the SQL of a migration, in their order. */
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
  // One of a column: renameOwned writes it.
  if (kind === "SEQUENCE" && readWords(rest, 1)[0] === "IF") return undefined;
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
  if (kind === "TYPE" && words[1] === "VALUE")
    return {
      kind: "value",
      schema,
      table: name,
      from: readName(rest[2]),
      to: readName(rest[4]),
    };
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
  if (text.startsWith("'")) return text.slice(1, -1).replaceAll("''", "'");
  return text.startsWith('"')
    ? text.slice(1, -1).replaceAll('""', '"')
    : text.toLowerCase();
}
