// db:check: every code is provoked once, and a good folder is silent.
import { describe, expect } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { commit } from "../lib/git";
import { migrations, ownHead, ownMigrations } from "../lib/migrations";
import { fixture, image } from "../lib/schema-file";
import { type Given, test } from "../lib/test";

const journal = `${migrations}/meta/_journal.json`;
const number = (after: number) =>
  String(ownMigrations.length + after).padStart(4, "0");
const next = `${number(0)}_next`;

interface Problem {
  code: string;
  severity: string;
  tag?: string;
  file?: string;
  line?: number;
  message: string;
}

/** Runs it with `--json`; its exit code and what it found. */
async function check({ run }: Given, flags: string) {
  const { exitCode, stdout } = await run(`db:check --json ${flags}`.trim());
  const { problems, ...rest } = JSON.parse(stdout) as { problems: Problem[] };
  expect(rest).toEqual({});
  return { exitCode, problems };
}

const brief = (problems: Problem[]) =>
  problems.map(({ code, severity, tag, line }) =>
    [severity, code, tag, line].filter(Boolean).join(" "),
  );

function editJournal(
  { read, project }: Given,
  edit: (entries: Record<string, unknown>[]) => void,
): void {
  const { entries, ...rest } = JSON.parse(read(journal));
  edit(entries);
  project.write(journal, JSON.stringify({ ...rest, entries }, null, 2));
}

async function listScratch({ sql, database }: Given) {
  return await sql`
    select datname from pg_database where starts_with(datname, ${`${database.name}_`})`;
}

describe("without a database", () => {
  test("is silent on this project, also --strict", "empty", async (given) => {
    const { exitCode, stdout, stderr } = await given.run(
      "db:check --offline --strict",
      { DATABASE_URL: "postgres://nobody@127.0.0.1:1/none" },
    );

    expect({ exitCode, stdout }).toEqual({
      exitCode: 0,
      stdout: "Checked: 0 errors, 0 warnings\n",
    });
    expect(stderr).toBe(
      "Not compared with git: found no origin/HEAD, main or master\n",
    );
  });

  test(
    "finds what is wrong with the journal, the files and the snapshots",
    "empty",
    async (given) => {
      const { run, change, project } = given;
      change(image, fixture);
      await run("db:generate next");
      change(fixture, image);
      await run("db:generate last");
      const last = `${number(1)}_last`;
      const gone = `${number(2)}_gone`;
      editJournal(given, (entries) => {
        const newest = entries.at(-1);
        if (newest) newest.when = 5;
        entries.push({ idx: 9, version: "7", when: 5, tag: gone });
      });
      project.write(`${migrations}/9999_orphan.sql`, "select 1");
      rmSync(join(project.folder, `${migrations}/${next}.down.sql`));
      const snapshot = `${migrations}/meta/${number(1)}_snapshot.json`;
      project.write(
        snapshot,
        given.read(snapshot).replace(/"prevId": ".*"/, '"prevId": "other"'),
      );

      const { exitCode, problems } = await check(given, "--offline");

      expect(exitCode).toBe(3);
      const line = (tag: string) =>
        given
          .read(journal)
          .split("\n")
          .findIndex((l) => l.includes(tag)) + 1;
      expect(brief(problems)).toEqual([
        `error journal_unordered ${last} ${line(last)}`,
        `error journal_duplicate ${gone} ${line(gone)}`,
        `error journal_unordered ${gone} ${line(gone)}`,
        `error file_missing ${gone}`,
        "error file_orphan",
        `warning down_missing ${next}`,
        `warning down_missing ${gone}`,
        `error snapshot_chain ${last}`,
        `error snapshot_missing ${gone}`,
      ]);
      for (const { message } of problems) expect(message).toMatch(/`.+`/);
    },
  );

  test(
    "finds a journal that cannot be read, and an older snapshot that is gone",
    "empty",
    async (given) => {
      const { run, change, project, read } = given;
      change(image, fixture);
      await run("db:generate next");
      rmSync(
        join(
          project.folder,
          `${migrations}/meta/${ownHead.slice(0, 4)}_snapshot.json`,
        ),
      );
      const missing = await check(given, "--offline");
      project.write(journal, `<<<<<<< HEAD\n${read(journal)}`);
      const conflict = await check(given, "");

      expect(missing.exitCode).toBe(0);
      expect(brief(missing.problems)).toEqual([
        `warning snapshot_missing ${ownHead}`,
      ]);
      expect(conflict.exitCode).toBe(3);
      expect(brief(conflict.problems)[0]).toBe("error journal_invalid");
    },
  );

  test(
    "compares with the default branch: edits, removals, and the lint of what is new",
    "empty",
    async (given) => {
      const { run, change, project, read } = given;
      change(image, fixture);
      await run("db:generate next");
      project.write("docs/SCHEMA.md", "old");
      await commit(project.folder, "main");
      const clean = await check(given, "--offline");
      const own = `${migrations}/${ownHead}.sql`;
      project.write(own, `-- a comment is no edit\n${read(own)}`);
      const commented = await check(given, "--offline");
      project.write(own, `${read(own)}\nselect 1;`);
      editJournal(given, (entries) => entries.pop());
      project.write(
        `${migrations}/${number(0)}_new.sql`,
        `-- squawk-ignore ban-drop-column -- nobody reads it
ALTER TABLE "users" DROP COLUMN "image";
-- squawk-ignore ban-drop-column
ALTER TABLE "users" DROP COLUMN "name";
CREATE INDEX "users_name_idx" ON "users" ("name");
CREATE TABLE "new" ("id" uuid PRIMARY KEY);
CREATE INDEX "new_idx" ON "new" ("id");`,
      );
      // This makes squawk 2.66 panic: the other file is linted all the same.
      project.write(`${migrations}/${number(0)}_crash.sql`, "WITH LOOP;");
      editJournal(given, (entries) => {
        const [version, when] = ["7", 2e12];
        entries.push(
          { idx: 1, version, when, tag: `${number(0)}_crash` },
          { idx: 2, version, when: when + 1, tag: `${number(0)}_new` },
        );
      });
      change(fixture, image);
      const { exitCode, problems } = await check(given, "--offline");

      expect(brief(clean.problems)).toEqual(["warning diagram_stale"]);
      expect(brief(commented.problems)).toEqual(["warning diagram_stale"]);
      expect(exitCode).toBe(3);
      expect(
        brief(problems).filter((p) => !/orphan|down|snapshot/.test(p)),
      ).toEqual([
        `error modified ${ownHead}`,
        `error missing ${next}`,
        "error schema_not_generated",
        "warning diagram_stale",
        `warning lint ${number(0)}_new 5`,
        `warning lint ${number(0)}_new 3`,
      ]);
    },
  );

  test(
    "draws the diagram, and again only when it is stale",
    "empty",
    async (given) => {
      const { run, change, read } = given;
      const drawn = await run("db:diagram");
      const again = await run("db:diagram");
      change(image, fixture);
      await run("db:diagram");

      expect(drawn.stdout).toBe("Wrote: docs/SCHEMA.md\n");
      expect(again.stdout).toBe(
        "Nothing to write: docs/SCHEMA.md is current\n",
      );
      expect(read("docs/SCHEMA.md")).toContain("| `fixture`");
      expect(read("docs/SCHEMA.md")).toContain(
        '  users ||--o{ sessions : "user_id"',
      );
    },
  );
});

describe("with a database", () => {
  test(
    "is silent where it has the schema of the migrations, also by default privileges",
    "empty",
    async (given) => {
      await given.sql.unsafe(`
        alter default privileges revoke all on functions from public;
        alter default privileges in schema public grant select on tables to pg_monitor`);
      await given.run("db:migrate");
      const { exitCode, stdout } = await given.run("db:check --strict");

      expect({ exitCode, stdout }).toEqual({
        exitCode: 0,
        stdout: "Checked: 0 errors, 0 warnings\n",
      });
      expect(await listScratch(given)).toHaveLength(0);
    },
  );

  test("sees everything that was made by hand", "migrated", async (given) => {
    await given.sql.unsafe(`
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

    const { exitCode, problems } = await check(given, "");

    expect(exitCode).toBe(3);
    expect(problems.map(({ code }) => code)).toEqual(
      problems.map(() => "drift"),
    );
    expect(problems.map(({ message }) => message.split(";")[0])).toEqual([
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
    expect(await listScratch(given)).toHaveLength(0);
  });

  test(
    "takes no other spelling for drift: a dump spells conditions anew",
    "empty",
    async (given) => {
      const { run, project, sql } = given;
      await run("db:generate next --custom");
      project.write(
        `${migrations}/${next}.sql`,
        `create table shirts (size varchar(9) check (size in ('s', 'm')), name varchar(9) default upper('x'));
create index shirts_idx on shirts (name) where size in ('s', 'm');
create view small as select name from shirts where size in ('s', 'm');`,
      );
      project.write(
        `${migrations}/${next}.down.sql`,
        "drop table shirts cascade;",
      );
      await run("db:migrate");
      const [checked] = await sql`
        select pg_get_constraintdef(oid) as text from pg_constraint where conname = 'shirts_size_check'`;
      const [index] =
        await sql`select pg_get_indexdef('shirts_idx'::regclass) as text`;
      const [view] =
        await sql`select pg_get_viewdef('small'::regclass) as text`;
      await sql.unsafe(`
        alter table shirts drop constraint shirts_size_check;
        alter table shirts add constraint shirts_size_check ${checked?.text};
        drop index shirts_idx; ${index?.text};
        create or replace view small as ${view?.text}`);
      const [respelled] = await sql`
        select pg_get_constraintdef(oid) as text from pg_constraint where conname = 'shirts_size_check'`;

      const { exitCode, problems } = await check(given, "--strict");

      expect(respelled?.text).not.toBe(checked?.text);
      expect({ exitCode, problems }).toEqual({ exitCode: 0, problems: [] });
    },
  );

  test(
    "finds what db:migrate:status finds, and invalid indexes",
    "migrated",
    async (given) => {
      const { run, project, sql, read, change } = given;
      change(image, fixture);
      await run("db:generate next");
      await run("db:generate third --custom");
      const third = `${number(1)}_third`;
      project.write(
        `${migrations}/${third}.sql`,
        "create table third (); commit; select 1 / 0;",
      );
      project.write(`${migrations}/${third}.down.sql`, "drop table third;");
      const own = `${migrations}/${ownHead}.sql`;
      project.write(own, `${read(own)}\nselect 1;`);
      await sql`
        insert into drizzle.__drizzle_migrations (hash, created_at) values ('x', 1)`;
      await sql`insert into users (name, email) values ('x', 'x'), ('x', 'y')`;
      await sql`create unique index concurrently broken on users (name)`.catch(
        () => {},
      );
      await run("db:migrate");

      const { exitCode, problems } = await check(given, "");

      expect(exitCode).toBe(3);
      expect(brief(problems)).toEqual([
        `error modified ${ownHead}`,
        "error missing",
        `warning pending ${next}`,
        `warning pending ${third}`,
        "error invalid_index",
        `error down_mismatch ${third}`,
      ]);
    },
  );

  test(
    "says what a down file leaves behind, and which migration is out of order",
    "migrated",
    async (given) => {
      const { run, project, change } = given;
      await run("db:generate next --custom");
      project.write(
        `${migrations}/${next}.sql`,
        "create table a (); create table b ();",
      );
      project.write(`${migrations}/${next}.down.sql`, "drop table a;");
      change(image, fixture);
      await run("db:generate third");
      const third = `${number(1)}_third`;
      editJournal(given, (entries) => entries.reverse());
      await run(`db:migrate --to ${third}`);
      editJournal(given, (entries) => entries.reverse());

      const { problems } = await check(given, "");

      expect(brief(problems)).toEqual([
        `warning pending ${next}`,
        `warning out_of_order ${next}`,
        `error down_mismatch ${next}`,
      ]);
      expect(problems.at(-1)?.message).toStartWith(
        "after the down file: surplus: CREATE TABLE public.b ()",
      );
    },
  );

  test(
    "finds what a called function leaves, in a table that is not named",
    "migrated",
    async (given) => {
      const { run, project } = given;
      const write = async (name: string, up: string, down: string) => {
        await run(`db:generate ${name} --custom`);
        const [file] = new Bun.Glob(`${migrations}/*_${name}.sql`).scanSync(
          project.folder,
        );
        project.write(file ?? "", up);
        project.write((file ?? "").replace(".sql", ".down.sql"), down);
      };
      await write(
        "make",
        "create function widen() returns void language plpgsql as 'begin execute ''alter table users add column width int''; end';",
        "drop function widen();",
      );
      await write(
        "guarded",
        "do $$ begin create table a (b int); exception when duplicate_table then null; end $$;",
        "drop table a;",
      );
      await write("call", "select widen();", "select 1;");

      const { problems } = await check(given, "");

      expect(problems.at(-1)?.message).toStartWith(
        "after the down file: surplus: ALTER TABLE public.users ADD COLUMN width integer",
      );
    },
  );

  test(
    "fails where the database cannot be reached, after what it found",
    "empty",
    async (given) => {
      const { project, run } = given;
      project.write(`${migrations}/9999_orphan.sql`, "select 1");
      const { exitCode, stdout } = await run("db:check --json", {
        DATABASE_URL: "postgres://nobody@127.0.0.1:1/none",
        DATABASE_URL_UNPOOLED: "postgres://nobody@127.0.0.1:1/none",
      });

      const { problems, error } = JSON.parse(stdout);
      expect(exitCode).toBe(1);
      expect(brief(problems)).toEqual(["error file_orphan"]);
      expect(error.code).toBeString();
    },
  );
});
