// Projects to measure: this one's programs with many migrations, or many tables.
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { generateDrizzleJson, generateMigration } from "drizzle-kit/api";
import { root } from "../src/env";

const database = "src/infrastructure/database";
const migrations = `${database}/migrations`;

/** Where all projects are, until this process ends. */
export const parent = mkdtempSync(join(tmpdir(), "starter-bench-"));
process.once("exit", () => rmSync(parent, { recursive: true, force: true }));

const FILES = [
  "package.json",
  "bunfig.toml",
  "tsconfig.json",
  "drizzle.config.ts",
  "scripts",
  "src",
];

type Snapshot = ReturnType<typeof generateDrizzleJson>;

/** Copies all that a new clone has. @returns the folder. */
export function copyClone(): string {
  const folder = mkdtempSync(join(parent, "clone-"));
  for (const file of [...FILES, ".env.example"])
    cpSync(join(root, file), join(folder, file), { recursive: true });
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
  return folder;
}

/** Copies the programs, without schema and migrations. @returns the folder. */
function copyPrograms(): string {
  const folder = copyClone();
  rmSync(join(folder, migrations), { recursive: true });
  mkdirSync(join(folder, migrations, "meta"), { recursive: true });
  return folder;
}

/**
 * Makes a project whose migrations create ten tables and then change a default
 * again and again, so that each is as large as the one before.
 */
export async function makeMigrations(count: number): Promise<string> {
  const folder = copyPrograms();
  const first = await describeSchema(folder, printSchema(10, count - 1));
  const initial = await generateMigration(emptySnapshot(), first);
  const files = Array.from({ length: count }, (_, index) => {
    const snapshot = structuredClone(first);
    Object.assign(snapshot.tables["public.t0"]?.columns.n ?? {}, {
      default: index,
    });
    const change = `ALTER TABLE "t0" ALTER COLUMN "n" SET DEFAULT ${index};`;
    const create = initial.map((text) =>
      text.replace(`DEFAULT ${count - 1}`, "DEFAULT 0"),
    );
    return { snapshot, statements: index === 0 ? create : [change] };
  });
  writeFolder(folder, files);
  return folder;
}

/** Makes a project with one migration of so many tables. */
export async function makeTables(count: number): Promise<string> {
  const folder = copyPrograms();
  const snapshot = await describeSchema(folder, printSchema(count, 0));
  const statements = await generateMigration(emptySnapshot(), snapshot);
  writeFolder(folder, [{ snapshot, statements }]);
  return folder;
}

/** Adds a column to a table of the project's schema.ts. */
export function addColumn(folder: string, count: number): void {
  const changed = printSchema(count, 0).replace("// more", "more: text(),");
  writeFileSync(join(folder, database, "schema.ts"), changed);
}

/**
 * Writes migrations of three statements each.
 *
 * @returns folders for each tool, and a file with all for psql.
 */
export function writeFiles(count: number) {
  const texts = Array.from({ length: count }, (_, index) => [
    `CREATE TABLE "b${index}" ("id" serial PRIMARY KEY, "name" text NOT NULL);`,
    `CREATE INDEX "b${index}_name_idx" ON "b${index}" USING btree ("name");`,
    `ALTER TABLE "b${index}" ADD COLUMN "extra" integer DEFAULT 0;`,
  ]);
  const write = (name: string, wrap: (text: string) => string) => {
    const folder = mkdtempSync(join(parent, name));
    for (const [index, lines] of texts.entries()) {
      const file = `${20_240_000_000_000 + index}_b${index}.sql`;
      writeFileSync(join(folder, file), wrap(lines.join("\n")));
    }
    return folder;
  };
  const project = copyPrograms();
  const files = texts.map((statements) => ({
    statements,
    snapshot: undefined,
  }));
  writeFolder(project, files);
  const whole = join(parent, `${count}.sql`);
  const begun = texts.map((lines) => `begin;\n${lines.join("\n")}\ncommit;\n`);
  writeFileSync(whole, begun.join(""));
  return {
    project,
    whole,
    plain: write("plain-", (text) => text),
    dbmate: write(
      "dbmate-",
      (text) => `-- migrate:up\n${text}\n-- migrate:down\n`,
    ),
  };
}

function printSchema(tables: number, value: number): string {
  const names = Array.from({ length: tables }, (_, index) => `t${index}`);
  const print = (name: string, index: number) => `
export const ${name} = pgTable("${name}", {
  id: serial().primaryKey(),
  name: text().notNull(),
  n: integer().default(${index === 0 ? value : 0}),
  at: timestamp({ withTimezone: true }).notNull().defaultNow(),
  ${index === 0 ? "// more" : `before: integer().references(() => t${index - 1}.id),`}
}, (t) => [index("${name}_name_idx").on(t.name), unique("${name}_name_n").on(t.name, t.n)]);`;
  return `import { index, integer, pgTable, serial, text, timestamp, unique } from "drizzle-orm/pg-core";
${names.map(print).join("\n")}\n`;
}

async function describeSchema(folder: string, text: string): Promise<Snapshot> {
  const file = join(folder, database, "schema.ts");
  writeFileSync(file, text);
  return generateDrizzleJson(await import(file));
}

function emptySnapshot(): Snapshot {
  return generateDrizzleJson({});
}

function writeFolder(
  folder: string,
  files: { statements: string[]; snapshot: Snapshot | undefined }[],
): void {
  let prevId = "00000000-0000-0000-0000-000000000000";
  const entries = files.map(({ statements, snapshot }, idx) => {
    const number = String(idx).padStart(4, "0");
    const tag = `${number}_bench`;
    const file = join(folder, migrations, `${tag}.sql`);
    writeFileSync(file, `${statements.join("--> statement-breakpoint\n")}\n`);
    if (snapshot) {
      const id = crypto.randomUUID();
      writeFileSync(
        join(folder, migrations, "meta", `${number}_snapshot.json`),
        JSON.stringify({ ...snapshot, id, prevId }),
      );
      prevId = id;
    }
    const when = 1_700_000_000_000 + idx;
    return { idx, version: "7", when, tag, breakpoints: true };
  });
  writeFileSync(
    join(folder, migrations, "meta/_journal.json"),
    JSON.stringify({ version: "7", dialect: "postgresql", entries }),
  );
}
