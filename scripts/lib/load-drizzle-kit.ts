// drizzle-kit's own functions, loaded when they are first wanted, for it is large.
import { plugin } from "bun";
import { failure } from "./report";

let isMended = false;

/** Loads drizzle-kit/api, with a bug out of the way (seen in 0.31.11). */
export async function loadDrizzleKit(): Promise<
  typeof import("drizzle-kit/api")
> {
  if (!isMended) passParameters();
  isMended = true;
  return await import("drizzle-kit/api");
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

/** Runs what may ask on a terminal: after Ctrl-C it would exit with 1. */
export async function askWith<T>(work: () => Promise<T>): Promise<T> {
  const interrupt = () => {
    process.exitCode = 130;
  };
  process.once("exit", interrupt);
  try {
    return await work();
  } finally {
    process.off("exit", interrupt);
  }
}
