// Decides whether a statement outside a transaction still has to run. An earlier
// run may have been interrupted in it, before or after it took effect; where the
// database can show which, it is asked.
import type { Sql } from "postgres";
import { quoteIdentifier, quoteLiteral } from "../lib/quote";
import { failure } from "../lib/report";
import { hidePasswords } from "./failure";
import { readWords, type Statement, type Token } from "./statements";

/** What is known of a statement that an earlier run started. */
export interface Resumed {
  /** True when the server reported that it failed; false when its end is unknown. */
  hasFailed: boolean;
  /** True when its file was edited since. */
  isEdited: boolean;
}

/** An index in the database. */
interface FoundIndex {
  name: string;
  /** True when it has the requested name. */
  isNamed: boolean;
  isValid: boolean;
  /** Its SQL from USING on, after UNIQUE if it is unique. */
  definition: string;
}

/**
 * Returns whether a statement still has to run. It drops an invalid index that
 * the statement would build.
 *
 * @param resumed given when an earlier run has started the statement.
 * @throws when it was started and it is unknown whether it finished.
 */
export async function checkWhetherDone(
  sql: Sql,
  statement: Statement,
  resumed: Resumed | undefined,
): Promise<"run" | "done"> {
  const words = readWords(statement.tokens, 24);
  const starts = (pattern: RegExp) => pattern.test(words.join(" "));
  if (starts(/^CREATE (UNIQUE )?INDEX CONCURRENTLY/))
    return await checkIndex(sql, statement, resumed);
  if (!resumed || statement.isResumable) return "run";
  if (starts(/^DROP INDEX CONCURRENTLY/)) {
    if (resumed.hasFailed) return "run";
    const name = quoteLiteral(readName(statement.tokens, "CONCURRENTLY"));
    const [row] = await sql.unsafe(`select where to_regclass(${name}) is null`);
    return row ? "done" : "run";
  }
  if (words[0] === "REINDEX") {
    await dropLeftovers(sql);
    return "run";
  }
  if (words.includes("DETACH"))
    return await finishDetach(sql, statement, resumed);
  if (starts(/^(CREATE|DROP) (DATABASE|TABLESPACE)/)) {
    if (resumed.hasFailed) return "run";
    const isCreate = words[0] === "CREATE";
    const name = readName(statement.tokens, words[1] ?? "");
    const catalog =
      words[1] === "DATABASE"
        ? "pg_database where datname"
        : "pg_tablespace where spcname";
    const [row] = await sql.unsafe(
      `select from ${catalog} = (parse_ident(${quoteLiteral(name)}))[1]`,
    );
    return (row !== undefined) === isCreate ? "done" : "run";
  }
  const isRepeatable = starts(/^(VACUUM|ALTER SYSTEM)/);
  const mayHaveCommitted = statement.mayCommit && !resumed.isEdited;
  if (isRepeatable || (resumed.hasFailed && !mayHaveCommitted)) return "run";
  throw resumed.hasFailed
    ? failure(
        `${quoteBeginning(statement)} failed in an earlier run, after it had committed part of its work`,
        {
          code: "PARTIAL",
          hint: "check what it has changed, edit the file so that it can run again, and run `bun run db:migrate`",
        },
      )
    : explainUnknown(statement);
}

function explainUnknown(statement: Statement): Error {
  return failure(
    `an earlier run was interrupted in ${quoteBeginning(statement)}, and it is unknown whether it finished`,
    {
      code: "PARTIAL",
      hint: "check what it has changed. If it can run again, write `-- resumable` on the line above it, and run the command again; if it finished, remove it from the file; if not, undo its parts and clear the run with `bun run db:migrate:repair`",
    },
  );
}

function quoteBeginning({ text }: Statement): string {
  const line = hidePasswords(text).replace(/\s+/g, " ");
  return `\`${line.length > 60 ? `${line.slice(0, 60)}…` : line}\``;
}

/** Looks for the index of the statement. A valid one means that it is done; an
 * invalid one is dropped, unless it is still being built. */
async function checkIndex(
  sql: Sql,
  statement: Statement,
  resumed: Resumed | undefined,
): Promise<"run" | "done"> {
  const { name, table } = readIndex(statement);
  const there = await readIndexes(sql, table, name);
  let found = there.find(({ isNamed }) => isNamed);
  // The definition is needed only when the name does not decide it.
  const isTold =
    name === undefined ? there.length === 0 : !found || !found.isValid;
  if (resumed && !isTold) {
    const definition = await readDefinition(sql, statement, table);
    if (definition === undefined && !resumed.hasFailed)
      throw explainUnknown(statement);
    const same = there.filter((index) => index.definition === definition);
    found = name === undefined ? same[0] : same.find(({ isNamed }) => isNamed);
  }
  if (found?.isValid) return resumed && !resumed.hasFailed ? "done" : "run";
  if (found && !(await isBeingBuilt(sql, table, found.name)))
    await sql.unsafe(
      `drop index concurrently if exists ${await qualify(sql, table, found.name)}`,
    );
  return "run";
}

function readIndex({ tokens }: Statement) {
  const on = tokens.findIndex(({ text }) => text.toUpperCase() === "ON");
  const before = tokens[on - 1];
  const hasName = before && before.text.toUpperCase() !== "CONCURRENTLY";
  const isOnly = tokens[on + 1]?.text.toUpperCase() === "ONLY";
  const table = readQualified(tokens, on + (isOnly ? 2 : 1));
  return { name: hasName ? before.text : undefined, table };
}

/** Returns a name with its dots, as it is written. */
function readQualified(tokens: Token[], from: number): string {
  let text = tokens[from]?.text ?? "";
  for (let at = from + 1; tokens[at]?.text === "."; at += 2)
    text += `.${tokens[at + 1]?.text ?? ""}`;
  return text;
}

/** Returns the name after a word, or after IF EXISTS or ONLY when that follows the word. */
export function readName(tokens: Token[], after: string): string {
  let at = tokens.findIndex(({ text }) => text.toUpperCase() === after) + 1;
  while (/^(IF|EXISTS|ONLY)$/i.test(tokens[at]?.text ?? "")) at += 1;
  return readQualified(tokens, at);
}

/** Reads the indexes of a table, invalid ones first. The server compares the name,
 * because it folds and cuts names. */
async function readIndexes(
  sql: Sql,
  table: string,
  name?: string,
): Promise<FoundIndex[]> {
  const named = name === undefined ? "null" : quoteLiteral(name);
  return await sql.unsafe<FoundIndex[]>(`
    select class.relname as name, indisvalid as "isValid",
      coalesce(class.relname = (parse_ident(${named}))[1]::name, false) as "isNamed",
      regexp_replace(pg_get_indexdef(indexrelid), '^CREATE (UNIQUE )?INDEX .*? USING ', '\\1USING ') as definition
    from pg_index join pg_class as class on class.oid = indexrelid
    where indrelid = to_regclass(${quoteLiteral(table)})
    order by indisvalid`);
}

/** Returns the definition that the server would give the index, tried on an empty
 * temporary table of that name; undefined when that cannot be tried. */
async function readDefinition(
  sql: Sql,
  { text, tokens, offset }: Statement,
  table: string,
): Promise<string | undefined> {
  const last = table.match(/("(?:[^"]|"")*"|[^.]+)$/)?.[0] ?? "";
  let tried = "";
  let at = 0;
  const cut = (token: Token) => {
    tried += text.slice(at, token.offset - offset);
    at = token.offset - offset + token.text.length;
  };
  const on = tokens.findIndex((token) => token.text.toUpperCase() === "ON");
  for (const token of tokens.slice(0, on))
    if (/^(CONCURRENTLY|IF|NOT|EXISTS)$/i.test(token.text)) cut(token);
  const isOnly = tokens[on + 1]?.text.toUpperCase() === "ONLY";
  let name = on + (isOnly ? 2 : 1);
  for (; tokens[name + 1]?.text === "."; name += 2)
    for (const token of tokens.slice(name, name + 2)) cut(token);
  tried += text.slice(at);

  try {
    await sql.unsafe(
      `begin; create temporary table ${last} (like ${table}) on commit drop`,
    );
    await sql.unsafe(tried);
    const [index] = await readIndexes(sql, `pg_temp.${last}`);
    return index?.definition;
  } catch {
    return undefined; // for example without the right to create temporary tables
  } finally {
    await sql.unsafe("rollback");
  }
}

async function isBeingBuilt(
  sql: Sql,
  table: string,
  name: string,
): Promise<boolean> {
  const rows = await sql.unsafe(`
    select from pg_stat_progress_create_index
    where index_relid = ${quoteLiteral(await qualify(sql, table, name))}::regclass
      and datname = current_database()`);
  return rows.length > 0;
}

/** Returns the qualified name of an index, which is in the schema of its table. */
async function qualify(
  sql: Sql,
  table: string,
  index: string,
): Promise<string> {
  const [row] = await sql.unsafe<{ name: string }[]>(`
    select quote_ident(nspname) as name
    from pg_class join pg_namespace on pg_namespace.oid = relnamespace
    where pg_class.oid = to_regclass(${quoteLiteral(table)})`);
  return `${row?.name}.${quoteIdentifier(index)}`;
}

/** Drops the invalid indexes that an interrupted REINDEX CONCURRENTLY leaves. */
async function dropLeftovers(sql: Sql): Promise<void> {
  const rows = await sql.unsafe<{ name: string }[]>(`
    select indexrelid::regclass::text as name
    from pg_index join pg_class on pg_class.oid = indexrelid
    where not indisvalid and relname ~ '_cc(new|old)[0-9]*$' and not exists (
      select from pg_stat_progress_create_index
      where index_relid = indexrelid and datname = current_database())`);
  for (const { name } of rows)
    await sql.unsafe(`drop index concurrently if exists ${name}`);
}

async function finishDetach(
  sql: Sql,
  statement: Statement,
  { hasFailed }: Resumed,
): Promise<"run" | "done"> {
  const parent = readName(statement.tokens, "TABLE");
  const partition = readName(statement.tokens, "PARTITION");
  const [row] = await sql.unsafe<{ pending: boolean }[]>(`
    select inhdetachpending as pending from pg_inherits
    where inhrelid = to_regclass(${quoteLiteral(partition)})
      and inhparent = to_regclass(${quoteLiteral(parent)})`);
  if (!row?.pending) return row || hasFailed ? "run" : "done";
  await sql.unsafe(
    `alter table ${parent} detach partition ${partition} finalize`,
  );
  return "done";
}
