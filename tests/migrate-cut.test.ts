// db:migrate cut off after each of its round trips, by kill -9 of the command
// and by the end of its server processes: the next run finishes, and the schema
// is that of a run that nothing disturbed.
import { expect, test } from "bun:test";
import { spawn } from "bun";
import { type Catalog, readCatalog } from "../scripts/lib/catalog";
import { type TestDatabase, withDatabase } from "./lib/database";
import { listRecords, writeMigrations } from "./lib/migrations";
import { copyProject, type Project } from "./lib/project";
import { proxyTo } from "./lib/severing-proxy";

const migrations = {
  "0000_tables": `
    create table users (id int primary key, email text, team int);
    insert into users select n, 'u' || n, n % 7 from generate_series(1, 100) as n;`,
  "0001_mixed": `
    alter table users add column name text;
    create index concurrently users_email on users (lower(email)) where team > 1;
    alter table users add column age int;
    create unique index concurrently if not exists users_name on public.users (name);
    drop index concurrently users_name;
    alter table users add column city text;`,
  "0002_mood": `
    create type mood as enum ('glad');
    create table moods (id serial, mood mood default 'glad');
    alter type mood add value 'sad';
    alter table moods alter column mood set default 'sad';`,
  "0003_alone": `-- no-transaction
    set search_path = pg_catalog;
    alter table public.users add column zip text;
    create index concurrently users_zip on public.users (zip);
    reindex index concurrently public.users_zip;`,
  "0004_own": `
    begin; create table own (id int); commit;
    vacuum own;
    insert into own values (1);`,
};
const tags = Object.keys(migrations);
const AT_ONCE = 6;

type Cut = (
  database: TestDatabase,
  client: { kill(signal: number): void },
) => Promise<void>;

const cuts: Record<string, Cut> = {
  "kill -9 of the command": async (_database, client) => client.kill(9),
  "the end of its server processes": async ({ sql, name }) => {
    await sql`
      select pg_terminate_backend(pid) from pg_stat_activity
      where datname = ${name} and pid <> pg_backend_pid()`;
  },
};

for (const [cause, cut] of Object.entries(cuts))
  test(`finishes after ${cause}, wherever it was`, async () => {
    using project = copyProject();
    writeMigrations(project, migrations);
    let expected: Catalog = new Map();
    let answers = 0;
    await withDatabase("empty", async (database) => {
      answers = await runThrough(project, database, 0, cut);
      expected = await readCatalog(database.sql);
    });
    expect(answers).toBeGreaterThan(40);

    const points = Array.from({ length: answers }, (_, index) => index + 1);
    const workers = Array.from({ length: AT_ONCE }, async () => {
      for (let point = points.shift(); point; point = points.shift())
        await withDatabase("empty", (database) =>
          checkPoint(project, database, point ?? 0, cut, expected),
        );
    });
    await Promise.all(workers);
  }, 120_000);

/** Cuts a run off at one point, and runs it again. */
async function checkPoint(
  project: Project,
  database: TestDatabase,
  point: number,
  cut: Cut,
  expected: Catalog,
) {
  await runThrough(project, database, point, cut);
  const { exitCode, stderr } = await database.run(
    "db:migrate",
    {},
    project.folder,
  );

  expect({ point, exitCode, stderr }).toEqual({
    point,
    exitCode: 0,
    stderr: "",
  });
  expect(await readCatalog(database.sql)).toEqual(expected);
  expect(await listRecords(database.sql)).toHaveLength(tags.length);
  expect(await database.sql`select from users`).toHaveLength(100);
  expect(await database.sql`select from own`).toHaveLength(1);
}

/** @returns how many queries were answered; `point` 0 lets it finish. */
async function runThrough(
  project: Project,
  { address, sql, name, url }: TestDatabase,
  point: number,
  cut: Cut,
): Promise<number> {
  const done = Promise.withResolvers<void>();
  const proxy = await proxyTo(address.port, (count) => {
    if (count === point)
      void cut({ sql, name } as TestDatabase, child).then(done.resolve);
    return count === point;
  });
  const { PATH, HOME } = process.env;
  const through = url
    .replace(/@[^/]+/, `@127.0.0.1:${proxy.port}`)
    .replace(/sslmode=\w+/, "sslmode=disable");
  const child = spawn([process.execPath, "scripts/migrate.ts"], {
    cwd: project.folder,
    env: { PATH, HOME, DATABASE_URL: through, DB_ENGINE: "external" },
    stdout: "ignore",
    stderr: "ignore",
  });
  if (point > 0) await done.promise;
  // What was cut off at the server is not passed on to a command that waits.
  if (point > 0) await proxy.close();
  await child.exited;
  await proxy.close();
  return proxy.count();
}
