// bun run bench: db:migrate beside what one would take instead, on the server of
// DATABASE_URL. Needs psql on PATH. Prints medians of whole commands, and ratios.
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Glob, spawnSync } from "bun";
import { withScratchDatabase } from "../scripts/lib/scratch-database";
import type { DatabaseAddress } from "../src/database-url";
import { readEnv, root } from "../src/env";

const RUNS = 15;
const MANY = 1000;
/** On Debian, psql is a script in Perl, which takes longer than the program. */
const psql =
  [...new Glob("/usr/lib/postgresql/*/bin/psql").scanSync("/")].sort().at(-1) ??
  "psql";
const folder = "src/infrastructure/database/migrations";

const server = readEnv().direct;
const parent = mkdtempSync(join(tmpdir(), "starter-bench-"));
try {
  await compareNothingToDo();
  await compareMany();
} finally {
  rmSync(parent, { recursive: true });
}

/** What a deploy runs most of the time. */
async function compareNothingToDo(): Promise<void> {
  await withScratchDatabase(server, "bench", async (_sql, scratch) => {
    const variables = variablesOf(scratch);
    const migrate = [process.execPath, "run", "db:migrate"];
    time(migrate, root, variables);
    const commands = {
      "psql -c 'select 1'": [psql, "-c", "select 1"],
      "bun run db:migrate": migrate,
      "bunx drizzle-kit migrate": [
        process.execPath,
        "x",
        "drizzle-kit",
        "migrate",
      ],
    };
    const times: Record<string, number[]> = {};
    for (let run = 0; run < RUNS; run += 1)
      for (const [name, command] of Object.entries(commands))
        (times[name] ??= []).push(time(command, root, variables));
    report("nothing to do", times);
  });
}

/** From empty, against one psql that has a transaction for each file. */
async function compareMany(): Promise<void> {
  const clone = copyScripts();
  const texts = Array.from({ length: MANY }, (_, index) => [
    `CREATE TABLE "t${index}" ("id" serial PRIMARY KEY, "name" text NOT NULL);`,
    `CREATE INDEX "t${index}_name_idx" ON "t${index}" USING btree ("name");`,
    `ALTER TABLE "t${index}" ADD COLUMN "extra" integer DEFAULT 0;`,
  ]);
  const entries = texts.map((statements, idx) => {
    const tag = `${String(idx).padStart(4, "0")}_bench`;
    const text = statements.join("--> statement-breakpoint\n");
    writeFileSync(join(clone, folder, `${tag}.sql`), text);
    return {
      idx,
      version: "7",
      when: 1_700_000_000_000 + idx,
      tag,
      breakpoints: true,
    };
  });
  writeFileSync(
    join(clone, folder, "meta/_journal.json"),
    JSON.stringify({ entries }),
  );
  const whole = join(parent, "all.sql");
  writeFileSync(
    whole,
    texts.map((lines) => `begin;\n${lines.join("\n")}\ncommit;\n`).join(""),
  );

  const commands = {
    "psql -f": [psql, "--quiet", "--set", "ON_ERROR_STOP=1", "-f", whole],
    "bun run db:migrate": [process.execPath, "run", "db:migrate"],
  };
  const times: Record<string, number[]> = {};
  for (let run = 0; run < 5; run += 1)
    for (const [name, command] of Object.entries(commands))
      await withScratchDatabase(server, "bench", async (sql, scratch) => {
        await sql.unsafe("checkpoint").catch(() => {}); // a right that few have
        (times[name] ??= []).push(time(command, clone, variablesOf(scratch)));
      });
  report(`${MANY} migrations of three statements`, times);
}

function copyScripts(): string {
  const clone = join(parent, "clone");
  for (const file of [
    "package.json",
    "bunfig.toml",
    "tsconfig.json",
    "drizzle.config.ts",
    ".env.example",
    "scripts",
    "src",
  ])
    cpSync(join(root, file), join(clone, file), { recursive: true });
  rmSync(join(clone, folder), { recursive: true });
  mkdirSync(join(clone, folder, "meta"), { recursive: true });
  symlinkSync(join(root, "node_modules"), join(clone, "node_modules"));
  return clone;
}

/** Milliseconds of a whole command. @throws when it fails. */
function time(
  command: string[],
  cwd: string,
  env: Record<string, string | undefined>,
): number {
  const start = performance.now();
  const { success, stderr } = spawnSync(command, {
    cwd,
    env,
    stdout: "ignore",
  });
  if (!success) throw new Error(`${command.join(" ")}: ${stderr}`);
  return performance.now() - start;
}

function variablesOf({
  host,
  port,
  user,
  password,
  database,
  sslmode,
}: DatabaseAddress) {
  const login = [user, password].map(encodeURIComponent).join(":");
  const url = `postgres://${login}@${host}:${port}/${database}?sslmode=${sslmode}`;
  return {
    ...process.env,
    DATABASE_URL: url,
    DATABASE_URL_UNPOOLED: url,
    PGHOST: host,
    PGPORT: String(port),
    PGUSER: user,
    PGPASSWORD: password,
    PGDATABASE: database,
    PGSSLMODE: sslmode,
  };
}

/** The first is what the others are measured by. */
function report(title: string, times: Record<string, number[]>): void {
  console.log(`\n${title}`);
  let base: number | undefined;
  for (const [name, all] of Object.entries(times)) {
    const sorted = all.toSorted((a, b) => a - b);
    const median = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
    base ??= median;
    console.log(
      `  ${name.padEnd(22)} ${median.toFixed(0).padStart(6)} ms  ${(median / base).toFixed(2)} times`,
    );
  }
}
