// The three migrations of docs/ZERO_DOWNTIME.md, as they stand there, with the version
// before and the version after at work at each stage: `bun run test:recipes`.
import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { eq } from "drizzle-orm";
import { integer, pgTable, text, uuid } from "drizzle-orm/pg-core";
import { drizzle } from "drizzle-orm/postgres-js";
import type { Sql } from "postgres";
import { lintMigrations } from "../scripts/schema/lint";
import { root } from "../src/env";
import { migrations, ownMigrations } from "../tests/lib/migrations";
import { type Given, test } from "../tests/lib/test";

const [, ...stages] = readFileSync(
  join(root, "docs/ZERO_DOWNTIME.md"),
  "utf8",
).split(/^### \d\. /m);

const columns = {
  id: uuid("id").primaryKey().defaultRandom(),
  tenantId: uuid("tenant_id").notNull(),
  number: integer("number").notNull(),
  repository: text("repository").notNull(),
};
const before = pgTable("builds", { ...columns, name: text("name").notNull() });
const after = pgTable("builds", { ...columns, title: text("title").notNull() });

test(
  "both versions work at each stage of expand and contract",
  "seeded",
  async (given) => {
    const { run, sql } = given;
    await sql`
      insert into builds (tenant_id, number, name, repository)
      select id, 1000 + i, 'build ' || i, 'r' from tenants, generate_series(1, 2500) as i`;
    const [expand = "", fill = "", contract = ""] = stages;
    const [trigger = "", dropTrigger = ""] = readBlocks(expand, "sql");
    const [backFill = ""] = readBlocks(fill, "sql");
    const [above = ""] = readBlocks(contract, "sql");

    await generate(given, 0, expand);
    editFile(
      given,
      0,
      "expand",
      (file) => `${file}--> statement-breakpoint\n${trigger}`,
    );
    editDown(given, 0, "expand", (file) => `${dropTrigger}${file}`);
    await migrate(given);
    await writeAsBoth(sql);

    await generate(given, 1, fill);
    editFile(given, 1, "fill", (file) => aboveFirst(file, backFill));
    const tried = await run("db:check");
    await migrate(given);
    await writeAsBoth(sql);
    const [left] = await sql`
      select count(*)::int as rows, count(*) filter (where title = name)::int as same from builds`;

    await generate(given, 2, contract);
    editFile(given, 2, "contract", (file) => aboveFirst(file, above));
    editDown(given, 2, "contract", (file) => `${file}${trigger}`);
    const checked = await run("db:check");
    await migrate(given);
    const db = drizzle({ client: sql });
    const [build] = await db
      .insert(after)
      .values(await newBuild(sql, "last"))
      .returning();

    expect(tried.stdout).toContain("Checked: 0 errors");
    expect(left?.same).toBe(left?.rows);
    expect(checked.stdout).toContain("Checked: 0 errors");
    expect(await lintMigrations(listFiles(given))).toEqual([]);
    expect(build?.title).toBe("last");
    expect((await run("db:check --strict")).stdout).toContain(
      "Checked: 0 errors, 0 warnings",
    );
  },
);

/** Returns what stands in fences of a language. */
function readBlocks(markdown: string, language: string): string[] {
  const fences = new RegExp(`^\`\`\`${language}\\n([^]*?)^\`\`\``, "gm");
  return [...markdown.matchAll(fences)].map(([, body = ""]) => body);
}

/** Changes schema.ts as a diff of the page says, and runs the command below it. */
async function generate(
  { run, change }: Given,
  stage: number,
  markdown: string,
): Promise<void> {
  const [diff = ""] = readBlocks(markdown, "diff");
  const [command = ""] = readBlocks(markdown, "sh");
  const lines = diff.trimEnd().split("\n");
  const side = (sign: string) =>
    lines
      .filter((line) => line[0] === " " || line[0] === sign)
      .map((line) => line.slice(1))
      .join("\n");
  change(side("-"), side("+"));
  const { exitCode, stdout } = await run(command.replace("bun run", "").trim());
  expect({ exitCode, stdout }).toMatchObject({ exitCode: 0 });
  expect(stdout).toContain(nameFile(stage, ""));
}

const nameFile = (stage: number, name: string) =>
  `${migrations}/${String(ownMigrations.length + stage).padStart(4, "0")}_${name}`;

const listFiles = ({ project }: Given) =>
  ["expand", "fill", "contract"].map((name, stage) =>
    relative(root, join(project.folder, `${nameFile(stage, name)}.sql`)),
  );

function editFile(
  { project }: Given,
  stage: number,
  name: string,
  edit: (text: string) => string,
): void {
  const file = `${nameFile(stage, name)}.sql`;
  project.write(file, edit(project.read(file)));
}

const editDown = (
  given: Given,
  stage: number,
  name: string,
  edit: (text: string) => string,
) => editFile(given, stage, `${name}.down`, edit);

const aboveFirst = (file: string, sql: string) =>
  file.replace("ALTER TABLE", () => `${sql}ALTER TABLE`);

async function migrate({ run }: Given): Promise<void> {
  const { exitCode, stderr } = await run("db:migrate");
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
}

let number = 1;

async function newBuild(sql: Sql, title: string) {
  const [tenant] = await sql<{ id: string }[]>`select id from tenants limit 1`;
  number += 1;
  return {
    tenantId: tenant?.id ?? "",
    number: 5000 + number,
    repository: "r",
    name: title,
    title,
  };
}

/** Each version inserts, reads and updates, also what the other has written. */
async function writeAsBoth(sql: Sql): Promise<void> {
  const db = drizzle({ client: sql });
  const read = async (id: string) => [
    (await db.select().from(before).where(eq(before.id, id)))[0]?.name,
    (await db.select().from(after).where(eq(after.id, id)))[0]?.title,
  ];
  const ids = [
    ...(await db
      .insert(before)
      .values(await newBuild(sql, "one"))
      .returning()),
    ...(await db
      .insert(after)
      .values(await newBuild(sql, "one"))
      .returning()),
  ].map(({ id }) => id);
  for (const id of ids) {
    expect(await read(id)).toEqual(["one", "one"]);
    await db.update(before).set({ name: "two" }).where(eq(before.id, id));
    expect(await read(id)).toEqual(["two", "two"]);
    await db.update(after).set({ title: "three" }).where(eq(after.id, id));
    expect(await read(id)).toEqual(["three", "three"]);
  }
  const [old] = await db.select().from(before).where(eq(before.number, 1001));
  expect(old?.name).toBe("build 1");
}
