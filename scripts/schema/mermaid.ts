// Prints a schema as a Markdown page: a Mermaid entity diagram, which GitHub draws,
// and a list of columns for each table.
// https://mermaid.js.org/syntax/entityRelationshipDiagram.html
import {
  type Snapshot,
  type SnapshotColumn,
  type SnapshotReference,
  type SnapshotTable,
  nameSchema,
} from "./snapshots";

/** The path that `db:diagram` writes, from the project's root. */
export const diagramFile = "docs/SCHEMA.md";

const WRITTEN = "Written by `bun run db:diagram` from ";

/** True for a page that `drawDiagram` has made, and for an empty one. */
export const isDiagram = (page: string) =>
  page.trim() === "" || page.includes(WRITTEN);

/** Returns the page in Markdown. */
export function drawDiagram({ tables, enums }: Snapshot): string {
  const sorted = Object.values(tables).sort((one, other) =>
    one.name.localeCompare(other.name, "en"),
  );
  const lines = [
    "# Schema",
    "",
    `${WRITTEN}\`${nameSchema()}\`.`,
    "",
    "```mermaid",
    "erDiagram",
    ...sorted.flatMap(drawReferences),
    ...sorted.flatMap(drawEntity),
    "```",
    ...sorted.flatMap(printTable),
  ];
  for (const { name, values } of Object.values(enums))
    lines.push("", `## ${name}`, "", `One of ${values.map(code).join(", ")}.`);
  return `${lines.join("\n")}\n`;
}

/** Draws the foreign keys of a table: a row of the other table has at most one row of
 * this table, or many. */
function drawReferences(table: SnapshotTable): string[] {
  return Object.values(table.foreignKeys).map((reference) => {
    const { columnsFrom } = reference;
    const isRequired = columnsFrom.every((name) => isNotNull(table, name));
    const isOne = listUniques(table).some((columns) =>
      Bun.deepEquals(columns, columnsFrom),
    );
    const line = `${isRequired ? "||" : "|o"}--${isOne ? "o|" : "o{"}`;
    return `  ${entity(nameTarget(reference))} ${line} ${entity(nameTable(table))} : "${columnsFrom.join(", ")}"`;
  });
}

function drawEntity(table: SnapshotTable): string[] {
  const keys = listPrimaryKey(table);
  const referring = Object.values(table.foreignKeys).flatMap(
    ({ columnsFrom }) => columnsFrom,
  );
  const uniques = listUniques(table)
    .filter((columns) => columns.length === 1)
    .flat();
  const columns = Object.values(table.columns).map(({ name, type }) => {
    const marks = [
      keys.includes(name) ? "PK" : "",
      referring.includes(name) ? "FK" : "",
      uniques.includes(name) && !keys.includes(name) ? "UK" : "",
    ].filter(Boolean);
    return `    ${toMermaidWord(type)} ${toMermaidWord(name)} ${marks.join(", ")}`.trimEnd();
  });
  return [`  ${entity(nameTable(table))} {`, ...columns, "  }"];
}

function printTable(table: SnapshotTable): string[] {
  const rows = Object.values(table.columns).map((column) => [
    code(column.name),
    column.type,
    isNotNull(table, column.name) ? "" : "yes",
    printDefault(column),
    printReferences(table, column.name),
  ]);
  const key = listPrimaryKey(table);
  const rules = [
    ...(key.length > 1 ? [`primary key: ${key.map(code).join(", ")}`] : []),
    ...Object.values(table.uniqueConstraints).map(
      ({ columns }) => `unique: ${columns.map(code).join(", ")}`,
    ),
    ...Object.values(table.checkConstraints).map(
      ({ value }) => `check: ${code(value)}`,
    ),
    ...Object.values(table.indexes).map(({ columns, isUnique, where }) => {
      const on = columns
        .map(({ expression, asc }) =>
          code(asc ? expression : `${expression} desc`),
        )
        .join(", ");
      return `${isUnique ? "unique index" : "index"}: ${on}${where ? ` where ${code(where)}` : ""}`;
    }),
  ];
  return [
    "",
    `## ${nameTable(table)}`,
    "",
    ...alignRows([
      ["column", "type", "null", "default", "references"],
      ...rows,
    ]),
    ...(rules.length > 0 ? ["", ...rules.map((rule) => `- ${rule}`)] : []),
  ];
}

/** Aligns the rows of a table as `bun fmt` does. */
function alignRows([heading = [], ...rows]: string[][]): string[] {
  const widths = heading.map((_, index) =>
    Math.max(
      ...[heading, ...rows].map((row) => Bun.stringWidth(row[index] ?? "")),
    ),
  );
  const line = (row: string[], fill: string) =>
    `| ${row.map((cell, index) => cell + fill.repeat((widths[index] ?? 0) - Bun.stringWidth(cell))).join(" | ")} |`;
  return [
    line(heading, " "),
    line(
      heading.map(() => ""),
      "-",
    ),
    ...rows.map((row) => line(row, " ")),
  ];
}

function printDefault({ default: value, generated }: SnapshotColumn): string {
  if (generated) return code(generated.as);
  return value === undefined ? "" : code(String(value));
}

function printReferences(table: SnapshotTable, column: string): string {
  return Object.values(table.foreignKeys)
    .filter(({ columnsFrom }) => columnsFrom.includes(column))
    .map((reference) => {
      const { onDelete = "no action" } = reference;
      return `${nameTarget(reference)} (${onDelete})`;
    })
    .join(", ");
}

function listPrimaryKey(table: SnapshotTable): string[] {
  const [composite] = Object.values(table.compositePrimaryKeys);
  return (
    composite?.columns ??
    Object.values(table.columns)
      .filter(({ primaryKey }) => primaryKey)
      .map(({ name }) => name)
  );
}

function isNotNull(table: SnapshotTable, column: string): boolean {
  const isKey = listPrimaryKey(table).includes(column);
  return isKey || table.columns[column]?.notNull === true;
}

function listUniques(table: SnapshotTable): string[][] {
  return [
    listPrimaryKey(table),
    ...Object.values(table.uniqueConstraints).map(({ columns }) => columns),
    ...Object.values(table.indexes)
      .filter(({ isUnique, where }) => isUnique && !where)
      .map(({ columns }) =>
        columns.map(({ expression, isExpression }) =>
          isExpression ? "" : expression,
        ),
      ),
  ];
}

function nameTable({ name, schema }: { name: string; schema: string }): string {
  return !schema || schema === "public" ? name : `${schema}.${name}`;
}

function nameTarget({ tableTo, schemaTo = "" }: SnapshotReference): string {
  return nameTable({ name: tableTo, schema: schemaTo });
}

function entity(name: string): string {
  return /^[A-Za-z_]\w*$/.test(name) ? name : JSON.stringify(name);
}

/** Replaces the characters that Mermaid does not allow here. It allows letters,
 * digits, `-`, `_`, `()` and `[]`. */
function toMermaidWord(text: string): string {
  return text.replace(/[^\w()[\]-]+/g, "_");
}

function code(text: string): string {
  return `\`${text.replaceAll("|", "\\|").replace(/\s+/g, " ")}\``;
}
