// bun run db:pull and db:studio: drizzle-kit, in the environment of every other
// command. Since it exits 0 when it failed, what it wrote is looked at.
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
import { formatDatabaseUrl } from "../src/database-url";
import { readEnv, root } from "../src/env";
import { openConnection, reachedAddress } from "./lib/connection";
import { readOptions } from "./lib/options";
import { failure, print, printJson, refusal } from "./lib/report";

const usage = `bun run db:pull [--json] | db:studio [--port <port>]

db:pull       writes the schema.ts of the database into pulled/
db:studio     serves Drizzle Studio on this machine`;

const { values, positionals } = readOptions(
  usage,
  {
    port: { type: "string", default: "4983", help: "where" },
    json: { type: "boolean", help: "one JSON document on stdout, for db:pull" },
  },
  { allowPositionals: true },
);
const [verb, ...rest] = positionals;
const pulled = join(root, "pulled");

readEnv(); // or drizzle-kit would be the one to say what is missing
if (rest.length > 0)
  throw refusal(`unexpected argument "${rest[0]}"`, { code: "USAGE" });
if (verb === "pull") await pull();
else if (verb === "studio") await serveStudio();
else throw refusal("drizzle.ts takes pull or studio");

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
  await using _sql = await openConnection(
    readEnv().direct,
    `db:${verb}`,
    "prefer-primary",
  );
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
      env: { ...process.env, ...nameServerReached() },
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

/** drizzle-kit knows a single host, and not what sslmode=prefer leaves open. */
function nameServerReached() {
  const address = reachedAddress(readEnv().direct);
  const url = formatDatabaseUrl(address);
  const { options: PGOPTIONS } = address.parameters;
  return { DATABASE_URL: url, DATABASE_URL_UNPOOLED: url, PGOPTIONS };
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
