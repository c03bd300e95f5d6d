// db:check: every code is provoked once, and a good folder is silent.
import { describe, expect } from "bun:test";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { withScratchDatabase } from "../../scripts/lib/scratch-database";
import { readMigrations } from "../../scripts/migrations/journal";
import type { Outcome } from "../lib/command";
import { commit } from "../lib/git";
import {
  addMigration,
  editJournal,
  journal,
  migrations,
  ownHead,
} from "../lib/migrations";
import { fixture, image, schemaFile } from "../lib/schema-file";
import { type Given, test, testProject } from "../lib/test";

interface Problem {
  code: string;
  severity: string;
  tag?: string;
  file?: string;
  line?: number;
  message: string;
}

/** Reads the output of `db:check --json`. */
function readFound({ exitCode, stdout }: Outcome) {
  const { problems, ...rest } = JSON.parse(stdout) as { problems: Problem[] };
  expect(rest).toEqual({});
  return { exitCode, problems };
}

const brief = (problems: Problem[]) =>
  problems.map(({ code, severity, tag, line }) =>
    [severity, code, tag, line].filter(Boolean).join(" "),
  );

/** Tells all of each problem, with `…` for the folder of the migrations. */
const whole = (problems: Problem[]) =>
  problems.map(({ code, severity, tag, file, line, message }) =>
    [severity, code, tag, [file, line].filter(Boolean).join(":"), message]
      .filter(Boolean)
      .join(" ")
      .replaceAll(migrations, "…"),
  );

const surplus = (file: string) =>
  `error file_orphan …/${file} the journal does not name it, so no command uses it: add its entry, or \`rm …/${file}\``;

async function listScratch({ sql, database }: Given) {
  return await sql`
    select datname from pg_database where starts_with(datname, ${`${database.name}_`})`;
}

describe("without a database", () => {
  testProject(
    "is silent on this project, also --strict, and with a snapshot of an older drizzle-kit",
    async ({ run, read, write }) => {
      const file = `${migrations}/meta/0000_snapshot.json`;
      const { tables, policies, ...older } = JSON.parse(read(file));
      for (const table of Object.values<Record<string, unknown>>(tables)) {
        delete table.policies;
        delete table.isRLSEnabled;
      }
      write(file, JSON.stringify({ ...older, tables }));
      const { exitCode, stdout, stderr } = await run(
        "db:check --offline --strict",
      );

      expect({ exitCode, stdout }).toEqual({
        exitCode: 0,
        stdout: "Checked: 0 errors, 0 warnings\n",
      });
      expect(stderr).toBe(
        "Not compared with git: found no origin/HEAD, main or master\n",
      );
    },
  );

  testProject(
    "finds what is wrong with the journal, the files and the snapshots",
    async (project) => {
      const { run, read, write, folder } = project;
      const [next, last, gone] = ["0001_next", "0002_last", "0003_gone"];
      addMigration(project, next, "create table next ()", "drop table next");
      addMigration(project, last, "create table last ()", "drop table last");
      editJournal(project, (entries) => {
        const newest = entries.at(-1);
        if (newest) newest.when = 5;
        entries.push({ idx: 2, version: "7", when: 5, tag: gone });
      });
      write(`${migrations}/9999_orphan.sql`, "select 1");
      write(`${migrations}/${next}.sql.partial`, "select");
      write(`${migrations}/meta/9999_snapshot.json`, "{}");
      write(`${migrations}/meta/0003_snapshot.json`, "<<<<<<< HEAD\n{}");
      rmSync(join(folder, `${migrations}/${next}.down.sql`));
      rmSync(join(folder, `${migrations}/meta/0000_snapshot.json`));
      const snapshot = `${migrations}/meta/0002_snapshot.json`;
      write(
        snapshot,
        read(snapshot).replace(/"prevId":".*"/, '"prevId":"other"'),
      );

      const { exitCode, problems } = readFound(
        await run("db:check --json --offline"),
      );

      expect(exitCode).toBe(3);
      const line = (tag: string) =>
        read(journal)
          .split("\n")
          .findIndex((l) => l.includes(tag)) + 1;
      const when = (tag: string) =>
        JSON.parse(read(journal)).entries.find(
          (entry: { tag: string }) => entry.tag === tag,
        ).when;
      const at = (tag: string) => `${tag} …/meta/_journal.json:${line(tag)}`;
      const again = "generate it again with `bun run db:generate --rebase`";
      const isLower = `comes after ${next}, and its when is lower: raise it above ${when(next)}, or ${again}`;
      expect(whole(problems)).toEqual([
        `error journal_unordered ${at(last)} ${last} ${isLower}`,
        `error journal_duplicate ${at(gone)} ${gone} has the same idx as ${last}, 2: ${again}, or give it another one`,
        `error journal_duplicate ${at(gone)} ${gone} has the same when as ${last}, 5: ${again}, or give it another one`,
        `error journal_unordered ${at(gone)} ${gone} ${isLower}`,
        `error file_missing ${gone} …/${gone}.sql the journal names it: \`git log --all -- …/${gone}.sql\` lists its commits`,
        surplus(`${next}.sql.partial`),
        surplus("9999_orphan.sql"),
        surplus("meta/9999_snapshot.json"),
        ...[next, gone].map(
          (tag) =>
            `warning down_missing ${tag} …/${tag}.down.sql ${tag} cannot be rolled back: \`bun run db:generate --down ${tag}\` writes it; for custom SQL, write it yourself`,
        ),
        `warning snapshot_missing ${ownHead} …/meta/0000_snapshot.json it is not there: \`git log --all -- …/meta/0000_snapshot.json\` lists its commits`,
        `error snapshot_chain ${last} …/meta/0002_snapshot.json not made from the snapshot before it, as after a merge: where that is history, \`bun run db:check --accept snapshot_chain ${last} --reason <text>\``,
        `error snapshot_chain ${gone} …/meta/0003_snapshot.json cannot be read, as after a merge conflict: take either side, and run \`bun run db:generate --rebase\``,
      ]);
    },
  );

  testProject(
    "fails where the database cannot be reached, after what it found; and does not try where the journal cannot be read",
    async (project) => {
      const { run, read, write, folder } = project;
      write(`${migrations}/9999_orphan.sql`, "select 1");
      editJournal(project, (entries) =>
        entries.push({ ...entries[0], idx: -1, when: 2 ** 42 }),
      );
      const twin =
        read(journal)
          .split("\n")
          .findLastIndex((line) => line.includes(ownHead)) + 1;
      const unreachable = await run("db:check --json");
      write(journal, `<<<<<<< HEAD\n${read(journal)}`);
      const conflict = readFound(await run("db:check --json"));
      const PATH = dirname(process.execPath);
      const without = await run("db:check --offline", { PATH });
      await commit(folder, "main");
      const foreign = await run("db:check --offline", {
        GIT_TEST_ASSUME_DIFFERENT_OWNER: "1",
      });

      const { problems, error } = JSON.parse(unreachable.stdout);
      expect(unreachable.exitCode).toBe(1);
      expect(whole(problems)).toEqual([
        `error journal_duplicate ${ownHead} …/meta/_journal.json:${twin} ${ownHead} has the same tag as ${ownHead}, ${ownHead}: generate it again with \`bun run db:generate --rebase\`, or give it another one`,
        `error journal_unordered ${ownHead} …/meta/_journal.json:${twin} ${ownHead} comes after ${ownHead}, and its idx is lower: raise it above 0, or generate it again with \`bun run db:generate --rebase\``,
        surplus("9999_orphan.sql"),
        `error snapshot_chain ${ownHead} …/meta/0000_snapshot.json ${ownHead} and ${ownHead} share one snapshot file, as after a merge: run \`bun run db:generate --rebase\``,
      ]);
      expect(error.code).toBeString();
      expect(conflict.exitCode).toBe(3);
      expect(whole(conflict.problems)).toEqual([
        "error journal_invalid …/meta/_journal.json the journal contains merge conflict markers; keep the entries of both sides, and then run `bun run db:generate --rebase`",
      ]);
      expect(without.stderr).toBe("Not compared with git: there is no git\n");
      expect(foreign.stderr).toBe(
        `Not compared with git: git refuses this folder, which belongs to another user: \`git config --global --add safe.directory ${folder}\` allows it\n`,
      );
    },
  );

  testProject(
    "says each finding on a line, also before an error, and counts warnings as errors where it is told to",
    async (project) => {
      const { run, write, folder } = project;
      const down = `${migrations}/${ownHead}.down.sql`;
      const orphan = `${migrations}/9999_orphan.sql`;
      const summary = join(folder, "summary.md");
      rmSync(join(folder, down));
      const lenient = await run("db:check --offline");
      const strict = await run("db:check --offline --strict");
      write(orphan, "select 1");
      addMigration(project, "0001_next", "select 1;");
      editJournal(project, (entries) =>
        Object.assign(entries.at(-1) ?? {}, { when: 5 }),
      );
      const both = await run("db:check --offline");
      const failed = await run("db:check", {
        GITHUB_ACTIONS: "true",
        GITHUB_STEP_SUMMARY: summary,
      });
      rmSync(join(folder, `${migrations}/${ownHead}.sql`));
      const missing = await run("db:check");
      const refused: Record<string, string> = {
        "db:check one": 'Error: unexpected argument "one"',
        "db:check --offline --accept lint a b --reason c":
          'Error: unexpected argument "b"',
        "db:check --offline --accept lint":
          "Error: --accept, its tag and --reason go together",
        "db:check --offline --deployed HEAD":
          "Error: --deployed needs a database, and --offline leaves it out",
        "db:check --rows many":
          'Error: --rows takes a whole number of at most 999999999, not "many"',
      };

      const warn = (tag: string) =>
        `Warning: down_missing: ${migrations}/${tag}.down.sql: ${tag} cannot be rolled back: \`bun run db:generate --down ${tag}\` writes it; for custom SQL, write it yourself\n`;
      const found = new RegExp(
        `^Error: journal_unordered: ${journal}:\\d+: 0001_next comes after .*\nError: file_orphan: ${orphan}: .*\n${warn(ownHead)}${warn("0001_next")}`,
      );
      expect(lenient).toMatchObject({
        exitCode: 0,
        stdout: `${warn(ownHead)}Checked: 0 errors, 1 warning\n`,
      });
      expect(strict).toMatchObject({ exitCode: 3, stdout: lenient.stdout });
      expect(both.stdout).toMatch(found);
      expect(both.stdout).toEndWith("\nChecked: 2 errors, 2 warnings\n");
      expect(failed.exitCode).toBe(1);
      expect(failed.stdout).toMatch(found);
      expect(failed.stdout).not.toContain("Checked: ");
      expect(failed.stderr).toContain(
        `::error file=${orphan},title=file_orphan::`,
      );
      expect(readFileSync(summary, "utf8")).toStartWith(
        "### db:check failed\n",
      );
      // What cannot be read is not tried.
      expect(missing).toMatchObject({
        exitCode: 3,
        stderr: expect.not.stringContaining("Error"),
      });
      for (const [command, line] of Object.entries(refused)) {
        const { exitCode, stdout, stderr } = await run(command);
        expect([command, exitCode, stdout, stderr.split("\n")[0]]).toEqual([
          command,
          2,
          "",
          line,
        ]);
      }
    },
  );

  testProject(
    "compares with the default branch: edits, removals, and the lint of what is new",
    async (project) => {
      const { run, read, write, replace, folder } = project;
      const [next, crash, last] = ["0001_next", "0001_crash", "0002_last"];
      addMigration(project, next, "create table next ()", "drop table next");
      write("docs/SCHEMA.md", "old");
      await commit(folder, "main", dirname(folder)); // the project is a folder of the repository
      const own = `${migrations}/${ownHead}.sql`;
      write(own, `-- a comment is no edit\n${read(own)}`);
      const commented = readFound(await run("db:check --json --offline"));
      write(own, `${read(own)}\nselect 1;`);
      editJournal(project, (entries) => entries.pop());
      // squawk ends at this file: the other is linted all the same.
      addMigration(project, crash, "", "");
      writeFileSync(
        join(folder, `${migrations}/${crash}.sql`),
        Buffer.from("select 'é'", "latin1"),
      );
      addMigration(
        project,
        last,
        `-- squawk-ignore ban-drop-column -- nobody reads it
ALTER TABLE "users" DROP COLUMN "image";
-- squawk-ignore ban-drop-column
ALTER TABLE "users" DROP COLUMN "name";
CREATE INDEX "users_name_idx" ON "users" ("name");
CREATE TABLE "new" ("id" uuid PRIMARY KEY);
CREATE INDEX "new_idx" ON "new" ("id");`,
        "",
      );
      replace(schemaFile, image, fixture);
      const changed = await run("db:check --json --offline");

      const { exitCode, problems } = readFound(changed);
      expect(commented.exitCode).toBe(0);
      expect(brief(commented.problems)).toEqual(["warning diagram_stale"]);
      expect(exitCode).toBe(3);
      expect(changed.stderr).toBe(
        `Not linted: ${migrations}/${crash}.sql: squawk failed: Error: stream did not contain valid UTF-8\n`,
      );
      expect(whole(problems)).toEqual([
        surplus(`${next}.down.sql`),
        surplus(`${next}.sql`),
        `error modified ${ownHead} …/${ownHead}.sql its SQL differs from the one on main: restore it with \`git checkout main -- …/${ownHead}.sql\`, and put the change into a new migration`,
        `error missing ${next} …/meta/_journal.json ${next} is in the journal of main, and not in this one: \`git checkout main -- …\``,
        `error schema_not_generated ${schemaFile} changed without a migration (first: \`ALTER TABLE "users" ADD COLUMN "fixture" text;\`): run \`bun run db:generate\``,
        "warning diagram_stale docs/SCHEMA.md out of date with schema.ts: run `bun run db:diagram`",
        `warning lint ${last} …/${last}.sql:5 require-concurrent-index-creation: During normal index creation, table updates are blocked, but reads are still allowed. Fix it, or write \`-- squawk-ignore require-concurrent-index-creation -- <reason>\` above it`,
        `warning lint ${last} …/${last}.sql:3 squawk-ignore: This ignores ban-drop-column without a reason: add \`-- <reason>\` to it.`,
      ]);
    },
  );

  testProject(
    "prints one document where drizzle.config.ts cannot be used",
    async ({ run, replace }) => {
      const dialect = 'dialect: "postgresql",';
      replace("drizzle.config.ts", dialect, `${dialect} driver: "pglite",`);

      const { exitCode, stdout, stderr } = await run("db:check --json");

      expect({ exitCode, stderr }).toEqual({ exitCode: 2, stderr: "" });
      expect(JSON.parse(stdout).error).toMatchObject({ code: "CONFIGURATION" });
    },
  );

  testProject(
    "draws the diagram, and again only when it is stale",
    async ({ run, replace, read, write }) => {
      write("docs/SCHEMA.md", "# Our own\n");
      const own = await run("db:diagram");
      const kept = read("docs/SCHEMA.md");
      write("docs/SCHEMA.md", "");
      const drawn = await run("db:diagram");
      const again = await run("db:diagram");
      replace(schemaFile, image, fixture);
      const changed = await run("db:diagram --json");

      expect(own).toEqual({
        exitCode: 2,
        stdout: "",
        stderr:
          "Error: docs/SCHEMA.md is not a page that db:diagram has written\nHint: move it, or delete it, and run `bun run db:diagram` again\n",
      });
      expect(kept).toBe("# Our own\n");
      expect(drawn.stdout).toBe("Wrote: docs/SCHEMA.md\n");
      expect(again.stdout).toBe(
        "Nothing to write: docs/SCHEMA.md is current\n",
      );
      expect(JSON.parse(changed.stdout)).toEqual({
        file: "docs/SCHEMA.md",
        written: true,
      });
      expect(read("docs/SCHEMA.md")).toContain("| `fixture`");
      expect(read("docs/SCHEMA.md")).toContain(
        '  users ||--o{ sessions : "user_id"',
      );
    },
  );
});

describe("with a database", () => {
  test(
    "outlasts its limit on idle transactions",
    "migrated",
    async ({ run, sql, name, project }) => {
      const limit = "idle_in_transaction_session_timeout = '200ms'";
      await sql.unsafe(`alter database ${name} set ${limit}`);
      addMigration(project, "0001_slow", "select pg_sleep(0.6);");

      const { exitCode, stdout } = await run("db:check --json");

      expect({ exitCode, error: JSON.parse(stdout).error }).toEqual({
        exitCode: 0,
        error: undefined,
      });
    },
  );

  test(
    "is silent where it has the schema of the migrations, also by default privileges, and in another spelling",
    "empty",
    async (given) => {
      const { run, project, sql } = given;
      await sql.unsafe(`
        alter default privileges revoke all on functions from public;
        alter default privileges in schema public grant select on tables to pg_monitor`);
      addMigration(
        project,
        "0001_shirts",
        `create table shirts (size varchar(9) check (size in ('s', 'm')), name varchar(9) default upper('x'));
create index shirts_idx on shirts (name) where size in ('s', 'm');
create view small as select name from shirts where size in ('s', 'm');`,
        "drop table shirts cascade;",
      );
      await run("db:migrate");
      const readSpelling = async () => {
        const [row] = await sql`
          select pg_get_constraintdef(oid) as checked, pg_get_indexdef('shirts_idx'::regclass) as index,
            pg_get_viewdef('small'::regclass) as view
          from pg_constraint where conname = 'shirts_size_check'`;
        return row;
      };
      const made = await readSpelling();
      // As a dump does.
      await sql.unsafe(`
        alter table shirts drop constraint shirts_size_check;
        alter table shirts add constraint shirts_size_check ${made?.checked};
        drop index shirts_idx; ${made?.index};
        create or replace view small as ${made?.view}`);
      const respelled = await readSpelling();

      const { exitCode, stdout } = await run("db:check --strict");

      expect(respelled?.checked).not.toBe(made?.checked);
      expect({ exitCode, stdout }).toEqual({
        exitCode: 0,
        stdout: "Checked: 0 errors, 0 warnings\n",
      });
      expect(await listScratch(given)).toHaveLength(0);
    },
  );

  test(
    "sees everything that was made by hand, which migration is out of order, and what a down file leaves behind",
    "migrated",
    async (given) => {
      const { run, project, sql } = given;
      const [next, third] = ["0001_next", "0002_third"];
      addMigration(
        project,
        next,
        "create table a (); create table b ();",
        "drop table a;",
      );
      addMigration(
        project,
        third,
        "create table third ();",
        "drop table third;",
      );
      const applied = readMigrations(join(project.folder, migrations)).at(-1);
      // As drizzle-kit applies it: without a row in the log.
      await sql.unsafe(applied?.text ?? "");
      await sql`
        insert into drizzle.__drizzle_migrations (hash, created_at)
        values (${applied?.hash ?? ""}, ${applied?.when ?? 0})`;
      await sql.unsafe(`
      create function by_hand() returns int language sql as 'select 1';
      create function touch() returns trigger language plpgsql as 'begin return new; end';
      create trigger touched before update on users for each row execute function touch();
      create view people as select id from users;
      create policy own on users using (true);
      alter table users enable row level security;
      grant select on users to pg_monitor;
      create index by_hand_idx on users (name);
      alter table users add column extra text default 'x';
      alter table builds drop constraint builds_status_check;
      alter table users alter column name drop not null;
      create sequence numbers;
      create type mood as enum ('good', 'bad')`);

      const { exitCode, problems } = readFound(await run("db:check --json"));

      expect(exitCode).toBe(3);
      const drift = problems.filter(({ code }) => code === "drift");
      expect(drift.map(({ message }) => message.split(";")[0])).toEqual([
        "surplus: ALTER TABLE public.users ADD COLUMN extra text",
        "different: column public.users.name: ALTER TABLE public.users ADD COLUMN name text, not ALTER TABLE public.users ADD COLUMN name text NOT NULL",
        expect.stringMatching(
          /^missing: ALTER TABLE public.builds ADD CONSTRAINT builds_status_check CHECK /,
        ),
        "surplus: ALTER TABLE public.users ALTER COLUMN extra SET DEFAULT 'x'::text",
        "surplus: CREATE OR REPLACE FUNCTION public.by_hand() RETURNS integer LANGUAGE sql AS $function$select 1$function$",
        expect.stringMatching(
          /^surplus: CREATE OR REPLACE FUNCTION public.touch\(\)/,
        ),
        "surplus: GRANT SELECT ON TABLE public.users TO pg_monitor",
        "surplus: CREATE INDEX by_hand_idx ON public.users USING btree (name)",
        expect.stringMatching(/^surplus: CREATE POLICY own ON public.users/),
        "surplus: ALTER TABLE public.users ENABLE ROW LEVEL SECURITY",
        expect.stringMatching(/^surplus: CREATE SEQUENCE public.numbers/),
        "surplus: CREATE TRIGGER touched BEFORE UPDATE ON public.users FOR EACH ROW EXECUTE FUNCTION public.touch()",
        "surplus: CREATE TYPE public.mood AS ENUM ('good', 'bad')",
        expect.stringMatching(
          /^surplus: CREATE VIEW public.people AS SELECT (users\.)?id FROM public\.users/,
        ),
      ]);
      expect(brief(problems)).toEqual([
        `warning pending ${next}`,
        `warning out_of_order ${next}`,
        ...drift.map(() => "error drift"),
        `error down_mismatch ${next}`,
      ]);
      expect(problems[1]).toMatchObject({
        file: `${migrations}/${next}.sql`,
        message: `older than ${third}, which is applied: \`bun run db:migrate\` applies it anyway`,
      });
      expect(problems.at(-1)?.file).toBe(`${migrations}/${next}.down.sql`);
      expect(drift[0]?.message).toEndWith(
        "; put it into a migration with `bun run db:generate --custom`, or undo it in `bun run db:shell`",
      );
      expect(problems.at(-1)?.message).toStartWith(
        "after the down file: surplus: CREATE TABLE public.b ()",
      );
      expect(await listScratch(given)).toHaveLength(0);
    },
  );

  test(
    "finds what db:migrate:status finds, and invalid indexes",
    "migrated",
    async ({ run, project, sql, read }) => {
      const [next, third] = ["0001_next", "0002_third"];
      addMigration(project, next, "create table next ();", "drop table next;");
      addMigration(
        project,
        third,
        "create table third (); commit; create table third ();",
        "drop table third;",
      );
      const own = `${migrations}/${ownHead}.sql`;
      project.write(own, `${read(own)}\nselect 1;`);
      await sql`
        insert into drizzle.__drizzle_migrations (hash, created_at) values ('x', 1)`;
      await sql`insert into users (name, email) values ('x', 'x'), ('x', 'y')`;
      await sql`create unique index concurrently broken on users (name)`.catch(
        () => {},
      );
      // That of a partitioned table is invalid until each partition has one.
      await sql.unsafe(`
        create table parted (id int) partition by range (id); create table part partition of parted default;
        create index on only parted (id)`);

      const { exitCode, problems } = readFound(await run("db:check --json"));

      expect(exitCode).toBe(3);
      expect(brief(problems)).toEqual([
        `error modified ${ownHead}`,
        "error missing",
        `warning pending ${next}`,
        `warning pending ${third}`,
        "error invalid_index",
        `error down_mismatch ${third}`,
      ]);
      const file = (tag: string) => `${migrations}/${tag}.sql`;
      expect(problems.map(({ file, message }) => [file, message])).toEqual([
        [
          own,
          "edited after it was applied: restore it from git, or accept the edit with `bun run db:migrate:repair`",
        ],
        [
          undefined,
          "the database has a migration (record 2) that this checkout does not have: pull the newer checkout, or remove the record with `bun run db:migrate:repair`",
        ],
        [file(next), "not applied: run `bun run db:migrate`"],
        [file(third), "not applied: run `bun run db:migrate`"],
        [
          undefined,
          "the index broken is invalid, and no query uses it: `REINDEX INDEX CONCURRENTLY broken` in `bun run db:shell`",
        ],
        [
          file(third),
          `up, down, up fails on a scratch database: ${third} failed: relation "third" already exists; fix \`${file(third)}\``,
        ],
      ]);
    },
  );

  test(
    "finds what a called function leaves, in a table that is not named",
    "migrated",
    async ({ run, project }) => {
      addMigration(
        project,
        "0001_make",
        "create function widen() returns void language plpgsql as 'begin execute ''alter table users add column width int''; end';",
        "drop function widen();",
      );
      addMigration(
        project,
        "0002_guarded",
        "do $$ begin create table a (b int); exception when duplicate_table then null; end $$;",
        "drop table a;",
      );
      addMigration(project, "0003_call", "select widen();", "select 1;");

      const { problems } = readFound(await run("db:check --json"));

      expect(problems.at(-1)?.message).toStartWith(
        "after the down file: surplus: ALTER TABLE public.users ADD COLUMN width integer",
      );
    },
  );

  test(
    "tries a migration that adds a value to an enum with rows as well, unless it is told to try none",
    "migrated",
    async ({ run, project, sql }) => {
      await sql.unsafe(
        "insert into users (name, email) values ('x', 'x'); create type mood as enum ('ok')",
      );
      addMigration(
        project,
        "0001_mood",
        "alter type mood add value 'sad';\nalter table users add mood mood not null;",
        "alter table users drop mood; drop type mood; create type mood as enum ('ok');",
      );
      addMigration(
        project,
        "0002_other",
        "alter table sessions add other int;",
        "alter table sessions drop other;",
      );
      const found = readFound(await run("db:check --json"));
      const without = readFound(await run("db:check --json --rows 0"));

      const pending = [
        "warning pending 0001_mood",
        "warning pending 0002_other",
      ];
      expect(brief(found.problems)).toEqual([
        ...pending,
        "error fails_on_rows 0001_mood 2",
      ]);
      expect(brief(without.problems)).toEqual(pending);
      expect(without.exitCode).toBe(0);
    },
  );

  test(
    "calls a change that a view forbids an error, and what a second run makes otherwise or a down file fails with, and an extension that this server lacks none",
    "migrated",
    async ({ run, project }) => {
      addMigration(
        project,
        "0001_lacks",
        "create extension nowhere_to_be_found;",
        "select 1;",
      );
      const lacks = await run("db:check --json");
      addMigration(
        project,
        "0002_again",
        `do $$ begin
          if exists (select from users) then create table made (a text); else create table made (a int); end if;
          insert into users (name, email) values ('x', 'x') on conflict do nothing; end $$;`,
        "drop table made;",
      );
      const [view, text] = [
        "0003_view",
        "create view names as select name from users;",
      ];
      addMigration(
        project,
        view,
        `${text} alter table users alter name type varchar(9);`,
        "drop view nothing;",
      );
      const forbidden = await run("db:check --json");
      project.write(`${migrations}/${view}.sql`, text);
      const down = await run("db:check --json");

      expect(lacks.exitCode).toBe(0);
      expect(forbidden.exitCode).toBe(3);
      const [other, last] = readFound(forbidden).problems.slice(-2);
      expect(other?.message).toBe(
        `after down and up again: different: column public.made.a: ALTER TABLE public.made ADD COLUMN a text, not ALTER TABLE public.made ADD COLUMN a integer; fix \`${migrations}/0002_again.down.sql\``,
      );
      expect(last?.message).toContain(
        "cannot alter type of a column used by a view or rule",
      );
      expect(last?.file).toBe(`${migrations}/${view}.sql`);
      expect(readFound(down).problems.at(-1)).toMatchObject({
        file: `${migrations}/${view}.down.sql`,
        message: `up, down, up fails on a scratch database: ${view} failed: view "nothing" does not exist; fix \`${migrations}/${view}.down.sql\``,
      });
    },
  );

  test("has a scratch database of its own beside one with the longest name", async ({
    sql,
    address,
    name,
  }) => {
    const database = `${name}_`.padEnd(63, "x");
    await sql.unsafe(`create database ${database}`);
    const names = await withScratchDatabase(
      { ...address, database },
      "tests",
      async () =>
        await sql<{ datname: string }[]>`
        select datname from pg_database where starts_with(datname, ${`${name}_`}) order by 1`,
    );
    const left =
      await sql`select from pg_database where starts_with(datname, ${`${name}_`})`;

    expect(names.map(({ datname }) => datname)).toEqual([
      expect.stringMatching(/x__scratch_[0-9a-f]{8}$/),
      database,
    ]);
    expect(left).toHaveLength(1);
  });
});
