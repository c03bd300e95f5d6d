// The commands on a file, each test in a copy of this project: nothing may be lost.
import { afterAll, beforeAll, expect, test as bunTest } from "bun:test";
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "@libsql/client";
import { spawn } from "bun";
import { drizzle } from "drizzle-orm/libsql";
import { migrate } from "drizzle-orm/libsql/migrator";

const TIMEOUT_MS = 60_000;
const PARTS = [
  "package.json",
  "bunfig.toml",
  "drizzle.config.ts",
  "src",
  "scripts",
];
const base = mkdtempSync(join(tmpdir(), "libsql-recipe-"));

/** A copy of this project, with its first migration, in a folder of its own. */
type Project = ReturnType<typeof makeProject>;

beforeAll(async () => {
  for (const part of PARTS)
    cpSync(join(import.meta.dir, part), join(base, "first", part), {
      recursive: true,
    });
  symlinkSync(
    join(import.meta.dir, "node_modules"),
    join(base, "first/node_modules"),
  );
  await makeProject("first").run("db:generate first");
}, TIMEOUT_MS);

afterAll(() => rmSync(base, { recursive: true }));

function test(
  sentence: string,
  body: (project: Project) => Promise<void>,
): void {
  const copyFirst = () => {
    const name = crypto.randomUUID();
    cpSync(join(base, "first"), join(base, name), {
      recursive: true,
      verbatimSymlinks: true,
    });
    return body(makeProject(name));
  };
  bunTest.concurrent(sentence, copyFirst, TIMEOUT_MS);
}

function makeProject(name: string) {
  const folder = join(base, name);
  const path = (file: string) => join(folder, file);
  const read = (file: string) => readFileSync(path(file), "utf8");
  const write = (file: string, text: string) => writeFileSync(path(file), text);
  const connect = () => createClient({ url: `file:${path("local.db")}` });
  return {
    path,
    read,
    write,
    connect,
    /** Runs a command without a terminal, on a file in the folder. */
    async run(command: string) {
      const { PATH, HOME } = process.env;
      const child = spawn([process.execPath, "run", ...command.split(" ")], {
        cwd: folder,
        env: { PATH, HOME },
        stdin: "ignore",
        stdout: "pipe",
        stderr: "pipe",
      });
      const [stdout, stderr] = await Promise.all([
        child.stdout.text(),
        child.stderr.text(),
      ]);
      return { exitCode: await child.exited, stdout, stderr };
    },
    /** Returns the rows of a statement, each as a list of values. */
    async query(sql: string) {
      const client = connect();
      const { rows } = await client.execute(sql);
      client.close();
      return rows.map((row) => Array.from(row));
    },
    /** Writes a second migration, with SQL of its own. */
    addMigration(sql: string) {
      const journal = JSON.parse(read("drizzle/meta/_journal.json"));
      const [first] = journal.entries;
      journal.entries.push({
        ...first,
        idx: 1,
        when: first.when + 1,
        tag: "0001_own",
      });
      write("drizzle/meta/_journal.json", JSON.stringify(journal));
      write("drizzle/0001_own.sql", sql);
    },
    changeSchema(from: string, to: string) {
      const text = read("src/schema.ts");
      expect(text).toContain(from);
      write("src/schema.ts", text.replace(from, to));
    },
  };
}

async function migrateWithRows({ run, query }: Project) {
  await run("db:migrate");
  await query("insert into authors (id, name) values (1, 'Ada')");
  await query("insert into notes (author_id, text) values (1, 'Kept')");
}

test("a table that is rebuilt keeps the rows that refer to it", async (project) => {
  const { run, query, read } = project;
  await migrateWithRows(project);
  project.changeSchema(
    '"drizzle-orm/sqlite-core";',
    '"drizzle-orm/sqlite-core";\nimport { check } from "drizzle-orm/sqlite-core";',
  );
  project.changeSchema(
    'name: text("name").notNull(),\n}',
    'name: text("name").notNull(),\n}, (table) => [check("named", sql`${table.name} <> \'\'`)]',
  );
  await run("db:generate rebuild");

  const migrated = await run("db:migrate");
  const client = project.connect();
  await migrate(drizzle({ client }), {
    migrationsFolder: project.path("drizzle"),
  });
  client.close();

  expect(read("drizzle/0001_rebuild.sql")).toContain("DROP TABLE `authors`");
  expect(migrated).toMatchObject({ exitCode: 0, stderr: "" });
  expect(
    await query(
      "select text, name from notes join authors on authors.id = author_id",
    ),
  ).toEqual([["Kept", "Ada"]]);
  expect(await query("select count(*) from __drizzle_migrations")).toEqual([
    [2],
  ]);
});

test("one that fails, or breaks a key, leaves nothing behind", async (project) => {
  const { run, query } = project;
  await migrateWithRows(project);
  project.addMigration(
    "create table half (id integer);--> statement-breakpoint\ninsert into nowhere values (1);",
  );

  const failed = await run("db:migrate");
  const status = await run("db:status");
  project.write("drizzle/0001_own.sql", "delete from authors;");
  const broken = await run("db:migrate");

  expect(failed).toEqual({
    exitCode: 1,
    stdout: "",
    stderr: "Error: 0001_own: no such table: nowhere\n",
  });
  expect(status).toMatchObject({
    exitCode: 3,
    stdout: "Database: ./local.db\n0000_first: applied\n0001_own: pending\n",
  });
  expect(broken.stderr).toBe(
    "Error: 0001_own: a foreign key would point to a row that is missing\n",
  );
  expect(
    await query("select name from sqlite_master where name = 'half'"),
  ).toEqual([]);
  expect(await query("select tag from __migration_log")).toEqual([
    ["0000_first"],
  ]);
  expect(await query("select name from authors")).toEqual([["Ada"]]);
});

test("of several at once, one applies each migration", async (project) => {
  const { run, query, write, path, addMigration } = project;
  addMigration("create table more (id integer);");

  const all = await Promise.all(
    Array.from({ length: 4 }, () => run("db:migrate")),
  );
  appendFileSync(path("drizzle/0001_own.sql"), " -- edited");
  const edited = await run("db:migrate");
  // As a process does that has read the records before another one wrote them.
  write(
    "late.ts",
    `import { applyMigration, readFolder } from "./scripts/migrations";
    for (const migration of readFolder()) console.log(await applyMigration(migration));`,
  );
  const late = await run("late.ts");

  expect(all.map(({ exitCode }) => exitCode)).toEqual([0, 0, 0, 0]);
  expect(
    all.flatMap(({ stdout }) => stdout.match(/Applied: \w+/g) ?? []).sort(),
  ).toEqual(["Applied: 0000_first", "Applied: 0001_own"]);
  expect(edited).toMatchObject({
    exitCode: 1,
    stderr: "Error: edited since they were applied: 0001_own\n",
  });
  expect(late).toEqual({ exitCode: 0, stdout: "false\nfalse\n", stderr: "" });
  expect(await query("select count(*) from __drizzle_migrations")).toEqual([
    [2],
  ]);
});

test("push adds without asking, and asks before it changes or drops", async (project) => {
  const { run, query } = project;
  await migrateWithRows(project);
  const column = '    text: text("text").notNull(),\n';
  project.changeSchema(column, `${column}    tag: text("tag"),\n`);
  const added = await run("db:push");
  project.changeSchema(column, "");

  const refused = await run("db:push --confirm other.db");
  const kept = await query("select text from notes");
  const pushed = await run("db:push --confirm ./local.db");

  expect(added).toMatchObject({ exitCode: 0 });
  expect(refused).toMatchObject({
    exitCode: 2,
    stderr: [
      "Error: this needs confirmation: tables are changed, and rows may be lost",
      "Hint: to go ahead, add `--confirm ./local.db`",
      "",
    ].join("\n"),
  });
  expect(kept).toEqual([["Kept"]]);
  expect(pushed.exitCode).toBe(0);
  expect(await query("select author_id, tag from notes")).toEqual([[1, null]]);
  expect(await query("select tag from __migration_log")).toHaveLength(1);
});

test("a reset keeps a backup, and a backup is whole", async (project) => {
  const { run, query, path } = project;
  const nothing = [await run("db:backup"), await run("db:status")];
  const isCreated = existsSync(path("local.db"));
  await migrateWithRows(project);
  await query("create view named as select name from authors");
  await query("create virtual table words using fts5(word)");

  const reset = await run("db:reset");
  const empty = await query("select * from authors");
  const tables = await query(
    "select name from sqlite_master where type in ('table', 'view') order by name",
  );
  const [backup = ""] = readdirSync(path("backups"));
  cpSync(path(`backups/${backup}`), path("local.db"));
  const restored = await query("select name from named");
  const current = await run("db:status");

  expect(nothing.map(({ exitCode }) => exitCode)).toEqual([2, 2]);
  expect(isCreated).toBe(false);
  expect(reset).toMatchObject({ exitCode: 0, stderr: "" });
  expect(empty).toEqual([]);
  expect(tables.flat()).toEqual([
    "__drizzle_migrations",
    "__migration_log",
    "authors",
    "notes",
  ]);
  expect(restored).toEqual([["Ada"]]);
  expect(current.exitCode).toBe(0);
});
