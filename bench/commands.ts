// The tables of commands: what is timed, beside what, and how often.
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { Glob, spawnSync, which } from "bun";
import { root } from "../src/env";
import { findFreePort } from "../tests/lib/ports";
import { openDatabases } from "./databases";
import { compare, draw, type Step, type Table, timeInTurn } from "./measure";
import {
  addColumn,
  copyClone,
  makeMigrations,
  makeTables,
  parent,
  writeFiles,
} from "./projects";

type Variables = Record<string, string | undefined>;

const bun = process.execPath;
const emptyScript: Step = { command: [bun, "-e", ""], cwd: root };
const others = join(root, "bench/node_modules/.bin");
const othersNote = existsSync(others)
  ? ""
  : " Without dbmate and node-pg-migrate, which `bun install --cwd bench` adds.";

/** The tools that migrate the same files, each in a database of its own. */
export async function compareNothing(isQuick: boolean): Promise<Table> {
  await using databases = await openDatabases();
  const steps = {
    "psql -c 'select 1'": {
      command: [psql(), "-c", "select 1"],
      cwd: root,
      env: await databases.create(),
    },
    "an empty Bun script": emptyScript,
    ...(await migrators(11, databases.create)),
  };
  await timeInTurn(steps, 1);
  return compare(
    await timeInTurn(steps, isQuick ? 7 : 25),
    `Eleven migrations, all applied.${othersNote}`,
  );
}

export async function compareMany(): Promise<Table> {
  const count = 1000;
  await using databases = await openDatabases();
  const steps: Record<string, Step> = {
    "psql -f": {
      command: [psql(), "-qf", writeFiles(count).whole],
      cwd: root,
      env: await databases.create(),
    },
    ...(await migrators(count, databases.create)),
  };
  for (const step of Object.values(steps))
    step.before = () => databases.empty(step.env);
  return compare(
    await timeInTurn(steps, 3),
    `${count.toLocaleString("en")} migrations: a table, an index, a column; a transaction each.${othersNote}`,
  );
}

export async function compareStartUp(isQuick: boolean): Promise<Table> {
  const { scripts } = await Bun.file(join(root, "package.json")).json();
  const steps = { "an empty Bun script": emptyScript };
  for (const [name, line] of Object.entries<string>(scripts))
    if (name.startsWith("db:"))
      Object.assign(steps, {
        [name]: {
          command: [bun, ...line.split(" ").slice(1), "--help"],
          cwd: root,
        },
      });
  return compare(await timeInTurn(steps, isQuick ? 3 : 15));
}

export async function compareSetup(isQuick: boolean): Promise<Table> {
  const cwd = copyClone();
  const env = {
    ...process.env,
    DB_ENGINE: "embedded",
    POSTGRES_PORT: String(await findFreePort()),
    DATABASE_URL: undefined,
    DATABASE_URL_UNPOOLED: undefined,
  };
  const clean = () => {
    spawnSync([bun, "run", "db:stop"], { cwd, env });
    for (const name of [".data", ".env.local"])
      rmSync(join(cwd, name), { recursive: true, force: true });
  };
  const command = [bun, "run", "db:setup"];
  const runs = isQuick ? 1 : 5;
  try {
    return compare(
      {
        ...(await timeInTurn(
          { "db:setup, nothing there": { command, cwd, env, before: clean } },
          runs,
        )),
        ...(await timeInTurn(
          { "db:setup again": { command, cwd, env } },
          runs,
        )),
      },
      "Embedded: makes a cluster, starts it, migrates, seeds.",
    );
  } finally {
    clean();
  }
}

export async function compareBackup(): Promise<Table> {
  const rows = 500_000;
  await using databases = await openDatabases();
  const env = await databases.create();
  await databases.run(
    env,
    `create table people as select i as id, 'Name ' || i as name, md5(i::text) as hash,
       i * 1.5 as amount, now() - i * interval '1 minute' as at, jsonb_build_object('i', i) as data
     from generate_series(1, ${rows}) as i;
     alter table people add primary key (id); create index on people (name)`,
  );
  const folder = mkdtempSync(join(parent, "backups-"));
  const dump = join(folder, "plain.dump");
  const target = await databases.create();
  const restored = { ...(await databases.create()), BACKUP_DIR: folder };
  const backup = { ...env, BACKUP_DIR: folder };
  const made = await timeInTurn(
    {
      "pg_dump -Fc": {
        command: [program("pg_dump"), "-Fc", "-f", dump],
        cwd: root,
        env,
      },
      "db:backup": {
        command: [bun, "run", "db:backup", "--keep", "1"],
        cwd: root,
        env: backup,
      },
    },
    5,
  );
  const file = readdirSync(folder).find(
    (name) => name.endsWith(".dump") && name !== "plain.dump",
  );
  const read = await timeInTurn(
    {
      pg_restore: {
        command: [program("pg_restore"), "-d", target.PGDATABASE ?? "", dump],
        cwd: root,
        env: target,
        before: () => databases.empty(target),
      },
      "db:restore": {
        command: [bun, "run", "db:restore", join(folder, file ?? "")],
        cwd: root,
        env: restored,
      },
    },
    5,
  );
  return compare(
    { ...made, ...read },
    `${rows.toLocaleString("en")} rows of six columns. \`db:backup\` also reads the archive back and counts its rows; \`db:restore\` creates the database and swaps it in.`,
  );
}

export async function drawMigrations(): Promise<Table> {
  const curves = new Map<number, Record<string, number>>();
  for (const count of [11, 101, 1001, 5001]) {
    await using databases = await openDatabases();
    const env = await databases.create();
    const applied = await databases.create();
    const cwd = await makeMigrations(count);
    const down = await makeMigrations(count);
    const run = (line: string, more: Partial<Step> = {}): Step => ({
      command: [bun, "run", ...line.split(" ")],
      cwd,
      env,
      ...more,
    });
    const isLong = count > 1001;
    const once = await timeInTurn(
      {
        "db:migrate, all pending": run("db:migrate", { env: applied }),
        ...(isLong
          ? {}
          : {
              "db:check, all pending": run("db:check"),
              "db:generate --down": run("db:generate --down", { cwd: down }),
            }),
      },
      1,
    );
    const many = await timeInTurn(
      {
        "db:migrate, nothing to do": run("db:migrate", { env: applied }),
        "db:migrate:status": run("db:migrate:status", { env: applied }),
        "db:check --offline": run("db:check --offline"),
        "db:generate, nothing to do": run("db:generate"),
      },
      isLong ? 3 : 7,
    );
    curves.set(count, { ...many, ...once });
  }
  return draw(curves);
}

export async function drawTables(): Promise<Table> {
  const curves = new Map<number, Record<string, number>>();
  for (const count of [10, 100, 1000]) {
    await using databases = await openDatabases();
    const env = await databases.create();
    const cwd = await makeTables(count);
    const changed = await makeTables(count);
    addColumn(changed, count);
    const run = (line: string, folder = cwd): Step => ({
      command: [bun, "run", ...line.split(" ")],
      cwd: folder,
      env,
    });
    const once = await timeInTurn({ "db:migrate": run("db:migrate") }, 1);
    const kit = { command: [bun, "x", "drizzle-kit", "push"], cwd, env };
    const many = await timeInTurn(
      {
        "db:push, nothing to do": run("db:push"),
        "db:push --dry-run, a column": run("db:push --dry-run", changed),
        "db:check": run("db:check"),
        "db:generate, nothing to do": run("db:generate"),
        // It takes minutes for a thousand.
        ...(count < 1000 ? { "drizzle-kit push, nothing to do": kit } : {}),
      },
      count === 1000 ? 3 : 7,
    );
    curves.set(count, { ...many, ...once });
  }
  return draw(curves);
}

/** Steps that migrate the same files, by the name of the tool. */
async function migrators(
  count: number,
  create: () => Promise<Variables>,
): Promise<Record<string, Step>> {
  const files = writeFiles(count);
  const steps: Record<string, Step> = {
    "db:migrate": {
      command: [bun, "run", "db:migrate"],
      cwd: files.project,
      env: await create(),
    },
    "drizzle-kit migrate": {
      command: [bun, "x", "drizzle-kit", "migrate"],
      cwd: files.project,
      env: await create(),
    },
  };
  if (!existsSync(others)) return steps;
  steps["dbmate up"] = {
    command: [
      join(others, "dbmate"),
      `--migrations-dir=${files.dbmate}`,
      "--no-dump-schema",
      "up",
    ],
    cwd: files.dbmate,
    env: withoutPrefer(await create()),
  };
  steps["node-pg-migrate up"] = {
    command: [join(others, "node-pg-migrate"), "up", "-m", files.plain],
    cwd: files.plain,
    env: withoutPrefer(await create()),
  };
  return steps;
}

/** These tools do not have `sslmode=prefer`, which is the default here. */
function withoutPrefer(env: Variables): Variables {
  const url = env.DATABASE_URL?.replace("sslmode=prefer", "sslmode=disable");
  return { ...env, DATABASE_URL: url };
}

/** Finds a client program itself: on Debian, the one on PATH is a script that looks for
 * it, in twice the time. */
function program(name: string): string {
  const found = which(name);
  if (!found) throw new Error(`${name} is not installed`);
  const versions = [
    ...new Glob(`/usr/lib/postgresql/*/bin/${name}`).scanSync({
      onlyFiles: false,
    }),
  ];
  return versions.toSorted().at(-1) ?? found;
}

const psql = () => program("psql");
