// drizzle-kit's snapshots: the schema that each migration leads to, as JSON.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../src/env";
import { loadSchema, readProject } from "../../src/project";
import { failure } from "../lib/report";
import { type Migration, nameFolder } from "../migrations/journal";
import { loadDrizzleKit } from "./drizzle-kit";

/** A schema, as drizzle-kit keeps it beside a migration (version 7). */
export interface Snapshot {
  id: string;
  /** The snapshot that this one was made from. */
  prevId: string;
  version: string;
  dialect: string;
  /** By their schema and name, such as `public.users`. */
  tables: Record<string, SnapshotTable>;
  enums: Record<string, { name: string; schema: string; values: string[] }>;
  views: Record<string, SnapshotView>;
  sequences: Record<string, { name: string; schema: string }>;
  schemas: Record<string, string>;
  roles: Record<string, unknown>;
  policies: Record<string, unknown>;
  /** What it says of renames, drizzle-kit leaves empty. */
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
  uniqueConstraints: Record<string, { name: string; columns: string[] }>;
  checkConstraints: Record<string, { name: string; value: string }>;
  policies: Record<string, unknown>;
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
  identity?: object;
}

interface SnapshotIndex {
  name: string;
  columns: { expression: string; isExpression: boolean; asc: boolean }[];
  isUnique: boolean;
  concurrently: boolean;
  where?: string;
}

interface SnapshotReference {
  name: string;
  tableFrom: string;
  tableTo: string;
  schemaTo?: string;
  columnsFrom: string[];
  columnsTo: string[];
  onDelete?: string;
}

interface SnapshotView {
  name: string;
  schema: string;
  definition?: string;
  isExisting: boolean;
  materialized: boolean;
}

/** drizzle-kit leaves a quote inside of a JSON or array default as it is. */
function quoteDefault(key: string, value: unknown): unknown {
  if (key !== "default" || typeof value !== "string") return value;
  return value.replace(
    /^'([[{].*[\]}])'(?=$|::)/s,
    (_, inner: string) => `'${inner.replaceAll("'", "''")}'`,
  );
}

/** The schema as drizzle.config.ts names it, for messages. */
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

/** Where the snapshot of a migration is, from the project's root. */
export function nameSnapshotFile(tag: string): string {
  const [prefix] = tag.split("_");
  return join(nameFolder(), "meta", `${prefix}_snapshot.json`);
}

/**
 * Reads the snapshot of a migration; undefined where it has none.
 *
 * @throws when it cannot be read, or is of another version than 7.
 */
export function readSnapshot(tag: string): Snapshot | undefined {
  const file = nameSnapshotFile(tag);
  if (!existsSync(join(root, file))) return undefined;
  const invalid = (reason: string) =>
    failure(`${file} cannot be read: ${reason}`, {
      code: "SNAPSHOT_INVALID",
      hint: `restore it from git: \`git log --all -- ${file}\` finds it`,
      details: { tag, file },
    });
  let snapshot: Snapshot;
  try {
    snapshot = JSON.parse(readFileSync(join(root, file), "utf8"));
  } catch (error) {
    throw invalid((error as Error).message);
  }
  if (snapshot.version !== "7" || !snapshot.tables)
    throw invalid(`it is of version ${snapshot.version}, not of version 7`);
  return fillIn(snapshot);
}

/** Older versions of drizzle-kit leave out what they did not know. */
function fillIn(snapshot: Snapshot): Snapshot {
  const missing = { policies: {}, checkConstraints: {}, isRLSEnabled: false };
  const tables = Object.entries(snapshot.tables).map(([key, table]) => [
    key,
    { ...missing, ...table },
  ]);
  return {
    ...emptySnapshot,
    ...snapshot,
    tables: Object.fromEntries(tables),
  };
}

/**
 * The snapshot that another was made from, which after a merge need not be that
 * of the migration before it; undefined where it is not there.
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

/** Two migrations that were made from the same one. */
export interface Fork {
  older: Migration;
  newer: Migration;
}

/**
 * The first two migrations of one parent, as a merge leaves them: with one file
 * for the snapshots of both, or with the same `prevId`.
 */
export function findFork(migrations: Migration[]): Fork | undefined {
  const known = new Map<string, Migration>();
  for (const newer of migrations) {
    const file = nameSnapshotFile(newer.tag);
    const shared = known.get(file);
    const parent = shared ? undefined : readPrevId(newer.tag);
    const older = shared ?? (parent ? known.get(parent) : undefined);
    if (older) return { older, newer };
    known.set(file, newer);
    if (parent) known.set(parent, newer);
  }
  return undefined;
}

/** Undefined where a merge conflict's markers are in the file, too. */
function readPrevId(tag: string): string | undefined {
  try {
    return JSON.parse(readFileSync(join(root, nameSnapshotFile(tag)), "utf8"))
      .prevId;
  } catch {
    return undefined;
  }
}

/**
 * The schema that schema.ts describes.
 *
 * @throws when schema.ts cannot be loaded.
 */
export async function describeSchema(prevId: string): Promise<Snapshot> {
  const { generateDrizzleJson } = await loadDrizzleKit();
  try {
    const {
      id,
      prevId: parent,
      ...rest
    } = generateDrizzleJson(
      await loadSchema(),
      prevId,
      undefined,
      readProject().casing,
    );
    return JSON.parse(
      JSON.stringify({ id, prevId: parent, ...rest }),
      quoteDefault,
    );
  } catch (error) {
    // Bun puts what does not parse into a list.
    const { message, errors = [] } = error as AggregateError;
    const [first] = errors as (Error & { position?: { line: number } })[];
    const line = first?.position ? `:${first.position.line}` : "";
    throw failure(
      `${nameSchema()}${line} cannot be loaded: ${first?.message ?? message}`,
      { code: "SCHEMA_INVALID", hint: "`bun run check` says more" },
    );
  }
}
