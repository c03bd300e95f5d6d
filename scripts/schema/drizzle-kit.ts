// Loads drizzle-kit's own functions when they are first needed, for it is large;
// with the one that reads a database, which drizzle-kit does not export.
import { plugin } from "bun";
import { failure } from "../lib/report";

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
