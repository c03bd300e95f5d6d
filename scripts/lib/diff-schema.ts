// What would bring a database to schema.ts? drizzle-kit's pushSchema knows most
// of it, once some of its bugs are out of the way (seen in drizzle-kit 0.31.11).
// What it does not see, the catalogs tell: the database's, and that of a scratch
// database which is made from schema.ts.
import { join } from "node:path";
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { root } from "../../src/env";
import { toScript } from "./apply-migrations";
import {
  type Catalog,
  compareCatalogs,
  describeDifference,
  type Difference,
  readCatalog,
  respell,
} from "./catalog";
import { countLosses } from "./count-losses";
import { diffSnapshots } from "./diff-snapshots";
import { askWith, loadDrizzleKit } from "./load-drizzle-kit";
import { refusal } from "./report";
import { withScratchDatabase } from "./scratch-database";
import { describeSchema, emptySnapshot, schemaFile } from "./snapshots";

/** The way from a database to schema.ts. */
export interface SchemaDifference {
  /** SQL, in the order in which it has to run. */
  statements: string[];
  /** What would be lost, counted from the data; empty where nothing would be. */
  losses: string[];
  /** What stays different. */
  left: string[];
}

const LOCK_TIMEOUT_MS = 5000;

/** What schema.ts can describe; functions, triggers and grants are not of it. */
const KINDS =
  /^(schema|table|row security|column|default|constraint|index|sequence|view|materialized view|type|policy) /;

/**
 * Compares the database with schema.ts. On a terminal drizzle-kit asks whether
 * something that is gone and something that is new are the same, renamed.
 *
 * @param scratchAddress the server for the scratch database.
 * @throws with exit code 2 where it would ask and there is no terminal; for a
 * statement that fails, which was tried and rolled back.
 */
export async function diffSchema(
  sql: Sql,
  scratchAddress: DatabaseAddress,
): Promise<SchemaDifference> {
  return await withScratchDatabase(
    scratchAddress,
    "db:push",
    async (scratch) => {
      await makeSchema(sql, scratch);
      return await compareWith(sql, scratch);
    },
  );
}

async function compareWith(sql: Sql, scratch: Sql): Promise<SchemaDifference> {
  const expected = await readCatalog(scratch);
  const compare = async () => {
    const found = await readCatalog(sql);
    const differences = compareCatalogs(expected, found).filter(({ object }) =>
      KINDS.test(object),
    );
    return await respell(scratch, differences, found);
  };
  const differences = await compare();
  if (differences.length === 0) return { statements: [], losses: [], left: [] };
  const statements = (await listPushed(sql)).filter((statement) =>
    isReal(statement, differences, expected),
  );
  const unseen = await inTrial(sql, statements, compare);
  statements.push(...unseen.flatMap((left) => mend(left, expected)));
  const left = await inTrial(sql, statements, compare);
  const script = toScript(
    { tag: "db:push", file: schemaFile, text: statements.join("\n"), hash: "" },
    "up",
  );
  return {
    statements,
    losses: await countLosses(sql, [script], LOCK_TIMEOUT_MS),
    left: left.map(describeDifference),
  };
}

/** Makes what schema.ts describes, with the extensions that it may use. */
async function makeSchema(sql: Sql, scratch: Sql): Promise<void> {
  const extensions = await sql.unsafe<{ name: string }[]>(
    "select quote_ident(extname) as name from pg_extension",
  );
  for (const { name } of extensions)
    await scratch.unsafe(`create extension if not exists ${name}`);
  const after = await describeSchema("");
  for (const statement of await diffSnapshots(emptySnapshot, after))
    await scratch.unsafe(statement);
}

/** What pushSchema would run. */
async function listPushed(sql: Sql): Promise<string[]> {
  const { pushSchema } = await loadDrizzleKit();
  const schema = await import(join(root, schemaFile));
  const { schemas } = await describeSchema("");
  const execute = async (query: string, parameters: string[] = []) => ({
    rows: await sql.unsafe(orderColumns(query), parameters),
  });
  const unhush = hushSpinner();
  try {
    const { statementsToExecute } = await askWith(() =>
      pushSchema(
        schema,
        { execute } as unknown as Parameters<typeof pushSchema>[1],
        ["public", ...Object.values(schemas)],
      ),
    );
    // Before it adds a column that may not be null, it would empty the table.
    return statementsToExecute.filter(
      (statement) => !/^\s*truncate\b/i.test(statement),
    );
  } catch (error) {
    if (!(error as Error).message.includes("TTY")) throw error;
    throw refusal("drizzle-kit has to ask whether something was renamed", {
      hint: "run `bun run db:push` on a terminal, or push the removal and the addition one after the other",
    });
  } finally {
    unhush();
  }
}

/** It shows an index or constraint of several columns as new for ever. */
function isReal(
  statement: string,
  differences: Difference[],
  expected: Catalog,
): boolean {
  const [, indexSchema = "public", index] =
    /^(?:DROP|CREATE(?: UNIQUE)?) INDEX (?:CONCURRENTLY )?(?:IF (?:NOT )?EXISTS )?(?:"([^"]+)"\.)?"([^"]+)"/.exec(
      statement,
    ) ?? [];
  const [, schema = "public", table, constraint] =
    /^ALTER TABLE (?:"([^"]+)"\.)?"([^"]+)" (?:ADD|DROP) CONSTRAINT "([^"]+)"/.exec(
      statement,
    ) ?? [];
  const object = index
    ? `index ${indexSchema}.${index}`
    : `constraint ${constraint} on ${schema}.${table}`;
  const isNamed = (name: string) => name.replaceAll('"', "") === object;
  return (
    ![...expected.keys()].some(isNamed) ||
    differences.some((difference) => isNamed(difference.object))
  );
}

/** What it does not look at: checks, views, conditions of indexes. */
function mend({ object, found }: Difference, expected: Catalog): string[] {
  const entry = expected.get(object);
  if (!entry?.drop) return [];
  const drop = entry.drop.replace(/ CASCADE$/, "");
  return found === undefined
    ? [`${entry.sql};`]
    : [`${drop};`, `${entry.sql};`];
}

/** Looks at the database as it would be, and rolls back. */
async function inTrial<T>(
  sql: Sql,
  statements: string[],
  look: () => Promise<T>,
): Promise<T> {
  await sql.unsafe(`begin; set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
  try {
    for (const statement of statements)
      await sql.unsafe(statement).catch((error: Error) => {
        throw Object.assign(error, {
          lines: [`  ${statement}`, "Nothing was changed"],
        });
      });
    return await look();
  } finally {
    await sql.unsafe("rollback");
  }
}

/** It reads the columns of a constraint in the order of the table's. */
function orderColumns(query: string): string {
  if (!query.includes("constraint_column_usage")) return query;
  return query.replace(
    /;\s*$/,
    ` order by (
      select ordinal_position from information_schema.key_column_usage as key
      where key.constraint_schema = tc.constraint_schema
        and key.constraint_name = tc.constraint_name
        and key.table_name = tc.table_name
        and key.column_name = c.column_name)`,
  );
}

/** Its spinner goes to stdout, which without a terminal is for results. */
function hushSpinner(): () => void {
  if (process.stdout.isTTY) return () => {};
  const write = process.stdout.write;
  process.stdout.write = () => true;
  return () => {
    process.stdout.write = write;
  };
}
