// What would bring a database to schema.ts? drizzle-kit's pushSchema knows, once
// two of its bugs are out of the way (seen in drizzle-kit 0.31.11).
import { plugin } from "bun";
import type { Sql } from "postgres";
import * as schema from "../../src/infrastructure/database/schema";
import { failure, refusal } from "./report";

/** The way from a database to schema.ts. */
export interface SchemaDifference {
  /** SQL, in the order in which it has to run. */
  statements: string[];
  /** What would be lost, counted from the data; empty where nothing would be. */
  losses: string[];
}

/**
 * Compares the database with schema.ts. On a terminal drizzle-kit asks whether
 * something that is gone and something that is new are the same, renamed.
 *
 * @throws with exit code 2 where it would ask and there is no terminal.
 */
export async function diffSchema(sql: Sql): Promise<SchemaDifference> {
  passParameters();
  const { pushSchema } = await import("drizzle-kit/api");
  const execute = async (query: string, parameters: string[] = []) => ({
    rows: await sql.unsafe(orderColumns(query), parameters),
  });
  const unhush = hushSpinner();
  try {
    const { statementsToExecute, warnings } = await pushSchema(schema, {
      execute,
    } as unknown as Parameters<typeof pushSchema>[1]);
    return {
      // Before it adds a column that may not be null, it would empty the table.
      statements: statementsToExecute.filter(
        (statement) => !/^\s*truncate\b/i.test(statement),
      ),
      losses: warnings.map((warning) => warning.replace(/^[·\s]+/, "")),
    };
  } catch (error) {
    if (!(error as Error).message.includes("TTY")) throw error;
    throw refusal("drizzle-kit has to ask whether something was renamed", {
      hint: "run `bun run db:push` on a terminal, or push the removal and the addition one after the other",
    });
  } finally {
    unhush();
  }
}

/** pushSchema hands on its queries without their parameters. */
function passParameters(): void {
  const wrong = "drizzleInstance.execute(sql.raw(query))";
  plugin({
    name: "parameters for pushSchema",
    setup(build) {
      build.onLoad({ filter: /drizzle-kit[\\/]api\.m?js$/ }, async (file) => {
        const text = await Bun.file(file.path).text();
        if (!text.includes(wrong))
          throw failure("this version of drizzle-kit is not known", {
            hint: "install the version that package.json names with `bun install`",
          });
        const right = "drizzleInstance.execute(query, params)";
        return { contents: text.replaceAll(wrong, right), loader: "js" };
      });
    },
  });
}

/** It reads the columns of a constraint in the order of the table's. */
function orderColumns(query: string): string {
  if (!query.includes("constraint_column_usage")) return query;
  return query.replace(
    /;\s*$/,
    ` order by (
      select ordinal_position from information_schema.key_column_usage as key
      where key.constraint_schema = tc.constraint_schema
        and key.constraint_name = tc.constraint_name
        and key.table_name = tc.table_name
        and key.column_name = c.column_name)`,
  );
}

/** Its spinner goes to stdout, which without a terminal is for results. */
function hushSpinner(): () => void {
  if (process.stdout.isTTY) return () => {};
  const write = process.stdout.write;
  process.stdout.write = () => true;
  return () => {
    process.stdout.write = write;
  };
}
