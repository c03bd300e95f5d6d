// db:generate, without a terminal, on a copy of the project.
import { describe, expect } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { $ } from "bun";
import { compareCatalogs, readCatalog } from "../../scripts/migrations/catalog";
import { commit } from "../lib/git";
import {
  addMigration,
  editJournal,
  journal,
  migrations,
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
  (JSON.parse(read(journal)) as { entries: { tag: string; when: number }[] })
    .entries;

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
      expect(readEntries(project).at(-1)).toMatchObject({
        tag: next,
        when: when + 1000,
      });
      expect(JSON.parse(again.stdout).tag).toBeNull();
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
      const anew = await run("db:generate anew --no-rename");
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
      expect(wrong.exitCode).toBe(2);
      expect(wrong.stderr).toContain(
        "\n  column: gone users.image; new users.picture\n",
      );
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
      const unused = await run("db:generate --custom --rename a=b");
      await run("db:migrate");
      project.write(own, "-- nothing\n");
      const empty = await run("db:rollback");
      rmSync(join(project.folder, own));
      change(image, fixture);
      const generated = await run("db:generate after");
      project.write(after, `${read(after)}\nUPDATE users SET fixture = 'x';`);
      rmSync(join(project.folder, down));
      const one = await run("db:generate --down 0002_after");
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
      expect(read(`${migrations}/${next}.sql`)).toStartWith("-- Custom SQL");
      expect(empty).toMatchObject({ exitCode: 1, stdout: "" });
      expect(empty.stderr).toContain("has no statement in it");
      expect(generated.exitCode).toBe(0);
      expect(one.stdout).toBe(`Generated: ${down}\n`);
      expect(written).toBe(
        "-- Not undone here, for snapshots do not know of it:\n" +
          "--   UPDATE users SET fixture = 'x'\n" +
          'ALTER TABLE "users" DROP COLUMN "fixture";\n',
      );
      expect(read(down)).toBe("-- reviewed\n");
      expect(none.stdout).toStartWith("Nothing to generate: ");
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
        ({ tag }) => `${meta}/${tag.split("_")[0]}_snapshot.json`,
      );
      replace(snapshots.at(-1) ?? "", '"version": "7"', '"version": "5"');
      const old = await run("db:generate");
      for (const file of snapshots) rmSync(join(folder, file), { force: true });
      const unknown = await run("db:generate");

      expect(none.error.message).toBe(`${config}: migrations.prefix is none`);
      expect(byTime.tag).toMatch(/^20\d{12}_alter_users$/);
      expect(read(byTime.file)).toMatch(/^ALTER .*;\nALTER .*;$/);
      expect(still.tag).toMatch(/^20\d{12}_größe_x{94}$/);
      expect(unix.tag).toMatch(/^\d{10}_custom$/);
      expect(warned.stderr).toStartWith(
        `Warning: ${meta}/${unix.tag.split("_")[0]}_snapshot.json is missing: the snapshot before it is used\n`,
      );
      expect(old).toMatchObject({ exitCode: 1, stdout: "" });
      expect(old.stderr).toContain("it is of version 5, not of version 7\n");
      expect(unknown).toMatchObject({ exitCode: 2, stdout: "" });
      expect(unknown.stderr).toStartWith(
        `Error: ${migrations} has migrations, but no snapshot to compare with\n`,
      );
    },
  );

  testProject("writes over no file that it did not write", async (project) => {
    const { run, replace, read, write, folder } = project;
    replace(schemaFile, image, fixture);
    const own = read(journal);
    const snapshot = read(`${migrations}/meta/0000_snapshot.json`);
    rmSync(join(folder, journal));
    const withoutJournal = await run("db:generate next");
    write(journal, own);
    write(`${migrations}/${next}.sql`, "-- mine\n");
    const withFile = await run("db:generate next --json");

    expect(withoutJournal).toMatchObject({ exitCode: 2, stdout: "" });
    expect(withoutJournal.stderr).toContain(
      `${migrations}/meta/0000_snapshot.json already exists`,
    );
    expect(withFile.exitCode).toBe(2);
    expect(JSON.parse(withFile.stdout).error.code).toBe("FILE_EXISTS");
    expect(read(`${migrations}/meta/0000_snapshot.json`)).toBe(snapshot);
    expect(read(`${migrations}/${next}.sql`)).toBe("-- mine\n");
    expect(read(journal)).toBe(own);
  });
});

describe("after a merge", () => {
  const logo = 'logo: text("logo"),';
  const motto = 'logo: text("logo"),\n    motto: text("motto"),';
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

  /** Returns two migrations that were made of the same parent; both are generated once. */
  async function generateBranches() {
    const generate = async (name: string, from: string, to: string) => {
      using project = copyProject();
      project.replace(schemaFile, from, to);
      await project.run(`db:generate ${name}`);
      return {
        entry: { ...readEntries(project).at(-1) },
        up: project.read(`${migrations}/0001_${name}.sql`),
        down: project.read(`${migrations}/0001_${name}.down.sql`),
        snapshot: project.read(`${migrations}/meta/0001_snapshot.json`),
      };
    };
    const theirs = await generate("theirs", image, fixture);
    return { theirs, ours: await generate("ours", logo, motto) };
  }

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
  async function merge(project: Project, ourTag: string): Promise<void> {
    const { ours, theirs } = await (branches ??= generateBranches());
    put(project, ourTag, ours);
    await commit(project.folder, "ours"); // git is where the snapshot of ours will be
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
        expect(refused.stderr).toStartWith(
          `Error: 0001_theirs and ${ourTag} were both generated from the same migration\n`,
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
        expect(rebased.stdout).toStartWith(
          `Generated: ${migrations}/0002_ours.sql\n`,
        );
        expect(read(`${migrations}/0002_ours.sql`)).toBe(toMotto);
        expect(listMigrations(project)).toHaveLength(ownFiles.length + 4);
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
    },
  );

  test(
    "makes no migration again that is applied, and the older where the newer is on the default branch",
    "empty",
    async ({ run, read, project, sql }) => {
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
      expect(applied.stderr).toContain("0002_ours is applied on ");
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
      write(file, ours.up);
      const rebased = await run("db:generate --rebase");
      const checked = await run("db:check --strict --offline");

      expect(refused.exitCode).toBe(2);
      expect(refused.stderr).toContain(`Error: ${down} was edited by hand`);
      expect(kept).toStartWith("-- reviewed");
      expect(commented.exitCode).toBe(2);
      expect(commented.stderr).toContain(`Error: ${file} was edited by hand`);
      expect(rebased.exitCode).toBe(0);
      expect(read(file)).toBe(toMotto);
      expect(checked.stdout).toBe("Checked: 0 errors, 0 warnings\n");
    },
  );
});
