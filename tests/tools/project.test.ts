// What the commands read in drizzle.config.ts, and what they refuse there.
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadProject, loadSchema } from "../../src/project";

const parent = mkdtempSync(join(tmpdir(), "starter-config-"));
let count = 0;
afterAll(() => rmSync(parent, { recursive: true }));

/** Reads a configuration with that text, in a folder of its own. */
function load(text: string, name = "drizzle.config.ts", files = {}) {
  const folder = join(parent, `app-${(count += 1)}`);
  for (const [file, content] of Object.entries({ ...files, [name]: text })) {
    mkdirSync(join(folder, file, ".."), { recursive: true });
    writeFileSync(join(folder, file), String(content));
  }
  const { migrationsFolder, ...project } = loadProject(folder);
  return { ...project, out: migrationsFolder.replace(`${folder}/`, "") };
}

function refuse(text: string): string {
  try {
    load(text);
  } catch (error) {
    expect(error).toMatchObject({ exitCode: 2, hint: expect.any(String) });
    return (error as Error).message;
  }
  throw new Error("it was not refused");
}

describe("drizzle.config.ts", () => {
  test("has drizzle-kit's defaults", () => {
    expect(load('export default { dialect: "postgresql" }')).toEqual({
      config: "drizzle.config.ts",
      schema: [],
      out: "drizzle",
      casing: undefined,
      schemaFilter: undefined,
      tablesFilter: [],
      extensionsFilters: [],
      roles: false,
      records: {
        schema: "drizzle",
        table: "__drizzle_migrations",
        sql: "drizzle.__drizzle_migrations",
      },
      prefix: "index",
      breakpoints: true,
    });
  });

  test("is read with all that it sets, also through defineConfig where drizzle-kit is not installed", () => {
    const text = `
      import { defineConfig } from "drizzle-kit";
      import type { Config } from "drizzle-kit";
      const isRun: Config["strict"] = true;
      export default defineConfig({
        dialect: "postgresql",
        schema: ["./src/a.ts", "./src/tables/*.ts"],
        out: "./lib/db/migrations",
        casing: "snake_case",
        schemaFilter: "app",
        tablesFilter: ["shop_*", "!session"],
        extensionsFilters: ["postgis"],
        entities: { roles: { provider: "supabase", exclude: ["admin"] } },
        migrations: { schema: "My App", table: "__migrations", prefix: "unix" },
        breakpoints: false,
        introspect: { casing: "camel" }, verbose: true, strict: isRun,
      });`;

    expect(load(text)).toEqual({
      config: "drizzle.config.ts",
      schema: ["./src/a.ts", "./src/tables/*.ts"],
      out: "lib/db/migrations",
      casing: "snake_case",
      schemaFilter: ["app"],
      tablesFilter: ["shop_*", "!session"],
      extensionsFilters: ["postgis"],
      roles: { provider: "supabase", exclude: ["admin"] },
      records: {
        schema: "My App",
        table: "__migrations",
        sql: '"My App".__migrations',
      },
      prefix: "unix",
      breakpoints: false,
    });
  });

  test("may be JavaScript or JSON, and the first that drizzle-kit finds holds", () => {
    const json = '{ "dialect": "postgresql", "out": "from-json" }';
    const cjs = 'module.exports = { dialect: "postgresql", out: "from-js" };';

    expect(load(json, "drizzle.config.json").out).toBe("from-json");
    expect(
      load(cjs, "drizzle.config.js", { "drizzle.config.json": json }).out,
    ).toBe("from-js");
  });

  test("leaves no trace in the environment", () => {
    const before = { ...process.env };
    const text = `
      import { config } from "${import.meta.resolve("dotenv")}";
      config({ path: import.meta.dirname + "/.env.theirs", override: true });
      process.env.LEFT = "behind";
      delete process.env.PATH;
      console.log("url", process.env.THEIRS);
      export default { dialect: "postgresql", out: process.env.THEIRS };`;

    const { out } = load(text, "drizzle.config.ts", {
      ".env.theirs": "THEIRS=theirs\nNODE_ENV=other\n",
    });

    expect(out).toBe("theirs");
    expect(process.env).toEqual(before);
  });

  test("is refused by name where it sets what cannot be honoured", () => {
    const refusals = {
      'dialect: "mysql"': 'dialect is not "postgresql"',
      'driver: "pg"': 'dialect is not "postgresql"',
      'dialect: "postgresql", driver: "pglite"':
        "driver is set, and the commands do not support it",
      'dialect: "postgresql", tableFilter: "a"':
        "tableFilter is set, and the commands do not support it",
      'dialect: "postgresql", casing: "kebab"':
        "casing is not camelCase or snake_case",
      'dialect: "postgresql", migrations: { folder: "x" }':
        "migrations.folder is set, and the commands do not support it",
      'dialect: "postgresql", entities: { views: true }':
        "entities.views is set, and the commands do not support it",
      'dialect: "postgresql", entities: { roles: "all" }':
        "entities.roles is not true, false or an object",
      'dialect: "postgresql", migrations: { prefix: "date" }':
        "migrations.prefix is not one of index, timestamp, supabase, unix, none",
      'dialect: "postgresql", breakpoints: "no"':
        "breakpoints is not true or false",
      'dialect: "postgresql", migrations: { table: "" }':
        "migrations.table is not a name",
      'dialect: "postgresql", schemaFilter: [1]':
        "schemaFilter is not a name or a list of names",
    };
    for (const [config, message] of Object.entries(refusals))
      expect(refuse(`export default { ${config} }`)).toBe(
        `drizzle.config.ts: ${message}`,
      );
    expect(refuse('throw new Error("SOME_URL is missing")')).toBe(
      "drizzle.config.ts cannot be loaded: SOME_URL is missing",
    );
    expect(refuse("process.exit(1)")).toBe(
      "drizzle.config.ts cannot be loaded: it ends the process",
    );
    expect(() => loadProject(parent)).toThrow(
      `there is no drizzle.config.ts in ${parent}`,
    );
  });

  test("its schema is loaded from files, folders and globs, and two of one name are kept", async () => {
    const folder = join(parent, "schema");
    const files = {
      "drizzle.config.ts":
        'export default { dialect: "postgresql", schema: ["./tables", "./more/*.ts", "./more/b.ts"], migrations: { table: \'a "table"\' } };',
      "tables/users.ts": "export const users = { of: 1 };",
      "tables/notes.md": "none",
      "tables/deeper/lost.ts": "export const lost = {};",
      "more/b.ts":
        'export { users as again } from "../tables/users"; export const users = { of: 2 };',
    };
    for (const [file, text] of Object.entries(files)) {
      mkdirSync(join(folder, file, ".."), { recursive: true });
      writeFileSync(join(folder, file), text);
    }

    expect(await loadSchema(folder)).toEqual({
      users: { of: 1 },
      "users of more/b.ts": { of: 2 },
    });
    expect(loadProject(folder).records.sql).toBe('drizzle."a ""table"""');
    rmSync(join(folder, "tables"), { recursive: true });
    rmSync(join(folder, "more"), { recursive: true });
    await expect(loadSchema(folder)).rejects.toThrow(
      "drizzle.config.ts: schema names no file: ./tables, ./more/*.ts, ./more/b.ts",
    );
    const bare = join(parent, "bare");
    mkdirSync(bare);
    writeFileSync(
      join(bare, "drizzle.config.json"),
      '{ "dialect": "postgresql" }',
    );
    await expect(loadSchema(bare)).rejects.toThrow(
      "drizzle.config.json does not set schema",
    );
  });
});
