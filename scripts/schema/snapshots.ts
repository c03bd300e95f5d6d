// Reads drizzle-kit's snapshots: the schema after each migration, as JSON.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../src/env";
import { readProject } from "../../src/project";
import { failure } from "../lib/report";
import { type Migration, nameFolder } from "../migrations/journal";

/** A schema, as drizzle-kit stores it beside a migration (version 7). */
export interface Snapshot {
  id: string;
  /** The snapshot that this one was made from. */
  prevId: string;
  version: string;
  dialect: string;
  /** Tables by schema and name, such as `public.users`. */
  tables: Record<string, SnapshotTable>;
  enums: Record<string, { name: string; schema: string; values: string[] }>;
  views: Record<string, SnapshotView>;
  sequences: Record<string, SnapshotSequence & { schema: string }>;
  schemas: Record<string, string>;
  roles: Record<string, { name: string }>;
  /** The policies of tables that are not in schema.ts. */
  policies: Record<string, SnapshotPolicy>;
  /** Meant for renames; drizzle-kit leaves it empty. */
  _meta: { schemas: object; tables: object; columns: object };
}

export interface SnapshotTable {
  name: string;
  /** Empty for `public`. */
  schema: string;
  columns: Record<string, SnapshotColumn>;
  indexes: Record<string, SnapshotIndex>;
  foreignKeys: Record<string, SnapshotReference>;
  compositePrimaryKeys: Record<string, { name: string; columns: string[] }>;
  uniqueConstraints: Record<string, SnapshotUnique>;
  checkConstraints: Record<string, { name: string; value: string }>;
  policies: Record<string, SnapshotPolicy>;
  isRLSEnabled: boolean;
}

export interface SnapshotColumn {
  name: string;
  type: string;
  /** The schema of an enum. */
  typeSchema?: string;
  primaryKey: boolean;
  notNull: boolean;
  default?: unknown;
  generated?: { as: string; type: string };
  identity?: SnapshotSequence & { type: "always" | "byDefault" };
}

export interface SnapshotIndex {
  name: string;
  columns: {
    expression: string;
    isExpression: boolean;
    asc: boolean;
    nulls?: string;
    opclass?: string;
  }[];
  isUnique: boolean;
  concurrently: boolean;
  method?: string;
  where?: string;
  with?: Record<string, unknown>;
}

export interface SnapshotUnique {
  name: string;
  columns: string[];
  nullsNotDistinct: boolean;
}

export interface SnapshotPolicy {
  name: string;
  as?: string;
  for?: string;
  to?: string[];
  using?: string;
  withCheck?: string;
  on?: string;
}

/** A sequence by itself, or the one of an identity. Numbers are strings. */
export interface SnapshotSequence {
  name: string;
  increment?: string;
  minValue?: string;
  maxValue?: string;
  startWith?: string;
  cache?: string;
  cycle?: boolean;
}

export interface SnapshotReference {
  name: string;
  tableFrom: string;
  tableTo: string;
  schemaTo?: string;
  columnsFrom: string[];
  columnsTo: string[];
  onUpdate?: string;
  onDelete?: string;
}

export interface SnapshotView {
  name: string;
  schema: string;
  columns: Record<string, SnapshotColumn>;
  definition?: string;
  isExisting: boolean;
  materialized: boolean;
  with?: Record<string, unknown>;
  withNoData?: boolean;
  using?: string;
  tablespace?: string;
}

/** Returns the path of the schema in drizzle.config.ts, for messages. */
export function nameSchema(): string {
  return readProject()
    .schema.map((path) => path.replace(/^\.\//, ""))
    .join(", ");
}

/** The snapshot that the first migration starts from. */
export const emptySnapshot: Snapshot = {
  id: "00000000-0000-0000-0000-000000000000",
  prevId: "",
  version: "7",
  dialect: "postgresql",
  tables: {},
  enums: {},
  views: {},
  sequences: {},
  schemas: {},
  roles: {},
  policies: {},
  _meta: { schemas: {}, tables: {}, columns: {} },
};

/** Returns the path of a migration's snapshot, from the project's root. */
export function nameSnapshotFile(tag: string): string {
  const [prefix] = tag.split("_");
  return join(nameFolder(), "meta", `${prefix}_snapshot.json`);
}

/**
 * Reads the snapshot of a migration; undefined when it has none.
 *
 * @throws when it cannot be read, or is not of version 7.
 */
export function readSnapshot(tag: string): Snapshot | undefined {
  const file = nameSnapshotFile(tag);
  if (!existsSync(join(root, file))) return undefined;
  const invalid = (reason: string) =>
    failure(`${file} cannot be read: ${reason}`, {
      code: "SNAPSHOT_INVALID",
      hint: `restore it from git: \`git log --all -- ${file}\` lists its commits`,
      details: { tag, file },
    });
  let snapshot: Snapshot;
  try {
    snapshot = JSON.parse(readFileSync(join(root, file), "utf8"));
  } catch (error) {
    throw invalid((error as Error).message);
  }
  if (snapshot.version !== "7")
    throw invalid(`it is of version ${snapshot.version}, not of version 7`);
  if (!snapshot.tables) throw invalid("it has no tables");
  return fillIn(snapshot);
}

/** Reads every readable snapshot in the folder, whatever the journal says. */
export function readSnapshots(): Snapshot[] {
  const folder = join(root, nameFolder(), "meta");
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => name.endsWith("_snapshot.json"))
    .flatMap((name) => {
      try {
        const text = readFileSync(join(folder, name), "utf8");
        const snapshot: Snapshot = JSON.parse(text);
        return snapshot.version === "7" ? [fillIn(snapshot)] : [];
      } catch {
        return []; // db:check reports it
      }
    });
}

/** Adds what older versions of drizzle-kit did not write. */
function fillIn(snapshot: Snapshot): Snapshot {
  const missing = { policies: {}, checkConstraints: {}, isRLSEnabled: false };
  const tables = Object.entries(snapshot.tables).map(([key, table]) => [
    key,
    { ...missing, ...table },
  ]);
  return nameEnums({
    ...emptySnapshot,
    ...snapshot,
    tables: Object.fromEntries(tables),
  });
}

/** Adds the schema of an enum to its columns, which drizzle-kit leaves out for an enum
 * of TypeScript. */
export function nameEnums(snapshot: Snapshot): Snapshot {
  const schemas = new Map(
    Object.values(snapshot.enums).map(({ name, schema }) => [name, schema]),
  );
  for (const { columns } of Object.values(snapshot.tables))
    for (const column of Object.values(columns))
      column.typeSchema ??= schemas.get(column.type.replace(/(\[\d*\])+$/, ""));
  return snapshot;
}

/**
 * Returns the snapshot that another one was made from; undefined when it does not
 * exist. After a merge it may be of an earlier migration than the one before.
 */
export function readParent(
  earlier: Migration[],
  { prevId }: Snapshot,
): Snapshot | undefined {
  if (prevId === emptySnapshot.id) return emptySnapshot;
  for (const { tag } of earlier.toReversed()) {
    const snapshot = readSnapshot(tag);
    if (snapshot?.id === prevId) return snapshot;
  }
  return undefined;
}

/** Two migrations that were made from the same migration. */
export interface Fork<T = Migration> {
  older: T;
  newer: T;
}

/**
 * Finds the first two migrations with the same parent, as after a merge: they share
 * one snapshot file, or have the same `prevId`.
 */
export function findFork<T extends { tag: string }>(
  migrations: T[],
  prevIdOf = readPrevId,
): Fork<T> | undefined {
  const known = new Map<string, T>();
  for (const newer of migrations) {
    const file = nameSnapshotFile(newer.tag);
    const shared = known.get(file);
    const parent = shared ? undefined : prevIdOf(newer.tag);
    const older = shared ?? (parent ? known.get(parent) : undefined);
    if (older) return { older, newer };
    known.set(file, newer);
    if (parent) known.set(parent, newer);
  }
  return undefined;
}

/** Reads `prevId`; undefined also when the file has merge conflict markers. */
function readPrevId(tag: string): string | undefined {
  try {
    return JSON.parse(readFileSync(join(root, nameSnapshotFile(tag)), "utf8"))
      .prevId;
  } catch {
    return undefined;
  }
}
