// Splits SQL text into statements, as psql does: at semicolons outside strings,
// names, comments, parentheses and SQL-standard function bodies; also at drizzle's
// separator. Whether a statement is valid is left to the server.
// https://github.com/postgres/postgres/blob/master/src/fe_utils/psqlscan.l
import { createHash, type Hash } from "node:crypto";

/**
 * What a statement means for the transaction around it. PostgreSQL runs an `alone`
 * statement only outside a transaction.
 */
export type Kind =
  "plain" | "alone" | "begin" | "commit" | "rollback" | "discard";

/** One statement of a file, without the comments around it, and its properties. */
export interface Statement {
  text: string;
  /** Where it begins in the file, in UTF-16 units. */
  offset: number;
  /** Computed at each access, because a large file has millions of them. */
  readonly tokens: Token[];
  kind: Kind;
  /** True when it changes the session for the statements after it. */
  isSetting: boolean;
  /** True for a procedure or block: outside of a transaction it may commit. */
  mayCommit: boolean;
  /** True below a line `-- resumable`: it runs alone, and again when it was interrupted. */
  isResumable: boolean;
  /** True when it builds, rebuilds, drops or detaches CONCURRENTLY. */
  isConcurrent: boolean;
  /** Where its first command of psql begins, or a COPY from or to the client. */
  clientOffset: number | undefined;
}

/** A word, name, string or sign; comments and blanks are not tokens. */
export interface Token {
  text: string;
  /** Where it begins in the file, in UTF-16 units. */
  offset: number;
}

/** The separator that drizzle writes between statements, a comment in SQL. */
const SEPARATOR = "--> statement-breakpoint";

const COMMENT = /--[^\r\n]*/y;
const QUOTED = /'[^']*(?:''[^']*)*'?/y;
const NAME = /"[^"]*(?:""[^"]*)*"?/y;
const ESCAPED = /[eE]'[^'\\]*(?:(?:\\[^]|'')[^'\\]*)*'?/y;
const DOLLAR = /\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$/y;
const WORD = /[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*|\d[\w.]*/y;
const BLANK = /[ \t\n\r\f\v]+/y;
const BLOCK = ["BEGIN", "CASE", "END"];
/** A line above a statement; only other comments may stand between them. */
const RESUMABLE =
  /(?:^|\n)[ \t]*--[ \t]*resumable[ \t]*\r?\n(?:[ \t]*--(?!>)[^\n]*\n)*[ \t]*$/;

/** How many words classify a statement, and how many characters of each. */
const WORDS = 24;
const WORD_LENGTH = 64;
/** How many tokens are hashed at once. */
const AT_ONCE = 4096;

/** Statements that PostgreSQL runs only outside a transaction; there are more. */
const ALONE =
  /^(VACUUM|ALTER SYSTEM|(CREATE|DROP) (DATABASE|TABLESPACE)|(CREATE|DROP)( UNIQUE)? INDEX CONCURRENTLY|REINDEX( \(.*\bCONCURRENTLY\b.*\)| (INDEX|TABLE|SCHEMA) CONCURRENTLY| (DATABASE|SYSTEM|SCHEMA)\b)|ALTER TABLE .* DETACH PARTITION .* CONCURRENTLY)( |$)/;

/** Splits a file into statements; skips a byte-order mark at its start. */
export function splitStatements(text: string): Statement[] {
  const statements: Statement[] = [];
  let words: string[] = [];
  let start = 0;
  let end = 0;
  let before = 0; // where the last statement ended
  let backslash: number | undefined;
  let parentheses = 0;
  let blocks = 0; // BEGIN ATOMIC … END, which contains semicolons
  const finish = () => {
    if (words.length > 0)
      statements.push(
        describeStatement(
          text.slice(start, end),
          start,
          words,
          backslash,
          RESUMABLE.test(text.slice(before, start)),
        ),
      );
    before = end;
    words = [];
    backslash = undefined;
    parentheses = 0;
    blocks = 0;
  };

  let at = text.startsWith("\uFEFF") ? 1 : 0;
  while (at < text.length) {
    const begin = endOfBlank(text, at, finish);
    if (begin >= text.length) break;
    at = endOfToken(text, begin);
    const sign = text[begin];
    if (sign === ";" && parentheses === 0 && blocks === 0) {
      finish();
      continue;
    }
    if (words.length === 0) start = begin;
    if (words.length < WORDS)
      words.push(
        text.slice(begin, Math.min(at, begin + WORD_LENGTH)).toUpperCase(),
      );
    end = at;
    if (sign === "(") parentheses += 1;
    else if (sign === ")") parentheses = Math.max(0, parentheses - 1);
    else if (sign === "\\") backslash ??= begin;
    else if (parentheses === 0 && at - begin <= 5 && isRoutine(words)) {
      const word = text.slice(begin, at).toUpperCase();
      if (!BLOCK.includes(word)) continue;
      if (word === "BEGIN" || word === "CASE") blocks += 1;
      else if (word === "END" && blocks > 0) blocks -= 1;
    }
  }
  finish();
  return statements;
}

/** Returns the text after its first `count` statements. */
export function skipStatements(text: string, count: number): string {
  if (count === 0) return text;
  return text.slice(splitStatements(text)[count]?.offset ?? text.length);
}

/** True when the text mentions the name, with or without its schema. */
export function mentionsName(text: string, name: string): boolean {
  const tokens = splitStatements(name)[0]?.tokens ?? [];
  const bare = tokens.at(-1)?.text.replaceAll('"', "").toLowerCase();
  return splitStatements(text).some((statement) =>
    statement.tokens.some(
      (token) => token.text.replaceAll('"', "").toLowerCase() === bare,
    ),
  );
}

/** Returns the sha256 of statements without comments and blanks, in hex. */
export function hashStatements(statements: Statement[]): string {
  const hash = createHash("sha256");
  for (const { text } of statements) addTokens(hash, text);
  return hash.digest("hex");
}

/** Returns that hash of no statement, of the first, of the first two, and so on. */
export function hashBeginnings(statements: Statement[]): string[] {
  const hash = createHash("sha256");
  const hashes = [hash.copy().digest("hex")];
  for (const { text } of statements) {
    addTokens(hash, text);
    hashes.push(hash.copy().digest("hex"));
  }
  return hashes;
}

/** Returns the first tokens in capitals. */
export function readWords(tokens: Token[], count: number): string[] {
  return tokens.slice(0, count).map(({ text }) => text.toUpperCase());
}

/** The prototype of all statements: a file may have hundreds of thousands. */
const lazy = {
  get tokens(): Token[] {
    const { text, offset } = this as unknown as Statement;
    const tokens: Token[] = [];
    eachToken(text, (token, at) =>
      tokens.push({ text: token, offset: offset + at }),
    );
    return tokens;
  },
};

function describeStatement(
  text: string,
  offset: number,
  words: string[],
  backslash: number | undefined,
  isResumable: boolean,
): Statement {
  const [first = "", second = "", ...rest] = words;
  const isCall = first === "SELECT" && words.includes("SET_CONFIG");
  const isSet =
    first === "SET" && !/^(LOCAL|TRANSACTION|CONSTRAINTS)$/.test(second);
  return Object.assign(Object.create(lazy), {
    text,
    offset,
    kind: isResumable
      ? "alone"
      : classify(first, second, rest[0], words.join(" ")),
    isSetting: isSet || isCall || first === "RESET" || first === "DISCARD",
    mayCommit: first === "CALL" || first === "DO",
    isResumable,
    isConcurrent: words.includes("CONCURRENTLY"),
    clientOffset:
      backslash ??
      (first === "COPY" && copiesToClient(text) ? offset : undefined),
  } satisfies Omit<Statement, "tokens">);
}

function classify(
  first: string,
  second: string,
  third: string | undefined,
  words: string,
): Kind {
  if (first === "BEGIN" || (first === "START" && second === "TRANSACTION"))
    return "begin";
  if (first === "COMMIT" || first === "END")
    return second === "PREPARED" ? "alone" : "commit";
  if (first === "ABORT") return "rollback";
  if (first === "ROLLBACK") {
    if (second === "PREPARED") return "alone";
    const isToSavepoint = second === "TO" || third === "TO";
    return isToSavepoint ? "plain" : "rollback";
  }
  if (first === "DISCARD" && second === "ALL") return "discard";
  return ALONE.test(words) ? "alone" : "plain";
}

/** True for COPY … FROM STDIN and COPY … TO STDOUT. */
function copiesToClient(text: string): boolean {
  let before = "";
  let isFound = false;
  eachToken(text, (token) => {
    const word = token.length <= 6 ? token.toUpperCase() : "";
    isFound ||= /^(FROM STDIN|TO STDOUT)$/.test(`${before} ${word}`);
    before = word;
  });
  return isFound;
}

function isRoutine(words: string[]): boolean {
  const kind = words[1] === "OR" ? words[3] : words[1];
  return words[0] === "CREATE" && (kind === "FUNCTION" || kind === "PROCEDURE");
}

function addTokens(hash: Hash, text: string): void {
  let tokens: string[] = [];
  eachToken(text, (token) => {
    if (tokens.length === AT_ONCE) {
      hash.update(`${tokens.join(" ")} `);
      tokens = [];
    }
    tokens.push(token);
  });
  hash.update(`${tokens.join(" ")};`);
}

function eachToken(
  text: string,
  visit: (token: string, offset: number) => void,
): void {
  for (let at = 0; ;) {
    const begin = endOfBlank(text, at);
    if (begin >= text.length) return;
    at = endOfToken(text, begin);
    visit(text.slice(begin, at), begin);
  }
}

/** Returns where blanks and comments end; calls `onSeparator` for each separator. */
function endOfBlank(
  text: string,
  begin: number,
  onSeparator = () => {},
): number {
  for (let at = begin; ;) {
    at = endOf(BLANK, text, at);
    const end = endOfComment(text, at);
    if (end === at) return at;
    const separator = text.startsWith("--", at)
      ? text.slice(at, end).indexOf(SEPARATOR)
      : -1;
    if (separator !== -1) onSeparator();
    at = separator === -1 ? end : at + separator + SEPARATOR.length;
  }
}

/** Returns where a comment ends; `at` when there is no comment, or it has no end. */
function endOfComment(text: string, at: number): number {
  if (text.startsWith("--", at)) return endOf(COMMENT, text, at);
  if (!text.startsWith("/*", at)) return at;
  const fence = /\/\*|\*\//g; // they nest
  fence.lastIndex = at;
  let depth = 0;
  for (let found = fence.exec(text); found; found = fence.exec(text)) {
    depth += found[0] === "/*" ? 1 : -1;
    if (depth === 0) return fence.lastIndex;
  }
  return at;
}

function endOfToken(text: string, at: number): number {
  const sign = text[at];
  if (sign === "'") return endOf(QUOTED, text, at);
  if (sign === '"') return endOf(NAME, text, at);
  // The server refuses a comment without an end.
  if (sign === "/" && text[at + 1] === "*") return text.length;
  if (sign === "$") {
    const end = endOf(DOLLAR, text, at);
    if (end === at) return at + 1;
    const quote = text.slice(at, end);
    const close = text.indexOf(quote, end);
    return close === -1 ? text.length : close + quote.length;
  }
  const end = endOf(ESCAPED, text, at);
  return Math.max(end, endOf(WORD, text, at), at + 1);
}

function endOf(pattern: RegExp, text: string, at: number): number {
  pattern.lastIndex = at;
  return pattern.test(text) ? pattern.lastIndex : at;
}
