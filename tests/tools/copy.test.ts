// bun run copy: into an empty application, and into those of other kinds.
import { describe, expect, test as bunTest } from "bun:test";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { $ } from "bun";
import {
  findPackageManager,
  nameInstall,
  readFound,
  readVariables,
} from "../../scripts/copying/application";
import {
  findCommands,
  findNeeds,
  readPackage,
} from "../../scripts/copying/files";
import { describeError } from "../../scripts/lib/report";
import { root } from "../../src/env";
import { run as runCommand } from "../lib/command";
import { testBeside } from "../lib/database";
import { author } from "../lib/git";
import { test } from "../lib/test";

/** An application in a folder of its own, with these files. */
function makeApplication(files: Record<string, string>, packages?: string[]) {
  const folder = mkdtempSync(join(tmpdir(), "starter application-"));
  for (const [file, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    writeFileSync(join(folder, file), text);
  }
  const modules = join(folder, "node_modules");
  if (packages) mkdirSync(modules, { recursive: true });
  else symlinkSync(join(root, "node_modules"), modules);
  for (const name of packages ?? [])
    symlinkSync(join(root, "node_modules", name), join(modules, name));
  return {
    folder,
    copy: (args = "") =>
      runCommand(["copy", folder, ...args.split(" ").filter(Boolean)]),
    read: (file: string) => readFileSync(join(folder, file), "utf8"),
    list: () =>
      readdirSync(folder, { recursive: true, encoding: "utf8" })
        .filter((file) => !file.startsWith("node_modules") && /\./.test(file))
        .sort(),
    [Symbol.dispose]: () => rmSync(folder, { recursive: true }),
  };
}

/** What a copy names after a verb, sorted. */
const linesOf = (verb: string, stdout: string) =>
  [...stdout.matchAll(new RegExp(`^${verb}: (.*)$`, "gm"))]
    .map(([, rest = ""]) => rest)
    .sort();

const config = `
  import { defineConfig } from "drizzle-kit";
  import "dotenv/config";
  const address = process.env.APP_DB_URL;
  if (!address) throw new Error("APP_DB_URL is missing");
  export default defineConfig({
    dialect: "postgresql", schema: ["./lib/tables", "./lib/more/*.ts"], out: "./lib/migrations",
    casing: "snake_case", migrations: { schema: "records", table: "My migrations" },
    dbCredentials: { url: address },
  });`;
const tables = {
  "lib/tables/people.ts":
    'import { integer, pgTable, text } from "drizzle-orm/pg-core";\nexport const people = pgTable("people", { id: integer().primaryKey(), fullName: text() });\n',
  "lib/tables/notes.md": "not a table",
  "lib/more/pets.ts":
    'import { integer, pgTable } from "drizzle-orm/pg-core";\nimport { people } from "../tables/people";\nexport const pets = pgTable("pets", { id: integer().primaryKey(), ownerId: integer().references(() => people.id) });\n',
};

describe("copy", () => {
  test("copies every command into an application with places of its own, where they work", async ({
    url,
    sql,
  }) => {
    using application = makeApplication({
      "package.json":
        '{\n\t"name": "theirs",\n\t"scripts": { "dev": "next dev" }\n}',
      "bun.lock": "",
      "drizzle.config.ts": config,
      ...tables,
    });
    const { scripts } = JSON.parse(
      readFileSync(join(root, "package.json"), "utf8"),
    );
    const commands = Object.keys(scripts).filter((name) =>
      name.startsWith("db:"),
    );
    const run = (command: string) =>
      runCommand(command, { APP_DB_URL: url }, application.folder);

    const before = application.list();
    const copied = await application.copy(commands.join(" "));
    const files = application.list().filter((file) => !before.includes(file));
    const generated = await run("db:generate first");
    const [tag = ""] = application
      .list()
      .filter((file) => file.endsWith("_first.sql"));
    const outcomes = [];
    for (const command of [
      "db:migrate",
      "db:migrate:status",
      "db:check",
      "db:rollback",
    ])
      outcomes.push({ command, exitCode: (await run(command)).exitCode });

    expect(copied).toMatchObject({ exitCode: 0, stderr: "" });
    expect(copied.stdout).toEndWith(
      [
        "Found: drizzle.config.ts",
        "Found: 0 migrations in lib/migrations",
        'Found: records in "records"."My migrations"',
        "Found: url in APP_DB_URL",
        "",
      ].join("\n"),
    );
    expect(linesOf("Copied", copied.stdout)).toEqual(files);
    for (const file of files.filter((name) => name !== "src/env.ts"))
      expect(application.read(file)).toBe(
        readFileSync(join(root, file), "utf8"),
      );
    const added = commands.map((name) => [name, scripts[name]] as const);
    expect(linesOf("Added", copied.stdout)).toEqual(
      added.map((pair) => pair.join(", ")).sort(),
    );
    const content = {
      name: "theirs",
      scripts: { dev: "next dev", ...Object.fromEntries(added) },
    };
    expect(application.read("package.json")).toBe(
      JSON.stringify(content, null, "\t"),
    );
    expect(generated).toMatchObject({ exitCode: 0 });
    expect(tag).toBe("lib/migrations/0000_first.sql");
    expect(application.read(tag)).toContain('"full_name" text');
    expect(application.read(tag)).toContain('"owner_id" integer');
    expect(outcomes).toEqual(
      outcomes.map(({ command }) => ({ command, exitCode: 0 })),
    );
    const [row] = await sql`
      select count(*)::int as count, to_regclass('drizzle.__drizzle_migrations') as other
      from "records"."My migrations"`;
    expect(row).toEqual({ count: 0, other: null });
  });

  testBeside(
    "copies what the commands import and nothing else, and overwrites nothing",
    async () => {
      const own = {
        "package.json":
          '{\n    "scripts": {\n        "db:migrate": "drizzle-kit migrate"\n    }\n}\n',
      };
      using application = makeApplication({
        ...own,
        "pnpm-lock.yaml": "",
        "src/env.ts": "export {};",
      });
      const before = application.list();
      const packageOf = (folder: string) =>
        readFileSync(join(folder, "package.json"), "utf8");
      const { dotenv, postgres } = JSON.parse(packageOf(root)).dependencies;

      const refused = await application.copy();
      const tried = await application.copy("--into tools/db --dry-run");
      const untouched = application.list();
      const text = application.read("package.json");
      const copied = await application.copy("--into tools/db");
      const listed = application.list();
      const again = await application.copy("--into tools/db");
      const status = await runCommand(
        "tools/db/scripts/status-migrations.ts",
        { DATABASE_URL: "postgres://a:b@127.0.0.1:9/c" },
        application.folder,
      );

      expect(refused).toEqual({
        exitCode: 2,
        stdout: "",
        stderr: [
          `Error: ${application.folder} has files of these names with other content`,
          "  src/env.ts",
          "Hint: put the files into a separate folder: add `--into <folder>`, such as `--into db`",
          "",
        ].join("\n"),
      });
      const files = listed.filter((file) => !before.includes(file));
      const program = "node --import tsx tools/db/scripts";
      const end = (verb: string) =>
        [
          `Kept: db:migrate, drizzle-kit migrate; this one is \`${program}/migrate.ts\``,
          `${verb}: db:migrate:status, ${program}/status-migrations.ts`,
          `Packages to add: pnpm add dotenv@${dotenv} postgres@${postgres} tsx@4.23.15`,
          "",
        ].join("\n");
      const print = (verb: string, stdout: string) =>
        linesOf(verb, stdout).filter((file) => file.startsWith("tools/"));
      expect(print("Would copy", tried.stdout)).toEqual(files);
      expect(tried.stdout).toEndWith(end("Would add"));
      expect(untouched).toEqual(before);
      expect(text).toBe(own["package.json"]);
      expect(copied.exitCode).toBe(0);
      expect(print("Copied", copied.stdout)).toEqual(files);
      expect(copied.stdout).toEndWith(end("Added"));
      expect(print("Kept", again.stdout)).toEqual(files);
      expect(again.stdout).toEndWith(end("Kept"));
      expect(copied.stderr).toBe(
        `Warning: there is no drizzle.config.ts in ${application.folder}\n`,
      );
      expect(files).toContain("tools/db/scripts/migrations/apply.ts");
      expect(
        files.filter((file) =>
          /\/(schema|server|backups|seeds|infrastructure)\/|\.env/.test(file),
        ),
      ).toEqual([]);
      expect(application.read("tools/db/package.json")).toBe(
        '{ "type": "module" }\n',
      );
      expect(application.read("tools/db/src/env.ts")).toContain(
        "root = dirname(dirname(dirname(dirname(fileURLToPath(import.meta.url)))));",
      );
      expect(application.read("package.json")).toStartWith(
        '{\n    "scripts": {\n        "db:migrate": "drizzle-kit migrate",\n',
      );
      expect(application.read("package.json")).toEndWith("}\n");
      expect(status.stderr).toContain("127.0.0.1:9");
    },
  );

  bunTest("a hint names no command that is not there", () => {
    const hint = "run `bun run db:nothing`; or `bun run db:migrate`";

    expect(describeError(Object.assign(new Error(), { hint })).hint).toBe(
      "`bun run db:migrate`",
    );
  });

  testBeside(
    "what is missing in an application makes a command smaller",
    async () => {
      const tags = [...Array(7).keys()].map((idx) => `000${idx}_a`);
      const entries = tags.map((tag, idx) => ({ tag, idx, when: idx + 1 }));
      using application = makeApplication(
        {
          "package.json": "{}",
          "bun.lock": "",
          "drizzle.config.ts":
            'export default { dialect: "postgresql", schema: "./lib/tables", breakpoints: false };',
          ".env": "DATABASE_URL=postgres://a:b@127.0.0.1:9/c\n",
          "drizzle/meta/_journal.json": JSON.stringify({ entries }),
          ...Object.fromEntries(
            tags.map((tag) => [`drizzle/${tag}.sql`, "select 1"]),
          ),
          "drizzle/0000_a.down.sql": "select 1",
          ...tables,
        },
        ["postgres", "dotenv", "drizzle-orm"],
      );
      const { PATH = "" } = process.env;
      const run = (command: string) =>
        runCommand(command, { PATH }, application.folder);

      const copied = await application.copy("db:generate db:check");
      const generated = await run("db:generate");
      await $`git init --quiet --initial-branch=main && git ${author} commit --quiet --allow-empty --message=none`.cwd(
        application.folder,
      );
      const kit = join(application.folder, "node_modules/drizzle-kit");
      mkdirSync(kit);
      writeFileSync(join(kit, "package.json"), '{ "version": "1.0.0" }');
      const checked = await run("db:check --offline");

      expect(copied.stdout).toEndWith(
        [
          "Found: drizzle.config.ts",
          "Found: 7 migrations in drizzle",
          "Found: records in drizzle.__drizzle_migrations",
          "Found: no variable in drizzle.config.ts; set DATABASE_URL, or add yours at the top of src/env.ts",
          "",
        ].join("\n"),
      );
      expect(generated).toMatchObject({
        exitCode: 2,
        stderr: expect.stringContaining("Error: drizzle-kit is not installed"),
      });
      expect(checked).toEqual({
        exitCode: 3,
        stdout: [
          "Warning: down_missing: drizzle: 6 of 7 migrations have no down file and cannot be rolled back: `bun run db:generate --down` writes those that it can",
          "Error: snapshot_missing: drizzle/meta/0006_snapshot.json: it is not there: `git log --all -- drizzle/meta/0006_snapshot.json` lists its commits",
          "Warning: snapshot_missing: drizzle/meta: 6 of 7 migrations have no snapshot, which db:generate --down needs",
          "Checked: 1 error, 2 warnings",
          "",
        ].join("\n"),
        stderr: [
          "Not compared: schema.ts (drizzle-kit 1.0.0 is installed, and only 0.31 is known here: add the package `drizzle-kit@0.31` to the development dependencies)",
          "Not linted: the package squawk-cli is not installed",
          "",
        ].join("\n"),
      });
    },
  );

  testBeside("names the packages that an application lacks", async () => {
    const find = async (content: object, args = "", tsx?: string) => {
      using application = makeApplication(
        {
          "package.json": JSON.stringify(content),
          ...(tsx && {
            "node_modules/tsx/package.json": JSON.stringify({ version: tsx }),
          }),
        },
        [],
      );
      const { stdout } = await application.copy(
        `${args} --dry-run --json`.trim(),
      );
      const { files, packages, ...rest } = JSON.parse(stdout);
      return {
        ...rest,
        others: files.filter((file: string) => !file.endsWith(".ts")),
        packages: packages.map((line: string) => line.replace(/@\S+/g, "")),
      };
    };
    const devDependencies = { tsx: "^4.23.14", postgres: "1" };
    const withTsx = [
      await find({ devDependencies }),
      await find({ devDependencies }, "", "4.23.14"),
      await find({ devDependencies }, "", "4.23.15"),
      await find({ devDependencies }, "--into db"),
      await find({ devDependencies, type: "module" }),
      await find({ dependencies: { tsx: "~5.0.0" } }),
    ].map(({ packages, others }) => [...packages, ...others]);
    const some = await find(
      {},
      "db:migrate db:rollback db:baseline db:migrate:status db:seed:rbac",
    );
    const forDevelopment = await find({}, "db:check");
    const withCompose = await find({}, "db:start --into db");

    const module = "scripts/package.json";
    expect(withTsx).toEqual([
      ["npm install dotenv tsx", module],
      ["npm install dotenv tsx", module],
      ["npm install dotenv", module],
      ["npm install dotenv", "db/package.json"],
      ["npm install dotenv"],
      ["npm install dotenv postgres", module],
    ]);
    expect(some).toMatchObject({
      scripts: {
        "db:migrate": "node --import tsx scripts/migrate.ts",
        "db:rollback": "node --import tsx scripts/rollback.ts",
        "db:baseline": "node --import tsx scripts/baseline.ts",
        "db:migrate:status": "node --import tsx scripts/status-migrations.ts",
        "db:seed:rbac": "bun scripts/seed-db.ts rbac",
      },
      config: null,
      variables: {},
    });
    expect(withCompose.others.sort()).toEqual([
      ".env.example",
      "db/package.json",
      "docker-compose.dev.yml",
    ]);
    expect(forDevelopment).toEqual({
      scripts: { "db:check": "bun scripts/check-db.ts" },
      packages: [
        "npm install dotenv drizzle-orm postgres",
        "npm install -D drizzle-kit",
      ],
      others: [module],
      config: null,
      variables: {},
    });
  });

  bunTest("finds the programs of commands, and all that these need", () => {
    const { scripts, dependencies, devDependencies } = JSON.parse(
      readFileSync(join(root, "package.json"), "utf8"),
    );
    const needs = (...programs: string[]) => findNeeds(programs);
    const seeds = readdirSync(join(root, "scripts/seeds"));

    expect(findCommands(["db:seed:rbac", "copy"])).toEqual([
      { name: "db:seed:rbac", program: "scripts/seed-db.ts", args: " rbac" },
      { name: "copy", program: "scripts/copy.ts", args: "" },
    ]);
    let refused: unknown;
    try {
      findCommands(["copy", "db:mig"]);
    } catch (error) {
      refused = error;
    }
    const names = Object.keys(scripts).filter((name) =>
      scripts[name].startsWith("bun scripts/"),
    );
    expect(refused).toMatchObject({
      message: "there is no command db:mig",
      hint: `the commands are ${names.join(", ")}`,
      exitCode: 2,
    });
    const migrate = needs("scripts/migrate.ts");
    expect(migrate.files).toEqual([...new Set(migrate.files)].sort());
    expect(migrate.files).toContain("scripts/migrate.ts");
    expect(migrate.packages).toEqual(
      ["dotenv", "postgres"].map((name) => ({
        name,
        version: dependencies[name],
        isForDevelopment: false,
      })),
    );
    expect(needs("scripts/check-db.ts").packages).toContainEqual({
      name: "drizzle-kit",
      version: devDependencies["drizzle-kit"],
      isForDevelopment: true,
    });
    expect(needs("scripts/seed-db.ts").files).toEqual(
      expect.arrayContaining(seeds.map((name) => `scripts/seeds/${name}`)),
    );
    expect(needs("scripts/test-db.ts").files).toContain(
      "src/infrastructure/database/index.ts",
    );
    const setup = needs("scripts/setup-db.ts", "scripts/docker-prod.ts");
    expect(setup.files).toEqual(
      expect.arrayContaining([
        ".env.example",
        "docker-compose.dev.yml",
        "docker-compose.yml",
        "scripts/test-db.ts",
      ]),
    );
    using empty = makeApplication({ "package.json": "{}" }, []);
    expect(readPackage(empty.folder)).toEqual({
      text: "{}",
      scripts: {},
      dependencies: {},
      devDependencies: {},
    } as never);
  });

  bunTest(
    "finds the package manager, and the variables of the database",
    () => {
      const nameIn = (files: Record<string, string>, below = "") => {
        using application = makeApplication(files, []);
        const folder = join(application.folder, below);
        mkdirSync(folder, { recursive: true });
        return [findPackageManager(folder), nameInstall(folder, ["a"], true)];
      };
      const read = (credentials: string, files = {}) => {
        const text = `const { env } = process;
        export default { dialect: "postgresql", ${credentials} };`;
        using application = makeApplication(
          { "drizzle.config.ts": text, ...files },
          [],
        );
        process.env.DB_SECRET = "is set"; // and stays so
        const before = { ...process.env };
        const { count } = readFound(application.folder);
        expect(process.env).toEqual(before);
        expect(count).toBe(Object.keys(files).length);
        delete process.env.DB_SECRET;
        return Object.fromEntries(readVariables(application.folder));
      };
      const workspace = { "pnpm-workspace.yaml": "" };

      expect(nameIn({})).toEqual(["npm", "npm install -D a"]);
      expect(nameIn({ "yarn.lock": "" })).toEqual(["yarn", "yarn add -D a"]);
      expect(
        nameIn({ "yarn.lock": "", "a/package-lock.json": "" }, "a"),
      ).toEqual(["npm", "npm install -D a"]);
      expect(nameIn({ "bun.lock": "" })).toEqual(["bun", "bun add -D a"]);
      expect(nameIn({ "pnpm-lock.yaml": "" })).toEqual([
        "pnpm",
        "pnpm add -D a",
      ]);
      expect(
        nameIn({ "package.json": '{ "packageManager": "bunny@1.0.0" }' }),
      ).toEqual(["npm", "npm install -D a"]);
      expect(nameIn({ "bun.lockb": "", ...workspace })).toEqual([
        "bun",
        "bun add -D a",
      ]);
      expect(nameIn({ "pnpm-lock.yaml": "", ...workspace })).toEqual([
        "pnpm",
        "pnpm add -w -D a",
      ]);
      expect(
        nameIn({ "package.json": '{ "packageManager": "pnpm@9.1.0" }' }, "a/b"),
      ).toEqual(["pnpm", "pnpm add -D a"]);
      expect(
        read(`dbCredentials: { host: env.DB_HOST!, port: Number(env["DB_PORT"]),
        user: env.DB_USER, password: process.env.DB_SECRET, database: "app" },
        out: env.SOME_URL ? "out" : "other"`),
      ).toEqual({
        host: "DB_HOST",
        port: "DB_PORT",
        user: "DB_USER",
        password: "DB_SECRET",
      });
      expect(
        read("dbCredentials: { url: env['MY_DB'], database: env.MY_NAME }"),
      ).toEqual({ url: "MY_DB", database: "MY_NAME" });
      for (const use of [".MY_DSN", '["MY_URI"]', "['MY_URL']"])
        expect(read(`out: env.OUT, strict: Boolean(env${use})`)).toEqual({
          url: use.replace(/\W/g, ""),
        });
      expect(
        read("strict: Boolean(env.MY_FLAG)", {
          "drizzle/20260101000000_a/migration.sql": "select 1",
        }),
      ).toEqual({});
    },
  );

  testBeside("refuses a command or a folder that there is not", async () => {
    using old = makeApplication({ "package.json": "{}", "scripts/a.js": "" });
    using own = makeApplication({
      "package.json": '{"scripts":{}}',
      "scripts/a.js": "",
      "scripts/notes.md": "",
      "scripts/package.json": '{ "type": "module" }\n',
      "drizzle.config.ts": `const { env } = process;
        export default { dialect: "postgresql", schema: "x", dbCredentials: {
          host: env.DB_HOST, database: env.POSTGRES_DB, password: "x" } };`,
    });
    using module = makeApplication({
      "package.json": '{"type":"module","scripts":{"db:migrate":"own"}}',
      "scripts/a.js": "",
    });
    const mixed = await old.copy("--dry-run");
    const apart = await own.copy();
    for (const file of ["a.js", "package.json"])
      rmSync(join(own.folder, "scripts", file));
    const again = await own.copy("--json");
    const modules = await module.copy("db:migrate");
    const command = await runCommand("copy . db:nothing");
    const folder = await runCommand("copy /nowhere");
    const none = await runCommand("copy");

    expect(command).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("there is no command db:nothing"),
    });
    expect(folder).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(
        /\/nowhere\/package.json cannot be read: ENOENT.*\nHint: name the folder that has the application's package.json\n$/,
      ),
    });
    expect(none.exitCode).toBe(2);
    expect(apart.stdout).toEndWith(
      "Found: host in DB_HOST\nFound: database in POSTGRES_DB\n",
    );
    expect(JSON.parse(again.stdout)).toMatchObject({
      config: {
        config: "drizzle.config.ts",
        migrations: "drizzle",
        count: 0,
        records: "drizzle.__drizzle_migrations",
      },
      variables: { host: "DB_HOST", database: "POSTGRES_DB" },
    });
    const env = own.read("src/env.ts");
    expect(env).toContain('  host: ["POSTGRES_HOST", "DB_HOST"],\n');
    expect(env).toContain('  database: ["POSTGRES_DB"],\n');
    expect(env).toContain('  user: ["POSTGRES_USER"],\n');
    expect(own.read("package.json")).toBe(
      JSON.stringify(
        {
          scripts: {
            "db:migrate": "node --import tsx scripts/migrate.ts",
            "db:migrate:status":
              "node --import tsx scripts/status-migrations.ts",
          },
        },
        null,
        2,
      ),
    );
    expect(modules.exitCode).toBe(0);
    expect(module.read("package.json")).toBe(
      '{"type":"module","scripts":{"db:migrate":"own"}}',
    );
    expect(mixed).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining(
        "/scripts has programs that are not ES modules\nHint: put the files into a separate folder",
      ),
    });
  });
});
