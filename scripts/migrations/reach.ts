// Decides how far a statement reaches. Most change only their own database. Some
// change the whole server, and some reach outside it: a check never runs these.
// Only the words of a statement are looked at, so a doubtful one counts as far.
import type { Migration } from "./journal";
import { readWords, splitStatements, type Statement } from "./statements";

/** `server`: roles, databases and the like. `outside`: files, other servers, programs. */
export type Reach = "database" | "server" | "outside";

/** A statement, and how far it reaches. */
export interface Reaching {
  statement: Statement;
  reach: Reach;
  /** True when the schema is the same without it. */
  isNoSchema: boolean;
}

/** SQL that changes the server, at the start of a statement or in code. */
const SERVER = [
  "(CREATE|ALTER|DROP) ?(%(\\d\\$)?[SI]\\b|'? ?\\|\\|)", // its kind is not in the text
  "(CREATE|ALTER|DROP) (ROLE|USER(?! MAPPING)|GROUP|TABLESPACE|DATABASE)\\b",
  "(?<!WITH )(GRANT|REVOKE)\\b(?![^;']*? ON )[^;]*? (TO|FROM)\\b", // a role to a role
  "(GRANT|REVOKE)\\b[^;]*? ON (DATABASE|TABLESPACE|PARAMETER)\\b",
  "(REASSIGN|DROP) OWNED\\b",
  "ALTER SYSTEM\\b",
  "PREPARE TRANSACTION\\b",
  "(COMMENT|SECURITY LABEL)\\b[^;]*? ON (ROLE|DATABASE|TABLESPACE)\\b",
  "(INSERT INTO|UPDATE|DELETE FROM) (PG_CATALOG ?\\. ?)?PG_(AUTHID|AUTH_MEMBERS|DATABASE|TABLESPACE|DB_ROLE_SETTING|SHDESCRIPTION|SHSECLABEL|SHDEPEND|PARAMETER_ACL|REPLICATION_ORIGIN|SUBSCRIPTION)\\b",
  'CREATE EXTENSION (IF NOT EXISTS )?"?PG_CRON\\b',
].join("|");
const SERVER_FUNCTION =
  /\b(PG_(TERMINATE|CANCEL)_BACKEND|PG_RELOAD_CONF|PG_ROTATE_LOGFILE|PG_PROMOTE|PG_SWITCH_WAL|PG_CREATE_RESTORE_POINT|PG_BACKUP_(START|STOP)|PG_WAL_REPLAY_\w+|PG_REPLICATION_ORIGIN_\w+|PG_STAT_RESET\w*|PG_STAT_STATEMENTS_RESET|PG_LOG_BACKEND_MEMORY_CONTEXTS) ?\(/;

/** SQL that reaches outside the server. */
const OUTSIDE = [
  "(CREATE|ALTER|DROP) SUBSCRIPTION\\b",
  "IMPORT FOREIGN SCHEMA\\b",
  "COPY\\b[^;]*? (FROM|TO) ?(PROGRAM\\b|E?'|%|\\|\\|)",
].join("|");
const OUTSIDE_FUNCTION =
  /\b(DBLINK\w*|PG_(CREATE|DROP|COPY|SYNC)_\w*SLOTS?|PG_(LOGICAL(?!_EMIT_MESSAGE)|REPLICATION(?!_ORIGIN))_\w*|LO_(IMPORT|EXPORT)|PG_READ_\w*FILE|PG_FILE_\w+|PG_LS_\w*DIR|PG_STAT_FILE|HTTP(_GET|_POST|_PUT|_DELETE|_PATCH|_HEAD)?|AWS_\w+) ?\(|\b(CRON|NET|DBLINK|AWS_S3|AWS_LAMBDA) ?\. ?\w+ ?\(|\bCRON ?\. ?JOB\b/;
/** Languages in which code may do anything. */
const UNTRUSTED = /\bLANGUAGE\s+'?(PL(PERL|PYTHON\d?|TCL)U|PLSH)\b/;

const STARTS = {
  server: new RegExp(`^(${SERVER})`),
  outside: new RegExp(`^(${OUTSIDE})`),
};
const BODIES = {
  server: new RegExp(`\\b(${SERVER})`, "g"),
  outside: new RegExp(`\\b(${OUTSIDE})`, "g"),
};
const CODE = /^(DO|CREATE( OR REPLACE)? (FUNCTION|PROCEDURE))\b/;
const CHANGES = /\b(CREATE|ALTER|DROP|GRANT|REVOKE|COMMENT)\b/;
const WRITES = /\b(INSERT|UPDATE|DELETE|TRUNCATE|MERGE|COPY)\b/;
/** Statements that define something; what they contain does not run yet. */
const DEFINES =
  /^CREATE( OR REPLACE)?( CONSTRAINT| FOREIGN| UNLOGGED| RECURSIVE)? (FUNCTION|PROCEDURE|TRIGGER|RULE|VIEW|POLICY|TABLE (?!.* AS (SELECT|WITH|TABLE|VALUES|EXECUTE)\b))/;
/** A quick test that matches every text that may have such a statement. */
const SUSPECT =
  /execute|role|user|group|tablespace|database|grant|revoke|owned|system|prepare|comment|label|pg_|subscription|foreign|copy|dblink|lo_|http|aws_|cron|net|language/i;

/**
 * Returns a function that decides for the statements of one file after the other
 * how far they reach. It remembers the names of what they define and later ones
 * use: functions, triggers, foreign tables that are written to.
 *
 * @param foreign names of foreign tables that already exist.
 */
export function followReach(foreign: string[] = []) {
  /** How far a name reaches when it is used, and when it is written to. */
  const used = new Map<string, Reach>();
  const written = new Map<string, Reach>(
    foreign.map((name) => [name.toUpperCase(), "outside"]),
  );
  return (statements: Statement[], text: string): Reaching[] => {
    const isSuspect = SUSPECT.test(text) || used.size + written.size > 0;
    return statements.map((statement) =>
      isSuspect
        ? look(statement)
        : { statement, reach: "database", isNoSchema: false },
    );
  };

  function look(statement: Statement): Reaching {
    const words = readWords(statement.tokens, statement.tokens.length).map(
      (word) => (/^E?'/.test(word) ? "''" : word),
    );
    const plain = words.join(" ");
    const isCode = CODE.test(plain);
    const code = isCode ? normalize(statement.text) : plain.replaceAll('"', "");
    const isWrite = WRITES.test(code);
    const reach = farthest([
      findDirect(isCode, isCode ? code : plain, code),
      ...findUsed(code, used),
      ...(isWrite ? findUsed(code, written) : []),
    ]);
    const isDefinition = DEFINES.test(plain);
    if (isDefinition) follow(words, plain, code, reach);
    if (reach === "database" || isDefinition)
      return { statement, reach: "database", isNoSchema: false };
    const isNoSchema =
      findUsed(code, used).length === 0 && !changesMore(plain, isCode, code);
    return { statement, reach, isNoSchema };
  }

  function follow(
    words: string[],
    plain: string,
    code: string,
    reach: Reach,
  ): void {
    const { kind, name, table } = readDefined(words);
    const add = (to: Map<string, Reach>, of: string, far: Reach) => {
      if (of && far !== "database")
        to.set(of, farthest([far, to.get(of) ?? "database"]));
    };
    if (/^CREATE FOREIGN/.test(plain)) {
      add(written, name, "outside");
      add(written, table, "outside"); // of which it is a partition
    } else if (["FUNCTION", "PROCEDURE"].includes(kind)) add(used, name, reach);
    else if (kind === "VIEW") {
      add(used, name, reach);
      add(written, name, farthest(findUsed(code, written)));
    } else add(written, table || name, reach);
  }
}

/** Decides for the statements of migrations, in their order, how far they reach. */
export function readReaches(
  migrations: Migration[],
): Map<Migration, Reaching[]> {
  const follow = followReach();
  return new Map(
    migrations.map((migration) => [
      migration,
      follow(splitStatements(migration.text), migration.text),
    ]),
  );
}

/** Returns how far the code of a function reaches when it is called. */
export function findCodeReach(text: string): Reach {
  const code = normalize(text);
  return findDirect(true, code, code);
}

/** True when a statement also changes the schema, beside what reaches far. */
function changesMore(plain: string, isCode: boolean, code: string): boolean {
  if (!isCode)
    return /^(CALL|IMPORT|CREATE (TABLE|MATERIALIZED))\b/.test(plain);
  const rest = code.replaceAll(BODIES.server, "");
  const isImport = /\bIMPORT FOREIGN\b/.test(code);
  return isImport || CHANGES.test(rest.replaceAll(BODIES.outside, ""));
}

function findDirect(isCode: boolean, text: string, bare: string): Reach {
  const { outside, server } = isCode ? BODIES : STARTS;
  const has = (pattern: RegExp) => text.search(pattern) !== -1;
  if (has(outside) || OUTSIDE_FUNCTION.test(bare)) return "outside";
  if (isCode && UNTRUSTED.test(text)) return "outside";
  return has(server) || SERVER_FUNCTION.test(bare) ? "server" : "database";
}

function farthest(all: Reach[]): Reach {
  const order = ["outside", "server"] as const;
  return order.find((reach) => all.includes(reach)) ?? "database";
}

function findUsed(code: string, names: Map<string, Reach>): Reach[] {
  return [...names]
    .filter(([name]) => hasWord(code, name))
    .map(([, reach]) => reach);
}

function hasWord(code: string, name: string): boolean {
  const isPart = (character = " ") => /[\w$]/.test(character);
  for (let at = code.indexOf(name); at !== -1; at = code.indexOf(name, at + 1))
    if (!isPart(code[at - 1]) && !isPart(code[at + name.length])) return true;
  return false;
}

/** Returns the kind and name of what a CREATE defines, and the table it belongs to;
 * names are without schemas. */
function readDefined(words: string[]) {
  const at = words.findIndex((word) =>
    /^(TABLE|VIEW|FUNCTION|PROCEDURE|TRIGGER|RULE|POLICY)$/.test(word),
  );
  const kind = words[at] ?? "";
  const from = words[at + 1] === "IF" ? at + 4 : at + 1;
  const before = { TRIGGER: "ON", POLICY: "ON", RULE: "TO", TABLE: "OF" }[kind];
  const place = before ? words.indexOf(before, from) : -1;
  return {
    kind,
    name: readName(words, from),
    table: place === -1 ? "" : readName(words, place + 1),
  };
}

function readName(words: string[], at: number): string {
  const name = words[at + 1] === "." ? words[at + 2] : words[at];
  return (name ?? "").replace(/^"|"$/g, "");
}

/** Returns code in capitals, without comments and the quotes of names. */
function normalize(text: string): string {
  return text
    .replace(/\/\*[^]*?\*\//g, " ")
    .replace(/--[^\n]*/g, " ")
    .replace(/\s+/g, " ")
    .replace(/' ?\|\| ?'/g, "")
    .replaceAll('"', "")
    .toUpperCase();
}
