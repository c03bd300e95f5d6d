// What would bring a database to schema.ts? The catalogs tell what is different,
// the database's and that of a scratch database which is made from schema.ts;
// the SQL is that of two snapshots, in the same words wherever nothing differs.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { failure } from "../lib/report";
import { withScratchDatabase } from "../lib/scratch-database";
import {
  type Catalog,
  compareCatalogs,
  describeDifference,
  type Difference,
  readCatalog,
  respell,
} from "../migrations/catalog";
import { countLosses } from "../migrations/losses";
import { toScript } from "../migrations/steps";
import { askRenames, type RenameAnswers } from "./ask-renames";
import { describeSchema } from "./describe-schema";
import { diffSnapshots } from "./diff-snapshots";
import { diffRenamed } from "./down-file";
import { introspect } from "./introspect";
import {
  emptySnapshot,
  nameSchema,
  readSnapshots,
  type Snapshot,
  type SnapshotTable,
} from "./snapshots";

/** The way from a database to schema.ts. */
export interface SchemaDifference {
  /** SQL, in the order in which it has to run. */
  statements: string[];
  /** What would be lost, counted from the data; empty where nothing would be. */
  losses: string[];
  /** What stays different. */
  left: string[];
}

const LOCK_TIMEOUT_MS = 5000;

/** What schema.ts can describe; functions, triggers and grants are not of it. */
const KINDS =
  /^(schema|table|row security|column|default|constraint|index|sequence|view|materialized view|type|policy) /;

/**
 * Compares the database with schema.ts.
 *
 * @param scratchAddress the server for the scratch database.
 * @throws with exit code 2 where something that is gone and something that is
 * new may be the same, renamed, for `askBetween`; for a statement that fails,
 * which was tried and rolled back.
 */
export async function diffSchema(
  sql: Sql,
  scratchAddress: DatabaseAddress,
  answers: RenameAnswers,
): Promise<SchemaDifference> {
  const after = clipNames(await describeSchema(""));
  return await withScratchDatabase(
    scratchAddress,
    "db:push",
    async (scratch) => {
      await makeSchema(sql, scratch, after);
      const expected = await readCatalog(scratch);
      const ours = nameOurs(expected, answers.renames);
      const compare = async () => {
        const found = await readCatalog(sql);
        const differences = compareCatalogs(expected, found).filter(
          ({ object }) => KINDS.test(object),
        );
        const others = differences.filter(
          ({ object }) => !ours(found.get(object)?.parent ?? object),
        );
        return {
          found,
          others,
          differences: await respell(
            scratch,
            differences.filter((difference) => !others.includes(difference)),
            found,
          ),
        };
      };
      const { found, differences, others } = await compare();
      if (differences.length === 0)
        return { statements: [], losses: [], left: describeOthers(others) };

      const schemas = listSchemas(after, found, ours);
      const before = align(
        await introspect(sql, schemas),
        await introspect(scratch, schemas),
        after,
        differences,
        (object) => found.has(object) && ours(object),
      );
      await knowRoles(sql, before, after);
      const renames = await askRenames(before, after, answers);
      const tryOut = async (isAtOnce: boolean) => {
        const options = { isAtOnce };
        const statements = (
          await diffRenamed(before, after, renames, options)
        ).map((text) => text.replace(/^(CREATE.* INDEX) CONCURRENTLY /, "$1 "));
        return { statements, ...(await inTrial(sql, statements, compare)) };
      };
      const trial = await tryOut(false).catch((error: { code?: string }) => {
        // A new value of an enum is used in the transaction that adds it.
        if (error.code !== "55P04") throw error;
        return tryOut(true);
      });
      return {
        statements: trial.statements,
        losses: [...trial.counts, ...(await listLosses(sql, trial.statements))],
        left: [
          ...trial.left.differences.map(describeDifference),
          ...describeOthers(trial.left.others),
        ],
      };
    },
  );
}

/** PostgreSQL cuts names at 63 bytes, and so it has them. */
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

/** What is no name in a snapshot. */
function isText(key: string): boolean {
  return /^(type|default|as|value|where|expression|using|withCheck|definition|values)$/.test(
    key,
  );
}

/** Makes what schema.ts describes, with the extensions that it may use. */
async function makeSchema(
  sql: Sql,
  scratch: Sql,
  after: Snapshot,
): Promise<void> {
  const extensions = await sql.unsafe<{ name: string }[]>(
    "select quote_ident(extname) as name from pg_extension",
  );
  for (const { name } of extensions)
    await scratch.unsafe(`create extension if not exists ${name}`);
  // Roles are the server's, not the scratch database's.
  const own = { ...after, roles: {} };
  for (const statement of await diffSnapshots(emptySnapshot, own))
    await scratch.unsafe(statement).catch((error: Error) => {
      throw failure(`${nameSchema()} cannot be made: ${error.message}`, {
        lines: [`  ${statement}`],
        hint: /^role /.test(error.message)
          ? "make the role first, in `bun run db:shell`"
          : undefined,
      });
    });
}

/**
 * True for what schema.ts has, what a snapshot of a migration has, or what
 * `--rename` names: all else in the database is somebody else's.
 */
function nameOurs(
  expected: Catalog,
  renames: string[],
): (object: string) => boolean {
  let known: Set<string> | undefined;
  return (object) => {
    if (expected.has(object)) return true;
    known ??= listKnown(renames);
    return known.has(object.replaceAll('"', ""));
  };
}

/** As the catalog calls them, without quotes. */
function listKnown(renames: string[]): Set<string> {
  const named = renames.flatMap((answer) => {
    const [name = ""] = answer.split("=");
    return name.split(".").length === 1 ? [`public.${name}`, name] : [name];
  });
  return new Set([
    ...readSnapshots().flatMap((snapshot) => [
      ...Object.keys(snapshot.tables).map((key) => `table ${key}`),
      ...Object.keys(snapshot.enums).map((key) => `type ${key}`),
      ...Object.keys(snapshot.sequences).map((key) => `sequence ${key}`),
      ...Object.values(snapshot.schemas).map((name) => `schema ${name}`),
      ...Object.keys(snapshot.views).flatMap((key) => [
        `view ${key}`,
        `materialized view ${key}`,
      ]),
    ]),
    ...named.flatMap((name) =>
      ["table", "type", "sequence", "schema"].map((kind) => `${kind} ${name}`),
    ),
  ]);
}

function describeOthers(others: Difference[]): string[] {
  const names = others
    .filter(({ found }) => found && !/ AS PARTITION /.test(found))
    .map(({ object }) => object);
  if (names.length === 0) return [];
  const list = names.slice(0, 5).join(", ");
  return [
    `${list}${names.length > 5 ? ` and ${names.length - 5} more` : ""}: neither schema.ts nor a snapshot has it`,
  ];
}

/** The schemas in which something is ours. */
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

function unquote(name: string): string {
  return name.startsWith('"') ? name.slice(1, -1).replaceAll('""', '"') : name;
}

/**
 * The database's snapshot in the words of schema.ts, wherever both are the same
 * to the server; and never in its words where they are not.
 *
 * @param expected the snapshot of the scratch database.
 * @param isOurs false for what is to be left alone.
 */
function align(
  found: Snapshot,
  expected: Snapshot,
  after: Snapshot,
  differences: Difference[],
  isOurs: (object: string) => boolean,
): Snapshot {
  const unquoted = (object: string) => object.replaceAll('"', "");
  const differing = new Set(differences.map(({ object }) => unquoted(object)));
  const change =
    <T extends object>(name: (key: string) => string, mark: Partial<T>) =>
    (parts: Record<string, T>, others: Record<string, T> = {}) =>
      Object.fromEntries(
        Object.entries(parts).map(([key, part]): [string, T] => {
          const other = others[key];
          if (!other) return [key, part];
          const isOther = differing.has(name(key));
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
        unquoted(object).endsWith(` on ${key}`) &&
        `${expected}${found}`.includes(" PRIMARY KEY "),
    );
    const columns = Object.entries(table.columns).map(([name, column]) => {
      const same = other.columns[name];
      const twin = made?.columns[name];
      if (!same || !twin) return [name, column];
      const isType =
        column.type === twin.type && column.typeSchema === twin.typeSchema;
      const isDefaultOther = differing.has(`default of ${key}.${name}`);
      const isIdentity = Bun.deepEquals(column.identity, twin.identity);
      const isComputed =
        !differing.has(`column ${key}.${name}`) ||
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
      )(table.policies, other.policies),
      isRLSEnabled: differing.has(`row security of ${key}`)
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

/** A role that is there is not made. */
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

/** Looks at the database as it would be, and rolls back. */
async function inTrial<T>(
  sql: Sql,
  statements: string[],
  look: () => Promise<T>,
): Promise<{ left: T; counts: string[] }> {
  const counted = await readCounts(sql);
  await sql.unsafe(`begin; set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
  try {
    for (const statement of statements)
      await sql.unsafe(statement).catch((error: Error) => {
        throw Object.assign(error, {
          lines: [`  ${statement}`, "Nothing was changed"],
        });
      });
    const left = await readCounts(sql);
    const tables = await sql<{ name: string }[]>`
      select oid::text as name from pg_class where relkind in ('r', 'p')`;
    const counts = counted
      .filter(({ oid, name, owner }) => {
        const isOwned = !owner || tables.some((table) => table.name === owner);
        return (
          isOwned && !left.some((one) => one.oid === oid || one.name === name)
        );
      })
      .map(
        ({ name, last }) => `drops the count of ${name}, which is at ${last}`,
      );
    return { left: await look(), counts };
  } finally {
    await sql.unsafe("rollback");
  }
}

/** How far each sequence has counted that was used. */
async function readCounts(sql: Sql) {
  return await sql<
    { oid: string; name: string; owner: string | null; last: string }[]
  >`
    select * from (
      select seqrelid::text as oid, seqrelid::regclass::text as name,
        case when has_sequence_privilege(seqrelid, 'select') then pg_sequence_last_value(seqrelid) end as last,
        (select refobjid::text from pg_depend where objid = seqrelid and classid = 'pg_class'::regclass
          and refclassid = 'pg_class'::regclass and deptype in ('a', 'i')) as owner
      from pg_sequence) as counts
    where last is not null`;
}
