// Writes a change of type that blocks nobody for long: a second column, which a trigger
// keeps equal, a back-fill, the indexes, and a swap of the two in one short transaction.
import { quoteBody, quoteIdentifier, quoteLiteral } from "../lib/quote";
import {
  addSuffix,
  printBackFill,
  printName,
  printNotNull,
  WAIT_FOR_DISK,
} from "./back-fill";
import { isSerial, printIdentity, SERIALS } from "./counters";
import { mentions } from "./diff-snapshots";
import { printType, writeStatements } from "./drizzle-kit";
import type { Snapshot, SnapshotColumn, SnapshotTable } from "./snapshots";

/** The changes of type between two snapshots. */
export interface Retyped {
  /** The SQL of those that can be made without blocking. */
  statements: string[];
  /** The first snapshot, after these. */
  snapshot: Snapshot;
  /** Why the others cannot, by the start of their statement; a type that only grows
   * has no reason, since PostgreSQL neither rewrites nor scans the table. */
  left: Map<string, string | undefined>;
}

/** Changes the types of columns that both snapshots have. */
export async function retypeColumns(
  before: Snapshot,
  after: Snapshot,
): Promise<Retyped> {
  const left = new Map<string, string | undefined>();
  const statements: string[] = [];
  let snapshot = before;
  for (const [key, { columns }] of Object.entries(before.tables))
    for (const old of Object.values(columns)) {
      const next = after.tables[key]?.columns[old.name];
      const table = snapshot.tables[key];
      if (!next || !table || printType(old) === printType(next)) continue;
      const start = printStart(table, old.name);
      // After a rename only the new snapshot has the column's name in its texts.
      const obstacle = isGrowing(old, next)
        ? undefined
        : (findObstacle(snapshot, table, old, next) ??
          findObstacle(after, after.tables[key] ?? table, old, next) ??
          "");
      if (obstacle !== "") {
        left.set(start, obstacle);
        continue;
      }
      statements.push(...(await printRetype(snapshot, after, key, old, next)));
      const changed = { ...next, notNull: old.notNull };
      snapshot = withTable(snapshot, key, {
        ...table,
        columns: {
          ...table.columns,
          [old.name]: { ...changed, primaryKey: old.primaryKey },
        },
      });
    }
  return { statements, snapshot, left };
}

/** Returns the start of the statement that changes the type of a column. */
function printStart(table: SnapshotTable, column: string): string {
  return `ALTER TABLE ${printName(table)} ALTER COLUMN ${quoteIdentifier(column)} SET DATA TYPE `;
}

/** Lists the starts of the statements that change a type to one that has all values
 * of the old one. */
export function listWider(before: Snapshot, after: Snapshot): string[] {
  return Object.entries(before.tables).flatMap(([key, table]) =>
    Object.values(table.columns).flatMap((old) => {
      const next = after.tables[key]?.columns[old.name];
      return next && isWider(old, next) ? [printStart(table, old.name)] : [];
    }),
  );
}

function isWider(old: SnapshotColumn, next: SnapshotColumn): boolean {
  const [from = -1, to = -1] = [old, next].map((column) =>
    INTEGERS.indexOf(readType(column)?.name ?? ""),
  );
  return isGrowing(old, next) || (from >= 0 && from < to);
}

/** True for a change that PostgreSQL makes without touching the rows. */
function isGrowing(old: SnapshotColumn, next: SnapshotColumn): boolean {
  const [from, to] = [old, next].map((column) => readType(column));
  if (!from || !to) return false;
  const isText = ["varchar", "text"].includes(from.name);
  if (isText && to.name === "text") return true;
  if (to.name !== from.name && !(isText && to.name === "varchar")) return false;
  if (!["varchar", "numeric"].includes(to.name)) return false;
  const [length = Infinity, scale] = from.sizes;
  const [longer = Infinity, same = scale] = to.sizes;
  return longer >= length && (same === scale || to.sizes.length === 0);
}

function readType(column: SnapshotColumn) {
  if (column.typeSchema !== undefined) return undefined;
  const type = SERIALS[column.type] ?? printType(column).toLowerCase();
  const [, name = "", sizes] =
    /^([a-z ]+?)\s*(?:\(([\d, ]+)\))?$/.exec(type) ?? [];
  return name === ""
    ? undefined // an array, or a type that is not known here
    : { name, sizes: sizes?.split(",").map(Number) ?? [] };
}

const INTEGERS = ["smallint", "integer", "bigint"];
const NUMBERS = [...INTEGERS, "numeric", "real", "double precision"];
const TEXTS = ["text", "varchar", "char"];
const EXACT = [...INTEGERS, "numeric", "uuid"];
/** Casts that give every session the same, whatever its time zone and settings. */
const CASTS = [
  { from: NUMBERS, to: NUMBERS },
  { from: TEXTS, to: [...TEXTS, ...EXACT] },
  { from: [...EXACT, "boolean"], to: TEXTS },
  { from: ["json"], to: ["jsonb"] },
];

/** Returns why a type cannot be changed with a second column; undefined when it can. */
function findObstacle(
  snapshot: Snapshot,
  table: SnapshotTable,
  old: SnapshotColumn,
  next: SnapshotColumn,
): string | undefined {
  const [from, to] = [readType(old)?.name ?? "", readType(next)?.name ?? ""];
  if (!CASTS.some((cast) => cast.from.includes(from) && cast.to.includes(to)))
    return "the cast may depend on the session";
  if (old.generated || next.generated) return "the column is generated";
  if (
    isSerial(old) !== isSerial(next) ||
    old.identity?.type !== next.identity?.type
  )
    return "the column also changes how it counts";
  const reads = (...texts: (string | undefined)[]) =>
    texts.some((text) => mentions(text, [old.name]));
  const view = Object.values(snapshot.views).find(
    ({ definition }) =>
      mentions(definition, [table.name]) &&
      mentions(definition, [old.name, "*"]),
  );
  if (view) return `the view ${view.name} reads it`;
  const policy = [
    ...Object.values(table.policies),
    ...Object.values(snapshot.policies),
  ].find(({ using, withCheck }) => reads(using, withCheck));
  if (policy) return `the policy ${policy.name} reads it`;
  const column = Object.values(table.columns).find(({ generated }) =>
    reads(generated?.as),
  );
  if (column) return `the column ${column.name} is computed from it`;
  const index = Object.values(table.indexes).find(
    ({ where, columns }) =>
      reads(where) ||
      columns.some((part) =>
        part.isExpression
          ? reads(part.expression)
          : part.opclass && part.expression === old.name,
      ),
  );
  return index && `the index ${index.name} has an expression or class for it`;
}

function withTable(
  snapshot: Snapshot,
  key: string,
  table: SnapshotTable,
): Snapshot {
  return { ...snapshot, tables: { ...snapshot.tables, [key]: table } };
}

async function printRetype(
  snapshot: Snapshot,
  after: Snapshot,
  key: string,
  old: SnapshotColumn,
  next: SnapshotColumn,
): Promise<string[]> {
  const table = snapshot.tables[key] as SnapshotTable;
  const { schema, name } = table;
  const target = printName(table);
  const type = SERIALS[next.type] ?? printType(next);
  const copied = addSuffix(old.name, "_new");
  const [column, copy] = [old.name, copied].map(quoteIdentifier);
  const own = addSuffix(`${name}_${old.name}`, "_copy");
  const copier = printName({ schema, name: own });
  const trigger = quoteIdentifier(addSuffix(`zz_${name}_${old.name}`, "_copy"));
  // Within a family an explicit cast would cut what is too long.
  const isAssigned = [NUMBERS, TEXTS].some((family) =>
    [old, next].every((one) => family.includes(readType(one)?.name ?? "")),
  );
  const cast = isAssigned ? "" : `::${type}`;
  const keys = listKeys(table, old.name);
  const isRequired = old.notNull || keys.some(({ kind }) => kind === "PRIMARY");
  const dependants = listDependants(
    snapshot,
    table,
    old.name,
    after.tables[key],
  );
  return [
    `-- ${name}.${old.name} becomes ${type}. Each step below works with the application as it is: run all of
-- them before the version that needs the new type. First a second column, which a trigger keeps equal.
ALTER TABLE ${target} ADD COLUMN ${copy} ${type};`,
    `CREATE FUNCTION ${copier}() RETURNS trigger LANGUAGE plpgsql AS ${quoteBody(` BEGIN
  NEW.${copy} := NEW.${column}${cast};
  RETURN NEW;
END `)};`,
    `CREATE TRIGGER ${trigger} BEFORE INSERT OR UPDATE ON ${target} FOR EACH ROW EXECUTE FUNCTION ${copier}();`,
    printBackFill(
      target,
      `${copy} = ${column}${cast}`,
      `${copy} IS NULL AND ${column} IS NOT NULL`,
    ),
    ...(isRequired ? printNotNull(target, copied) : []),
    ...(await printIndexes(snapshot, key, old.name, copied)),
    ...keys.map(
      ({ index, columns, isNullEqual }) =>
        `CREATE UNIQUE INDEX CONCURRENTLY ${quoteIdentifier(addSuffix(index, "_new"))} ON ${target} (${columns
          .map((one) => (one === old.name ? copied : one))
          .map(quoteIdentifier)
          .join(", ")})${isNullEqual ? " NULLS NOT DISTINCT" : ""};`,
    ),
    `ANALYZE ${target} (${copy});`,
    WAIT_FOR_DISK,
    printSwap({
      table,
      old,
      next,
      copied,
      type,
      keys,
      dependants,
      gone: [
        `DROP TRIGGER ${trigger} ON ${target};`,
        `DROP FUNCTION ${copier}();`,
      ],
    }),
    ...dependants.map(
      ({ target, name }) =>
        `ALTER TABLE ${target} VALIDATE CONSTRAINT ${quoteIdentifier(name)};`,
    ),
  ];
}

/** A primary key or unique constraint. */
interface Key {
  kind: "PRIMARY" | "UNIQUE";
  index: string;
  columns: string[];
  isNullEqual: boolean;
}

/** Lists the keys that have the column. */
function listKeys(table: SnapshotTable, column: string): Key[] {
  const primary = Object.values(table.columns)
    .filter(({ primaryKey }) => primaryKey)
    .map(({ name }) => name);
  return [
    ...(primary.length > 0
      ? [{ name: `${table.name}_pkey`, columns: primary }]
      : []
    )
      .concat(Object.values(table.compositePrimaryKeys))
      .map((key) => ({
        kind: "PRIMARY" as const,
        index: key.name,
        columns: key.columns,
        isNullEqual: false,
      })),
    ...Object.values(table.uniqueConstraints).map((key) => ({
      kind: "UNIQUE" as const,
      index: key.name,
      columns: key.columns,
      isNullEqual: key.nullsNotDistinct,
    })),
  ].filter(({ columns }) => columns.includes(column));
}

/** Lists the foreign keys and checks that have the column. */
function listDependants(
  { tables }: Snapshot,
  table: SnapshotTable,
  column: string,
  renamed = table,
): { target: string; name: string }[] {
  const schema = table.schema || "public";
  const references = Object.values(tables).flatMap((other) =>
    Object.values(other.foreignKeys)
      .filter(
        ({ columnsFrom, columnsTo, tableTo, schemaTo }) =>
          (other === table && columnsFrom.includes(column)) ||
          (tableTo === table.name &&
            (schemaTo || "public") === schema &&
            columnsTo.includes(column)),
      )
      .map(({ name }) => ({ target: printName(other), name })),
  );
  const checks = Object.values(table.checkConstraints)
    .filter(({ name, value }) =>
      [value, renamed.checkConstraints[name]?.value].some((text) =>
        mentions(text, [column]),
      ),
    )
    .map(({ name }) => ({ target: printName(table), name }));
  return [...references, ...checks];
}

/** Prints the indexes of a column once more, for its copy. */
async function printIndexes(
  snapshot: Snapshot,
  key: string,
  column: string,
  copied: string,
): Promise<string[]> {
  const table = snapshot.tables[key] as SnapshotTable;
  const indexes = listIndexes(table, column).map((index) => {
    const name = addSuffix(index.name, "_new");
    const columns = index.columns.map((part) =>
      part.expression === column ? { ...part, expression: copied } : part,
    );
    return [name, { ...index, name, columns, concurrently: true }] as const;
  });
  const without = withTable(snapshot, key, { ...table, indexes: {} });
  const having = withTable(snapshot, key, {
    ...table,
    indexes: Object.fromEntries(indexes),
  });
  return await writeStatements(without, having);
}

function listIndexes({ indexes }: SnapshotTable, column: string) {
  return Object.values(indexes).filter(({ columns }) =>
    columns.some(({ expression }) => expression === column),
  );
}

interface Swap {
  table: SnapshotTable;
  old: SnapshotColumn;
  next: SnapshotColumn;
  copied: string;
  type: string;
  keys: Key[];
  dependants: { target: string; name: string }[];
  /** Statements that drop what kept the two columns equal. */
  gone: string[];
}

/** Prints the block in which the copy takes the place of the column. Constraints are
 * made again without a scan; they are validated afterwards. */
function printSwap(swap: Swap): string {
  const { table, old, next, copied, type, keys, dependants, gone } = swap;
  const target = printName(table);
  const [column, copy] = [old.name, copied].map(quoteIdentifier);
  const tables = [
    ...new Set([target, ...dependants.map((other) => other.target)]),
    ...listTargets(swap),
  ].filter((name, at, all) => all.indexOf(name) === at);
  const ms = Math.floor(200 / tables.length);
  const indexes = listIndexes(table, old.name).map(({ name }) => name);
  const inSchema = (name: string) => printName({ schema: table.schema, name });
  const known = [
    ...dependants.map(({ name }) => name),
    ...keys.map((key) => key.index),
  ];
  // The name of a primary key is in no snapshot.
  const isKnown = keys.some(({ kind }) => kind === "PRIMARY")
    ? " AND part.kind <> 'p'"
    : "";
  const counts = isSerial(next)
    ? [
        `EXECUTE format('ALTER SEQUENCE %s AS ${type} OWNED BY ${target.replaceAll("%", "%%").replaceAll("'", "''")}.%I', sequence, ${quoteLiteral(copied)});`,
        `EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT nextval(%L::regclass)', place, ${quoteLiteral(copied)}, sequence);`,
      ]
    : next.default !== undefined
      ? [
          `ALTER TABLE ${target} ALTER COLUMN ${copy} SET DEFAULT ${next.default};`,
        ]
      : [];
  const identity = next.identity && [
    `ALTER TABLE ${target} ALTER COLUMN ${column} ADD ${printIdentity(next.identity, target)};`,
    `PERFORM setval(pg_get_serial_sequence(${quoteLiteral(target)}, ${quoteLiteral(old.name)}), count, is_called);`,
  ];
  const lines = [
    `SET LOCAL lock_timeout = '5s';`,
    `LOCK TABLE ${tables.join(", ")} IN SHARE UPDATE EXCLUSIVE MODE; -- waits for a vacuum, and blocks no writer`,
    `SET LOCAL lock_timeout = '${ms}ms';`,
    `LOCK TABLE ${tables.join(", ")} IN ACCESS EXCLUSIVE MODE;`,
    ...gone,
    `SELECT attnum INTO old FROM pg_attribute WHERE attrelid = place AND attname = ${quoteLiteral(old.name)};`,
    `SELECT attnum INTO new FROM pg_attribute WHERE attrelid = place AND attname = ${quoteLiteral(copied)};`,
    `kept := ARRAY(
    SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s%s', conrelid::regclass, conname, pg_get_constraintdef(oid), CASE WHEN convalidated THEN ' NOT VALID' END)
      FROM pg_constraint WHERE contype IN ('f', 'c') AND (conrelid = place AND old = ANY (conkey) OR confrelid = place AND old = ANY (confkey))
    UNION ALL SELECT format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', place, made.conname, was.conname)
      FROM pg_constraint AS was JOIN pg_constraint AS made USING (conrelid, contype)
      WHERE contype = 'n' AND conrelid = place AND was.conkey = ARRAY[old] AND made.conkey = ARRAY[new]
    UNION ALL SELECT format('COMMENT ON COLUMN %s.%I IS %L', place, ${quoteLiteral(old.name)}, description)
      FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid = place AND objsubid = old
    UNION ALL SELECT format('COMMENT ON INDEX %s IS %L', indexrelid::regclass, description)
      FROM pg_index JOIN pg_description ON classoid = 'pg_class'::regclass AND objoid = indexrelid WHERE indrelid = place AND old = ANY (indkey)
    UNION ALL SELECT format('COMMENT ON CONSTRAINT %I ON %s IS %L', conname, conrelid::regclass, description)
      FROM pg_constraint JOIN pg_description ON classoid = 'pg_constraint'::regclass AND objoid = pg_constraint.oid
      WHERE conrelid = place AND old = ANY (conkey) OR confrelid = place AND old = ANY (confkey)
    UNION ALL SELECT format('GRANT %s (%I) ON %s TO %s%s', privilege_type, attname, place,
      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
      FROM pg_attribute, aclexplode(attacl) WHERE attrelid = place AND attnum = old
    UNION ALL SELECT format('ALTER TABLE %s ALTER COLUMN %I %s', place, was.attname, change)
      FROM pg_attribute AS was JOIN pg_type ON pg_type.oid = was.atttypid JOIN pg_attribute AS made USING (attrelid),
        LATERAL (VALUES ('SET STATISTICS ' || nullif(was.attstattarget, -1)), ('SET (' || array_to_string(was.attoptions, ', ') || ')'),
          (CASE WHEN made.attstorage <> 'p' AND was.attstorage <> typstorage THEN 'SET STORAGE ' ||
            CASE was.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END),
          (CASE WHEN made.attstorage <> 'p' THEN 'SET COMPRESSION ' ||
            CASE was.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END END)) AS settings (change)
      WHERE attrelid = place AND was.attnum = old AND made.attnum = new AND change IS NOT NULL);`,
    `FOR part IN SELECT conrelid::regclass AS place, conname AS name, contype AS kind FROM pg_constraint
    WHERE contype IN ('f', 'c', 'u', 'p') AND (conrelid = place AND old = ANY (conkey) OR confrelid = place AND old = ANY (confkey))
    ORDER BY contype <> 'f'
  LOOP
    IF part.name <> ALL (ARRAY[${known.map(quoteLiteral).join(", ")}]::name[])${isKnown} THEN
      RAISE 'the constraint % of % has the column, and no snapshot has it', part.name, part.place USING HINT = 'drop it, migrate, and make it again';
    END IF;
    IF part.kind = 'p' THEN
      key := part.name;
    END IF;
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', part.place, part.name);
  END LOOP;`,
    ...indexes.map((name) => `DROP INDEX ${inSchema(name)};`),
    ...(isSerial(next)
      ? [
          `sequence := pg_get_serial_sequence(${quoteLiteral(target)}, ${quoteLiteral(old.name)});`,
        ]
      : []),
    ...(identity
      ? [
          `EXECUTE format('SELECT last_value, is_called FROM %s', pg_get_serial_sequence(${quoteLiteral(target)}, ${quoteLiteral(old.name)})) INTO count, is_called;`,
        ]
      : []),
    ...counts,
    `SELECT string_agg(pg_describe_object(classid, objid, objsubid), ', ') INTO others FROM pg_depend
    WHERE refclassid = 'pg_class'::regclass AND refobjid = place AND refobjsubid = old AND deptype IN ('n', 'a')
      AND NOT (classid = 'pg_attrdef'::regclass AND objid IN (SELECT oid FROM pg_attrdef WHERE adrelid = place AND adnum = old))
      AND NOT (classid = 'pg_constraint'::regclass AND objid IN (SELECT oid FROM pg_constraint WHERE contype = 'n'));
  IF others IS NOT NULL THEN
    RAISE 'not in a snapshot, and would be lost with the column: %', others USING HINT = 'drop it, migrate, and make it again';
  END IF;`,
    `ALTER TABLE ${target} DROP COLUMN ${column};`,
    `EXECUTE format('ALTER TABLE %s RENAME COLUMN %I TO %I', place, ${quoteLiteral(copied)}, ${quoteLiteral(old.name)});`,
    ...(identity ?? []),
    ...indexes.map(
      (name) =>
        `ALTER INDEX ${inSchema(addSuffix(name, "_new"))} RENAME TO ${quoteIdentifier(name)};`,
    ),
    ...keys.map(({ kind, index }) =>
      kind === "PRIMARY"
        ? `EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I PRIMARY KEY USING INDEX %I', place, key, ${quoteLiteral(addSuffix(index, "_new"))});`
        : `ALTER TABLE ${target} ADD CONSTRAINT ${quoteIdentifier(index)} UNIQUE USING INDEX ${quoteIdentifier(addSuffix(index, "_new"))};`,
    ),
    `FOREACH statement IN ARRAY kept LOOP
    EXECUTE statement;
  END LOOP;`,
  ];
  const variables = [
    `place regclass := ${quoteLiteral(target)}`,
    "old smallint",
    "new smallint",
    "kept text[]",
    "part record",
    "key name",
    "others text",
    "statement text",
    ...(isSerial(next) ? ["sequence text"] : []),
    ...(identity ? ["count bigint", "is_called boolean"] : []),
  ];
  const body = ` DECLARE
${variables.map((line) => `  ${line};`).join("\n")}
BEGIN
${lines.map((line) => `  ${line}`).join("\n")}
END `;
  return `-- The swap: the copy takes the place of the column, in one short transaction. It keeps comments, privileges
-- and the column's settings, and fails where something that no snapshot has would be lost.
DO ${quoteBody(body)};`;
}

/** Lists the tables that the column's own foreign keys refer to. */
function listTargets({ table, old }: Swap): string[] {
  return Object.values(table.foreignKeys)
    .filter(({ columnsFrom }) => columnsFrom.includes(old.name))
    .map(({ tableTo, schemaTo = "" }) =>
      printName({ schema: schemaTo, name: tableTo }),
    );
}
