// Lists what SQL creates and drops, by name: tables, columns, types, views and the
// like. This shows whether a migration's SQL does what its snapshots say.
import {
  readWords,
  splitStatements,
  type Token,
} from "../migrations/statements";
import { readRenames } from "./renames";

const KINDS = ["TABLE", "VIEW", "TYPE", "SEQUENCE", "SCHEMA"];

/**
 * Lists effects such as `CREATE TABLE users` and `DROP COLUMN users.bio`. An object
 * that is dropped and created again is left out. A renamed table has its new name.
 */
export function listEffects(text: string): Set<string> {
  const effects = new Set<string>();
  const renamed = new Map(
    readRenames(text)
      .filter(({ kind }) => kind === "table")
      .map(({ from, to }) => [from, to]),
  );
  const add = (effect: string) => {
    const [verb = "", kind = "", ...rest] = effect.split(" ");
    const inverse: Record<string, string> = {
      CREATE: "DROP",
      DROP: "CREATE",
      ADD: "DROP",
    };
    const opposite =
      kind === "COLUMN" && verb === "DROP" ? "ADD" : inverse[verb];
    const [table = "", ...parts] = rest.join(" ").split(".");
    const name = [renamed.get(table) ?? table, ...parts].join(".");
    if (!effects.delete(`${opposite} ${kind} ${name}`))
      effects.add(`${verb} ${kind} ${name}`);
  };
  for (const { tokens } of splitStatements(unwrap(text)))
    for (const effect of readEffects(tokens)) add(effect);
  return effects;
}

/** Returns the SQL inside a block: older drizzle-kit wrote blocks around statements
 * whose object may exist already. */
function unwrap(text: string): string {
  return text.replace(
    /\bDO \$\$\s*BEGIN\b(.*?)\bEXCEPTION\b.*?\$\$/gis,
    (_, inner: string) => inner,
  );
}

function readEffects(tokens: Token[]): string[] {
  const words = readWords(tokens, tokens.length);
  const [verb = ""] = words;
  if (!["CREATE", "DROP", "ALTER"].includes(verb)) return [];
  const at = words.findIndex(
    (word, index) => index < 5 && KINDS.includes(word),
  );
  const kind = words[at];
  if (
    !kind ||
    words.slice(1, at).some((word) => /^(INDEX|TEMP|TEMPORARY)$/.test(word))
  )
    return [];
  let next = at + 1;
  while (/^(IF|NOT|EXISTS|ONLY)$/.test(words[next] ?? "")) next += 1;
  const [name, end] = readPath(tokens, next);
  if (verb === "DROP") {
    const others = splitList(tokens.slice(next)).map(
      (item) => readPath(item, 0)[0],
    );
    return others.map((other) => `DROP ${kind} ${other}`);
  }
  if (verb === "CREATE")
    return [
      `CREATE ${kind} ${name}`,
      ...(kind === "TABLE" && words[end] === "("
        ? splitList(tokens.slice(end + 1, -1))
            .filter((item) => !isConstraint(item))
            .map((item) => `ADD COLUMN ${name}.${fold(item[0])}`)
        : []),
    ];
  if (kind !== "TABLE") return [];
  return splitList(tokens.slice(end)).flatMap((item) => {
    const [action = "", ...rest] = readWords(item, item.length);
    let column = rest[0] === "COLUMN" ? 2 : 1;
    while (/^(IF|NOT|EXISTS)$/.test(rest[column - 1] ?? "")) column += 1;
    if (action !== "ADD" && action !== "DROP") return [];
    if (isConstraint(item.slice(1))) return [];
    return [`${action} COLUMN ${name}.${fold(item[column])}`];
  });
}

function isConstraint([first]: Token[]): boolean {
  return /^(CONSTRAINT|PRIMARY|UNIQUE|CHECK|FOREIGN|EXCLUDE|LIKE)$/i.test(
    first?.text ?? "",
  );
}

/** Returns the name, without `public`, and where it ends. */
function readPath(tokens: Token[], at: number): [name: string, end: number] {
  const isQualified = tokens[at + 1]?.text === ".";
  const last = isQualified ? at + 2 : at;
  const schema = isQualified ? fold(tokens[at]) : "public";
  const name = fold(tokens[last]);
  return [schema === "public" ? name : `${schema}.${name}`, last + 1];
}

/** Splits a list at the commas outside of parentheses. */
function splitList(tokens: Token[]): Token[][] {
  const items: Token[][] = [[]];
  let depth = 0;
  for (const token of tokens) {
    if (token.text === "(") depth += 1;
    if (token.text === ")") depth -= 1;
    if (token.text === "," && depth === 0) items.push([]);
    else items.at(-1)?.push(token);
  }
  return items.filter((item) => item.length > 0);
}

function fold(token: Token | undefined): string {
  const text = token?.text ?? "";
  return text.startsWith('"')
    ? text.slice(1, -1).replaceAll('""', '"')
    : text.toLowerCase();
}
