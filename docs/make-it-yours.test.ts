// The steps of "Make it yours" in the README: an example table is deleted, two
// are renamed, two are added, in a migration each. Types break only where the
// README says so, and every command works: `bun run test:recipes`.
import { expect } from "bun:test";
import { spawn } from "bun";
import { ownHead } from "../tests/lib/migrations";
import { schemaFile } from "../tests/lib/schema-file";
import { test } from "../tests/lib/test";

const newTables = `
export const moods = pgEnum("mood", ["good", "bad"]);

export const projects = pgTable("projects", {
  id: uuid("id").primaryKey().defaultRandom(),
  settings: jsonb("settings").notNull().default({}),
  mood: moods("mood").notNull().default("good"),
});

export const notes = pgTable(
  "notes",
  {
    id: uuid("id").primaryKey().defaultRandom(),
    projectId: uuid("project_id")
      .notNull()
      .references(() => projects.id, { onDelete: "cascade" }),
  },
  (table) => [index("notes_project_id_idx").on(table.projectId)],
);

// ─── Relations`;

test(
  "the example tables are replaced as the README says",
  "migrated",
  async ({ run, project, sql, name }) => {
    const edit = (file: string, ...changes: [from: RegExp, to: string][]) =>
      project.write(
        file,
        changes.reduce(
          (text, [from, to]) => text.replace(from, to),
          project.read(file),
        ),
      );
    const renames: [RegExp, string][] = [
      [/\btenantMembers\b/g, "members"],
      [/\btenants\b/g, "teams"],
      [/"tenant_members"/g, '"members"'],
    ];
    /** Runs a command that has to succeed. */
    const succeed = async (command: string) => {
      const { exitCode, stdout, stderr } = await run(command);
      expect({ command, exitCode, stderr }).toMatchObject({ exitCode: 0 });
      return stdout;
    };
    await sql`insert into tenants (name, slug) values ('Ours', 'ours')`;

    edit(
      schemaFile,
      [/export const builds = [^]*?\n\);\n/, ""],
      [/export const buildsRelations = [^]*?\n\}\)\);\n/, ""],
      [/ *builds: many\(builds\),\n/, ""],
    );
    await succeed("db:generate drop_builds");
    edit(schemaFile, ...renames);
    await succeed(
      "db:generate rename --rename tenants=teams --rename tenant_members=members",
    );
    edit(
      schemaFile,
      [/import \{\n/, "import {\n  jsonb,\n  pgEnum,\n"],
      [/\n\/\/ ─── Relations/, newTables],
    );
    await succeed("db:generate add_projects");
    const types = spawn([process.execPath, "check", "--no-script"], {
      cwd: project.folder,
      stdout: "pipe",
      stderr: "pipe",
    });
    const errors = await new Response(types.stdout).text();
    const broken = [...errors.matchAll(/^(\S+?)\(/gm)].map(([, file]) => file);
    expect([...new Set(broken)].sort()).toEqual([
      "scripts/seeds/development.ts",
      "src/infrastructure/database/counted.ts",
    ]);

    edit(
      "scripts/seeds/development.ts",
      ...renames,
      [/ {2}builds,\n/, ""],
      [/ {2}\{\n {4}table: builds,[^]*?\n {2}\},\n/, ""],
    );
    edit("src/infrastructure/database/counted.ts", ...renames);

    expect(await succeed("db:migrate")).toMatch(
      /^Applied: 0001_drop_builds .*\nApplied: 0002_rename .*\nApplied: 0003_add_projects .*\n$/,
    );
    expect(await succeed("db:seed")).toBe(
      "Seeded: dev (users 1, teams 1, members 1)\n",
    );
    expect(await succeed("db:seed")).toStartWith("Nothing to seed: ");
    expect(await succeed("db:test")).toContain(
      "Counted: users 1, teams 2, memberships 1\n",
    );
    await succeed("db:bootstrap --email ada@example.com");
    const owned = await sql`
    select teams.name from teams join members on members.tenant_id = teams.id
      join users on users.id = user_id
    where email = 'ada@example.com' and role = 'owner'`;
    expect([...owned]).toEqual([{ name: "Administration" }]);
    await succeed(
      "db:bootstrap:admin --email ada@example.com --reset-password",
    );
    await succeed("db:check");
    expect(await succeed("db:push")).toStartWith("Nothing to push: ");
    expect(await succeed("db:generate")).toStartWith("Nothing to generate: ");
    await succeed("db:diagram");
    await succeed("db:pull");
    await succeed("db:status");
    await succeed("db:migrate:status");
    expect(
      await succeed(`db:rollback --to ${ownHead} --confirm ${name}`),
    ).toMatch(/Rolled back: 0001_drop_builds .*\n$/);
    expect(await sql`select name from tenants order by name`).toMatchObject([
      { name: "Administration" },
      { name: "Development Team" },
      { name: "Ours" },
    ]);
    await succeed("db:migrate");
    expect(await succeed("db:reset")).toContain(
      "Seeded: dev (users 1, teams 1",
    );
  },
);
