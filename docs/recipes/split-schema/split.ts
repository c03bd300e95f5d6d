// bun split.ts [<file>=<table>,<table> …]: splits schema.ts, as `bun fmt` formats it,
// into files below schema/. A table takes its relations and row types with it, into the
// file that is named for it, else into one of its own name; what belongs to no table
// goes into shared.ts. schema.ts then exports all of them.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";

const folder = "src/infrastructure/database/schema";
if (existsSync(folder)) throw new Error(`${folder} is there already`);
const text = readFileSync(`${folder}.ts`, "utf8");

const wanted = new Map(
  process.argv.slice(2).flatMap((group) => {
    const [file = "", tables = ""] = group.split("=");
    return tables.split(",").map((table) => [table, file]);
  }),
);
/** The file of each table. */
const places = new Map(
  [...text.matchAll(/^export const (\w+) = (?:\w+\.)?\w*[tT]able\(/gm)].map(
    ([, table = ""]) => [table, wanted.get(table) ?? toKebab(table)],
  ),
);
for (const table of wanted.keys())
  if (!places.has(table)) throw new Error(`schema.ts has no table ${table}`);

const parts = readParts();
const files = Map.groupBy(
  parts.filter(({ kind }) => kind !== "import"),
  placeOf,
);

mkdirSync(folder);
for (const [file, own] of files) {
  const code = own.map(({ text }) => text.replace(/^const/m, "export const"));
  const body = code.join("");
  writeFileSync(`${folder}/${file}.ts`, `${listImports(file, body)}\n${body}`);
}
const header = parts[0]?.comment ?? "";
const exported = [...files]
  .filter(([, own]) => own.some(({ text }) => /^export/m.test(text)))
  .map(([file]) => `export * from "./schema/${file}";\n`);
writeFileSync(`${folder}.ts`, header + exported.join(""));

/** Splits the text into its statements, each with the comment above it. */
function readParts() {
  const parts = [];
  let comment = "";
  for (const piece of text.split(/^(?=[a-z/])/m)) {
    // A comment with a blank line below is a heading, of nothing in particular.
    if (piece.startsWith("/"))
      comment = piece.endsWith("\n\n") ? "" : comment + piece;
    else {
      const [, kind = "", name = ""] =
        /^(?:export )?(\w+) (\w+)?/.exec(piece) ?? [];
      parts.push({ kind, name, comment, text: comment + piece });
      comment = "";
    }
  }
  return parts;
}

/** Returns the file of a statement: its table's, or that of the first it mentions. */
function placeOf({ name, text }: { name: string; text: string }): string {
  const words = [name, ...(text.match(/\w+/g) ?? [])];
  const table = words.find((word) => places.has(word));
  return places.get(table ?? "") ?? "shared";
}

/** Returns the imports of what the body mentions: of packages, and of other files. */
function listImports(file: string, body: string): string {
  const sources = new Map<string, string>(); // of each name
  for (const { kind, text } of parts)
    if (kind === "import") {
      const [, names = "", source = ""] =
        /\{([^]*)\} from "(.*)"/.exec(text) ?? [];
      for (const name of names.split(",")) sources.set(name.trim(), source);
    }
  for (const [other, own] of files)
    if (other !== file)
      for (const { kind, name } of own)
        sources.set(kind === "const" ? name : `type ${name}`, `./${other}`);
  const used = [...sources].filter(
    ([name]) =>
      name &&
      new RegExp(`(?:[^.\\w]|[.]{3})${name.replace("type ", "")}\\b`).test(
        body,
      ),
  );
  return [...Map.groupBy(used, ([, source]) => source)]
    .map(
      ([source, names]) =>
        `import { ${names.map(([name]) => name).join(", ")} } from "${source}";\n`,
    )
    .join("");
}

function toKebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
