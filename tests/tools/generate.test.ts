// db:generate, without a terminal, on a copy of the project.
import { describe, expect } from "bun:test";
import { mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { $ } from "bun";
import { compareCatalogs, readCatalog } from "../../scripts/migrations/catalog";
import type { Migration } from "../../scripts/migrations/journal";
import { emptySnapshot } from "../../scripts/schema/snapshots";
import { commit } from "../lib/git";
import {
  addMigration,
  editJournal,
  journal,
  migrations,
  ownHead,
  ownMigrations,
} from "../lib/migrations";
import { copyProject, type Project } from "../lib/project";
import { fixture, image, listMigrations, schemaFile } from "../lib/schema-file";
import { test, testProject } from "../lib/test";

const ownFiles = ownMigrations
  .flatMap(({ tag }) => [`${tag}.down.sql`, `${tag}.sql`])
  .sort();
const next = "0001_next";

const readEntries = ({ read }: Project) =>
  JSON.parse(read(journal)).entries as Record<string, unknown>[];

/** What --json prints where nothing is written. */
const nothing = { tag: null, file: null, down: null, findings: [] };

describe("db:generate", () => {
  testProject(
    "writes the migration of a change and its reverse, stamped a second later than every other, and nothing where there is none or schema.ts cannot be loaded",
    async (project) => {
      const { run, replace, read } = project;
      const when = Date.now() + 1e9; // whatever the clock says
      editJournal(project, (entries) => {
        for (const entry of entries) entry.when = when;
      });
      const unchanged = await run("db:generate");
      replace(schemaFile, image, `${fixture} nonsense nonsense`);
      const broken = await run("db:generate");
      const untouched = listMigrations(project);
      replace(schemaFile, " nonsense nonsense", "");
      const generated = await run("db:generate next");
      const again = await run("db:generate --json");

      expect(unchanged).toEqual({
        exitCode: 0,
        stdout: "Nothing to generate: schema.ts matches the newest migration\n",
        stderr: "",
      });
      expect(broken).toEqual({
        exitCode: 1,
        stdout: "",
        stderr: expect.stringMatching(
          /^Error: src\/infrastructure\/database\/schema\.ts:\d+ cannot be loaded: Expected ".+" but found /,
        ),
      });
      expect(untouched).toEqual(ownFiles);
      expect(generated).toEqual({
        exitCode: 0,
        stdout: `Generated: ${migrations}/${next}.sql\nGenerated: ${migrations}/${next}.down.sql\n`,
        stderr: "",
      });
      expect(read(`${migrations}/${next}.sql`)).toBe(
        'ALTER TABLE "users" ADD COLUMN "fixture" text;',
      );
      expect(read(`${migrations}/${next}.down.sql`)).toBe(
        'ALTER TABLE "users" DROP COLUMN "fixture";\n',
      );
      expect(readEntries(project).at(-1)).toEqual({
        idx: 1,
        version: "7",
        when: when + 1000,
        tag: next,
        breakpoints: true,
      });
      const [first, second] = ["0000", "0001"].map((number) =>
        JSON.parse(read(`${migrations}/meta/${number}_snapshot.json`)),
      );
      expect(second.prevId).toBe(first.id);
      expect(JSON.parse(again.stdout)).toEqual(nothing);
      expect(listMigrations(project)).toEqual([
        ...ownFiles,
        `${next}.down.sql`,
        `${next}.sql`,
      ]);
    },
  );

  test(
    "takes the answer whether something was renamed from flags, and from nowhere else; says what a drop does to a live database",
    "migrated",
    async ({ run, change, project, read, sql }) => {
      change(image, 'picture: text("picture"),');
      const open = await run("db:generate next");
      const wrong = await run("db:generate next --rename users.imag=picture");
      const untouched = listMigrations(project);
      const renamed = await run(
        "db:generate next --rename users.image=picture",
      );
      change('picture: text("picture"),', 'photo: text("photo"),');
      const anew = await run("db:generate anew --no-rename --json");
      const checked = await run("db:check --offline");
      const first = await readCatalog(sql);
      const applied = await run("db:migrate");
      const up = await readCatalog(sql);
      const undone = await run("db:rollback --steps 2");
      const down = await readCatalog(sql);
      const reapplied = await run("db:migrate");
      const again = await readCatalog(sql);

      expect(open).toEqual({
        exitCode: 2,
        stdout: "",
        stderr:
          "Error: cannot tell whether something was renamed\n" +
          "  column: gone users.image; new users.picture\n" +
          "Hint: answer with flags such as `--rename users.image=picture`, or `--no-rename` if nothing was renamed\n",
      });
      expect(wrong).toMatchObject({ exitCode: 2, stdout: "" });
      expect(untouched).toEqual(ownFiles);
      expect(renamed.exitCode).toBe(0);
      expect(read(`${migrations}/${next}.sql`)).toBe(
        'ALTER TABLE "users" RENAME COLUMN "image" TO "picture";',
      );
      expect(read(`${migrations}/${next}.down.sql`)).toBe(
        'ALTER TABLE "users" RENAME COLUMN "picture" TO "image";\n',
      );
      expect(anew).toMatchObject({
        exitCode: 0,
        stderr: `Lint: ${migrations}/0002_anew.sql:1 ban-drop-column: Dropping a column may break existing clients.\n`,
      });
      expect(JSON.parse(anew.stdout)).toEqual({
        tag: "0002_anew",
        file: `${migrations}/0002_anew.sql`,
        down: `${migrations}/0002_anew.down.sql`,
        findings: [expect.objectContaining({ rule: "ban-drop-column" })],
      });
      expect(read(`${migrations}/0002_anew.down.sql`)).toBe(
        'ALTER TABLE "users" DROP COLUMN "photo";--> statement-breakpoint\n' +
          "-- The column comes back empty: its values are gone.\n" +
          'ALTER TABLE "users" ADD COLUMN "picture" text;\n',
      );
      expect(checked.stdout).toContain("Checked: 0 errors");
      expect(
        [applied, undone, reapplied].map(({ exitCode }) => exitCode),
      ).toEqual([0, 0, 0]);
      expect(compareCatalogs(first, down)).toEqual([]);
      expect(compareCatalogs(up, again)).toEqual([]);
    },
  );

  test(
    "moves a table to another schema, rather than dropping it",
    "seeded",
    async ({ run, change, read, project }) => {
      change(
        "export const builds = pgTable(",
        'export const ci = pgSchema("ci");\n\nexport const builds = ci.table(',
      );
      change("  pgTable,\n", "  pgSchema,\n  pgTable,\n");
      const filtered = await run("db:generate next");
      project.replace("drizzle.config.ts", '["public"]', '["public", "ci"]');
      const open = await run("db:generate next");
      const moved = await run("db:generate next --rename builds=ci.builds");
      const applied = await run("db:migrate");
      const undone = await run("db:rollback");

      expect(filtered).toEqual({
        exitCode: 2,
        stdout: "",
        stderr: [
          "Error: src/infrastructure/database/schema.ts has objects in ci, outside of the schemaFilter of drizzle.config.ts",
          'Hint: set `schemaFilter: ["public", "ci"]` in `drizzle.config.ts`',
          "",
        ].join("\n"),
      });
      expect(open.exitCode).toBe(2);
      expect(open.stderr).toContain("`--rename builds=ci.builds`");
      expect(moved.exitCode).toBe(0);
      expect(read(`${migrations}/${next}.sql`)).toBe(
        'CREATE SCHEMA "ci";--> statement-breakpoint\nALTER TABLE "builds" SET SCHEMA "ci";',
      );
      expect({ applied, undone }).toMatchObject({
        applied: { exitCode: 0 },
        undone: { exitCode: 0, stderr: "" },
      });
    },
  );

  test(
    "makes an empty one for SQL of your own, and writes the down files that are missing, and what they leave undone",
    "migrated",
    async ({ run, read, change, project }) => {
      const own = `${migrations}/${next}.down.sql`;
      const [after, down] = [
        `${migrations}/0002_after.sql`,
        `${migrations}/0002_after.down.sql`,
      ];
      const both = await run("db:generate next --custom --down");
      const custom = await run("db:generate next --custom");
      const [first, second] = ["0000", "0001"].map((number) =>
        JSON.parse(read(`${migrations}/meta/${number}_snapshot.json`)),
      );
      const unused = await run("db:generate --custom --rename a=b");
      await run("db:migrate");
      project.write(own, "-- nothing\n");
      const empty = await run("db:rollback");
      rmSync(join(project.folder, own));
      change(image, fixture);
      const generated = await run("db:generate after");
      project.write(after, `${read(after)}\nUPDATE users SET fixture = 'x';`);
      rmSync(join(project.folder, down));
      const one = await run("db:generate --down 0002_after --json");
      const written = read(down);
      project.write(down, "-- reviewed\n");
      const others = ["0003_lost", "0004_orphan", "0005_surplus"];
      for (const tag of others) addMigration(project, tag, "select 1");
      const [lost, orphan, surplus] = others.map(
        (tag) => `${migrations}/meta/${tag.slice(0, 4)}_snapshot.json`,
      ) as [string, string, string];
      rmSync(join(project.folder, lost));
      project.replace(orphan, '"prevId":"', '"prevId":"other-');
      const { tables, ...rest } = JSON.parse(read(surplus));
      delete tables["public.users"].columns.fixture;
      project.write(surplus, JSON.stringify({ ...rest, tables }));
      const none = await run("db:generate --down");
      const listed = await run("db:generate --down --json");

      expect(both).toEqual({
        exitCode: 2,
        stdout: "",
        stderr: "Error: --custom and --down do not go together\n",
      });
      expect(unused.stderr).toBe(
        "Error: --custom and --rename do not go together\n",
      );
      expect(custom).toEqual({
        exitCode: 0,
        stdout: `Generated: ${migrations}/${next}.sql\n`,
        stderr: `Hint: write the SQL that undoes it into ${own}\n`,
      });
      expect(read(`${migrations}/${next}.sql`)).toBe(
        "-- Custom SQL migration file, put your code below! --\n",
      );
      expect(second).toEqual({
        ...first,
        id: expect.not.stringMatching(first.id),
        prevId: first.id,
      });
      expect(empty).toMatchObject({ exitCode: 1, stdout: "" });
      expect(empty.stderr).toContain("has no statement in it");
      expect(generated.exitCode).toBe(0);
      expect(one.stdout).toBe(`{"files":["${down}"]}\n`);
      expect(listed.stdout).toBe('{"files":[]}\n');
      expect(written).toBe(
        "-- Not undone here, for snapshots do not know of it:\n" +
          "--   UPDATE users SET fixture = 'x'\n" +
          'ALTER TABLE "users" DROP COLUMN "fixture";\n',
      );
      expect(read(down)).toBe("-- reviewed\n");
      expect(none.stdout).toBe(
        "Nothing to generate: no missing down file can be generated\n",
      );
      expect(none.stderr).toBe(
        [
          [next, `${next} is custom SQL`],
          ["0003_lost", "0003_lost has no snapshot"],
          [
            "0004_orphan",
            "the snapshot that 0004_orphan was generated from is missing",
          ],
          [
            "0005_surplus",
            "its snapshots have DROP COLUMN users.fixture, which is not in its SQL",
          ],
        ]
          .map(
            ([tag, reason]) =>
              `Not written: ${migrations}/${tag}.down.sql (${reason}): write its reverse yourself\n`,
          )
          .join(""),
      );
      expect(listMigrations(project)).not.toContain(`${next}.down.sql`);
    },
  );

  testProject(
    "names a migration after its first statement or by the time, as drizzle.config.ts asks, and uses an older snapshot only with a warning",
    async (project) => {
      const { run, replace, read, folder } = project;
      const config = "drizzle.config.ts";
      const set = async (from: string, to: string, command: string) => {
        replace(config, from, to);
        const { stdout } = await run(`${command} --json`);
        return JSON.parse(stdout);
      };
      const meta = `${migrations}/meta`;

      const none = await set(
        'dialect: "postgresql",',
        'dialect: "postgresql", breakpoints: false, migrations: { prefix: "none" },',
        "db:generate",
      );
      replace(schemaFile, image, `${fixture} second: text("second"),`);
      const byTime = await set('"none"', '"timestamp"', "db:generate");
      const still = await set(
        '"timestamp"',
        '"index"',
        `db:generate --custom größe:${"x".repeat(200)}`,
      );
      const unix = await set('"index"', '"unix"', "db:generate --custom");
      rmSync(join(folder, meta, `${unix.tag.split("_")[0]}_snapshot.json`));
      replace(schemaFile, 'text("second")', 'text("third")');
      const warned = await run("db:generate third --no-rename");
      const snapshots = readEntries(project).map(
        ({ tag }) => `${meta}/${String(tag).split("_")[0]}_snapshot.json`,
      );
      replace(snapshots.at(-1) ?? "", '"version": "7"', '"version": "5"');
      const old = await run("db:generate");
      for (const file of snapshots) rmSync(join(folder, file), { force: true });
      const unknown = await run("db:generate");

      expect(none.error.message).toBe(`${config}: migrations.prefix is none`);
      expect(none.error.hint).toBe(
        `set \`migrations.prefix\` in \`${config}\` to \`index\` or \`timestamp\`: without a prefix all migrations share one snapshot file`,
      );
      expect(byTime.tag).toMatch(/^20\d{12}_alter_users$/);
      expect(unix).toEqual({
        tag: unix.tag,
        file: `${migrations}/${unix.tag}.sql`,
        down: null,
        findings: [],
      });
      expect(read(byTime.file)).toMatch(/^ALTER .*;\nALTER .*;$/);
      expect(still.tag).toMatch(/^20\d{12}_größe_x{94}$/);
      expect(unix.tag).toMatch(/^\d{10}_custom$/);
      expect(warned.stderr).toStartWith(
        `Warning: ${meta}/${unix.tag.split("_")[0]}_snapshot.json is missing: the snapshot before it is used\n`,
      );
      expect(old).toMatchObject({ exitCode: 1, stdout: "" });
      expect(old.stderr).toContain("it is of version 5, not of version 7\n");
      expect(unknown).toMatchObject({ exitCode: 2, stdout: "" });
      expect(unknown.stderr).toBe(
        `Error: ${migrations} has migrations, but no snapshot to compare with\n` +
          `Hint: restore \`${migrations}/meta\` from git: \`git log --all -- ${migrations}/meta\` lists its commits\n`,
      );
    },
  );

  test("asks on a terminal which values and columns were renamed, and of nothing that holds no data", async ({
    run,
    change,
    read,
    attend,
  }) => {
    change("  pgTable,\n", "  pgEnum,\n  pgPolicy,\n  pgTable,\n  pgView,\n");
    change(
      "export const users =",
      `export const mood = pgEnum("mood", ["sad", "ok"]);
      export const people = pgView("people", {}).as(sql\`select 1\`);
      export const locked = pgTable("locked", { mood: mood() }, () => [
        pgPolicy("old_policy", { using: sql\`true\` }),
      ]);
      export const more = pgPolicy("old_more", { using: sql\`true\` }).link(locked);
      export const users =`,
    );
    await run("db:generate next");
    change('["sad", "ok"]', '["unhappy", "fine"]');
    change('pgView("people"', 'pgView("persons"');
    change(
      '"old_policy", { using: sql`true`',
      '"new_policy", { using: sql`false`',
    );
    change('"old_more", { using: sql`true`', '"new_more", { using: sql`false`');
    change(image, 'picture: text("picture"),');
    await using terminal = attend("db:generate renamed");

    await terminal.shows(
      "Is mood.unhappy new, or a new name of mood.sad, mood.ok? Type the old value, or nothing if it is new: ",
    );
    terminal.types("mood.ok\r");
    await terminal.shows("Is mood.fine new, or a new name of mood.sad? Type ");
    terminal.types("\r");
    await terminal.shows("rename column");
    terminal.types("\x1b[B\r"); // the second answer
    const { exitCode } = await terminal.ends();

    expect(exitCode).toBe(0);
    const up = read(`${migrations}/0002_renamed.sql`);
    expect(up.match(/.* RENAME .*;/g)).toEqual([
      `ALTER TYPE "mood" RENAME VALUE 'ok' TO 'unhappy';`,
      'ALTER TABLE "users" RENAME COLUMN "image" TO "picture";',
    ]);
    expect(up).toContain(
      `CREATE TYPE "public"."mood" AS ENUM('unhappy', 'fine');`,
    );
  });

  testProject("writes over no file that it did not write", async (project) => {
    const { run, replace, read, write, folder } = project;
    replace(schemaFile, image, fixture);
    const own = read(journal);
    const snapshot = read(`${migrations}/meta/0000_snapshot.json`);
    rmSync(join(folder, journal));
    const withoutJournal = await run("db:generate next");
    renameSync(join(folder, migrations), join(folder, "kept"));
    const first = await run("db:generate first --json");
    const started = JSON.parse(read(journal));
    rmSync(join(folder, migrations), { recursive: true });
    renameSync(join(folder, "kept"), join(folder, migrations));
    write(journal, own);
    const mine = [`${next}.sql`, `${next}.down.sql`].map(
      (name) => `${migrations}/${name}`,
    );
    for (const file of mine) {
      write(file, "-- mine\n");
      const { exitCode, stdout } = await run("db:generate next --json");
      expect({ exitCode, ...JSON.parse(stdout) }).toEqual({
        exitCode: 2,
        error: {
          code: "FILE_EXISTS",
          message: `${file} already exists, and ${journal} does not name it`,
          hint: `restore the journal from git, or remove \`${file}\``,
        },
      });
      expect(read(file)).toBe("-- mine\n");
      rmSync(join(folder, file));
    }

    expect(first.exitCode).toBe(0);
    expect(started).toEqual({
      version: "7",
      dialect: "postgresql",
      entries: [
        expect.objectContaining({ idx: 0, version: "7", tag: "0000_first" }),
      ],
    });
    expect(withoutJournal).toMatchObject({ exitCode: 2, stdout: "" });
    expect(withoutJournal.stderr).toContain(
      `${migrations}/meta/0000_snapshot.json already exists`,
    );
    expect(read(`${migrations}/meta/0000_snapshot.json`)).toBe(snapshot);
    expect(read(journal)).toBe(own);
  });

  testProject(
    "finds what a migration was made from where no snapshot is named so any more, if that gives its SQL",
    async ({ run, read, replace, folder }) => {
      replace(schemaFile, image, fixture);
      await run("db:generate next");
      const downs = [ownHead, next].map(
        (tag) => `${migrations}/${tag}.down.sql`,
      );
      const texts = downs.map(read);
      for (const [index, file] of downs.entries()) {
        rmSync(join(folder, file));
        const meta = `${migrations}/meta/000${index}_snapshot.json`;
        const { prevId } = JSON.parse(read(meta));
        replace(meta, `"prevId": "${prevId}"`, '"prevId": "gone"');
      }
      const { stdout } = await run("db:generate --down");

      expect(stdout).toBe(downs.map((file) => `Generated: ${file}\n`).join(""));
      expect(downs.map(read)).toEqual(texts);
    },
  );

  testProject(
    "numbers a migration after all others, and writes each file whole or not at all",
    async ({ folder, read, write }) => {
      const room: typeof import("../../scripts/schema/write-migration") =
        await import(join(folder, "scripts/schema/write-migration.ts"));
      const start = read(journal);
      const make = (...tags: [tag: string, idx: number, when?: number][]) => {
        write(journal, start);
        const base = tags.map(([tag, idx, when = 0]) => ({ tag, idx, when }));
        const parts = { text: "-- up\n", snapshot: emptySnapshot };
        const before = Date.now();
        const written = room.writeMigration(
          base as Migration[],
          "a b/c-d_é",
          parts,
          [...base, ...ownMigrations] as Migration[],
        );
        const { entries } = JSON.parse(read(journal));
        const { idx, when } = entries.at(-1);
        const late = when - before;
        return { ...written, idx, late, entries: entries.length };
      };
      const isNow = (late: number) => late >= 0 && late < 60_000;

      const first = make();
      expect(first).toEqual({
        tag: "0000_a_b_c-d_é",
        file: `${migrations}/0000_a_b_c-d_é.sql`,
        down: null,
        idx: 0,
        late: first.late,
        entries: 1,
      });
      expect(first.late).toSatisfy(isNow);
      expect(make(["0000_a", 0], ["0007_b", 1])).toMatchObject({
        tag: "0008_a_b_c-d_é",
        idx: 2,
      });
      expect(make(["0000_a", 0], ["b", 4])).toMatchObject({
        tag: "0005_a_b_c-d_é",
        idx: 5,
      });
      const later = make([ownHead, 0, Date.now() + 1e6]);
      expect(later.late).toBeGreaterThan(1e6);
      expect(later.entries).toBe(2);
      expect(make(["20240229123000_a", 0, 1e14])).toMatchObject({
        tag: "51381116094641_a_b_c-d_é",
      });

      const [own] = ownMigrations as [Migration];
      const parts = { text: "", snapshot: emptySnapshot };
      write(journal, start.replace(ownHead, "0070_theirs"));
      expect(() =>
        room.writeMigration([{ ...own, idx: 79 }], "late", parts),
      ).toThrow(
        expect.objectContaining({
          message: `${journal} has 0070_theirs, which was not there before`,
          code: "FILE_EXISTS",
          exitCode: 2,
          hint: "run the command again",
        }),
      );
      mkdirSync(join(folder, `${migrations}/0009_taken.down.sql`));
      expect(() => room.writeDownFile("0009_taken", "x")).toThrow(
        `${migrations}/0009_taken.down.sql cannot be written: `,
      );
      expect(
        readdirSync(join(folder, migrations), { recursive: true }).filter(
          (file) => String(file).endsWith(".partial"),
        ),
      ).toEqual([]);
      expect(
        [
          ["DO $$ BEGIN EXECUTE 'DROP \"y\"'", "SELECT 1"],
          ["-- Loses\nSELECT 1", 'CREATE TYPE "public"."mood" AS ENUM'],
          ['ALTER TABLE "lab"."t" ADD', 'DROP TABLE "u"'],
          ["SELECT ' \"a\"'", 'DROP INDEX CONCURRENTLY "odd name";'],
        ].map(room.nameAfter),
      ).toEqual(["change_schema", "create_mood", "alter_lab", "drop_odd name"]);
    },
  );
});

describe("after a merge", () => {
  const logo = 'logo: text("logo"),';
  const motto = 'logo: text("logo"),\n    motto: text("motto"),';
  const emblem = 'emblem: text("emblem"),';
  const second = `${fixture}\n    second: text("second"),`;
  const toMotto = 'ALTER TABLE "tenants" ADD COLUMN "motto" text;';

  /** A generated migration. */
  interface Generated {
    entry: Record<string, unknown>;
    up: string;
    down: string;
    snapshot: string;
  }
  let branches: Promise<Record<"ours" | "theirs", Generated>> | undefined;

  async function generateOne(
    command: string,
    ...changes: [from: string, to: string][]
  ): Promise<Generated> {
    using project = copyProject();
    for (const change of changes) project.replace(schemaFile, ...change);
    await project.run(command);
    const entry = { ...readEntries(project).at(-1) };
    return {
      entry,
      up: project.read(`${migrations}/${entry.tag}.sql`),
      down: project.read(`${migrations}/${entry.tag}.down.sql`),
      snapshot: project.read(`${migrations}/meta/0001_snapshot.json`),
    };
  }

  /** Returns two migrations that were made of the same parent; both are generated once. */
  async function generateBranches() {
    const theirs = await generateOne("db:generate theirs", [image, fixture]);
    const ours = await generateOne("db:generate ours", [logo, motto]);
    return { theirs, ours };
  }

  const listSnapshots = ({ folder }: Project) =>
    readdirSync(join(folder, migrations, "meta"))
      .filter((file) => file.endsWith("_snapshot.json"))
      .map((file) => file.slice(0, 4))
      .sort();

  /** Writes the files of a migration, and adds it to the journal. */
  function put(project: Project, tag: string, generated: Generated): void {
    const { entry, up, down, snapshot } = generated;
    const number = tag.slice(0, 4);
    project.write(`${migrations}/${tag}.sql`, up);
    project.write(`${migrations}/${tag}.down.sql`, down);
    project.write(`${migrations}/meta/${number}_snapshot.json`, snapshot);
    editJournal(project, (entries) =>
      entries.push({ ...entry, tag, idx: Number(number) }),
    );
  }

  /** Leaves a project as git does when a branch with `theirs` is merged. */
  async function merge(
    project: Project,
    ourTag: string,
    own?: Generated,
  ): Promise<void> {
    const { ours, theirs } = await (branches ??= generateBranches());
    const file = `${migrations}/meta/${ourTag.slice(0, 4)}_snapshot.json`;
    project.write(file, "<<<<<<< HEAD\n"); // as somebody has committed it once
    const top = join(project.folder, ".."); // the project is a folder of its repository
    await commit(project.folder, "ours", top);
    put(project, ourTag, own ?? ours);
    await commit(project.folder, "ours", top); // git is where the snapshot of ours will be
    await $`git symbolic-ref HEAD refs/heads/work`.cwd(project.folder); // and not at HEAD
    put(project, "0001_theirs", theirs);
    editJournal(project, (entries) => {
      const [last, other] = [entries.pop(), entries.pop()];
      entries.push({ ...last }, { ...other });
    });
    project.replace(schemaFile, image, fixture);
    project.replace(schemaFile, logo, motto);
  }

  for (const ourTag of ["0002_ours", "0001_ours"])
    testProject(
      `names the two of one parent, and makes the newer again, ${ourTag}`,
      async (project) => {
        const { run, read } = project;
        await merge(project, ourTag);
        const refused = await run("db:generate more");
        const checked = await run("db:check --offline --json");
        const rebased = await run("db:generate --rebase");
        const clean = await run("db:check --offline --strict");

        expect(refused.exitCode).toBe(2);
        expect(refused.stderr).toBe(
          `Error: 0001_theirs and ${ourTag} were both generated from the same migration\n` +
            "Hint: generate one of them again on top of the other, with `bun run db:generate --rebase`: the newer, unless it is applied here or is on the default branch\n",
        );
        expect(checked.stdout).toContain('"code":"snapshot_chain"');
        expect(checked.stdout).toContain(
          ourTag === "0001_ours"
            ? '"0001_ours and 0001_theirs share one snapshot file, as after a merge: run `bun run db:generate --rebase`"'
            : '"not made from the snapshot before it, as after a merge: `bun run db:generate --rebase`"',
        );
        expect(rebased.stderr).toBe(
          `Warning: cannot tell whether ${ourTag} is applied: nothing listens on 127.0.0.1:1\n`,
        );
        expect(rebased.stdout).toBe(
          `Generated: ${migrations}/0002_ours.sql\nGenerated: ${migrations}/0002_ours.down.sql\n` +
            (ourTag === "0001_ours"
              ? `Removed: ${migrations}/0001_ours.sql, generated without 0001_theirs\n`
              : ""),
        );
        expect(read(`${migrations}/0002_ours.sql`)).toBe(toMotto);
        expect(listMigrations(project)).toEqual(
          [...ownFiles, "0001_theirs", "0002_ours"].flatMap((file) =>
            file.endsWith(".sql") ? file : [`${file}.down.sql`, `${file}.sql`],
          ),
        );
        expect(listSnapshots(project)).toEqual(["0000", "0001", "0002"]);
        expect(clean.stdout).toBe("Checked: 0 errors, 0 warnings\n");
      },
    );

  testProject(
    "makes nothing again where schema.ts has no change of it any more",
    async (project) => {
      const { run, replace } = project;
      await merge(project, "0002_ours");
      replace(schemaFile, motto, logo);
      const { stdout } = await run("db:generate --rebase");

      expect(stdout).toBe(
        "Nothing to generate: schema.ts matches the newest migration\n" +
          `Removed: ${migrations}/0002_ours.sql, generated without 0001_theirs\n`,
      );
      expect(readEntries(project).at(-1)?.tag).toBe("0001_theirs");
      expect(listMigrations(project)).not.toContain("0002_ours.down.sql");
      expect(listSnapshots(project)).toEqual(["0000", "0001"]);
      const again = await run("db:generate --rebase --json");
      expect(JSON.parse(again.stdout)).toEqual(nothing);
    },
  );

  testProject(
    "makes again, in the same form, what was renamed online",
    async (project) => {
      const { run, read, replace } = project;
      const rename = "--rename tenants.logo=emblem";
      const online = await generateOne(`db:generate ours --online ${rename}`, [
        logo,
        emblem,
      ]);
      await merge(project, "0001_ours", online);
      replace(schemaFile, motto, emblem);
      const file = `${migrations}/0001_ours.sql`;
      project.write(file, `-- seen\n${online.up}`);
      const plain = await run(`db:generate --rebase ${rename}`);
      const [header = "", ...rest] = online.up.split("\n");
      project.write(file, [header, "-- seen", ...rest].join("\n"));
      const edited = await run(`db:generate --rebase ${rename}`);
      project.write(file, online.up);
      const rebased = await run(`db:generate --rebase ${rename}`);

      expect(plain).toMatchObject({ exitCode: 2, stdout: "" });
      expect(edited).toMatchObject({ exitCode: 2, stdout: "" });
      expect(rebased.exitCode).toBe(0);
      expect(read(`${migrations}/0002_ours.sql`)).toBe(online.up);
      expect(read(`${migrations}/0002_ours.down.sql`)).toBe(online.down);
    },
  );

  testProject(
    "makes again what drizzle-kit itself has written, which has no down file",
    async (project) => {
      const { run, read, replace } = project;
      const changes: [string, string][] = [
        ["  boolean,\n", "  boolean,\n  smallint,\n"],
        ['integer("number")', 'smallint("number")'],
      ];
      const ours = await generateOne("db:generate ours", ...changes);
      const up =
        'ALTER TABLE "builds" ALTER COLUMN "number" SET DATA TYPE smallint;';
      await merge(project, "0001_ours", { ...ours, up });
      rmSync(join(project.folder, `${migrations}/0001_ours.down.sql`));
      replace(schemaFile, motto, logo);
      for (const change of changes) replace(schemaFile, ...change);
      const { exitCode } = await run("db:generate --rebase");

      expect(exitCode).toBe(0);
      expect(ours.up).not.toBe(up);
      expect(read(`${migrations}/0002_ours.sql`)).toBe(ours.up);
    },
  );

  test(
    "makes no migration again that is applied, and the older where the newer is on the default branch",
    "empty",
    async ({ run, read, project, sql, name }) => {
      await merge(project, "0002_ours");
      const theirs = `${migrations}/0001_theirs.sql`;
      await run("db:migrate");
      const files = listMigrations(project);
      const applied = await run("db:generate --rebase");
      const untouched = listMigrations(project);
      await sql.unsafe(
        "drop schema drizzle cascade; drop schema public cascade; create schema public",
      );
      // The default branch has `ours`, which stands last in the journal.
      const text = read(theirs);
      rmSync(join(project.folder, theirs));
      await commit(project.folder, "main");
      project.write(theirs, text);
      const rebased = await run("db:generate --rebase");

      expect(applied.exitCode).toBe(2);
      expect(applied.stderr).toBe(
        `Error: 0002_ours is applied on ${name}, and 0001_theirs is applied on ${name}: neither may change\n` +
          "Hint: if one is applied only on your own database, undo it there first, with `bun run db:rollback`\n",
      );
      expect(untouched).toEqual(files);
      expect(rebased).toMatchObject({ exitCode: 0, stderr: "" });
      expect(rebased.stdout).toContain(
        `Removed: ${theirs}, generated without `,
      );
      expect(read(`${migrations}/0002_ours.sql`)).toContain('"motto"');
      expect(read(`${migrations}/0003_theirs.sql`)).toBe(
        'ALTER TABLE "users" ADD COLUMN "fixture" text;',
      );
    },
  );

  testProject(
    "makes it again on top of all that the other branch has, and loses no edit",
    async (project) => {
      const { run, read, replace, write } = project;
      const { ours, theirs } = await (branches ??= generateBranches());
      put(project, "0001_theirs", theirs);
      replace(schemaFile, image, second);
      await run("db:generate two");
      put(project, "0003_ours", ours);
      replace(schemaFile, logo, motto);
      const file = `${migrations}/0003_ours.sql`;
      const down = `${migrations}/0003_ours.down.sql`;
      write(down, `-- reviewed\n${ours.down}`);
      const refused = await run("db:generate --rebase");
      const kept = read(down);
      write(down, ours.down);
      write(file, `-- reviewed\n${ours.up}`);
      const commented = await run("db:generate --rebase");
      write(file, ours.up.replace("motto", "moto"));
      const edited = await run("db:generate --rebase");
      write(file, ours.up.replace(" ADD ", "\n\tADD "));
      const entries = read(journal);
      addMigration(project, "0004_child", "select 1");
      const based = await run("db:generate --rebase");
      write(journal, entries);
      for (const name of ["0004_child.sql", "meta/0004_snapshot.json"])
        rmSync(join(project.folder, migrations, name));
      const rebased = await run("db:generate --rebase");
      const checked = await run("db:check --strict --offline");
      const say = (message: string, edited: string) => ({
        exitCode: 2,
        stdout: "",
        stderr: expect.stringMatching(
          new RegExp(
            `\nError: ${message}\nHint: save your edit elsewhere, restore \`${edited}\` as it was generated, and run this again\n$`,
          ),
        ),
      });

      expect(refused).toEqual(
        say(`${down} was edited by hand, and the edit would be lost`, down),
      );
      expect(kept).toStartWith("-- reviewed");
      expect(commented).toEqual(
        say(`${file} was edited by hand, and the edit would be lost`, file),
      );
      expect(edited).toEqual(
        say(
          `no snapshot gives the SQL of ${file}: it was edited by hand`,
          file,
        ),
      );
      expect(based.stderr).toEndWith(
        "Error: 0004_child was generated on top of 0003_ours\n" +
          "Hint: restore the migrations folder of the branch that you merge, and generate one migration for all of your changes\n",
      );
      expect(rebased.exitCode).toBe(0);
      expect(read(file)).toBe(toMotto);
      expect(checked.stdout).toBe("Checked: 0 errors, 0 warnings\n");
    },
  );
});
