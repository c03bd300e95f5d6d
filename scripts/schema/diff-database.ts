// What would bring a database to schema.ts? The catalogs tell what is different,
// the database's and that of a scratch database which is made from schema.ts:
// drizzle-kit's own comparison sees no checks, conditions or views, and takes
// the server's spelling for a change. The SQL is drizzle-kit's.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { failure } from "../lib/report";
import { withScratchDatabase } from "../lib/scratch-database";
import { toScript } from "../migrations/apply";
import {
  type Catalog,
  compareCatalogs,
  describeDifference,
  type Difference,
  readCatalog,
  respell,
} from "../migrations/catalog";
import { countLosses } from "../migrations/losses";
import { askRenames, type RenameAnswers } from "./ask-renames";
import { diffSnapshots } from "./diff-snapshots";
import { diffRenamed } from "./down-file";
import { introspect } from "./introspect";
import {
  describeSchema,
  emptySnapshot,
  nameSchema,
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
 * @param asked what the keyboard answered; undefined without a terminal.
 * @throws with exit code 2 where something that is gone and something that is
 * new may be the same, renamed, for `askBetween`; for a statement that fails,
 * which was tried and rolled back.
 */
export async function diffSchema(
  sql: Sql,
  scratchAddress: DatabaseAddress,
  asked: RenameAnswers["asked"],
): Promise<SchemaDifference> {
  const after = await describeSchema("");
  return await withScratchDatabase(
    scratchAddress,
    "db:push",
    async (scratch) => {
      await makeSchema(sql, scratch, after);
      const expected = await readCatalog(scratch);
      const compare = async () => {
        const found = await readCatalog(sql);
        const differences = compareCatalogs(expected, found);
        return await respell(
          scratch,
          differences.filter(({ object }) => KINDS.test(object)),
          found,
        );
      };
      const differences = await compare();
      if (differences.length === 0)
        return { statements: [], losses: [], left: [] };

      const schemas = ["public", ...Object.values(after.schemas)];
      const found = await introspect(sql, schemas);
      const before = align(found, after, differences, await readCatalog(sql));
      await knowRoles(sql, before, after);
      const renames = await askRenames(before, after, {
        renames: [],
        isComplete: false,
        asked,
        explain: () =>
          "run `bun run db:push` on a terminal, or push the removal and the addition one after the other",
      });
      const statements = (await diffRenamed(before, after, renames)).map(
        (text) =>
          text.replace(/^((?:CREATE|DROP).* INDEX) CONCURRENTLY /, "$1 "),
      );
      const left = await inTrial(sql, statements, compare);
      return {
        statements,
        losses: await listLosses(sql, statements),
        left: left.map(describeDifference),
      };
    },
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
 * The database's snapshot in the words of schema.ts, wherever the catalogs say
 * that both are the same; and never in its words where they say otherwise.
 */
function align(
  found: Snapshot,
  after: Snapshot,
  differences: Difference[],
  catalog: Catalog,
): Snapshot {
  const unquoted = (object: string) => object.replaceAll('"', "");
  const differing = new Set(differences.map(({ object }) => unquoted(object)));
  const known = new Set([...catalog.keys()].map(unquoted));
  const change =
    <T extends object>(name: (key: string) => string, mark: Partial<T>) =>
    (parts: Record<string, T>, others: Record<string, T> = {}) =>
      Object.fromEntries(
        Object.entries(parts)
          // What an extension brought along is not in the catalog.
          .filter(([key]) => known.has(name(key)))
          .map(([key, part]): [string, T] => {
            const other = others[key];
            if (!other) return [key, part];
            const isOther = differing.has(name(key));
            return [key, isOther ? { ...part, ...mark } : other];
          }),
      );

  const alignTable = (key: string, table: SnapshotTable): SnapshotTable => {
    const other = after.tables[key];
    if (!other) return table;
    const constraint = (name: string) => `constraint ${name} on ${key}`;
    const isKeyOther = differences.some(
      ({ object, expected = "", found = "" }) =>
        unquoted(object).endsWith(` on ${key}`) &&
        `${expected}${found}`.includes(" PRIMARY KEY "),
    );
    const columns = Object.entries(table.columns).map(([name, column]) => {
      const same = other.columns[name];
      if (!same) return [name, column];
      const isOther = differing.has(`column ${key}.${name}`);
      const isDefaultOther = differing.has(`default of ${key}.${name}`);
      return [
        name,
        {
          ...(isOther ? column : same),
          default: isDefaultOther ? column.default : same.default,
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
      policies: change<object>((name) => `policy ${name} on ${key}`, {
        using: "other",
      } as object)(
        table.policies as Record<string, object>,
        other.policies as Record<string, object>,
      ),
      isRLSEnabled: differing.has(`row security of ${key}`)
        ? table.isRLSEnabled
        : other.isRLSEnabled,
    };
  };

  const isKnown = (key: string) => known.has(`table ${key}`);
  const view = (key: string) =>
    `${found.views[key]?.materialized ? "materialized view" : "view"} ${key}`;
  return {
    ...emptySnapshot,
    ...found,
    tables: Object.fromEntries(
      Object.entries(found.tables)
        .filter(([key]) => isKnown(key))
        .map(([key, table]) => [key, alignTable(key, table)]),
    ),
    enums: Object.fromEntries(
      Object.entries(found.enums).filter(([key]) => known.has(`type ${key}`)),
    ),
    views: change<Snapshot["views"][string]>(view, { definition: "other" })(
      found.views,
      after.views,
    ),
    sequences: change<Snapshot["sequences"][string]>(
      (key) => `sequence ${key}`,
      { cache: "other" } as object,
    )(found.sequences, after.sequences),
    roles: {},
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
  for (const { name } of rows)
    if (name in after.roles) before.roles[name] = after.roles[name];
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
