// Cuts SQL text into its statements, as psql does: at semicolons outside of
// strings, names, comments, parentheses and SQL-standard function bodies; and at
// drizzle's separator. What is between them is left to the server to judge.
// https://github.com/postgres/postgres/blob/master/src/fe_utils/psqlscan.l
import { createHash } from "node:crypto";

/** One statement of a file, without the comments around it. */
export interface Statement {
  text: string;
  /** Where it begins in the file, in UTF-16 units. */
  offset: number;
  tokens: Token[];
}

/** A word, name, string or sign; comments and blanks are none. */
export interface Token {
  text: string;
  /** Where it begins in the file, in UTF-16 units. */
  offset: number;
}

/** What drizzle puts between two statements. To PostgreSQL it is a comment. */
const SEPARATOR = "--> statement-breakpoint";

const COMMENT = /--[^\r\n]*/y;
const QUOTED = {
  "'": /'[^']*(?:''[^']*)*'?/y,
  '"': /"[^"]*(?:""[^"]*)*"?/y,
};
const ESCAPED = /[eE]'[^'\\]*(?:(?:\\[^]|'')[^'\\]*)*'?/y;
const DOLLAR = /\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$/y;
const WORD = /[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*|\d[\w.]*/y;
const BLOCK = /^(begin|case|end)$/i;
const BLANK = /[ \t\n\r\f\v]+/y;

/** The statements of a file; a byte-order mark at its start is left out. */
export function splitStatements(text: string): Statement[] {
  const statements: Statement[] = [];
  let tokens: Token[] = [];
  let start = 0;
  let end = 0;
  let parentheses = 0;
  let blocks = 0; // BEGIN ATOMIC … END, with semicolons of its own
  const finish = () => {
    if (tokens.length > 0)
      statements.push({ text: text.slice(start, end), offset: start, tokens });
    tokens = [];
    parentheses = 0;
    blocks = 0;
  };

  let at = text.startsWith("\uFEFF") ? 1 : 0;
  while (at < text.length) {
    const blank = match(BLANK, text, at) ?? "";
    at += blank.length;
    if (at >= text.length) break;

    const comment = readComment(text, at);
    if (comment !== undefined) {
      const separator = comment.startsWith("--")
        ? comment.indexOf(SEPARATOR)
        : -1;
      if (separator === -1) at += comment.length;
      else {
        finish();
        at += separator + SEPARATOR.length;
      }
      continue;
    }
    const token = readToken(text, at);
    if (token === ";" && parentheses === 0 && blocks === 0) {
      finish();
      at += 1;
      continue;
    }
    if (tokens.length === 0) start = at;
    tokens.push({ text: token, offset: at });
    at += token.length;
    end = at;
    if (token === "(") parentheses += 1;
    else if (token === ")") parentheses = Math.max(0, parentheses - 1);
    else if (BLOCK.test(token) && parentheses === 0 && isRoutine(tokens)) {
      const word = token.toUpperCase();
      if (word === "BEGIN" || (word === "CASE" && blocks > 0)) blocks += 1;
      else if (word === "END" && blocks > 0) blocks -= 1;
    }
  }
  finish();
  return statements;
}

/** The text from after so many of its statements. */
export function skipStatements(text: string, count: number): string {
  if (count === 0) return text;
  return text.slice(splitStatements(text)[count]?.offset ?? text.length);
}

/** The sha256 of statements without comments and blanks, in hex. */
export function hashStatements(statements: Statement[]): string {
  const hash = createHash("sha256");
  for (const { tokens } of statements)
    hash.update(`${tokens.map(({ text }) => text).join(" ")};`);
  return hash.digest("hex");
}

/** The first tokens, in capitals. */
export function readWords(tokens: Token[], count: number): string[] {
  return tokens.slice(0, count).map(({ text }) => text.toUpperCase());
}

function readComment(text: string, at: number): string | undefined {
  if (text.startsWith("--", at)) return match(COMMENT, text, at);
  if (!text.startsWith("/*", at)) return undefined;
  const fence = /\/\*|\*\//g; // they nest
  fence.lastIndex = at;
  let depth = 0;
  for (let found = fence.exec(text); found; found = fence.exec(text)) {
    depth += found[0] === "/*" ? 1 : -1;
    if (depth === 0) return text.slice(at, fence.lastIndex);
  }
  return undefined;
}

function readToken(text: string, at: number): string {
  // A comment without its end is the server's to refuse.
  if (text.startsWith("/*", at)) return text.slice(at);
  const character = text[at] ?? "";
  if (character === "'" || character === '"')
    return match(QUOTED[character], text, at) ?? character;
  if (character === "$") {
    const quote = match(DOLLAR, text, at);
    if (quote === undefined) return character;
    const close = text.indexOf(quote, at + quote.length);
    return text.slice(at, close === -1 ? undefined : close + quote.length);
  }
  return match(ESCAPED, text, at) ?? match(WORD, text, at) ?? character;
}

function match(pattern: RegExp, text: string, at: number): string | undefined {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0];
}

function isRoutine(tokens: Token[]): boolean {
  const [create, ...words] = readWords(tokens, 4);
  const kind = words[0] === "OR" ? words[2] : words[0];
  return create === "CREATE" && (kind === "FUNCTION" || kind === "PROCEDURE");
}
