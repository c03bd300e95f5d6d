// bun run bench: whole commands beside what one would take instead, on the server of
// DATABASE_URL, as tables of Markdown. See `bun run bench --help`.
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem, type } from "node:os";
import { join } from "node:path";
import { spawnSync } from "bun";
import { openConnection } from "../scripts/lib/connection";
import { readOptions } from "../scripts/lib/options";
import { readEnv, root } from "../src/env";
import { measureClients, measureWork } from "./client";
import * as commands from "./commands";
import { print, ratioOf, type Table } from "./measure";

const usage = `bun run bench [flags]

Measures on the server of DATABASE_URL, in databases of its own, for half an hour.`;

const { values: flags } = readOptions(usage, {
  only: {
    type: "string",
    value: "<word>",
    help: "the tables with this word in their title",
  },
  quick: {
    type: "boolean",
    default: false,
    help: "fewer runs, and no table that depends on a size: a minute",
  },
  compare: {
    type: "boolean",
    help: "says which ratio is a third worse than in docs/BENCHMARKS.md",
  },
  write: { type: "boolean", help: "writes docs/BENCHMARKS.md" },
});

const page = join(root, "docs/BENCHMARKS.md");
/** From here on a ratio is said to be worse: the same machine differs by a fifth. */
const WORSE = 4 / 3;

/** Takes whether to do with few runs. */
type Measure = (isQuick: boolean) => Promise<Table>;
const quick: Record<string, Measure> = {
  "A deploy with nothing to migrate": commands.compareNothing,
  "Start-up: --help of each command": commands.compareStartUp,
  "From a new clone to a database": commands.compareSetup,
  "A query through the client": measureClients,
};
const long: Record<string, Measure> = {
  "Many migrations, from empty": commands.compareMany,
  "Backup and restore": commands.compareBackup,
  "Commands by number of migrations": commands.drawMigrations,
  "Commands by number of tables": commands.drawTables,
  "What one server carries with this schema": measureWork,
};
const tables = flags.quick ? quick : { ...quick, ...long };

const measured: Table[] = [];
let text = `# Benchmarks\n\nWritten by \`bun run bench --write\`${flags.quick ? " with `--quick`" : ""}: ${await describeMachine()}. Medians of whole commands, run in turn; compare the ratios, since another machine has other times.\n`;
console.log(text);
for (const [title, measure] of Object.entries(tables)) {
  if (flags.only && !title.toLowerCase().includes(flags.only.toLowerCase()))
    continue;
  const table = { ...(await measure(flags.quick)), title };
  measured.push(table);
  text += `\n${print(table)}`;
  console.log(print(table));
}
if (flags.compare) reportWorse(readFileSync(page, "utf8"));
if (flags.write) {
  writeFileSync(page, text);
  spawnSync([process.execPath, "fmt", page]);
}

async function describeMachine(): Promise<string> {
  await using sql = await openConnection(readEnv().direct, "bench");
  const [row] = await sql`
    select current_setting('server_version') as version, current_setting('fsync') as fsync`;
  const memory = Math.round(totalmem() / 1024 ** 3);
  return `${new Date().toISOString().slice(0, 10)}, PostgreSQL ${row?.version} with fsync ${row?.fsync}, Bun ${Bun.version}, ${type()} ${release()}, ${cpus().length} cores (${cpus()[0]?.model}), ${memory} GB`;
}

/** Says which ratios of the page are now a third worse. */
function reportWorse(before: string): void {
  const worse = measured.flatMap(({ title, rows }) =>
    rows.flatMap(({ name, cells }) => {
      const then = ratioOf(before, title ?? "", name);
      const now = Number(cells.at(-1));
      return then && now > then * WORSE
        ? [`Slower: ${title}: ${name}: ${now} times, was ${then}`]
        : [];
    }),
  );
  console.log(worse.join("\n") || "No ratio is a third worse than it was");
}
