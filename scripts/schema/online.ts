// Writes a migration for tables that are large and in use: nobody waits for it longer
// than a lock timeout. What cannot be written so stays as it is, and the lint says so.
//
//   in this order         how
//   renames               as they are
//   types of columns      by a second column (retype.ts)
//   changes               each by itself; together where something is dropped. Checks
//                         and foreign keys are not validated yet
//   new columns           filled, where their default differs from row to row
//   not null              proven by a check first
//   indexes and keys      concurrently; a constraint then takes its index
//   validations           with a lock that blocks no writer
//   drops of indexes      concurrently
import { quoteIdentifier, quoteLiteral } from "../lib/quote";
import { readProject } from "../../src/project";
import { splitStatements } from "../migrations/statements";
import {
  addSuffix,
  printBackFill,
  printName,
  printNotNull,
  WAIT_FOR_DISK,
} from "./back-fill";
import { isSerial, nameSequence, SERIALS } from "./counters";
import { type DiffOptions, diffSnapshots } from "./diff-snapshots";
import { BREAKPOINT, writeRenames } from "./down-file";
import { printType } from "./drizzle-kit";
import { readRenames, type Rename } from "./renames";
import { retypeColumns } from "./retype";
import type { Snapshot, SnapshotColumn } from "./snapshots";

/** How long a writer may wait for a lock that the migration waits for. */
const LOCK_MS = 200;

const HEADER = `-- no-transaction
-- Online: each statement commits by itself, and waits ${LOCK_MS} ms for a lock; then db:migrate tries it again.
-- The last commit makes all of them durable. A lock is held while the disk is waited for only where files are removed.`;
const SETTINGS = [
  `SET lock_timeout = '${LOCK_MS}ms';`,
  "SET statement_timeout = 0;", // a scan may take longer than a role is given
  "SET synchronous_commit = off;", // a lock is not held while the disk is waited for
];
/** db:migrate commits its record together with this, and so waits for the disk once. */
const DURABLE = "RESET synchronous_commit;";

const NAME = '"(?:[^"]|"")+"';
const TABLE = `(?:${NAME}\\.)?${NAME}`;
const ALTER = new RegExp(`^ALTER TABLE (${TABLE}) `);
const ADDED_COLUMN = new RegExp(
  `^ALTER TABLE (${TABLE}) ADD COLUMN (${NAME}) `,
);
const NOT_NULL = new RegExp(
  `^ALTER TABLE (${TABLE}) ALTER COLUMN (${NAME}) SET NOT NULL;$`,
);
const UNIQUE = new RegExp(
  `^ALTER TABLE (${TABLE}) ADD CONSTRAINT (${NAME}) UNIQUE( NULLS NOT DISTINCT)? ?(\\(.*\\));$`,
);
const PRIMARY = new RegExp(
  `^ALTER TABLE (${TABLE}) ADD (?:CONSTRAINT (${NAME}) )?PRIMARY KEY ?(\\(.*\\));$`,
);
const CHECKED = new RegExp(
  `^ALTER TABLE (${TABLE}) ADD CONSTRAINT (${NAME}) (CHECK|FOREIGN KEY) [^]*;$`,
);
const REFERENCED = new RegExp(` REFERENCES (${TABLE}) ?\\(`);
const INDEX = new RegExp(
  `^CREATE (UNIQUE )?INDEX (CONCURRENTLY )?(${NAME}) ON (${TABLE}) `,
);
const DROPPED_INDEX = new RegExp(`^DROP INDEX ((?:${NAME}\\.)?)(${NAME});$`);
const DROPPED_CONSTRAINT = new RegExp(
  `^ALTER TABLE (${TABLE}) DROP CONSTRAINT (${NAME});$`,
);
/** What may commit by itself: it takes nothing away, and opens nothing to anybody. */
const ADDITIVE = new RegExp(
  `^(CREATE (TABLE|TYPE|SCHEMA|SEQUENCE) |CREATE (UNIQUE )?INDEX |ALTER TYPE .* ADD VALUE |ALTER TABLE ${TABLE} (ADD (COLUMN|CONSTRAINT) |ALTER COLUMN ${NAME} (SET DEFAULT |DROP NOT NULL)))`,
);

/** True for a file that `writeOnline` has written. */
export function isOnline(text: string): boolean {
  return text.startsWith(HEADER);
}

/** Returns the statements of a file that db:generate itself has written there, if it
 * was to write it online. */
export async function listOwn(
  before: Snapshot,
  after: Snapshot,
  text: string,
  options: DiffOptions,
): Promise<Set<string>> {
  if (!isOnline(text)) return new Set();
  const own = await writeOnline(before, after, readRenames(text), options);
  return new Set(splitStatements(own).map((statement) => statement.text));
}

/** Returns the text of a migration from one snapshot to another. */
export async function writeOnline(
  before: Snapshot,
  after: Snapshot,
  renames: Rename[],
  options: DiffOptions = {},
): Promise<string> {
  const { statements: first, renamed } = await writeRenames(
    before,
    after,
    renames,
  );
  const retyped = await retypeColumns(renamed, after);
  const statements = await diffSnapshots(retyped.snapshot, after, options);
  const written = [
    ...SETTINGS,
    ...together(first),
    ...retyped.statements,
    ...arrange(statements, retyped.snapshot, after, retyped.left),
    DURABLE,
  ];
  const { breakpoints } = readProject();
  return `${HEADER}\n${written.join(breakpoints ? BREAKPOINT : "\n")}`;
}

/** Returns the statements in the order and the form that block least. */
function arrange(
  statements: string[],
  before: Snapshot,
  after: Snapshot,
  left: Map<string, string | undefined>,
): string[] {
  const large = new Set(Object.values(before.tables).map(printName));
  const reasonOf = (statement: string) =>
    [...left].find(([start]) => statement.startsWith(start));
  const isGrowing = (statement: string) =>
    reasonOf(statement)?.[1] === undefined && reasonOf(statement) !== undefined;
  // A table that is rewritten is blocked, and its other changes need their order.
  const blocked = new Set(
    statements
      .filter((text) => / SET DATA TYPE /.test(text) && !isGrowing(text))
      .map((text) => ALTER.exec(text)?.[1] ?? ""),
  );
  const isOnlineTable = (name = "") => large.has(name) && !blocked.has(name);
  const indexed = new Map(
    Object.values(before.tables).flatMap((table) =>
      Object.keys(table.indexes).map((name) => [
        quoteIdentifier(name),
        printName(table),
      ]),
    ),
  );
  const made = new Set(
    statements.flatMap(
      (text) => INDEX.exec(text)?.[3] ?? UNIQUE.exec(text)?.[2] ?? [],
    ),
  );
  const keyed = new Set(
    statements.flatMap((text) => {
      const [, isUnique, , , table] = INDEX.exec(text) ?? [];
      const key = isUnique
        ? table
        : (UNIQUE.exec(text) ?? PRIMARY.exec(text))?.[1];
      return key === undefined ? [] : [key];
    }),
  );
  const changes: string[] = [];
  const fills = new Map<string, SnapshotColumn[]>();
  const required: string[] = [];
  const keys: string[] = [];
  const references: string[] = [];
  const validations: string[] = [];
  const drops: string[] = [];
  for (const statement of statements) {
    const [, table = "", column = ""] = ADDED_COLUMN.exec(statement) ?? [];
    const added = isOnlineTable(table)
      ? findColumn(after, table, column)
      : undefined;
    if (added && needsFilling(added)) {
      changes.push(...printBareColumn(table, added));
      fills.set(table, [...(fills.get(table) ?? []), added]);
      if (added.notNull) required.push(...printNotNull(table, added.name));
      continue;
    }
    const notNull = NOT_NULL.exec(statement);
    if (notNull && isOnlineTable(notNull[1])) {
      const name = findColumn(after, notNull[1] ?? "", notNull[2] ?? "")?.name;
      if (name) required.push(...printNotNull(notNull[1] ?? "", name));
      continue;
    }
    const index = INDEX.exec(statement);
    if (index && isOnlineTable(index[4])) {
      keys.push(
        index[2]
          ? statement
          : statement.replace(" INDEX ", " INDEX CONCURRENTLY "),
      );
      continue;
    }
    const unique = UNIQUE.exec(statement);
    if (unique && isOnlineTable(unique[1])) {
      const [, of = "", name = "", nulls = "", columns = ""] = unique;
      keys.push(
        `CREATE UNIQUE INDEX CONCURRENTLY ${name} ON ${of} ${columns}${nulls};`,
        `ALTER TABLE ${of} ADD CONSTRAINT ${name} UNIQUE USING INDEX ${name};`,
      );
      continue;
    }
    const primary = PRIMARY.exec(statement);
    if (primary && isOnlineTable(primary[1])) {
      const [, of = "", given, columns = ""] = primary;
      const name = given ?? nameKey(of);
      const built = quoteIdentifier(addSuffix(name.slice(1, -1), "_new"));
      keys.push(
        `CREATE UNIQUE INDEX CONCURRENTLY ${built} ON ${of} ${columns};`,
        `ALTER TABLE ${of} ADD CONSTRAINT ${name} PRIMARY KEY USING INDEX ${built};`,
      );
      continue;
    }
    const checked = CHECKED.exec(statement);
    const [, target = ""] = REFERENCED.exec(statement) ?? [];
    const isLate = keyed.has(target.replace('"public".', ""));
    if (checked && (isLate || isOnlineTable(checked[1]))) {
      const [, of, name] = checked;
      const into = isLate ? references : changes;
      into.push(statement.replace(/;$/, " NOT VALID;"));
      validations.push(`ALTER TABLE ${of} VALIDATE CONSTRAINT ${name};`);
      continue;
    }
    const gone = DROPPED_INDEX.exec(statement);
    if (gone && isOnlineTable(indexed.get(gone[2] ?? ""))) {
      const [, schema = "", name = ""] = gone;
      const replaced = quoteIdentifier(addSuffix(name.slice(1, -1), "_old"));
      if (made.has(name))
        changes.push(`ALTER INDEX ${schema}${name} RENAME TO ${replaced};`);
      drops.push(
        `DROP INDEX CONCURRENTLY IF EXISTS ${schema}${made.has(name) ? replaced : name};`,
      );
      continue;
    }
    const lost = DROPPED_CONSTRAINT.exec(statement);
    if (lost && made.has(lost[2] ?? "") && isOnlineTable(lost[1])) {
      const [, of, name = ""] = lost;
      const replaced = quoteIdentifier(addSuffix(name.slice(1, -1), "_old"));
      changes.push(
        `ALTER TABLE ${of} RENAME CONSTRAINT ${name} TO ${replaced};`,
      );
      drops.push(
        WAIT_FOR_DISK,
        `ALTER TABLE ${of} DROP CONSTRAINT ${replaced};`,
      );
      continue;
    }
    const [start, reason] = reasonOf(statement) ?? [];
    changes.push(start ? explainType(statement, reason) : statement);
  }
  return [
    ...group(changes),
    ...[...fills].map(([table, columns]) => printFill(table, columns)),
    ...required,
    ...keys,
    ...references.flatMap((one) => together([one])),
    ...validations,
    ...drops,
  ];
}

/** Says above a change of type why it blocks, or that it does not. */
function explainType(statement: string, reason: string | undefined): string {
  return reason === undefined
    ? `-- squawk-ignore changing-column-type -- the new type takes in the old one: the rows stay as they are\n${statement}`
    : `-- Not online, for ${reason}: it rewrites the table, and everybody waits.\n${statement}`;
}

/** Returns the statements one by one where each of them only adds something, else
 * in one transaction. */
function group(statements: string[]): string[] {
  return statements.every((text) => ADDITIVE.test(text))
    ? statements.flatMap((one) => together([one]))
    : together(statements);
}

/** Puts statements into one transaction. Where it locks several tables one after the
 * other, all together wait no longer than for one. */
function together(statements: string[]): string[] {
  const tables = new Set(statements.flatMap(listLocked));
  if (statements.length === 0 || (statements.length === 1 && tables.size <= 1))
    return statements;
  const ms = Math.max(1, Math.floor(LOCK_MS / Math.max(1, tables.size)));
  const limit = ms < LOCK_MS ? [`SET LOCAL lock_timeout = '${ms}ms';`] : [];
  return ["BEGIN;", ...limit, ...statements, "COMMIT;"];
}

function listLocked(statement: string): string[] {
  const own = new RegExp(
    `^(?:ALTER|DROP|LOCK) TABLE (${TABLE})|^(?:CREATE|ALTER|DROP) POLICY ${NAME} ON (${TABLE})|^DROP INDEX (${TABLE})`,
  ).exec(statement);
  const [, target] = REFERENCED.exec(statement) ?? [];
  return [own?.[1] ?? own?.[2] ?? own?.[3], target]
    .filter((name) => name !== undefined)
    .map((name) => name.replace(/^"public"\./, ""));
}

function findColumn(
  { tables }: Snapshot,
  table: string,
  column: string,
): SnapshotColumn | undefined {
  const found = Object.values(tables).find((one) => printName(one) === table);
  return Object.values(found?.columns ?? {}).find(
    ({ name }) => quoteIdentifier(name) === column,
  );
}

/** True for a column whose default PostgreSQL would compute for each row, while it
 * rewrites the table. An identity or a computed column has no other way. */
function needsFilling(column: SnapshotColumn): boolean {
  if (column.generated || column.identity || column.primaryKey) return false;
  return isSerial(column) || isVolatile(String(column.default ?? ""));
}

/** Functions that PostgreSQL computes once for all rows. */
const STABLE =
  /^(now|transaction_timestamp|statement_timestamp|current_setting|lower|upper|coalesce|date_trunc|array|make_interval|jsonb?_build_(object|array)|to_jsonb?|timezone)$/i;

/** True when a default calls a function that is not known to be the same for all rows. */
function isVolatile(expression: string): boolean {
  const code = expression
    .replace(/'(?:[^']|'')*'/g, "''")
    .replace(/::\s*[\w ]+\([\d, ]*\)/g, "");
  return [...code.matchAll(/([\w$]+|")\s*\(/g)].some(
    ([, name = ""]) => !STABLE.test(name),
  );
}

function printBareColumn(table: string, column: SnapshotColumn): string[] {
  const name = quoteIdentifier(column.name);
  const type = SERIALS[column.type] ?? printType(column);
  const sequence = nameSequence({ table, column: column.name });
  return [
    `-- ${column.name}: first without a default, which would rewrite the table; rows to come have it next, the others after that.
ALTER TABLE ${table} ADD COLUMN ${name} ${type};`,
    ...(isSerial(column)
      ? [`CREATE SEQUENCE ${sequence} AS ${type} OWNED BY ${table}.${name};`]
      : []),
    `ALTER TABLE ${table} ALTER COLUMN ${name} SET DEFAULT ${printDefault(table, column)};`,
  ];
}

function printDefault(table: string, column: SnapshotColumn): string {
  return isSerial(column)
    ? `nextval(${quoteLiteral(nameSequence({ table, column: column.name }))})`
    : String(column.default);
}

function printFill(table: string, columns: SnapshotColumn[]): string {
  const names = columns.map(({ name }) => quoteIdentifier(name));
  const assignments = columns.map(
    (column, at) =>
      `${names[at]} = coalesce(${names[at]}, ${printDefault(table, column)})`,
  );
  return printBackFill(
    table,
    assignments.join(", "),
    names.map((name) => `${name} IS NULL`).join(" OR "),
  );
}

/** Returns PostgreSQL's name for the primary key of a table. */
function nameKey(table: string): string {
  const [name = ""] = new RegExp(`${NAME}$`).exec(table) ?? [];
  return quoteIdentifier(
    addSuffix(name.slice(1, -1).replaceAll('""', '"'), "_pkey"),
  );
}
