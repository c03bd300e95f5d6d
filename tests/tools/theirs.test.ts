// Databases that others use, too: what is theirs is left alone, what ours needs
// of it is there to compare with, and a look at a server changes nothing on it.
import { expect, test as bunTest } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { isInFilter } from "../../scripts/migrations/ours";
import { findPostgresBinaries } from "../../scripts/server/postgres-binaries";
import { writeMigrations } from "../lib/migrations";
import { withRoles } from "../lib/roles";
import { type Given, test } from "../lib/test";

/** What db:check finds, but for what a folder without snapshots lacks. */
async function check({ run }: Given, variables?: Record<string, string>) {
  const { stdout, stderr } = await run("db:check --json", variables);
  const { problems, error } = JSON.parse(stdout) as {
    problems: { code: string; tag?: string; line?: number; message: string }[];
    error?: object;
  };
  expect(error).toBeUndefined();
  const found = problems
    .filter(({ code }) => !/snapshot|down_missing|schema|stale/.test(code))
    .map(({ code, tag, line, message }) =>
      [code, tag, line, /^(drift|not_)/.test(code) && message.split(/[;\n]/)[0]]
        .filter(Boolean)
        .join(" "),
    );
  return { found, stderr };
}

/** A migration that needs a row in `tenants`. */
const needsRows = `
  insert into members values (7);
  alter table members add column name text;
  do $$ begin if not exists (select from members) then raise E'none, 100%% |\\nof it'; end if; end $$;
  select 1 / count(*) from members;
  do $$ declare one int; begin select tenant into strict one from members; end $$;
  do $$ begin assert exists (select from members), 'none'; end $$`;

const leftOut = (
  [
    [
      2,
      'insert or update on table "members" violates foreign key constraint "members_tenant_fkey"',
    ],
    [4, "none, 100% |"],
    [5, "division by zero"],
    [6, "query returned no rows"],
    [7, "none"],
  ] as const
).map(([line, reason]) => ({ line, reason }));
const notTried = leftOut.map(
  ({ line, reason }) =>
    `not_tried 0002_rows ${line} a statement was not tried: ${reason}`,
);

test("leaves alone what others have made, and compares with what ours needs of it, also where a migration needed rows", async (given) => {
  const { sql, run, project, name } = given;
  const files = {
    "0000_profiles": `
      create schema billing;
      create table profiles (
        id uuid primary key references auth.users, email email,
        key uuid default extensions.uuid_generate_v4());
      create policy own on profiles using (auth.uid() = id);
      create function on_user() returns trigger language plpgsql as 'begin return new; end';
      create trigger on_user after insert on auth.users for each row execute function on_user();`,
    "0001_events": `
      create table billing.events (at date not null) partition by range (at);
      create table billing.bills (at date primary key);
      create table tenants (id int primary key);
      create table members (tenant int not null references tenants);
      select 1 / (current_setting('work_mem') = '5MB' and current_setting('app.mode') = 'x')::int`,
    "0001_events.down":
      "drop table billing.events, billing.bills, members, tenants",
  };
  await sql.unsafe(`
    alter database ${name} set work_mem = '5MB'; alter database ${name} set app.mode = 'x';
    create schema auth; create schema extensions; create schema jobs;
    create extension "uuid-ossp" schema extensions;
    create type auth.level as enum ('low', 'high');
    create table auth.users (id uuid primary key default extensions.uuid_generate_v4(), level auth.level);
    insert into auth.users default values;
    create table auth.sessions (id uuid references auth.users);
    create function auth.uid() returns uuid language sql as 'select null::uuid';
    create table jobs.job (id int primary key);
    create domain public.email as text check (value like '%@%');
    alter default privileges in schema public grant select on tables to pg_monitor;
    alter default privileges in schema auth grant select on tables to pg_monitor`);
  writeMigrations(project, files);
  const pending = await check(given);
  await run("db:migrate");
  writeMigrations(project, { ...files, "0002_rows": needsRows });
  await sql.unsafe(`
    insert into tenants values (7);
    create table billing.events_2026 partition of billing.events
      for values from ('2026-01-01') to ('2027-01-01')`);
  await run("db:migrate");
  await sql.unsafe("drop schema drizzle cascade");
  const unrecorded = await check(given);
  const recorded = await run("db:baseline");
  await sql.unsafe(`
    drop trigger on_user on auth.users;
    create table auth.mine (); create table billing.by_hand ();
    alter table profiles alter key set default extensions.uuid_generate_v1()`);
  const drifted = await check(given);
  await sql.unsafe("drop schema drizzle cascade");
  writeMigrations(project, {
    "0000_unknown": "create table t (a unknown_type)",
  });
  const refused = await run("db:baseline");
  writeMigrations(project, {
    "0000_copy": "create table t (); copy t from stdin",
  });
  const copied = await check(given);

  expect(pending.found).toEqual([
    "pending 0000_profiles",
    "pending 0001_events",
  ]);
  expect(pending.stderr).toContain("Tried with rows of auth.users\n");
  expect(unrecorded.found).toEqual([
    ...["pending 0000_profiles", "pending 0001_events", "pending 0002_rows"],
    expect.stringMatching(
      /^drift no migration is recorded, but the database is not empty \(surplus: /,
    ),
    ...notTried,
  ]);
  expect(recorded.exitCode).toBe(0);
  const file = (tag: string) =>
    `src/infrastructure/database/migrations/${tag}.sql`;
  expect(recorded.stderr.match(/^Not compared: .*/gm)).toHaveLength(5);
  expect(recorded.stderr).toMatch(
    RegExp(`^Not compared: ${file("0002_rows")}:2: .+`, "m"),
  );
  expect(drifted.found).toEqual([
    ...leftOut.map(
      ({ line, reason }) =>
        `not_replayed 0002_rows ${line} a statement was left out of the comparison: ${reason}`,
    ),
    "drift different: default of public.profiles.key: ALTER TABLE public.profiles ALTER COLUMN key SET DEFAULT extensions.uuid_generate_v1(), not ALTER TABLE public.profiles ALTER COLUMN key SET DEFAULT extensions.uuid_generate_v4()",
    "drift surplus: CREATE TABLE billing.by_hand ()",
    "drift missing: CREATE TRIGGER on_user AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION public.on_user()",
  ]);
  expect(drifted.stderr).toContain(
    "Left alone: 3 schemas in which nothing is ours: ",
  );
  expect(refused).toMatchObject({ exitCode: 1, stdout: "" });
  expect(refused.stderr).toEndWith(
    'Error: cannot tell which schema 0000_unknown makes: type "unknown_type" does not exist\nNothing was recorded\nHint: change the database or the migration so that it can be compared; `--to <tag>` records the ones before it\n',
  );
  expect(copied.found).toContain("down_mismatch 0000_copy");
});

test("changes nothing on the server, whatever the migrations would do to it", async (given) => {
  const { sql, run, project, name } = given;
  const [team, ada, made] = ["team", "ada", "made"].map(
    (word) => `${name}_${word}`,
  );
  await sql.unsafe(`
    create role ${team}; create role ${ada}; create extension dblink;
    create table kept (id int); insert into kept values (1);
    create schema jobs; create function jobs.clear() returns text language sql as
      $$ select dblink_exec('dbname=${name} port=1', 'delete from kept') $$`);
  writeMigrations(project, {
    "0000_team": `
      create table notes (id int);
      grant ${team} to ${ada};
      do $$ begin create role ${made}; create table from_block (id int); end $$;`,
    "0000_team.down": `drop table notes, from_block; revoke ${team} from ${ada}; drop role ${made}`,
    "0001_more": `
      alter role ${ada} createdb;
      select dblink_exec('dbname=${name} port=1', 'delete from kept');
      select jobs.clear();`,
    "0001_more.down": `alter role ${ada} nocreatedb; copy kept to program 'false'`,
  });
  // What pg_dumpall --globals-only prints, as far as it is this test's.
  const readGlobals = async () =>
    await sql.unsafe(`
    select to_jsonb(pg_authid) - 'oid' as globals from pg_authid where starts_with(rolname, '${name}_')
    union all select jsonb_build_object('role', roleid::regrole, 'member', member::regrole)
      from pg_auth_members where starts_with(member::regrole::text, '${name}_')
    union all select jsonb_build_object('owner', datdba::regrole, 'acl', datacl)
      from pg_database where datname = '${name}'
    order by 1`);
  try {
    await run("db:migrate --to 0000_team");
    await sql.unsafe(`revoke ${team} from ${ada}; drop role ${made}`);
    const before = await readGlobals();
    const { found } = await check(given);
    for (const command of [
      "db:check --offline",
      "db:migrate:status",
      "db:migrate --dry-run",
      "db:rollback --dry-run",
      "db:status",
      "db:push --dry-run",
      "db:test",
      "db:backup --list",
    ])
      await run(command);
    const after = await readGlobals();

    const [version] = await sql<{ major: string }[]>`
      select split_part(current_setting('server_version'), '.', 1) as major`;
    const isElsewhere = version?.major === findPostgresBinaries().major;
    const server = "it changes the server, not only the database";
    const outside = "it reaches outside the server";
    expect(found).toEqual([
      "pending 0001_more",
      // What a temporary server of the same version is there for.
      ...(isElsewhere
        ? []
        : [
            `not_replayed 0000_team 4 a statement was left out of the comparison: ${server}`,
            `not_tried 0001_more 2 a statement was not tried: ${server}`,
          ]),
      `not_tried 0001_more 3 a statement was not tried: ${outside}`,
      "not_tried 0001_more 4 a statement was not tried: not run in a scratch database",
      `not_tried 0001_more the down file was not tried: ${outside}`,
    ]);
    expect(after).toEqual(before);
    expect(await sql`select from kept`).toHaveLength(1);
  } finally {
    await sql.unsafe(`drop role if exists ${team}, ${ada}, ${made}`);
  }
});

test("runs no down file that changes the server, and leaves out what needs rows; annotates findings in GitHub Actions, and adds them to the summary", async (given) => {
  const { sql, run, project, name } = given;
  const role = `${name}_kept`;
  const summary = join(project.folder, "summary.md");
  writeMigrations(project, {
    "0000_base": `
      create table tenants (id int primary key);
      create table members (tenant int not null references tenants)`,
    "0001_a,b": "create table a ()",
    "0001_a,b.down": `drop table a; drop role ${role}`,
    "0002_rows": needsRows,
  });
  await run("db:migrate --to 0000_base");
  await sql.unsafe(`insert into tenants values (7); create role ${role}`);
  try {
    const { found, stderr } = await check(given, {
      GITHUB_ACTIONS: "true",
      GITHUB_WORKSPACE: join(project.folder, ".."),
      GITHUB_STEP_SUMMARY: summary,
    });

    expect(found).toEqual([
      "pending 0001_a,b",
      "pending 0002_rows",
      "not_tried 0001_a,b the down file was not tried: it changes the server, not only the database",
      ...notTried,
    ]);
    expect(
      await sql`select from pg_roles where rolname = ${role}`,
    ).toHaveLength(1);
    expect(stderr).toMatch(
      /^::warning file=[^,]+\/0001_a%2Cb\.sql,title=pending::not applied/m,
    );
    expect(stderr).toMatch(/,line=4,.*: none, 100%25 \|%0Aof it$/m);
    const written = readFileSync(summary, "utf8");
    expect(written).toMatch(
      /^### db:check: [^]*\| warning \| `pending` \| `[^`]+\/0001_a,b\.sql` \|/,
    );
    expect(written).toContain(
      ".sql:4` | a statement was not tried: none, 100% \\| of it |\n",
    );
  } finally {
    await sql.unsafe(`drop role if exists ${role}`);
  }
});

test("works for a plain owner, beside extensions that it may not make", async (given) => {
  await withRoles(given, 1, async ({ name, variables }) => {
    const { sql, run, project, database } = given;
    await sql.unsafe(`
      alter role ${name} createdb; alter database ${database.name} owner to ${name};
      create extension insert_username; create extension dblink`);
    writeMigrations(project, {
      "0000_people": `
        create extension if not exists dblink;
        create table people (name text);
        create trigger who before insert on people for each row execute function insert_username('name')`,
    });
    await run("db:migrate", variables);
    const { found } = await check(given, variables);
    await sql.unsafe("drop schema drizzle cascade");
    const recorded = await run("db:baseline", variables);
    await sql.unsafe(
      `alter role ${name} nocreatedb; drop schema drizzle cascade`,
    );
    const refused = await run("db:baseline", {
      ...variables,
      TEST_DATABASE_URL: variables.DATABASE_URL ?? "",
    });
    const beside = await run("db:push --dry-run", variables);
    const [server] = await sql<{ major: string }[]>`
      select split_part(current_setting('server_version'), '.', 1) as major`;
    const isBeside = server?.major === findPostgresBinaries().major;

    expect(found).toEqual([]);
    expect(recorded.exitCode).toBe(0);
    expect(beside.exitCode).toBe(isBeside ? 0 : 2);
    expect(refused.exitCode).toBe(2);
    expect(refused.stderr).toContain(`ALTER ROLE "${name}" CREATEDB`);
  });
});

bunTest("the filters of drizzle.config.ts tell whose a table is", () => {
  const filters: [tablesFilter: string, ours: string, theirs: string][] = [
    ["", "users a.b", ""],
    ["users", "users", "user users2 my_users"],
    ["shop_* users", "shop_a users shop_", "shop blog_shop_a"],
    ["!session", "users sessions", "session"],
    ["shop_* !shop_old*", "shop_a", "shop_old shop_old2 users"],
    ["user?", "users", "user userss"],
    ["{a,b}_x", "a_x b_x", "c_x a,b_x"],
    ["[ab]1 [!cd]2", "a1 b1 a2", "c1 c2 d2"],
    ["a.b(c)", "a.b(c)", "axb(c) a.bc"],
  ];
  const select = (names: string, filters: Parameters<typeof isInFilter>[1]) =>
    names
      .split(" ")
      .filter((name) => isInFilter(name, filters))
      .join(" ");

  for (const [text, ours, theirs] of filters) {
    const tablesFilter = text.split(" ").filter(Boolean);
    const found = select(`${theirs} ${ours}`.trim(), {
      tablesFilter,
      extensionsFilters: [],
    });

    expect([text, found]).toEqual([text, ours]);
  }
  const postgis = "geometry_columns geography_columns spatial_ref_sys";
  expect(
    select(`users ${postgis}`, {
      tablesFilter: [],
      extensionsFilters: ["postgis"],
    }),
  ).toBe("users");
  expect(select(postgis, { tablesFilter: [], extensionsFilters: [] })).toBe(
    postgis,
  );
});
