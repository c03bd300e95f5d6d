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

    const copied = await application.copy(commands.join(" "));
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
    expect(application.read("package.json")).toStartWith(
      '{\n\t"name": "theirs",\n\t"scripts": {\n\t\t"dev": "next dev",\n\t\t"db:',
    );
    expect(application.read("package.json")).not.toEndWith("\n");
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

      const refused = await application.copy();
      const tried = await application.copy("--into db --dry-run");
      const untouched = application.list();
      const copied = await application.copy("--into db");
      const again = await application.copy("--into db");
      const status = await runCommand(
        "db/scripts/status-migrations.ts",
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
      expect(tried.stdout).toStartWith("Would copy: db/scripts/");
      expect(untouched).toEqual(before);
      expect(copied.exitCode).toBe(0);
      expect(copied.stdout).toContain(
        [
          "Kept: db:migrate, drizzle-kit migrate; this one is `node --import tsx db/scripts/migrate.ts`",
          "Added: db:migrate:status, node --import tsx db/scripts/status-migrations.ts",
          "Packages to add: pnpm add dotenv@",
        ].join("\n"),
      );
      expect(copied.stderr).toBe(
        `Warning: there is no drizzle.config.ts in ${application.folder}\n`,
      );
      const files = application.list().filter((file) => file.endsWith(".ts"));
      expect(files).toContain("db/scripts/migrations/apply.ts");
      expect(
        files.filter((file) =>
          /\/(schema|server|backups|seeds|infrastructure)\//.test(file),
        ),
      ).toEqual([]);
      expect(application.read("db/package.json")).toBe(
        '{ "type": "module" }\n',
      );
      expect(application.read("package.json")).toStartWith(
        '{\n    "scripts": {\n        "db:migrate": "drizzle-kit migrate",\n',
      );
      expect(application.read("package.json")).toEndWith("}\n");
      expect(again.stdout).not.toMatch(/^(Copied|Added)/m);
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

      await application.copy("db:generate db:check");
      const generated = await run("db:generate");
      await $`git init --quiet --initial-branch=main && git ${author} commit --quiet --allow-empty --message=none`.cwd(
        application.folder,
      );
      const kit = join(application.folder, "node_modules/drizzle-kit");
      mkdirSync(kit);
      writeFileSync(join(kit, "package.json"), '{ "version": "1.0.0" }');
      const checked = await run("db:check --offline");

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
    const find = async (content: object, command = "", tsx = "1.0.0") => {
      using application = makeApplication(
        {
          "package.json": JSON.stringify(content),
          "node_modules/tsx/package.json": JSON.stringify({ version: tsx }),
        },
        [],
      );
      const { stdout } = await application.copy(`${command} --dry-run`.trim());
      return stdout
        .split("\n")
        .filter((line) => line.startsWith("Packages"))
        .map((line) => line.replace(/@\S+/g, ""));
    };
    const devDependencies = { tsx: "^1.0.0", postgres: "1" };
    const old = await find({ devDependencies });
    const kept = [
      await find({ devDependencies, type: "module" }),
      await find({ devDependencies }, "", "99.0.0"),
    ];
    const forDevelopment = await find({}, "db:check");

    expect(old).toEqual(["Packages to add: npm install dotenv tsx"]);
    for (const lines of kept)
      expect(lines).toEqual(["Packages to add: npm install dotenv"]);
    expect(forDevelopment).toEqual([
      "Packages to add: npm install dotenv drizzle-orm postgres",
      "Packages to add: npm install -D drizzle-kit",
    ]);
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
      const read = (credentials: string) => {
        const text = `const { env } = process;
        export default { dialect: "postgresql", ${credentials} };`;
        using application = makeApplication({ "drizzle.config.ts": text }, []);
        const before = { ...process.env };
        const { count } = readFound(application.folder);
        expect(process.env).toEqual(before);
        expect(count).toBe(0);
        return Object.fromEntries(readVariables(application.folder));
      };
      const workspace = { "pnpm-workspace.yaml": "" };

      expect(nameIn({})).toEqual(["npm", "npm install -D a"]);
      expect(nameIn({ "yarn.lock": "" })).toEqual(["yarn", "yarn add -D a"]);
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
      expect(read("strict: Boolean(env.MY_DSN)")).toEqual({ url: "MY_DSN" });
    },
  );

  testBeside("refuses a command or a folder that there is not", async () => {
    using old = makeApplication({ "package.json": "{}", "scripts/a.js": "" });
    using own = makeApplication({
      "package.json": "{}",
      "scripts/a.js": "",
      "scripts/package.json": '{ "type": "module" }\n',
    });
    const mixed = await old.copy("--dry-run");
    const apart = await own.copy("--dry-run");
    const command = await runCommand("copy . db:nothing");
    const folder = await runCommand("copy /nowhere");
    const none = await runCommand("copy");

    expect(command).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("there is no command db:nothing"),
    });
    expect(folder).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("/nowhere/package.json cannot be read"),
    });
    expect(none.exitCode).toBe(2);
    expect(mixed).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining(
        "/scripts has programs that are not ES modules\nHint: put the files into a separate folder",
      ),
    });
    expect(apart.exitCode).toBe(0);
  });
});
