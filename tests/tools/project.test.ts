// What the commands read in drizzle.config.ts, and what they refuse there.
import { afterAll, describe, expect, test } from "bun:test";
import {
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
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

/** What a configuration is refused with: the message, and the hint. */
function refuse(text: string): string[] {
  try {
    load(text);
  } catch (error) {
    expect(error).toMatchObject({ exitCode: 2, hint: expect.any(String) });
    const { message, hint } = error as Error & { hint: string };
    return [message, hint];
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
        dbCredentials: { url: "none" },
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
    const ts = 'export default { dialect: "postgresql", out: "from-ts" };';
    const others = { "drizzle.config.json": json };

    expect(load(json, "drizzle.config.json")).toMatchObject({
      config: "drizzle.config.json",
      out: "from-json",
    });
    expect(load(cjs, "drizzle.config.js", others).out).toBe("from-js");
    expect(
      load(ts, "drizzle.config.ts", { ...others, "drizzle.config.js": cjs })
        .out,
    ).toBe("from-ts");
  });

  test("has each value that drizzle-kit knows", () => {
    const set = (text: string) =>
      load(`export default { dialect: "postgresql", ${text} }`);

    for (const prefix of ["index", "timestamp", "supabase", "unix", "none"])
      expect(set(`migrations: { prefix: "${prefix}" }`).prefix as string).toBe(
        prefix,
      );
    for (const casing of ["camelCase", "snake_case"])
      expect(set(`casing: "${casing}"`).casing as string).toBe(casing);
    for (const roles of [true, false])
      expect(set(`entities: { roles: ${roles} }`).roles).toBe(roles);
    expect(set('schema: "a.ts", schemaFilter: []')).toMatchObject({
      schema: ["a.ts"],
      schemaFilter: [],
    });
    const names = ["public", "drizzle", "__a9_z", "app", "__A", "a__b"];
    expect(
      names.map((name) => set(`migrations: { schema: "${name}" }`).records.sql),
    ).toEqual(
      ["public", "drizzle", "__a9_z", '"app"', '"__A"', '"a__b"'].map(
        (name) => `${name}.__drizzle_migrations`,
      ),
    );
  });

  test("sees the variables of its folder, and leaves no trace", () => {
    const before = { ...process.env };
    const { log, info } = console;
    const { exit } = process;
    const cwd = process.cwd();
    const printed: unknown[] = [];
    console.log = console.info = (...values) => void printed.push(values);
    const own = console.log;
    const text = `
      import { config } from "${import.meta.resolve("dotenv")}";
      config({ path: import.meta.dirname + "/.env.theirs", override: true });
      process.env.LEFT = "behind";
      delete process.env.PATH;
      console.log("url", process.env.THEIRS);
      console.info("url", process.env.THEIRS);
      export default {
        dialect: "postgresql",
        out: process.env.THEIRS + process.env.OF_FILE,
        schema: process.cwd(),
        tablesFilter: [process.env.SKIP_ENV_VALIDATION, process.env.DOTENV_CONFIG_QUIET],
      };`;
    const files = {
      ".env.theirs": "THEIRS=theirs\nNODE_ENV=other\n",
      ".env": "OF_FILE=-env\n",
    };

    try {
      const { out, schema, tablesFilter } = load(text, undefined, files);
      expect(() => load("process.exit(1)")).toThrow();

      expect(out).toBe("theirs-env");
      expect(schema).toEqual([join(realpathSync(parent), `app-${count - 1}`)]);
      expect(tablesFilter).toEqual(["1", "true"]);
      expect(process.env).toEqual(before);
      expect([console.log, console.info]).toEqual([own, own]);
      expect(printed).toEqual([]);
      expect([process.exit, process.cwd()] as unknown[]).toEqual([exit, cwd]);
    } finally {
      Object.assign(console, { log, info });
    }
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
      'dialect: "postgresql", migrations: { schema: 1 }':
        "migrations.schema is not a name",
      'dialect: "postgresql", migrations: []': "migrations is not an object",
      'dialect: "postgresql", entities: null': "entities is not an object",
      'dialect: "postgresql", entities: { roles: [] }':
        "entities.roles is not true, false or an object",
      'dialect: "postgresql", out: ""': "out is not a folder",
      'dialect: "postgresql", schemaFilter: [1]':
        "schemaFilter is not a name or a list of names",
      ...Object.fromEntries(
        ["schema", "tablesFilter", "extensionsFilters"].map((key) => [
          `dialect: "postgresql", ${key}: ["a", ""]`,
          `${key} is not a name or a list of names`,
        ]),
      ),
    };
    for (const [config, message] of Object.entries(refusals))
      expect(refuse(`export default { ${config} }`)).toEqual([
        `drizzle.config.ts: ${message}`,
        `change \`${message.split(" ")[0]}\` in \`drizzle.config.ts\`: the commands read it`,
      ]);
    const unloaded =
      "fix `drizzle.config.ts`, or set the variable that it asks for";
    for (const [text, reason] of [
      ['throw new Error(" SOME_URL\\n  is missing ")', "SOME_URL is missing"],
      ['throw new Error("x".repeat(400))', "x".repeat(300)],
      ["process.exit(1)", "it ends the process"],
      ['throw new Error("a\\nRequire stack:\\n- b")', "a"],
    ])
      expect(refuse(text ?? "")).toEqual([
        `drizzle.config.ts cannot be loaded: ${reason}`,
        unloaded,
      ]);
    const none = () => loadProject(parent);
    expect(none).toThrow(`there is no drizzle.config.ts in ${parent}`);
    expect(none).toThrow(
      expect.objectContaining({
        hint: "write one that sets `dialect`, `schema` and `out`: https://orm.drizzle.team/docs/drizzle-config-file",
      }),
    );
  });

  test("its schema is loaded from files, folders and globs, and two of one name are kept", async () => {
    const folder = join(parent, "schema");
    const files = {
      "drizzle.config.ts":
        'export default { dialect: "postgresql", schema: ["./tables", "./more/*.ts", "./more/b.ts"], migrations: { table: \'a "table"\' } };',
      "tables/users.ts": "export const users = { of: 1 };",
      "tables/notes.md": "none",
      "tables/a.jsx": "none",
      "tables/roles.mts": "export const roles = {};",
      "tables/old.cts": "export const old = {};",
      "tables/plain.js": "export const plain = {};",
      "tables/deeper/lost.ts": "export const lost = {};",
      "more/b.ts":
        'export { users as again } from "../tables/users"; export const users = { of: 2 };',
    };
    for (const [file, text] of Object.entries(files)) {
      mkdirSync(join(folder, file, ".."), { recursive: true });
      writeFileSync(join(folder, file), text);
    }

    expect(await loadSchema(folder)).toEqual({
      old: {},
      plain: {},
      roles: {},
      users: { of: 1 },
      "users of more/b.ts": { of: 2 },
    });
    expect(loadProject(folder).records.sql).toBe('drizzle."a ""table"""');
    rmSync(join(folder, "tables"), { recursive: true });
    rmSync(join(folder, "more"), { recursive: true });
    await expect(loadSchema(folder)).rejects.toMatchObject({
      message:
        "drizzle.config.ts: schema names no file: ./tables, ./more/*.ts, ./more/b.ts",
      hint: "set `schema` in `drizzle.config.ts` to the file, folder or glob of your tables",
    });
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
