// drizzle-kit's own functions, loaded when they are first wanted, for it is
// large; and its look into a database, which it does not hand out by itself.
import { plugin } from "bun";
import type { Sql } from "postgres";
import { failure } from "./report";
import type { Snapshot } from "./snapshots";

type DrizzleKit = typeof import("drizzle-kit/api") & {
  pgPushIntrospect: (
    db: { query(query: string, parameters?: string[]): Promise<object[]> },
    filters: string[],
    schemas: string[],
  ) => Promise<{ schema: object }>;
};

let isOpened = false;

/** Loads drizzle-kit/api (seen in 0.31.11). */
export async function loadDrizzleKit(): Promise<DrizzleKit> {
  if (!isOpened) open();
  isOpened = true;
  return (await import("drizzle-kit/api")) as DrizzleKit;
}

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

function open(): void {
  const exit = /terminal\.reject\(err2\);\s*process\.exit\(1\);/;
  plugin({
    name: "drizzle-kit, with its look into a database",
    setup(build) {
      build.onLoad({ filter: /drizzle-kit[\\/]api\.mjs$/ }, async (file) => {
        const text = await Bun.file(file.path).text();
        if (!exit.test(text) || !text.includes("var pgPushIntrospect ="))
          throw failure("this version of drizzle-kit is not known", {
            hint: "install the version that package.json names with `bun install`",
          });
        const mended = text.replace(exit, "throw err2;");
        const contents = `${mended}\nexport { pgPushIntrospect };\n`;
        return { contents, loader: "js" };
      });
    },
  });
}

/** Its spinner goes to stdout, which is for results. */
function hushSpinner(): () => void {
  const write = process.stdout.write;
  process.stdout.write = () => true;
  return () => {
    process.stdout.write = write;
  };
}
