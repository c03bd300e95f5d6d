// db:migrate and db:rollback interrupted after each of their round trips, by
// kill -9 of the command and by the end of its server processes: it shows, the
// next run finishes, and the schema is that of a run that nothing disturbed.
import { expect, test } from "bun:test";
import { type Catalog, readCatalog } from "../../scripts/migrations/catalog";
import { type State, type TestDatabase, withDatabase } from "../lib/database";
import { listRecords, writeMigrations } from "../lib/migrations";
import { copyProject, type Project } from "../lib/project";
import { isWhole, seed } from "../lib/sample";
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
// What is done twice fails, or shows in the ids of `own`.
const downs = {
  "0001_mood.down": `
    insert into own values (2); commit;
    drop table moods; drop type mood; insert into own values (3);`,
  "0002_alone.down": `-- no-transaction
    set search_path = public;
    drop index concurrently users_zip;
    insert into own values (4);
    alter table users drop column zip;`,
  "0003_own.down": "insert into own values (5); alter table own add x int;",
};
const AT_ONCE = isWhole ? 6 : 2;
/** How many points a run of the tests looks at, unless `ALL=1`. */
const SAMPLE = 2;

/** A command to interrupt, and how the database is to be at its end. */
interface Sweep {
  script: string;
  command: string;
  /** What the database has where the command begins. */
  state: State;
  /** Looks at it between the interruption and the next run. */
  inspect?(database: TestDatabase): Promise<void>;
  records: number;
  own: number[];
}

test("db:migrate is finished by the next run, wherever it was interrupted", async () => {
  using project = copyProject();
  writeMigrations(project, migrations);

  await checkPoints(project, {
    script: "scripts/migrate.ts",
    command: "db:migrate",
    state: "empty",
    records: 4,
    own: [1],
  });
}, 300_000);

test("db:rollback is finished by the next run, and until then nothing is built on it", async () => {
  using project = copyProject();
  writeMigrations(project, { ...migrations, ...downs });
  const states = new Set<string>();

  await checkPoints(project, {
    script: "scripts/rollback.ts",
    command: "db:rollback",
    state: "migrated",
    inspect: async (database) => {
      const unfinished = await database.sql`
        select tag from drizzle.__migration_log where ms is null`;
      const dryRun = await database.run("db:migrate --dry-run");
      const { stdout } = await database.run("db:migrate:status --json");

      states.add(unfinished.count > 0 ? "interrupted" : "whole");
      expect(dryRun.exitCode).toBe(unfinished.count);
      expect(
        JSON.parse(stdout).migrations.filter(
          ({ state }: { state: string }) => state === "partial",
        ),
      ).toHaveLength(unfinished.count);
    },
    records: 1,
    own: [1, 5, 4, 2, 3],
  });

  // A sample may meet only one of them.
  if (isWhole) expect([...states].sort()).toEqual(["interrupted", "whole"]);
}, 300_000);

/** Interrupts a command at each point, or at a sample of them. */
async function checkPoints(project: Project, sweep: Sweep): Promise<void> {
  let expected: Catalog = new Map();
  let answers = 0;
  const onDatabase = (work: (database: TestDatabase) => Promise<void>) =>
    withDatabase(sweep.state, work, project.folder);
  await onDatabase(async (database) => {
    answers = await runThrough(project, database, sweep, 0);
    expected = await readCatalog(database.sql);
  });
  expect(answers).toBeGreaterThan(25);

  const all = Array.from({ length: answers }, (_, index) => index + 1);
  const points = isWhole ? all : sample(all);
  console.log(
    `${sweep.command}: interrupted at ${points.length} of ${answers} points`,
  );
  const workers = Array.from({ length: AT_ONCE }, async () => {
    for (let point = points.shift(); point; point = points.shift())
      await onDatabase((database) =>
        checkPoint(project, database, sweep, point, expected),
      );
  });
  await Promise.all(workers);
}

/** One point of each equal part, by the seed. */
function sample(points: number[]): number[] {
  const part = points.length / SAMPLE;
  return Array.from({ length: SAMPLE }, (_, index) => {
    const place = (index + (((seed + 1) * (index + 3) * 0.618) % 1)) * part;
    return points[Math.floor(place)] ?? 1;
  });
}

/** Interrupts a run at one point, and runs it again. */
async function checkPoint(
  project: Project,
  database: TestDatabase,
  sweep: Sweep,
  point: number,
  expected: Catalog,
) {
  await runThrough(project, database, sweep, point);
  await sweep.inspect?.(database);
  const flags = flagsOf(sweep, database);
  const second = await database.run([sweep.command, ...flags].join(" "));

  const { exitCode, stderr } = second;
  // With what it said, where it failed.
  expect({ point, exitCode, stderr }).toMatchObject({ point, exitCode: 0 });
  expect(await readCatalog(database.sql)).toEqual(expected);
  expect(await listRecords(database.sql)).toHaveLength(sweep.records);
  expect(await database.sql`select from users`).toHaveLength(100);
  const own = await database.sql`select id from own order by ctid`;
  expect(own.map(({ id }) => id)).toEqual(sweep.own);
}

function flagsOf({ command }: Sweep, { name }: TestDatabase): string[] {
  if (command === "db:migrate") return [];
  return ["--to", "0000_mixed", "--confirm", name];
}

/** @returns how many queries were answered. */
async function runThrough(
  project: Project,
  database: TestDatabase,
  sweep: Sweep,
  point: number,
): Promise<number> {
  const isCut = Promise.withResolvers<void>();
  const proxy = await proxyTo(database.address.port, (count) => {
    if (count === point) void cutOff(database, client).then(isCut.resolve);
    return count === point;
  });
  const through = database.url
    .replace(/@[^/]+/, `@127.0.0.1:${proxy.port}`)
    .replace(/sslmode=\w+/, "sslmode=disable");
  const variables = { DATABASE_URL: through, DATABASE_URL_UNPOOLED: through };
  const flags = flagsOf(sweep, database).join(" ");
  const isKilled = point > 0 && point % 2 === 0;
  const client = isKilled
    ? database.start(`${sweep.script} ${flags}`.trim(), variables)
    : undefined;
  const ended =
    client?.exited ??
    database.run(`${sweep.command} ${flags}`.trim(), variables);
  if (point > 0) {
    // A shorter way to the end than in the first run.
    await Promise.race([isCut.promise, ended]);
    await proxy.close(); // else a command whose server is gone would not hear
  }
  await ended;
  await proxy.close();
  return proxy.count();
}

/** Kills the client, or the processes of the server where there is none to kill. */
async function cutOff(
  { sql, name }: TestDatabase,
  client: { kill(signal: number): void } | undefined,
): Promise<void> {
  if (client) return client.kill(9);
  await sql`
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = ${name} and pid <> pg_backend_pid()`;
}
