// db:migrate cut off after each of its round trips, by kill -9 of the command
// and by the end of its server processes: the next run finishes, and the schema
// is that of a run that nothing disturbed.
import { expect, test } from "bun:test";
import { spawn } from "bun";
import { type Catalog, readCatalog } from "../../scripts/migrations/catalog";
import { type TestDatabase, withDatabase } from "../lib/database";
import { listRecords, writeMigrations } from "../lib/migrations";
import { copyProject, type Project } from "../lib/project";
import { proxyTo } from "../lib/severing-proxy";

const migrations = {
  "0000_mixed": `
    create table users (id int primary key, email text, team int);
    insert into users select n, 'u' || n, n % 7 from generate_series(1, 100) as n;
    create index concurrently users_email on users (lower(email)) where team > 1;
    alter table users add column age int;
    create unique index concurrently if not exists users_age on public.users (age);
    drop index concurrently users_age;`,
  "0001_mood": `
    create type mood as enum ('glad');
    create table moods (id serial, mood mood default 'glad');
    alter type mood add value 'sad';
    alter table moods alter column mood set default 'sad';`,
  "0002_alone": `-- no-transaction
    set search_path = pg_catalog;
    alter table public.users add column zip text;
    create index concurrently users_zip on public.users (zip);
    reindex index concurrently public.users_zip;`,
  "0003_own": `
    begin; create table own (id int); commit;
    vacuum own;
    insert into own values (1);`,
};
const tags = Object.keys(migrations);
const AT_ONCE = 6;

interface Cut {
  database: TestDatabase;
  client: { kill(signal: number): void };
  /** After how many round trips; 0 is never. */
  point: number;
}

/** Client and server in turn. */
async function cutOff({ database, client, point }: Cut): Promise<void> {
  if (point % 2 === 0) return client.kill(9);
  await database.sql`
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = ${database.name} and pid <> pg_backend_pid()`;
}

test("finishes after kill -9 of the command or the end of its server process, wherever it was", async () => {
  using project = copyProject();
  writeMigrations(project, migrations);
  let expected: Catalog = new Map();
  let answers = 0;
  await withDatabase("empty", async (database) => {
    answers = await runThrough(project, database, 0);
    expected = await readCatalog(database.sql);
  });
  expect(answers).toBeGreaterThan(40);

  const points = Array.from({ length: answers }, (_, index) => index + 1);
  const workers = Array.from({ length: AT_ONCE }, async () => {
    for (let point = points.shift(); point; point = points.shift())
      await checkPoint(project, point, expected);
  });
  await Promise.all(workers);
}, 120_000);

/** Cuts a run off at one point, and runs it again. */
async function checkPoint(project: Project, point: number, expected: Catalog) {
  await withDatabase("empty", async (database) => {
    await runThrough(project, database, point);
    const second = await database.run("db:migrate", {}, project.folder);

    const { exitCode, stderr } = second;
    // With what it said, where it failed.
    expect({ point, exitCode, stderr }).toMatchObject({ point, exitCode: 0 });
    expect(await readCatalog(database.sql)).toEqual(expected);
    expect(await listRecords(database.sql)).toHaveLength(tags.length);
    expect(await database.sql`select from users`).toHaveLength(100);
    expect(await database.sql`select from own`).toHaveLength(1);
  });
}

/** @returns how many queries were answered. */
async function runThrough(
  project: Project,
  database: TestDatabase,
  point: number,
): Promise<number> {
  const isCut = Promise.withResolvers<void>();
  const proxy = await proxyTo(database.address.port, (count) => {
    if (count === point)
      void cutOff({ database, client, point }).then(isCut.resolve);
    return count === point;
  });
  const { PATH, HOME } = process.env;
  const through = database.url
    .replace(/@[^/]+/, `@127.0.0.1:${proxy.port}`)
    .replace(/sslmode=\w+/, "sslmode=disable");
  const client = spawn([process.execPath, "scripts/migrate.ts"], {
    cwd: project.folder,
    env: { PATH, HOME, DATABASE_URL: through, DB_ENGINE: "external" },
    stdout: "ignore",
    stderr: "ignore",
  });
  if (point > 0) {
    await isCut.promise;
    await proxy.close(); // else a command whose server is gone would not hear
  }
  await client.exited;
  await proxy.close();
  return proxy.count();
}
