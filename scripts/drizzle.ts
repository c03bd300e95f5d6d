// bun run db:generate, db:pull and db:studio: drizzle-kit, in the environment of
// every other command. Since it exits 0 when it failed, what it wrote is looked
// at. Exits 1 when it failed, 2 where it had to ask and there is no terminal.
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { spawn } from "bun";
import { readEnv, root } from "../src/env";
import { openConnection } from "./lib/connection";
import { migrationsFolder, readMigrations } from "./lib/migrations";
import { failure, print, printJson, readOptions, refusal } from "./lib/report";

const usage = `bun run db:generate [name] [flags] | db:pull | db:studio [--port <port>]

db:generate   writes the migration that brings the schema to schema.ts
  --custom    an empty one, for SQL of your own
db:pull       writes the schema.ts of the database into pulled/
db:studio     serves Drizzle Studio on this machine
  --port      where (4983)
  --json      one JSON document on stdout, for db:generate and db:pull`;

const { values, positionals } = readOptions(usage, {
  allowPositionals: true,
  options: {
    custom: { type: "boolean" },
    port: { type: "string", default: "4983" },
    json: { type: "boolean" },
  },
});
const [verb, name, ...rest] = positionals;
const pulled = join(root, "pulled");

readEnv(); // or drizzle-kit would be the one to say what is missing
if (rest.length > 0 || (name && verb !== "generate"))
  throw refusal(`unexpected argument "${rest[0] ?? name}"`, { code: "USAGE" });
if (verb === "generate") await generate();
else if (verb === "pull") await pull();
else if (verb === "studio") await serveStudio();
else throw refusal("drizzle.ts takes generate, pull or studio");

async function generate(): Promise<void> {
  const before = readTags();
  const flags = [
    ...(name ? ["--name", name] : []),
    ...(values.custom ? ["--custom"] : []),
  ];
  const { output } = await runDrizzleKit(["generate", ...flags]);
  const isAsking = output.includes("TTY");
  if (isAsking && process.stdin.isTTY)
    await runDrizzleKit(["generate", ...flags], "inherit");

  const tag = readTags().find((tag) => !before.includes(tag));
  const file = tag
    ? relative(root, join(migrationsFolder, `${tag}.sql`))
    : null;
  if (file) print(`Generated: ${file}`);
  else if (output.includes("No schema changes"))
    print("Nothing to generate: schema.ts is as the newest migration has it");
  else if (isAsking)
    throw refusal("drizzle-kit has to ask whether something was renamed", {
      hint: "run `bun run db:generate` on a terminal, or generate the removal and the addition one after the other",
    });
  else throw drizzleKitFailed(output);
  printJson({ tag: tag ?? null, file });
}

/** Into a folder of its own first: drizzle-kit adds to what it finds. */
async function pull(): Promise<void> {
  await checkServer();
  const partial = join(root, "pulled.partial");
  rmSync(partial, { recursive: true, force: true });
  mkdirSync(partial);
  try {
    const config = join(partial, "drizzle.config.ts");
    writeFileSync(
      config,
      'import config from "../drizzle.config";\nexport default { ...config, out: "./pulled.partial" };\n',
    );
    const { output } = await runDrizzleKit([
      "pull",
      "--config",
      relative(root, config),
    ]);
    const files = ["schema.ts", "relations.ts"].filter((file) =>
      existsSync(join(partial, file)),
    );
    if (!files.includes("schema.ts")) throw drizzleKitFailed(output);
    mkdirSync(pulled, { recursive: true });
    for (const file of files) {
      copyFileSync(join(partial, file), join(pulled, file));
      print(`Pulled: pulled/${file}`);
    }
    printJson({ files: files.map((file) => `pulled/${file}`) });
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
}

async function serveStudio(): Promise<void> {
  await checkServer();
  // Its own default listens on every interface.
  const flags = ["--host", "127.0.0.1", "--port", values.port];
  const { exitCode, output } = await runDrizzleKit(
    ["studio", ...flags],
    "inherit",
  );
  if (exitCode !== 0) throw drizzleKitFailed(output);
}

async function checkServer(): Promise<void> {
  const sql = await openConnection(readEnv().direct, `db:${verb}`);
  await sql.end({ timeout: 5 });
}

function readTags(): string[] {
  const isNew = !existsSync(join(migrationsFolder, "meta", "_journal.json"));
  return isNew ? [] : readMigrations().map(({ tag }) => tag);
}

/** Its output is empty where it was let speak for itself. */
async function runDrizzleKit(
  args: string[],
  io: "pipe" | "inherit" = "pipe",
): Promise<{ exitCode: number; output: string }> {
  const program = fileURLToPath(
    import.meta.resolve("drizzle-kit/package.json"),
  );
  const child = spawn(
    [process.execPath, join(program, "..", "bin.cjs"), ...args],
    {
      cwd: root,
      stdio:
        io === "inherit"
          ? ["inherit", "inherit", "inherit"]
          : ["ignore", "pipe", "pipe"],
    },
  );
  process.once("exit", () => child.kill()); // where this one is ended alone
  const output = await Promise.all([
    readStream(child.stdout),
    readStream(child.stderr),
  ]);
  return { exitCode: await child.exited, output: output.join("") };
}

async function readStream(stream: ReadableStream | undefined): Promise<string> {
  return stream ? await new Response(stream).text() : "";
}

function drizzleKitFailed(output: string): Error {
  const lines = Bun.stripANSI(output)
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
  const reason = lines.find((line) => /error/i.test(line)) ?? lines.at(-1);
  return failure(`drizzle-kit failed: ${reason ?? "it said nothing"}`, {
    lines,
  });
}
