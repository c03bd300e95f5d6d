// bun run copy <folder> [command …]: copies commands into another application:
// their programs, the files that these import, and the lines of package.json.
// It overwrites nothing. Exits 2 when a file exists there with other content.
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { semver } from "bun";
import { root } from "../src/env";
import {
  findPackageManager,
  type Found,
  nameInstall,
  readFound,
  readVariables,
} from "./copying/application";
import {
  type Command,
  findCommands,
  findNeeds,
  readPackage,
} from "./copying/files";
import { jsonFlag, usageError, readOptions } from "./lib/options";
import { note, print, printJson, refusal } from "./lib/report";

const usage = `bun run copy <folder> [command …] [flags]

Copies commands into the application in a folder: db:migrate and
db:migrate:status, if none is named.`;

/** Programs that also run on Node; the others need Bun. */
const ON_NODE = ["migrate", "status-migrations", "rollback", "baseline"];
const TSX = "4.23.15";

const { values, positionals } = readOptions(
  usage,
  {
    into: {
      type: "string",
      value: "<folder>",
      default: "",
      help: "where to put the files in the application",
    },
    "dry-run": {
      type: "boolean",
      help: "show what would be copied and change nothing",
    },
    ...jsonFlag,
  },
  { allowPositionals: true },
);
const [target, ...names] = positionals;
if (!target)
  throw usageError("the folder of the application is missing", {
    hint: "name it, such as `bun run copy ../their-app`",
  });
const application = resolve(target);
const own = readPackage(application);
const into = relative(application, resolve(application, values.into));
if (into.startsWith(".."))
  throw usageError("--into names a folder outside the application");
const commands = findCommands(
  names.length > 0 ? names : ["db:migrate", "db:migrate:status"],
);
const needs = findNeeds(commands.map(({ program }) => program));
const manager = findPackageManager(application);
const isOnBun = manager === "bun";
const isDryRun = values["dry-run"] === true;

const { found, variables, warning } = readApplication();
const files = new Map(needs.files.map((file) => [place(file), adapt(file)]));
if (!isOnBun && own.type !== "module")
  files.set(
    join(into, into ? "package.json" : "scripts/package.json"),
    '{ "type": "module" }\n',
  );
refuseOverwriting();
const scripts = Object.fromEntries(
  commands.map((command) => [command.name, nameScript(command)]),
);
const packages = listPackages();

for (const [file, text] of files) copyFile(file, text);
addScripts();
for (const install of packages) print(`Packages to add: ${install}`);
if (warning) note(`Warning: ${warning}`);
if (found) {
  print(`Found: ${found.config}`);
  print(`Found: ${found.count} migrations in ${found.migrations}`);
  print(`Found: records in ${found.records}`);
}
for (const [part, name] of variables) print(`Found: ${part} in ${name}`);
if (found && variables.size === 0)
  print(
    `Found: no variable in ${found.config}; set DATABASE_URL, or add yours at the top of ${place("src/env.ts")}`,
  );
printJson({
  files: [...files.keys()],
  scripts,
  packages,
  config: found ?? null,
  variables: Object.fromEntries(variables),
});

/** Reads the application's config; returns a warning when it cannot be loaded yet. */
function readApplication(): {
  found?: Found;
  variables: Map<string, string>;
  warning?: string;
} {
  let variables = new Map<string, string>();
  try {
    variables = readVariables(application);
    return { found: readFound(application), variables };
  } catch (error) {
    return { variables, warning: (error as Error).message };
  }
}

/** Returns the target of a file. A compose file stays at the root. */
function place(file: string): string {
  return file.includes("/") ? join(into, file) : file;
}

/** Returns the text of a file; src/env.ts gets the application's root and variables. */
function adapt(file: string): string {
  const text = readFileSync(join(root, file), "utf8");
  if (file !== "src/env.ts") return text;
  const up = "dirname(".repeat(into === "" ? 0 : into.split("/").length);
  return text
    .replace("root = dirname(", `root = ${up}dirname(`)
    .replace(
      "import.meta.url))",
      `import.meta.url))${")".repeat(up.length / 8)}`,
    )
    .replace(/^ {2}(\w+): \[((?:"\w+"(?:, )?)+)\]/gm, (line, part, list) => {
      const name = variables.get(part);
      return !name || list.includes(`"${name}"`)
        ? line
        : `  ${part}: [${list}, "${name}"]`;
    });
}

function refuseOverwriting(): void {
  const different = [...files].filter(([file, text]) => {
    const path = join(application, file);
    return existsSync(path) && readFileSync(path, "utf8") !== text;
  });
  const scriptsFolder = join(application, "scripts");
  const isMixed =
    files.has("scripts/package.json") &&
    !existsSync(join(scriptsFolder, "package.json")) &&
    existsSync(scriptsFolder) &&
    readdirSync(scriptsFolder).some(
      (name) => /\.[jt]s$/.test(name) && !files.has(`scripts/${name}`),
    );
  if (different.length === 0 && !isMixed) return;
  throw refusal(
    different.length > 0
      ? `${application} has files of these names with other content`
      : `${application}/scripts has programs that are not ES modules`,
    {
      lines: different.map(([file]) => `  ${file}`),
      hint: "put the files into a separate folder: add `--into <folder>`, such as `--into db`",
    },
  );
}

function nameScript({ program, args }: Command): string {
  const name = program.replace(/^scripts\/|\.ts$/g, "");
  const runtime =
    isOnBun || !ON_NODE.includes(name) ? "bun" : "node --import tsx";
  return `${runtime} ${place(program)}${args}`;
}

function listPackages(): string[] {
  const known = { ...own.dependencies, ...own.devDependencies };
  const isOnNode = Object.values(scripts).some((script) =>
    script.startsWith("node"),
  );
  const tsx = { name: "tsx", version: TSX, isForDevelopment: false };
  const missing = [...needs.packages, ...(isOnNode ? [tsx] : [])].filter(
    ({ name }) => !(name in known) || (name === "tsx" && isTsxOld(known)),
  );
  return [false, true].flatMap((isForDevelopment) => {
    const some = missing
      .filter((one) => one.isForDevelopment === isForDevelopment)
      .map(({ name, version }) => `${name}@${version}`);
    return some.length > 0
      ? [nameInstall(application, some, isForDevelopment)]
      : [];
  });
}

/** True when tsx is too old to run these files in a CommonJS package. */
function isTsxOld(known: Record<string, string>): boolean {
  if (into !== "" || own.type === "module") return false;
  const folder = join(application, "node_modules/tsx");
  const installed = existsSync(folder)
    ? readPackage(folder).version
    : known.tsx;
  return semver.order(installed?.replace(/^\D+/, "") ?? "0.0.0", TSX) < 0;
}

function copyFile(file: string, text: string): void {
  const path = join(application, file);
  if (existsSync(path)) return print(`Kept: ${file}`);
  if (isDryRun) return print(`Would copy: ${file}`);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
  print(`Copied: ${file}`);
}

/** Adds the commands to package.json; existing scripts are kept. */
function addScripts(): void {
  const { text } = own;
  const indent = /^[\t ]+/m.exec(text)?.[0] ?? "  ";
  const merged: Record<string, string> = { ...own.scripts };
  for (const [name, script] of Object.entries(scripts)) merged[name] ??= script;
  const content = { ...JSON.parse(text), scripts: merged };
  const end = text.endsWith("\n") ? "\n" : "";
  if (!isDryRun && Object.keys(scripts).some((name) => !(name in own.scripts)))
    writeFileSync(
      join(application, "package.json"),
      JSON.stringify(content, null, indent) + end,
    );
  const verb = isDryRun ? "Would add" : "Added";
  for (const [name, script] of Object.entries(scripts))
    if (merged[name] !== script)
      print(`Kept: ${name}, ${merged[name]}; this one is \`${script}\``);
    else print(`${name in own.scripts ? "Kept" : verb}: ${name}, ${script}`);
}
