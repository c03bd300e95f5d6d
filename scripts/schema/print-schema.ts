// Prints a snapshot as the text of a schema.ts. Names and types are drizzle's; what
// drizzle cannot express is written as the server's SQL.
import type {
  Snapshot,
  SnapshotColumn,
  SnapshotIndex,
  SnapshotPolicy,
  SnapshotReference,
  SnapshotSequence,
  SnapshotTable,
  SnapshotView,
} from "./snapshots";

/** The state of a file that is being printed. */
interface File {
  /** The names to import from drizzle-orm/pg-core. */
  imports: Set<string>;
  /** Identifiers, by the kind and key of their objects. */
  names: Map<string, string>;
  /** Types that drizzle does not know, by their SQL. */
  customTypes: Map<string, string>;
  snapshot: Snapshot;
}

/**
 * Prints schema.ts.
 *
 * @param schemas the schemas to export. Of other schemas the snapshot should have
 * only the objects that these refer to.
 */
export function printSchema(snapshot: Snapshot, schemas: string[]): string {
  const file: File = {
    imports: new Set(),
    names: new Map(),
    customTypes: new Map(),
    snapshot,
  };
  nameAll(file);
  const declare = (kind: string, key: string, schema: string, code: string) => {
    const isExported = schemas.includes(schema || "public");
    return `${isExported ? "export " : ""}const ${nameOf(file, kind, key)} = ${code};\n`;
  };
  const { enums, sequences, tables, views } = snapshot;
  const places = new Set(
    [enums, sequences, tables, views].flatMap((parts) =>
      Object.values(parts).map(({ schema }) => schema || "public"),
    ),
  );
  const parts = [
    ...[...new Set([...Object.values(snapshot.schemas), ...places])]
      .filter((name) => name !== "public")
      .map((name) =>
        declare(
          "schema",
          name,
          name,
          `${use(file, "pgSchema")}(${json(name)})`,
        ),
      ),
    ...Object.entries(enums).map(([key, { name, schema, values }]) =>
      declare(
        "enum",
        key,
        schema,
        `${maker(file, schema, "enum", "pgEnum")}(${json(name)}, ${json(values)})`,
      ),
    ),
    ...Object.entries(sequences).map(([key, sequence]) =>
      declare(
        "sequence",
        key,
        sequence.schema,
        `${maker(file, sequence.schema, "sequence", "pgSequence")}(${json(sequence.name)}, ${printSequence(sequence)})`,
      ),
    ),
    ...Object.entries(tables).map(([key, table]) =>
      declare("table", key, table.schema, printTable(file, key, table)),
    ),
    ...Object.entries(views).map(([key, view]) =>
      declare("view", key, view.schema, printView(file, key, view)),
    ),
  ];
  const types = [...file.customTypes].map(
    ([type, name]) =>
      `const ${name} = ${use(file, "customType")}<{ data: string }>({ dataType: () => ${json(type)} });\n`,
  );
  const imports = [...file.imports].filter((name) => name !== "sql").sort();
  return [
    file.imports.has("sql") ? 'import { sql } from "drizzle-orm";\n' : "",
    `import {\n${imports.map((name) => `  ${name === "PgTableExtraConfigValue" ? "type " : ""}${name},\n`).join("")}} from "drizzle-orm/pg-core";\n`,
    ...(types.length > 0 ? [`\n${types.join("")}`] : []),
    ...parts.map((part) => `\n${part}`),
  ].join("");
}

/** Prints relations.ts from the foreign keys; undefined when there are none. */
export function printRelations(
  snapshot: Snapshot,
  schemas: string[],
): string | undefined {
  const file: File = {
    imports: new Set(),
    names: new Map(),
    customTypes: new Map(),
    snapshot,
  };
  nameAll(file);
  const isExported = ({ schema }: SnapshotTable) =>
    schemas.includes(schema || "public");
  const links = Object.entries(snapshot.tables).flatMap(([key, table]) =>
    Object.values(table.foreignKeys).flatMap((reference) => {
      const target = keyOfTarget(reference);
      const other = snapshot.tables[target];
      return other && isExported(table) && isExported(other)
        ? [{ key, target, reference }]
        : [];
    }),
  );
  if (links.length === 0) return undefined;
  const name = (key: string) => nameOf(file, "table", key);
  const columns = (key: string, list: string[]) =>
    list
      .map((column) => access(name(key), propertyOf(file, key, column)))
      .join(", ");
  const used = new Set(links.flatMap(({ key, target }) => [key, target]));
  const blocks = [...used].map((key) => {
    const taken = new Set<string>();
    const property = (wanted: string) => take(taken, wanted);
    const ones = links
      .filter((link) => link.key === key)
      .map(({ target, reference }) => {
        const { columnsFrom, columnsTo } = reference;
        const base = camel(
          columnsFrom[0]?.replace(/_?id$/i, "") || name(target),
        );
        return `  ${property(base)}: one(${name(target)}, {\n    fields: [${columns(key, columnsFrom)}],\n    references: [${columns(target, columnsTo)}],\n    relationName: ${json(reference.name)},\n  }),`;
      });
    const many = links
      .filter((link) => link.target === key)
      .map(
        ({ key: from, reference }) =>
          `  ${property(name(from))}: many(${name(from)}, { relationName: ${json(reference.name)} }),`,
      );
    return `\nexport const ${name(key)}Relations = relations(${name(key)}, ({ ${[ones.length > 0 && "one", many.length > 0 && "many"].filter(Boolean).join(", ")} }) => ({\n${[...ones, ...many].join("\n")}\n}));\n`;
  });
  return `import { relations } from "drizzle-orm/relations";\nimport { ${[...used].map(name).join(", ")} } from "./schema";\n${blocks.join("")}`;
}

function use(file: File, name: string): string {
  file.imports.add(name);
  return name;
}

function nameOf(file: File, kind: string, key: string): string {
  return file.names.get(`${kind} ${key}`) ?? "undefined";
}

/** Chooses identifiers as drizzle-kit does: `invoicesInBilling` outside of `public`. */
function nameAll(file: File): void {
  const { schemas, enums, sequences, tables, views } = file.snapshot;
  const taken = new Set(RESERVED);
  const add = (kind: string, key: string, wanted: string) =>
    file.names.set(`${kind} ${key}`, take(taken, wanted));
  const wanted = ({ name, schema }: { name: string; schema: string }) =>
    !schema || schema === "public"
      ? camel(name)
      : camel(`${name} In ${schema}`);
  const kinds = [
    ["table", tables],
    ["view", views],
    ["enum", enums],
    ["sequence", sequences],
  ] as const;
  for (const [kind, parts] of kinds)
    for (const [key, part] of Object.entries(parts))
      add(kind, key, wanted(part));
  const places = kinds.flatMap(([, parts]) =>
    Object.values(parts).map(({ schema }) => schema || "public"),
  );
  for (const name of new Set([...Object.values(schemas), ...places]))
    add("schema", name, camel(name));
}

/** Names that a file imports or is given, and reserved words of TypeScript. */
const RESERVED = (
  "sql relations one many bigint bigserial bit boolean char check cidr customType date doublePrecision foreignKey index " +
  "inet integer interval json jsonb line macaddr macaddr8 numeric pgEnum pgMaterializedView pgPolicy pgSchema " +
  "pgSequence pgTable pgView point primaryKey real serial smallint smallserial text time timestamp unique " +
  "uniqueIndex uuid varchar vector halfvec sparsevec table " +
  "await break case catch class const continue debugger default delete do else enum export extends false finally " +
  "for function if implements import in instanceof interface let new null package private protected public return " +
  "static super switch this throw true try typeof undefined var void while with yield arguments eval"
).split(" ");

function camel(name: string): string {
  const [first = "", ...words] = name
    .normalize()
    .split(/[^\p{L}\p{N}$]+/u)
    .filter(Boolean);
  const start = first === first.toUpperCase() ? first.toLowerCase() : first;
  const text =
    start.charAt(0).toLowerCase() +
    start.slice(1) +
    words.map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join("");
  return /^[\p{L}$]/u.test(text) ? text : `_${text}`;
}

/** Returns the property of a table for a column, unique in the table. */
function propertyOf(file: File, key: string, column: string): string {
  const table = file.snapshot.tables[key] ?? file.snapshot.views[key];
  const taken = new Set<string>();
  for (const name of Object.keys(table?.columns ?? {})) {
    const property = take(taken, camel(name));
    if (name === column) return property;
  }
  return camel(column);
}

/** Adds a name to those that are taken, with a number where it is one of them. */
function take(taken: Set<string>, wanted: string): string {
  let unique = wanted;
  for (let n = 2; taken.has(unique); n += 1) unique = `${wanted}${n}`;
  taken.add(unique);
  return unique;
}

function access(table: string, property: string): string {
  return `${table}.${property}`;
}

function maker(file: File, schema: string, inSchema: string, name: string) {
  return !schema || schema === "public"
    ? use(file, name)
    : `${nameOf(file, "schema", schema)}.${inSchema}`;
}

function printTable(file: File, key: string, table: SnapshotTable): string {
  const columns = Object.values(table.columns).map(
    (column) =>
      `  ${propertyOf(file, key, column.name)}: ${printColumn(file, key, column)},\n`,
  );
  const on = (names: string[]) =>
    names
      .map((name) => access("table", propertyOf(file, key, name)))
      .join(", ");
  const sqlOf = (text: string) => printSql(file, text);
  const extras = [
    ...Object.values(table.compositePrimaryKeys).map(
      ({ name, columns }) =>
        `${use(file, "primaryKey")}({ columns: [${on(columns)}], name: ${json(name)} })`,
    ),
    ...Object.values(table.uniqueConstraints).map(
      ({ name, columns, nullsNotDistinct }) =>
        `${use(file, "unique")}(${json(name)}).on(${on(columns)})${nullsNotDistinct ? ".nullsNotDistinct()" : ""}`,
    ),
    ...Object.values(table.foreignKeys).map((reference) =>
      printReference(file, key, reference, on(reference.columnsFrom)),
    ),
    ...Object.values(table.checkConstraints).map(
      ({ name, value }) =>
        `${use(file, "check")}(${json(name)}, ${sqlOf(value)})`,
    ),
    ...Object.values(table.indexes).map((index) =>
      printIndex(file, index, (name) => on([name])),
    ),
    ...Object.values(table.policies).map((policy) => printPolicy(file, policy)),
  ];
  const parts = extras.map((part) => `  ${part},\n`).join("");
  const type = refersBack(file.snapshot, key)
    ? `: ${use(file, "PgTableExtraConfigValue")}[]`
    : "";
  const extra = parts ? `, (table)${type} => [\n${parts}]` : "";
  const isSecured =
    table.isRLSEnabled && Object.keys(table.policies).length === 0;
  return `${maker(file, table.schema, "table", "pgTable")}(${json(table.name)}, {\n${columns.join("")}}${extra})${isSecured ? ".enableRLS()" : ""}`;
}

function keyOfTarget({ tableTo, schemaTo }: SnapshotReference): string {
  return `${schemaTo || "public"}.${tableTo}`;
}

/** True when foreign keys lead from a table over others back to it: TypeScript
 * cannot infer the types of such tables. */
function refersBack({ tables }: Snapshot, key: string): boolean {
  const reached = new Set<string>();
  const follow = (from: string) => {
    for (const reference of Object.values(tables[from]?.foreignKeys ?? {})) {
      const target = keyOfTarget(reference);
      if (target === from || reached.has(target)) continue;
      reached.add(target);
      follow(target);
    }
  };
  follow(key);
  return reached.has(key);
}

function printReference(
  file: File,
  key: string,
  reference: SnapshotReference,
  columns: string,
): string {
  const { name, columnsTo, onDelete, onUpdate } = reference;
  const target = keyOfTarget(reference);
  const other = target === key ? "table" : nameOf(file, "table", target);
  const foreign = columnsTo.map((column) =>
    access(other, propertyOf(file, target, column)),
  );
  const action = (verb: string, value: string | undefined) =>
    value && value !== "no action" ? `.${verb}(${json(value)})` : "";
  return `${use(file, "foreignKey")}({ columns: [${columns}], foreignColumns: [${foreign.join(", ")}], name: ${json(name)} })${action("onDelete", onDelete)}${action("onUpdate", onUpdate)}`;
}

function printIndex(
  file: File,
  index: SnapshotIndex,
  on: (column: string) => string,
): string {
  const columns = index.columns.map((column) => {
    const { expression, isExpression, asc, nulls = "last", opclass } = column;
    if (isExpression) {
      const order = `${asc ? "" : " desc"}${asc === (nulls === "last") ? "" : ` nulls ${nulls}`}`;
      return printSql(
        file,
        `${expression}${opclass ? ` ${opclass}` : ""}${order}`,
      );
    }
    return `${on(expression)}${asc ? "" : ".desc()"}${asc && nulls === "last" ? "" : nulls === "last" ? ".nullsLast()" : ".nullsFirst()"}${opclass ? `.op(${json(opclass)})` : ""}`;
  });
  const made = use(file, index.isUnique ? "uniqueIndex" : "index");
  const method =
    index.method && index.method !== "btree"
      ? `.using(${json(index.method)}, ${columns.join(", ")})`
      : `.on(${columns.join(", ")})`;
  const options =
    Object.keys(index.with ?? {}).length > 0
      ? `.with(${json(index.with)})`
      : "";
  const where = index.where ? `.where(${printSql(file, index.where)})` : "";
  return `${made}(${json(index.name)})${method}${options}${where}`;
}

function printPolicy(file: File, policy: SnapshotPolicy): string {
  const { name, as = "PERMISSIVE", to = [], using, withCheck } = policy;
  const options = [
    `as: ${json(as.toLowerCase())}`,
    `for: ${json((policy.for ?? "ALL").toLowerCase())}`,
    `to: ${json(to)}`,
    ...(using ? [`using: ${printSql(file, using)}`] : []),
    ...(withCheck ? [`withCheck: ${printSql(file, withCheck)}`] : []),
  ];
  return `${use(file, "pgPolicy")}(${json(name)}, { ${options.join(", ")} })`;
}

function printView(file: File, key: string, view: SnapshotView): string {
  const columns = Object.values(view.columns).map((column) => {
    const bare = { ...column, default: undefined, notNull: false };
    return `  ${propertyOf(file, key, column.name)}: ${printColumn(file, key, bare)},\n`;
  });
  const made = view.materialized
    ? maker(file, view.schema, "materializedView", "pgMaterializedView")
    : maker(file, view.schema, "view", "pgView");
  const options = view.with ? `.with(${json(view.with)})` : "";
  return `${made}(${json(view.name)}, {\n${columns.join("")}})${options}.as(${printSql(file, view.definition ?? "")})`;
}

function printSequence(sequence: SnapshotSequence): string {
  const { startWith, increment, minValue, maxValue, cache, cycle } = sequence;
  return json({ startWith, increment, minValue, maxValue, cache, cycle });
}

function printColumn(file: File, key: string, column: SnapshotColumn): string {
  const { name, identity, generated, notNull, primaryKey } = column;
  const [array = ""] = /(\[\])+$/.exec(column.type) ?? [];
  const [builder, options] = chooseBuilder(file, column);
  const own = propertyOf(file, key, name) === name ? [] : [json(name)];
  const parts = [
    `${builder}(${[...own, ...options].join(", ")})`,
    ".array()".repeat(array.length / 2),
    primaryKey ? ".primaryKey()" : "",
    notNull && !primaryKey && !identity ? ".notNull()" : "",
    printDefault(file, column),
    generated ? `.generatedAlwaysAs(${printSql(file, generated.as)})` : "",
    identity
      ? `.generated${identity.type === "always" ? "Always" : "ByDefault"}AsIdentity(${json({ name: identity.name, ...JSON.parse(printSequence(identity)) })})`
      : "",
  ];
  return parts.join("");
}

/** The types that drizzle has, and how to read their options from the SQL. */
const BUILDERS: [
  pattern: RegExp,
  name: string,
  options?: (match: string[]) => object,
][] = [
  [
    /^(smallint|integer|serial|smallserial|real|boolean|text|json|jsonb|uuid|inet|cidr|macaddr|macaddr8|point|line)$/,
    "$1",
  ],
  [/^(bigint|bigserial)$/, "$1", () => ({ mode: "number" })],
  [/^double precision$/, "doublePrecision"],
  [/^(varchar|char)$/, "$1"],
  [/^(varchar|char)\((\d+)\)$/, "$1", ([, , n]) => ({ length: Number(n) })],
  [/^numeric$/, "numeric"],
  [
    /^numeric\((\d+), (\d+)\)$/,
    "numeric",
    ([, precision, scale]) => ({
      precision: Number(precision),
      scale: Number(scale),
    }),
  ],
  [/^date$/, "date"],
  [
    /^(time|timestamp)(?: ?\((\d)\))?( with time zone)?$/,
    "$1",
    ([, type, precision, zone]) => ({
      ...(precision && { precision: Number(precision) }),
      ...(zone && { withTimezone: true }),
      ...(type === "timestamp" && { mode: "string" }),
    }),
  ],
  [
    /^interval(?: (year|month|day|hour|minute|second|year to month|day to hour|day to minute|day to second|hour to minute|hour to second|minute to second))?(?:\((\d)\))?$/,
    "interval",
    ([, fields, precision]) => ({
      ...(fields && { fields }),
      ...(precision && { precision: Number(precision) }),
    }),
  ],
  [
    /^(bit|vector|halfvec|sparsevec)\((\d+)\)$/,
    "$1",
    ([, , n]) => ({ dimensions: Number(n) }),
  ],
];

function chooseBuilder(
  file: File,
  { type, typeSchema }: SnapshotColumn,
): [name: string, options: string[]] {
  const base = type.replace(/(\[\])+$/, "");
  if (typeSchema) return [nameOf(file, "enum", `${typeSchema}.${base}`), []];
  for (const [pattern, name, options] of BUILDERS) {
    const match = pattern.exec(base);
    if (!match) continue;
    const found = options?.([...match]) ?? {};
    const builder = use(file, name.replace("$1", match[1] ?? ""));
    return [builder, Object.keys(found).length > 0 ? [json(found)] : []];
  }
  const known = file.customTypes.get(base);
  if (known) return [known, []];
  const taken = new Set([...file.names.values(), ...file.customTypes.values()]);
  const unique = take(taken, `${camel(base)}Type`);
  file.customTypes.set(base, unique);
  return [unique, []];
}

function printDefault(file: File, column: SnapshotColumn): string {
  const { type, default: value } = column;
  if (typeof value !== "string") return "";
  if (
    /^-?\d+$/.test(value) &&
    /^(small|big)?int/.test(type) &&
    Number.isSafeInteger(Number(value))
  )
    return `.default(${value})`;
  if (/^(true|false)$/.test(value) && type === "boolean")
    return `.default(${value})`;
  if (value === "now()" && /^(timestamp|date|time)/.test(type))
    return ".defaultNow()";
  if (value === "gen_random_uuid()" && type === "uuid")
    return ".defaultRandom()";
  if (/^'\{\}'::/.test(value) && type.endsWith("[]")) return ".default([])";
  const [, text] =
    /^'((?:[^']|'')*)'::(?:text|character varying|bpchar)$/.exec(value) ?? [];
  if (text !== undefined && /^(text|varchar|char)(\(\d+\))?$/.test(type))
    return `.default(${json(text.replaceAll("''", "'"))})`;
  return `.default(${printSql(file, value)})`;
}

function printSql(file: File, text: string): string {
  const escaped = text.replace(/[\\`]|\$\{/g, "\\$&");
  return `${use(file, "sql")}\`${escaped}\``;
}

function json(value: unknown): string {
  return JSON.stringify(value);
}
