// Loads drizzle-kit when it is first needed, because it is large, and works around
// its faults: it joins names and expressions to one text and splits that at `;` and
// `--`, guesses how to quote types, and prints on stdout. Seen in 0.31.11.
import { createRequire } from "node:module";
import { join } from "node:path";
import { root } from "../../src/env";
import { quoteIdentifier } from "../lib/quote";
import { refusal } from "../lib/report";
import type { Snapshot, SnapshotColumn, SnapshotIndex } from "./snapshots";

/**
 * Loads drizzle-kit/api.
 *
 * @throws DRIZZLE_KIT, with exit code 2, when drizzle-kit 0.31 is not installed.
 */
export async function loadDrizzleKit() {
  const version = readVersion();
  if (version?.startsWith("0.31.")) return await import("drizzle-kit/api");
  throw refusal(
    version
      ? `drizzle-kit ${version} is installed, and only 0.31 is known here`
      : "drizzle-kit is not installed",
    {
      code: "DRIZZLE_KIT",
      hint: "add the package `drizzle-kit@0.31` to the development dependencies",
    },
  );
}

function readVersion(): string | undefined {
  try {
    const require = createRequire(join(root, "package.json"));
    return require("drizzle-kit/package.json").version;
  } catch {
    return undefined;
  }
}

/**
 * Returns drizzle-kit's statements from one snapshot to another. It gets a mark in
 * place of each expression, type and unusual name; afterwards the marks in its
 * statements are replaced.
 */
export async function writeStatements(
  from: Snapshot,
  to: Snapshot,
): Promise<string[]> {
  const { generateMigration } = await loadDrizzleKit();
  const marks = makeMarks();
  const written = await generateMigration(
    mark(from, marks) as never,
    mark(to, marks) as never,
  );
  return written.map((statement) => marks.resolve(statement));
}

/** Runs code that may print and exit; throws an error with the output instead. */
export function withoutTalk<T>(work: () => T): T {
  const { exit } = process;
  const { log } = console;
  const said: string[] = [];
  console.log = (...parts: unknown[]) => void said.push(parts.join(" "));
  process.exit = (() => {
    const text = Bun.stripANSI(said.join(" ")).replace(/\s+/g, " ").trim();
    throw new Error(text.replace(/^Warning /, ""));
  }) as typeof exit;
  try {
    return work();
  } finally {
    process.exit = exit;
    console.log = log;
  }
}

/** Returns the type of a column in SQL; an enum with its schema. */
export function printType({ type, typeSchema }: SnapshotColumn): string {
  const [array = ""] = /(\[\d*\])+$/.exec(type) ?? [];
  const name = type.slice(0, type.length - array.length);
  if (typeSchema === undefined) {
    // A name that needs quotes; anything else is SQL.
    const isName =
      /^[\w-]+$/.test(name) && /[A-Z].*[a-z]|[a-z].*[A-Z]|-/.test(name);
    return isName ? quoteIdentifier(name) + array : type;
  }
  const schema =
    typeSchema === "public" ? "" : `${quoteIdentifier(typeSchema)}.`;
  return `${schema}${quoteIdentifier(name)}${array}`;
}

/** Prints a column or expression of an index, with its options. */
function printIndexColumn(column: SnapshotIndex["columns"][number]): string {
  const { expression, isExpression, asc, nulls = "last", opclass } = column;
  const order = asc ? "" : " DESC";
  const place = asc && nulls === "last" ? "" : ` NULLS ${nulls.toUpperCase()}`;
  const name = isExpression ? expression : quoteIdentifier(expression);
  return `${name}${opclass ? ` ${opclass}` : ""}${order}${place}`;
}

type Marks = ReturnType<typeof makeMarks>;

/** Returns functions that replace texts by marks, and marks by texts. Equal texts
 * get the same mark. */
function makeMarks() {
  const texts: string[] = [];
  const known = new Map<string, string>();
  /** Replaces a piece of SQL. */
  const sql = (text: string): string => {
    const mark = known.get(text) ?? `\uE000${texts.push(text) - 1}\uE001`;
    known.set(text, mark);
    return mark;
  };
  return {
    sql,
    /** Replaces what drizzle-kit writes between double quotes. */
    name: (text: string) =>
      /^[\w $.]*$/.test(text) ? text : sql(text.replaceAll('"', '""')),
    /** Replaces what it writes between single quotes, where it may not escape them. */
    value: (text: string) =>
      text.includes("'") ? sql(text.replaceAll("'", "''")) : text,
    /** Replaces a type: without a known type at the start, drizzle-kit would quote it. */
    type: (column: SnapshotColumn) => `real${sql(printType(column))}`,
    resolve: (statement: string) =>
      statement.replace(
        /(?:real)?\uE000(\d+)\uE001/g,
        (_, index) => texts[index] ?? "",
      ),
  };
}

function mark(snapshot: Snapshot, marks: Marks): Snapshot {
  const { name } = marks;
  const sql = (text: string | undefined) =>
    text === undefined ? undefined : marks.sql(text);
  const key = ({ schema, name }: { schema: string; name: string }) =>
    `${schema || "public"}.${name}`;
  const place = <T extends { schema: string; name: string }>(part: T) => ({
    ...part,
    schema: name(part.schema),
    name: name(part.name),
  });
  const policy = (part: Snapshot["policies"][string]) => ({
    ...part,
    name: name(part.name),
    to: part.to?.map(name),
    using: sql(part.using),
    withCheck: sql(part.withCheck),
    on: sql(part.on),
  });
  const column = (part: SnapshotColumn): SnapshotColumn => ({
    ...part,
    name: name(part.name),
    type: marks.type(part),
    typeSchema: undefined,
    default: part.default === undefined ? undefined : sql(String(part.default)),
    generated: part.generated && {
      ...part.generated,
      as: marks.sql(part.generated.as),
    },
    identity: part.identity && {
      ...part.identity,
      name: name(part.identity.name),
    },
  });
  return {
    ...snapshot,
    tables: map(snapshot.tables, key, (table) => ({
      ...place(table),
      columns: map(table.columns, byName, column),
      indexes: map(table.indexes, byName, (index) => ({
        ...index,
        name: name(index.name),
        where: sql(index.where),
        columns: index.columns.map((part) => ({
          expression: marks.sql(printIndexColumn(part)),
          isExpression: true,
          asc: true,
          nulls: "last",
        })),
      })),
      foreignKeys: map(table.foreignKeys, byName, (reference) => ({
        ...reference,
        name: name(reference.name),
        tableFrom: name(reference.tableFrom),
        tableTo: name(reference.tableTo),
        schemaTo: reference.schemaTo && name(reference.schemaTo),
        columnsFrom: reference.columnsFrom.map(name),
        columnsTo: reference.columnsTo.map(name),
      })),
      compositePrimaryKeys: map(table.compositePrimaryKeys, byName, (part) => ({
        ...part,
        name: name(part.name),
        columns: part.columns.map(name),
      })),
      uniqueConstraints: map(table.uniqueConstraints, byName, (part) => ({
        ...part,
        name: name(part.name),
        columns: part.columns.map(name),
      })),
      checkConstraints: map(table.checkConstraints, byName, (part) => ({
        ...part,
        name: name(part.name),
        value: marks.sql(part.value),
      })),
      policies: map(table.policies, byName, policy),
    })),
    enums: map(snapshot.enums, key, (part) => ({
      ...place(part),
      values: part.values.map(marks.value),
    })),
    sequences: map(snapshot.sequences, key, place),
    views: map(snapshot.views, key, (view) => ({
      ...place(view),
      columns: {},
      definition: sql(view.definition),
    })),
    schemas: Object.fromEntries(
      Object.values(snapshot.schemas).map((text) => [name(text), name(text)]),
    ),
    roles: map(snapshot.roles, byName, (role) => ({
      ...role,
      name: name(role.name),
    })),
    policies: map(snapshot.policies, byName, policy),
  };
}

function byName({ name }: { name: string }): string {
  return name;
}

/** Changes each part, and sets its key to its new name. */
function map<T>(
  parts: Record<string, T>,
  key: (part: T) => string,
  change: (part: T) => T,
): Record<string, T> {
  return Object.fromEntries(
    Object.values(parts).map((part) => {
      const changed = change(part);
      return [key(changed), changed];
    }),
  );
}
