// bun bench/online.ts [rows] [--plain]: changes a table of that many rows (500,000) while
// others write to it, on a scratch database of the server of DATABASE_URL. Prints how
// long the longest write took, for what `db:generate --online` writes, or for the plain
// form; beside it that of a table that nobody changes, which waits for the disk alone.
import {
  cpSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawn } from "bun";
import postgres from "postgres";
import { withScratchDatabase } from "../scripts/lib/scratch-database";
import { formatDatabaseUrl } from "../src/database-url";
import { readEnv, root } from "../src/env";

const database = "src/infrastructure/database";
const rows = Number(process.argv[2] ?? 500_000);
const isPlain = process.argv.includes("--plain");
const WRITERS = 4;
/** How long the writers are watched without a migration, in milliseconds. */
const ALONE_MS = 5000;

/** Each change is a text of schema.ts and what takes its place. */
const changes: Record<string, [from: string, to: string]> = {
  "volatile default": [
    "// columns",
    'token: uuid("token").notNull().defaultRandom(),',
  ],
  "int to bigint, the key": [
    'integer("id")',
    'bigint("id", { mode: "number" })',
  ],
  "int to bigint, a column": [
    'integer("amount")',
    'bigint("amount", { mode: "number" })',
  ],
  index: ["// extras", 'index("events_amount_idx").on(t.amount), // extras'],
  unique: [
    "// extras",
    'unique("events_id_note_key").on(t.id, t.note), // extras',
  ],
  "not null": ['text("note")', 'text("note").notNull()'],
  "foreign key": [
    'integer("account_id").notNull()',
    'integer("account_id").notNull().references(() => accounts.id)',
  ],
  check: [
    "// extras",
    'check("events_amount_check", sql`${t.amount} >= 0`), // extras',
  ],
};

let schema = `import { sql } from "drizzle-orm";
import { bigint, check, index, integer, pgTable, text, unique, uuid } from "drizzle-orm/pg-core";
export const accounts = pgTable("accounts", { id: integer().primaryKey() });
export const events = pgTable("events", {
  id: integer("id").primaryKey().generatedByDefaultAsIdentity(),
  accountId: integer("account_id").notNull(),
  amount: integer("amount").notNull().default(0),
  note: text("note"),
  // columns
}, (t) => [
  // extras
]);
`;

const folder = mkdtempSync(join(tmpdir(), "starter-online-"));
try {
  copyProject();
  await withScratchDatabase(
    readEnv().direct,
    "bench",
    async (_sql, scratch) => {
      const url = formatDatabaseUrl(scratch);
      await generate("initial");
      await migrate(url);
      const sql = postgres(url, { max: WRITERS + 1, onnotice: () => {} });
      await sql`insert into accounts select generate_series(1, 1000)`;
      await sql`
      insert into events (account_id, amount, note)
      select 1 + i % 1000, i, 'note ' || i from generate_series(1, ${rows}::int) as i`;
      await sql`create table unchanged as select 0 as amount`;
      await sql`vacuum analyze`;
      const server = (await sql`show server_version`)[0]?.server_version;
      console.log(`${rows} rows, ${WRITERS} writers, PostgreSQL ${server}`);
      await report("no migration", sql, () => Bun.sleep(ALONE_MS));
      for (const [name, [from, to]] of Object.entries(changes)) {
        schema = schema.replace(from, to);
        await generate(name.replaceAll(/\W+/g, "_"));
        await report(name, sql, () => migrate(url));
      }
    },
  );
} finally {
  rmSync(folder, { recursive: true });
}

function copyProject(): void {
  for (const file of [
    "package.json",
    "bunfig.toml",
    "tsconfig.json",
    "drizzle.config.ts",
    ".env.example",
    "scripts",
    "src",
  ])
    cpSync(join(root, file), join(folder, file), { recursive: true });
  rmSync(join(folder, database, "migrations"), { recursive: true });
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
}

async function generate(name: string): Promise<void> {
  writeFileSync(join(folder, database, "schema.ts"), schema);
  await command(["db:generate", name, ...(isPlain ? [] : ["--online"])], {});
}

async function migrate(url: string): Promise<void> {
  const variables = { DATABASE_URL: url, DATABASE_URL_UNPOOLED: url };
  await command(["db:migrate"], variables);
}

/** Runs a command of the copy. @throws when it fails. */
async function command(
  args: string[],
  variables: Record<string, string>,
): Promise<void> {
  const child = spawn([process.execPath, "run", ...args], {
    cwd: folder,
    env: { ...process.env, ...variables },
    stdout: "ignore",
    stderr: "pipe",
  });
  const stderr = await new Response(child.stderr).text();
  if ((await child.exited) !== 0) throw new Error(stderr);
  if (args[0] === "db:migrate" && stderr) console.error(stderr.trimEnd());
}

/** Writes while the work lasts, and prints how long the longest write took. */
async function report(
  name: string,
  sql: postgres.Sql,
  work: () => Promise<void>,
): Promise<void> {
  let isOver = false;
  /** Makes the writes in turn, each as a statement of its own. @returns their times. */
  const write = async (...writes: (() => Promise<unknown>)[]) => {
    const times: number[] = [];
    while (!isOver)
      for (const one of writes) {
        const start = performance.now();
        await one();
        times.push(performance.now() - start);
      }
    return times;
  };
  const writers = Array.from({ length: WRITERS }, () =>
    write(
      () =>
        sql`update events set amount = amount + 1 where id = ${1 + Math.floor(Math.random() * rows)}`,
      () =>
        sql`insert into events (account_id, amount, note) values (1, 1, ${crypto.randomUUID()})`,
    ),
  );
  const control = write(() => sql`update unchanged set amount = amount + 1`);
  const start = performance.now();
  try {
    await work();
  } finally {
    isOver = true;
    await Promise.all([...writers, control]);
  }
  const seconds = (performance.now() - start) / 1000;
  const times = (await Promise.all(writers)).flat().toSorted((a, b) => a - b);
  const alone = (await control).toSorted((a, b) => a - b);
  const late = (all: number[]) => all.filter((ms) => ms > 250).length;
  const last = (all: number[]) => (all.at(-1) ?? 0).toFixed(0);
  const median = (times[times.length >> 1] ?? 0).toFixed(1);
  console.log(
    `  ${name.padEnd(24)} ${seconds.toFixed(1).padStart(6)} s  ${String(times.length).padStart(7)} writes, median ${median} ms, longest ${last(times)} ms, ${late(times)} over 250 ms; of the other table ${last(alone)} ms, ${late(alone)} over`,
  );
}
