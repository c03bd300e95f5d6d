// Builds in a scratch database what migrations make, to compare with it.
import type { Sql } from "postgres";
import { applyPending } from "./apply-migrations";
import { type Migration, planMigrations } from "./migrations";
import { readWords, splitStatements } from "./sql-statements";

const SHARED = "ROLE USER GROUP TABLESPACE DATABASE SUBSCRIPTION SYSTEM";

/**
 * Applies the migrations to an empty database, but for what they do to the
 * server as a whole, such as its roles: there that is done already.
 *
 * @throws for a statement that fails, with its place in the file.
 */
export async function replayMigrations(
  sql: Sql,
  migrations: Migration[],
): Promise<void> {
  await applyPending(sql, planMigrations(migrations.map(keepToDatabase), []));
}

/** Lines and columns stay. */
function keepToDatabase(migration: Migration): Migration {
  let { text } = migration;
  for (const { tokens, offset, text: statement } of splitStatements(text)) {
    const [verb = "", kind = "", next] = readWords(tokens, 3);
    const isShared =
      ["CREATE", "ALTER", "DROP"].includes(verb) &&
      SHARED.split(" ").includes(kind) &&
      next !== "MAPPING";
    if (!isShared) continue;
    const end = offset + statement.length;
    const blank = statement.replace(/[^\n]/g, " ");
    text = text.slice(0, offset) + blank + text.slice(end);
  }
  return { ...migration, text };
}
