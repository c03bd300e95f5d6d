// Renames constraints, indexes and policies of which only the name changes, as when
// they are named after a renamed table. They are not dropped and created again.
import { quoteIdentifier } from "../lib/quote";
import type { Snapshot, SnapshotTable } from "./snapshots";

const KINDS = [
  "compositePrimaryKeys",
  "uniqueConstraints",
  "checkConstraints",
  "foreignKeys",
  "indexes",
  "policies",
] as const;

/** Returns the statements, and the snapshot after they have run. */
export function renameParts(
  before: Snapshot,
  after: Snapshot,
): { statements: string[]; renamed: Snapshot } {
  const statements: string[] = [];
  const tables = Object.entries(before.tables).map(([key, table]) => {
    const next = after.tables[key];
    const changed: SnapshotTable = { ...table };
    if (!next) return [key, changed];
    for (const kind of KINDS) {
      const [old, now] = [table[kind], next[kind]];
      const added = Object.values(now).filter(({ name }) => !(name in old));
      const parts = Object.entries(old).map(([name, part]) => {
        const index =
          name in now ? -1 : added.findIndex((one) => isSame(part, one));
        const [twin] = index === -1 ? [] : added.splice(index, 1);
        if (!twin) return [name, part];
        statements.push(printRename(kind, table, name, twin.name));
        return [twin.name, { ...part, name: twin.name }];
      });
      Object.assign(changed, { [kind]: Object.fromEntries(parts) });
    }
    return [key, changed];
  });
  return {
    statements,
    renamed: { ...before, tables: Object.fromEntries(tables) },
  };
}

function isSame(one: { name: string }, other: { name: string }): boolean {
  return Bun.deepEquals({ ...one, name: "" }, { ...other, name: "" });
}

function printRename(
  kind: (typeof KINDS)[number],
  { schema, name }: SnapshotTable,
  from: string,
  to: string,
): string {
  const place = schema ? `${quoteIdentifier(schema)}.` : "";
  const table = `${place}${quoteIdentifier(name)}`;
  const [old, next] = [quoteIdentifier(from), quoteIdentifier(to)];
  if (kind === "indexes")
    return `ALTER INDEX ${place}${old} RENAME TO ${next};`;
  if (kind === "policies")
    return `ALTER POLICY ${old} ON ${table} RENAME TO ${next};`;
  return `ALTER TABLE ${table} RENAME CONSTRAINT ${old} TO ${next};`;
}
