// Reads a database's schema with drizzle-kit's own function.
import type { Sql } from "postgres";
import { loadDrizzleKit } from "./drizzle-kit";
import type { Snapshot } from "./snapshots";

/**
 * Reads a database as drizzle-kit does. What it cannot tell, such as how a
 * condition was written, is in the words of the server.
 *
 * @param schemas those to read.
 */
export async function introspect(
  sql: Sql,
  schemas: string[],
): Promise<Snapshot> {
  const { pgPushIntrospect } = await loadDrizzleKit();
  const unhush = hushSpinner();
  try {
    const { schema } = await pgPushIntrospect(
      {
        query: async (query, parameters) =>
          await sql.unsafe(
            query.replace("c.reloptions AS", "to_jsonb(c.reloptions) AS"),
            parameters,
          ),
      },
      [],
      schemas,
    );
    return JSON.parse(JSON.stringify(schema));
  } finally {
    unhush();
  }
}

/** Its spinner goes to stdout, which is for results. */
function hushSpinner(): () => void {
  const write = process.stdout.write;
  process.stdout.write = () => true;
  return () => {
    process.stdout.write = write;
  };
}
