// db:generate, without a terminal, on a copy of the project.
import { describe, expect } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { commit } from "../lib/git";
import { migrations, ownHead, ownMigrations } from "../lib/migrations";
import { fixture, image, listMigrations } from "../lib/schema-file";
import { type Given, test } from "../lib/test";

const ownFiles = ownMigrations
  .flatMap(({ tag }) => [`${tag}.down.sql`, `${tag}.sql`])
  .sort();
const number = (after: number) =>
  String(ownMigrations.length + after).padStart(4, "0");
const next = `${number(0)}_next`;
const journal = `${migrations}/meta/_journal.json`;

const readJournal = ({ read }: Given) =>
  JSON.parse(read(journal)) as { entries: { tag: string; when: number }[] };

describe("db:generate", () => {
  test(
    "writes the migration of a change and its reverse, and nothing where there is none",
    "empty",
    async ({ run, change, project, read }) => {
      const unchanged = await run("db:generate");
      change(image, fixture);
      const generated = await run("db:generate next");
      const again = await run("db:generate --json");

      expect(unchanged).toEqual({
        exitCode: 0,
        stdout: "Nothing to generate: schema.ts matches the newest migration\n",
        stderr: "",
      });
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
      expect(JSON.parse(again.stdout).tag).toBeNull();
      expect(listMigrations(project)).toEqual([
        ...ownFiles,
        `${next}.down.sql`,
        `${next}.sql`,
      ]);
    },
  );

  test(
    "fails where schema.ts cannot be loaded, and writes nothing",
    "empty",
    async ({ run, change, project }) => {
      change(image, `${fixture} nonsense nonsense`);

      const { exitCode, stdout, stderr } = await run("db:generate");

      expect({ exitCode, stdout }).toEqual({ exitCode: 1, stdout: "" });
      expect(stderr).toMatch(
        /^Error: src\/infrastructure\/database\/schema\.ts:\d+ cannot be loaded: /,
      );
      expect(listMigrations(project)).toEqual(ownFiles);
    },
  );

  test(
    "takes the answer whether something was renamed from flags, and from nowhere else",
    "migrated",
    async ({ run, change, project, read }) => {
      change(image, 'picture: text("picture"),');
      const open = await run("db:generate next");
      const wrong = await run("db:generate next --rename users.imag=picture");
      const untouched = listMigrations(project);
      const renamed = await run(
        "db:generate next --rename users.image=picture",
      );
      change('picture: text("picture"),', 'photo: text("photo"),');
      const anew = await run("db:generate anew --no-rename");

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
      expect(anew.exitCode).toBe(0);
      expect(read(`${migrations}/${number(1)}_anew.down.sql`)).toBe(
        'ALTER TABLE "users" DROP COLUMN "photo";--> statement-breakpoint\n' +
          "-- The column comes back empty: its values are gone.\n" +
          'ALTER TABLE "users" ADD COLUMN "picture" text;\n',
      );
      expect((await run("db:check")).stdout).toContain("Checked: 0 errors");
      expect((await run("db:migrate")).exitCode).toBe(0);
      expect((await run("db:rollback --steps 2")).exitCode).toBe(0);
      expect((await run("db:migrate")).exitCode).toBe(0);
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
    "stamps a migration a second later than every other, whatever the clock says",
    "empty",
    async (given) => {
      const { run, change, project } = given;
      const { entries, ...rest } = readJournal(given);
      const when = Date.now() + 1e9;
      const late = entries.map((entry) => ({ ...entry, when }));
      project.write(journal, JSON.stringify({ ...rest, entries: late }));
      change(image, fixture);
      await run("db:generate next");

      expect(readJournal(given).entries.at(-1)).toMatchObject({
        tag: next,
        when: when + 1000,
      });
    },
  );

  test(
    "says what a new migration does to a live database, on stderr",
    "empty",
    async ({ run, change }) => {
      change(image, "");
      const { exitCode, stderr } = await run("db:generate next");

      expect(exitCode).toBe(0);
      expect(stderr).toBe(
        `Lint: ${migrations}/${next}.sql:1 ban-drop-column: Dropping a column may break existing clients.\n`,
      );
    },
  );

  test(
    "makes an empty one for SQL of your own, and names the file that undoes it",
    "empty",
    async ({ run, read, change, project }) => {
      const custom = await run("db:generate next --custom");
      const down = await run("db:generate --down");
      const files = listMigrations(project);
      await run("db:migrate");
      project.write(`${migrations}/${next}.down.sql`, "-- nothing\n");
      const empty = await run("db:rollback");
      change(image, fixture);
      const after = await run("db:generate after");

      expect(custom).toEqual({
        exitCode: 0,
        stdout: `Generated: ${migrations}/${next}.sql\n`,
        stderr: `Hint: write the SQL that undoes it into ${migrations}/${next}.down.sql\n`,
      });
      expect(read(`${migrations}/${next}.sql`)).toStartWith("-- Custom SQL");
      expect(down.stdout).toStartWith("Nothing to generate: ");
      expect(files).not.toContain(`${next}.down.sql`);
      expect(empty).toMatchObject({ exitCode: 1, stdout: "" });
      expect(empty.stderr).toContain("has no statement in it");
      expect(after.exitCode).toBe(0);
    },
  );

  test(
    "writes the down files that are missing, and what they leave undone",
    "empty",
    async ({ run, change, project, read }) => {
      change(image, fixture);
      await run("db:generate next");
      const down = `${migrations}/${next}.down.sql`;
      project.write(
        `${migrations}/${next}.sql`,
        `${read(`${migrations}/${next}.sql`)}\nUPDATE users SET fixture = 'x';`,
      );
      rmSync(join(project.folder, down));
      const one = await run(`db:generate --down ${next}`);
      const none = await run("db:generate --down");

      expect(one.stdout).toBe(`Generated: ${down}\n`);
      expect(none.stdout).toStartWith("Nothing to generate: ");
      expect(read(down)).toBe(
        "-- Not undone here, for snapshots do not know of it:\n" +
          "--   UPDATE users SET fixture = 'x'\n" +
          'ALTER TABLE "users" DROP COLUMN "fixture";\n',
      );
    },
  );
});

describe("db:generate, beside files that it did not write", () => {
  test(
    "writes over none of them",
    "empty",
    async ({ run, change, project, read }) => {
      change(image, fixture);
      const own = read(journal);
      const snapshot = read(`${migrations}/meta/0000_snapshot.json`);
      rmSync(join(project.folder, journal));
      const withoutJournal = await run("db:generate next");
      project.write(journal, own);
      project.write(`${migrations}/${next}.sql`, "-- mine\n");
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
    },
  );
});

describe("after a merge", () => {
  /** Two branches that each made a migration of the same parent. */
  async function merge(given: Given, isRenumbered: boolean): Promise<void> {
    const { run, change, project, read } = given;
    const before = read(journal);
    change(image, fixture);
    await run("db:generate theirs");
    const theirs = readJournal(given).entries.at(-1);
    const snapshot = read(`${migrations}/meta/${number(0)}_snapshot.json`);
    change(fixture, image);
    change(
      'logo: text("logo"),',
      'logo: text("logo"),\n    motto: text("motto"),',
    );
    project.write(journal, before);
    rmSync(
      join(project.folder, `${migrations}/meta/${number(0)}_snapshot.json`),
    );
    await run("db:generate ours");
    await commit(project.folder, "ours"); // git is where the snapshot of ours will be
    const { entries, ...rest } = readJournal(given);
    const ours = entries.at(-1);
    change(image, fixture);

    const tag = isRenumbered ? `${number(1)}_ours` : ours?.tag;
    if (isRenumbered) {
      const own = `${migrations}/meta/${number(0)}_snapshot.json`;
      project.write(`${migrations}/meta/${number(1)}_snapshot.json`, read(own));
      for (const end of [".sql", ".down.sql"]) {
        project.write(
          `${migrations}/${tag}${end}`,
          read(`${migrations}/${ours?.tag}${end}`),
        );
        rmSync(join(project.folder, `${migrations}/${ours?.tag}${end}`));
      }
    }
    project.write(`${migrations}/meta/${number(0)}_snapshot.json`, snapshot);
    const merged = [
      ...entries.slice(0, -1),
      theirs,
      { ...ours, tag, idx: ownMigrations.length + (isRenumbered ? 1 : 0) },
    ];
    project.write(journal, JSON.stringify({ ...rest, entries: merged }));
  }

  for (const isRenumbered of [true, false])
    test(
      `names the two of one parent, and makes the newer again${isRenumbered ? "" : ", where they have one number"}`,
      "empty",
      async (given) => {
        const { run, project, read } = given;
        await merge(given, isRenumbered);
        const refused = await run("db:generate more");
        const checked = await run("db:check --offline --json");
        const rebased = await run("db:generate --rebase");
        const ours = `${number(1)}_ours`;

        const newer = isRenumbered ? ours : `${number(0)}_ours`;
        expect(refused.exitCode).toBe(2);
        expect(refused.stderr).toStartWith(
          `Error: ${number(0)}_theirs and ${newer} were both generated from the same migration\n`,
        );
        expect(checked.stdout).toContain('"code":"snapshot_chain"');
        expect(rebased.stderr).toBe("");
        expect(rebased.stdout).toStartWith(
          `Generated: ${migrations}/${ours}.sql\n`,
        );
        expect(read(`${migrations}/${ours}.sql`)).toBe(
          'ALTER TABLE "tenants" ADD COLUMN "motto" text;',
        );
        expect(listMigrations(project)).toHaveLength(ownFiles.length + 4);
        const clean = await run("db:check --offline --strict");
        expect(clean.stdout).toBe("Checked: 0 errors, 0 warnings\n");
      },
    );

  test(
    "makes the older again where the newer is on the default branch",
    "empty",
    async (given) => {
      const { run, read, project } = given;
      await merge(given, true);
      const ours = `${migrations}/${number(1)}_ours.sql`;
      const theirs = `${migrations}/${number(0)}_theirs.sql`;
      // The default branch has `ours`, which stands last in the journal.
      const text = read(theirs);
      rmSync(join(project.folder, theirs));
      await commit(project.folder, "main");
      project.write(theirs, text);
      const { exitCode, stdout } = await run("db:generate --rebase");

      expect(exitCode).toBe(0);
      expect(stdout).toContain(`Removed: ${theirs}, generated without `);
      expect(read(ours)).toContain('"motto"');
      expect(read(`${migrations}/${number(2)}_theirs.sql`)).toBe(
        'ALTER TABLE "users" ADD COLUMN "fixture" text;',
      );
    },
  );

  test(
    "makes it again on top of all that the other branch has, and loses no edit",
    "empty",
    async (given) => {
      const { run, read, change, project } = given;
      const before = read(journal);
      change(
        'logo: text("logo"),',
        'logo: text("logo"),\n    motto: text("motto"),',
      );
      await run("db:generate ours");
      const { entries } = readJournal(given);
      const ours = {
        ...entries.at(-1),
        tag: `${number(2)}_ours`,
        idx: ownMigrations.length + 2,
      };
      for (const end of [".sql", ".down.sql"])
        project.write(
          `${migrations}/${ours.tag}${end}`,
          read(`${migrations}/${number(0)}_ours${end}`),
        );
      project.write(
        `${migrations}/meta/${number(2)}_snapshot.json`,
        read(`${migrations}/meta/${number(0)}_snapshot.json`),
      );
      for (const end of [".sql", ".down.sql"])
        rmSync(join(project.folder, `${migrations}/${number(0)}_ours${end}`));
      rmSync(
        join(project.folder, `${migrations}/meta/${number(0)}_snapshot.json`),
      );
      change('    motto: text("motto"),', "");
      project.write(journal, before);
      change(image, fixture);
      await run("db:generate one");
      change(fixture, `${fixture}\n    second: text("second"),`);
      await run("db:generate two");
      change(
        'logo: text("logo"),',
        'logo: text("logo"),\n    motto: text("motto"),',
      );
      const theirs = JSON.parse(read(journal));
      theirs.entries.push(ours);
      project.write(journal, JSON.stringify(theirs));
      const down = `${migrations}/${ours.tag}.down.sql`;
      const generated = read(down);
      project.write(down, `-- reviewed\n${generated}`);
      const refused = await run("db:generate --rebase");
      const kept = read(down);
      project.write(down, generated);
      const rebased = await run("db:generate --rebase");
      const checked = await run("db:check --strict --offline");

      expect(refused.exitCode).toBe(2);
      expect(refused.stderr).toStartWith(`Error: ${down} was edited by hand`);
      expect(kept).toStartWith("-- reviewed");
      expect(rebased.exitCode).toBe(0);
      expect(read(`${migrations}/${number(2)}_ours.sql`)).toBe(
        'ALTER TABLE "tenants" ADD COLUMN "motto" text;',
      );
      expect(checked.stdout).toBe("Checked: 0 errors, 0 warnings\n");
    },
  );

  test("makes no migration again that is applied", "empty", async (given) => {
    const { run, project } = given;
    await merge(given, true);
    await run("db:migrate");
    const files = listMigrations(project);
    const { exitCode, stderr } = await run("db:generate --rebase");

    expect(exitCode).toBe(2);
    expect(stderr).toContain(`${number(1)}_ours is applied on `);
    expect(listMigrations(project)).toEqual(files);
  });
});
