// Writes the SQL that changes a database to match schema.ts. It compares catalogs,
// of the database and of a scratch database that is created from schema.ts, to find
// what differs; the SQL comes from two snapshots, made equal where nothing differs.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { failure } from "../lib/report";
import {
  type Catalog,
  compareCatalogs,
  describeDifference,
  type Difference,
  readCatalog,
  dropSpellingDifferences,
} from "../migrations/catalog";
import { countLosses } from "../migrations/losses";
import { isInFilter, listMade, noteTheirs } from "../migrations/ours";
import { toScript } from "../migrations/steps";
import { readRecords } from "../migrations/plan";
import { isTakenOver, runTaking, type Trial } from "../migrations/take-over";
import { choosePlace, withTrial } from "../migrations/trial";
import { askRenames, type RenameAnswers } from "./ask-renames";
import { diffSnapshots } from "./diff-snapshots";
import { diffRenamed } from "./down-file";
import { introspect } from "./introspect";
import { applyRename } from "./renames";
import {
  emptySnapshot,
  nameSchema,
  readSnapshots,
  type Snapshot,
  type SnapshotTable,
} from "./snapshots";

/** The difference between a database and schema.ts. */
export interface SchemaDifference {
  /** The SQL that removes the difference, in the order in which it must run. */
  statements: string[];
  /** The data that would be lost, with counts; empty when none would be. */
  losses: string[];
  /** What would still differ afterwards. */
  left: string[];
}

const LOCK_TIMEOUT_MS = 5000;

/** The objects that schema.ts can describe: no functions, triggers or grants. */
const KINDS =
  /^(schema|table|row security|column|default|constraint|index|sequence|view|materialized view|type|policy) /;

/** Objects that restrict access to rows, often written by hand. */
const EXTRAS = /^(row security|policy) /;

/**
 * Compares the database with schema.ts.
 *
 * @param test the server of TEST_DATABASE_URL, for the scratch database.
 * @param schema what schema.ts describes.
 * @param readKnown reads the snapshots of the migrations.
 * @throws with exit code 2, for `askBetween`, when a missing object may be a new one
 * under its old name; when a statement fails, which was tried and rolled back.
 */
export async function diffSchema(
  sql: Sql,
  address: DatabaseAddress,
  test: DatabaseAddress | undefined,
  schema: Snapshot,
  answers: RenameAnswers,
  readKnown = readSnapshots,
): Promise<SchemaDifference> {
  const after = clipNames(schema);
  // Roles belong to the server: they are not created for the scratch database.
  const making = await diffSnapshots(emptySnapshot, { ...after, roles: {} });
  const own = listMade([{ text: making.join("\n") }]);
  const place = await choosePlace(sql, address, test);
  return await withTrial(sql, place, "db:push", own, making, async (trial) => {
    const created = await Promise.allSettled(
      making.map((statement) => trial.scratch.unsafe(statement)),
    );
    // The others need objects of the real database, or one of these.
    for (const [index, statement] of making.entries())
      if (created[index]?.status === "rejected")
        await makeObject(trial, statement);
    const expected = await readCatalog(trial.scratch);
    const known = nameKnown(after, answers.renames, readKnown);
    const homes = new Set(listSchemas(after, trial.found, known));
    const hasRecords = (await readRecords(sql)).length > 0;
    const existing = new Set(
      Object.entries(after.views).flatMap(([key, { isExisting }]) =>
        isExisting ? [withoutQuotes(key)] : [],
      ),
    );
    const isExisting = ({ object }: Difference) =>
      existing.has(withoutQuotes(object.replace(/^(materialized )?view /, "")));
    const compare = async (found: Catalog) => {
      const { ours, others } = compareOurs(
        trial,
        expected,
        found,
        known,
        homes,
        hasRecords,
      );
      return {
        others: others.filter((difference) => !isExisting(difference)),
        ours: dropNameDifferences(
          await dropSpellingDifferences(trial.scratch, ours, found),
          after,
        ),
      };
    };
    const { ours, others } = await compare(trial.found);
    noteTheirs(trial.found, homes);
    if (ours.length === 0) {
      await askRenames(after, after, answers); // refuses what was not renamed
      return { statements: [], losses: [], left: describeOthers(others) };
    }

    // A catalog quotes names, a snapshot does not.
    const made = new Set([...expected.keys()].map(withoutQuotes));
    const taken = new Set([...trial.taken].map(withoutQuotes));
    const isOurs = (object: string) =>
      made.has(withoutQuotes(object)) || known(object);
    const schemas = listSchemas(after, trial.found, isOurs);
    const before = adoptSpelling(
      await introspect(sql, schemas),
      await introspect(trial.scratch, schemas),
      after,
      ours,
      others,
      (object) => isOurs(object) && !taken.has(withoutQuotes(object)),
    );
    await knowRoles(sql, before, after);
    const renames = await askRenames(before, after, answers);
    const tryOut = async (isAtOnce: boolean) => {
      const written = await diffRenamed(before, after, renames, { isAtOnce });
      const statements = written.map((text) =>
        text.replace(/^(CREATE.* INDEX) CONCURRENTLY /, "$1 "),
      );
      const look = async () => await compare(await readCatalog(sql));
      return { statements, left: await inTrial(sql, statements, look) };
    };
    const { statements, left } = await tryOut(false).catch(
      (error: { code?: string }) => {
        // A new value of an enum is used in the transaction that adds it.
        if (error.code !== "55P04") throw error;
        return tryOut(true);
      },
    );
    return {
      statements,
      losses: await listLosses(sql, statements),
      left: [
        ...left.ours.map(describeDifference),
        ...describeOthers(left.others),
      ],
    };
  });
}

/** Creates an object of schema.ts in the scratch database, with what it needs. */
async function makeObject(trial: Trial, statement: string): Promise<void> {
  await runTaking(trial, statement).catch((error: Error) => {
    throw failure(`${nameSchema()} cannot be created: ${error.message}`, {
      lines: [`  ${statement}`],
      hint: adviseOn(error.message),
    });
  });
}

/** Returns what to do when schema.ts needs what neither it nor the database has. */
function adviseOn(message: string): string | undefined {
  if (message.startsWith("role "))
    return "create the role first, in `bun run db:shell`";
  const [, name] = /^type "(.*)" does not exist$/.exec(message) ?? [];
  if (name)
    return `export the enum \`${name}\` from schema.ts; where an extension has this type, create it first, in \`bun run db:shell\``;
  return /^(operator class|function|access method) /.test(message)
    ? "where an extension has it, create the extension first, in `bun run db:shell`"
    : undefined;
}

/**
 * Returns the differences, split into ours and others. An object is ours when
 * schema.ts or a snapshot of a migration has it. An object that is not ours is
 * reported as a whole, without its parts.
 */
function compareOurs(
  trial: Trial,
  expected: Catalog,
  found: Catalog,
  known: (object: string) => boolean,
  homes: Set<string>,
  hasRecords: boolean,
): { ours: Difference[]; others: Difference[] } {
  const ours: Difference[] = [];
  const others: Difference[] = [];
  for (const difference of compareCatalogs(expected, found)) {
    const { object } = difference;
    const entry = expected.get(object) ?? found.get(object);
    if (!entry || !KINDS.test(object) || entry.isPartition) continue;
    if (isTakenOver(trial, object, entry) || !isInFilter(entry.name)) continue;
    const whole = entry.parent ?? object;
    // Keep what hand-written SQL of a migration has created.
    const isExtra =
      hasRecords &&
      EXTRAS.test(object) &&
      !expected.has(object) &&
      !known(object);
    if ((expected.has(whole) || known(whole)) && !isExtra)
      ours.push(difference);
    else if (homes.has(entry.schema ?? "")) others.push(difference);
  }
  return { ours, others };
}

/**
 * Leaves out primary keys, and sequences of columns, that only have another name, as
 * after a rename. Their names are PostgreSQL's unless schema.ts gives one.
 */
function dropNameDifferences(
  differences: Difference[],
  after: Snapshot,
): Difference[] {
  const given = new Set(
    Object.values(after.tables).flatMap((table) => [
      ...Object.keys(table.compositePrimaryKeys),
      ...Object.values(table.columns).flatMap(({ name, identity }) =>
        identity && identity.name !== `${table.name}_${name}_seq`
          ? [`${table.schema || "public"}.${identity.name}`]
          : [],
      ),
    ]),
  );
  const nameOf = ({ object, expected, found }: Difference) =>
    / PRIMARY KEY /.test(`${expected}${found}`)
      ? /^constraint (.+) on /.exec(object)?.[1]
      : /^sequence (.+)$/.exec(object)?.[1];
  const taken = new Set<Difference>();
  const pairs = differences.flatMap((missing) => {
    const name = missing.found === undefined ? nameOf(missing) : undefined;
    if (!name || given.has(name.replaceAll('"', ""))) return [];
    const twin = differences.find((other) => {
      const isFree = other.expected === undefined && !taken.has(other);
      const old = isFree ? nameOf(other) : undefined;
      return old && other.found?.replace(old, () => name) === missing.expected;
    });
    if (!twin) return [];
    taken.add(twin);
    return [{ missing, twin, name, old: nameOf(twin) ?? "" }];
  });
  return differences.filter(
    (one) =>
      !pairs.some(
        ({ missing, twin, name, old }) =>
          one === missing ||
          one === twin ||
          one.found?.replaceAll(old, () => name) === one.expected,
      ),
  );
}

/** Cuts the names in a snapshot at 63 bytes, as PostgreSQL does. */
function clipNames(snapshot: Snapshot): Snapshot {
  const clip = (name: string) => {
    let clipped = name;
    while (Buffer.byteLength(clipped) > 63)
      clipped = [...clipped].slice(0, -1).join("");
    return clipped;
  };
  const walk = (value: unknown, key = ""): unknown => {
    if (typeof value === "string") return isText(key) ? value : clip(value);
    if (Array.isArray(value)) return value.map((item) => walk(item, key));
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(
      Object.entries(value).map(([name, part]) => [
        /^[^.]+\.[^.]+$/.test(name)
          ? name.split(".").map(clip).join(".")
          : clip(name),
        walk(part, name),
      ]),
    );
  };
  return walk(snapshot) as Snapshot;
}

/** True for the keys of a snapshot whose values are not names. */
function isText(key: string): boolean {
  return /^(type|default|as|value|where|expression|using|withCheck|definition|values)$/.test(
    key,
  );
}

/** Returns a function that is true for an object that a snapshot of a migration
 * has, or that `--rename` names, or that schema.ts has as another kind of view. */
function nameKnown(
  after: Snapshot,
  renames: string[],
  readKnown: () => Snapshot[],
): (object: string) => boolean {
  let known: Set<string> | undefined;
  return (object) => {
    known ??= listKnown(renames, [
      after,
      ...renames.map((answer) => renameBack(after, answer)),
      ...readKnown(),
    ]);
    return known.has(withoutQuotes(object));
  };
}

/** Returns the snapshot with the old name of a schema, if the answer has one. */
function renameBack(after: Snapshot, answer: string): Snapshot {
  const [to = "", from = ""] = answer.split("=");
  return applyRename(after, { kind: "schema", schema: "", from, to });
}

/** Lists these objects by their keys in the catalog, without quotes. */
function listKnown(renames: string[], snapshots: Snapshot[]): Set<string> {
  const named = renames.flatMap((answer) => {
    const [name = ""] = answer.split("=");
    return name.split(".").length === 1 ? [`public.${name}`, name] : [name];
  });
  const objects = [
    ...snapshots.flatMap((snapshot) => [
      ...Object.entries(snapshot.tables).flatMap(([key, table]) => [
        `table ${key}`,
        ...Object.keys(table.policies).map(
          (name) => `policy ${name} on ${key}`,
        ),
        ...(table.isRLSEnabled || Object.keys(table.policies).length > 0
          ? [`row security of ${key}`]
          : []),
      ]),
      ...Object.keys(snapshot.enums).map((key) => `type ${key}`),
      ...Object.keys(snapshot.sequences).map((key) => `sequence ${key}`),
      ...Object.values(snapshot.schemas).map((name) => `schema ${name}`),
      ...Object.entries(snapshot.views).flatMap(([key, { isExisting }]) =>
        isExisting ? [] : [`view ${key}`, `materialized view ${key}`],
      ),
    ]),
    ...named.flatMap((name) =>
      ["table", "type", "sequence", "schema"].map((kind) => `${kind} ${name}`),
    ),
  ];
  return new Set(objects.map(withoutQuotes));
}

function describeOthers(others: Difference[]): string[] {
  const names = others
    .filter(({ object }) => !object.startsWith("schema "))
    .map(({ object }) => object);
  if (names.length === 0) return [];
  const list = names.slice(0, 5).join(", ");
  return [
    `${list}${names.length > 5 ? ` and ${names.length - 5} more` : ""}: neither schema.ts nor a snapshot has it`,
  ];
}

/** Lists the schemas in which something is ours. */
function listSchemas(
  after: Snapshot,
  found: Catalog,
  ours: (object: string) => boolean,
): string[] {
  const { tables, enums, views, sequences } = after;
  const used = [tables, enums, views, sequences].flatMap((parts) =>
    Object.values(parts).map(({ schema }) => schema || "public"),
  );
  const known = [...found.keys()]
    .filter((object) => object.startsWith("schema ") && ours(object))
    .map((object) => unquote(object.slice("schema ".length)));
  return [
    ...new Set(["public", ...Object.values(after.schemas), ...used, ...known]),
  ];
}

const withoutQuotes = (object: string) => object.replaceAll('"', "");

function unquote(name: string): string {
  return name.startsWith('"') ? name.slice(1, -1).replaceAll('""', '"') : name;
}

/**
 * Returns the database's snapshot with the spelling of schema.ts wherever the server
 * finds no difference, and with a different one wherever it does.
 *
 * @param expected the snapshot of the scratch database.
 * @param others the differences in objects that are not ours.
 * @param isOurs returns false for an object that must be left alone.
 */
function adoptSpelling(
  found: Snapshot,
  expected: Snapshot,
  after: Snapshot,
  differences: Difference[],
  others: Difference[],
  isOurs: (object: string) => boolean,
): Snapshot {
  const isIn = (list: Difference[]) => {
    const objects = new Set(list.map(({ object }) => withoutQuotes(object)));
    return (object: string) => objects.has(withoutQuotes(object));
  };
  const isLeft = isIn(others);
  const isDiffering = isIn(differences);
  const change =
    <T extends object>(name: (key: string) => string, mark: Partial<T>) =>
    (parts: Record<string, T>, others: Record<string, T> = {}) =>
      Object.fromEntries(
        Object.entries(parts).map(([key, part]): [string, T] => {
          const other = others[key];
          if (!other) return [key, part];
          const isOther = isDiffering(name(key));
          return [key, isOther ? { ...part, ...mark } : other];
        }),
      );

  const alignTable = (key: string, table: SnapshotTable): SnapshotTable => {
    const other = after.tables[key];
    if (!other) return table;
    const made = expected.tables[key];
    const constraint = (name: string) => `constraint ${name} on ${key}`;
    const isKeyOther = differences.some(
      ({ object, expected = "", found = "" }) =>
        withoutQuotes(object).endsWith(withoutQuotes(` on ${key}`)) &&
        `${expected}${found}`.includes(" PRIMARY KEY "),
    );
    const columns = Object.entries(table.columns).map(([name, column]) => {
      const same = other.columns[name];
      const twin = made?.columns[name];
      if (!same || !twin) return [name, column];
      const isType =
        column.type === twin.type && column.typeSchema === twin.typeSchema;
      const isDefaultOther = isDiffering(`default of ${key}.${name}`);
      const isIdentity = Bun.deepEquals(column.identity, twin.identity);
      const isComputed =
        !isDiffering(`column ${key}.${name}`) ||
        column.generated?.as === twin.generated?.as;
      return [
        name,
        {
          ...same,
          ...(!isType && { type: column.type, typeSchema: column.typeSchema }),
          notNull:
            column.notNull === twin.notNull ? same.notNull : column.notNull,
          default: isDefaultOther ? column.default : same.default,
          identity: isIdentity ? same.identity : column.identity,
          generated: isComputed ? same.generated : column.generated,
          primaryKey: isKeyOther ? column.primaryKey : same.primaryKey,
        },
      ];
    });
    return {
      ...table,
      columns: Object.fromEntries(columns),
      indexes: change<SnapshotTable["indexes"][string]>(
        (name) => `index ${table.schema || "public"}.${name}`,
        { where: "other" },
      )(table.indexes, other.indexes),
      foreignKeys: change<SnapshotTable["foreignKeys"][string]>(constraint, {
        onDelete: "other",
      })(table.foreignKeys, other.foreignKeys),
      uniqueConstraints: change<SnapshotTable["uniqueConstraints"][string]>(
        constraint,
        { columns: [] },
      )(table.uniqueConstraints, other.uniqueConstraints),
      checkConstraints: change<SnapshotTable["checkConstraints"][string]>(
        constraint,
        { value: "other" },
      )(table.checkConstraints, other.checkConstraints),
      compositePrimaryKeys: isKeyOther
        ? table.compositePrimaryKeys
        : other.compositePrimaryKeys,
      policies: change<SnapshotTable["policies"][string]>(
        (name) => `policy ${name} on ${key}`,
        { using: "other" },
      )(
        Object.fromEntries(
          Object.entries(table.policies).filter(
            ([name]) => !isLeft(`policy ${name} on ${key}`),
          ),
        ),
        other.policies,
      ),
      isRLSEnabled: isDiffering(`row security of ${key}`)
        ? table.isRLSEnabled
        : other.isRLSEnabled,
    };
  };

  const view = (key: string) =>
    `${found.views[key]?.materialized ? "materialized view" : "view"} ${key}`;
  const keep = <T>(parts: Record<string, T>, name: (key: string) => string) =>
    Object.fromEntries(
      Object.entries(parts).filter(([key]) => isOurs(name(key))),
    );
  return {
    ...found,
    schemas: keep(found.schemas, (key) => `schema ${key}`),
    tables: Object.fromEntries(
      Object.entries(keep(found.tables, (key) => `table ${key}`)).map(
        ([key, table]) => [key, alignTable(key, table)],
      ),
    ),
    enums: keep(found.enums, (key) => `type ${key}`),
    views: change<Snapshot["views"][string]>(view, { definition: "other" })(
      keep(found.views, view),
      after.views,
    ),
    sequences: change<Snapshot["sequences"][string]>(
      (key) => `sequence ${key}`,
      { cache: "other" },
    )(
      keep(found.sequences, (key) => `sequence ${key}`),
      after.sequences,
    ),
    policies: after.policies,
  };
}

/** Adds the existing roles to `before`, so that they are not created. */
async function knowRoles(
  sql: Sql,
  before: Snapshot,
  after: Snapshot,
): Promise<void> {
  const rows = await sql<{ name: string }[]>`
    select rolname as name from pg_roles`;
  const names = rows.map(({ name }) => name);
  before.roles = Object.fromEntries(
    Object.entries(after.roles).filter(([name]) => names.includes(name)),
  );
}

async function listLosses(sql: Sql, statements: string[]): Promise<string[]> {
  const text = statements.join("\n");
  const script = toScript(
    { tag: "db:push", file: nameSchema(), text, hash: "" },
    "up",
  );
  return await countLosses(sql, [script], LOCK_TIMEOUT_MS);
}

/** Runs the statements, calls `look`, and rolls back. */
async function inTrial<T>(
  sql: Sql,
  statements: string[],
  look: () => Promise<T>,
): Promise<T> {
  await sql.unsafe(`begin; set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
  try {
    for (const statement of statements)
      await sql.unsafe(statement).catch((error: Error) => {
        throw Object.assign(error, {
          lines: [`  ${statement}`, "Nothing was changed"],
        });
      });
    return await look();
  } finally {
    await sql.unsafe("rollback");
  }
}
