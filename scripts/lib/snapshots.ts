// drizzle-kit's snapshots: the schema that each migration leads to, as JSON.
import { existsSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { root } from "../../src/env";
import { failure } from "./report";

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
  columns: { expression: string; isExpression: boolean }[];
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
}

interface SnapshotView {
  name: string;
  schema: string;
  definition?: string;
  isExisting: boolean;
  materialized: boolean;
}
