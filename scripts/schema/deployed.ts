// Finds what the deployed code can no longer do after a migration. Its schema.ts
// names the columns that it reads and writes; each is tried in a database.
import { existsSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { $ } from "bun";
import type { Sql } from "postgres";
import { root } from "../../src/env";
import { loadProject, loadSchema } from "../../src/project";
import { type Problem, problem } from "../lib/problem";
import { quoteIdentifier } from "../lib/quote";
import { note } from "../lib/report";
import type { Migration } from "../migrations/journal";
import { findDefaultBranch, git } from "./default-branch";
import { describeExports } from "./describe-schema";
import { printType } from "./drizzle-kit";
import { introspect } from "./introspect";
import type { Snapshot, SnapshotColumn, SnapshotTable } from "./snapshots";

/** The deployed code, by its git ref. */
export interface Deployed {
  ref: string;
  schema: Snapshot;
  /** True when the user named the ref: then a break is an error, not a warning. */
  isAsked: boolean;
}

/**
 * Reads the schema.ts of the deployed code, from its own tree in git.
 *
 * @param asked a git ref; without it the default branch, unless that is checked out.
 * @returns undefined when there is nothing to compare with; a note says why.
 */
export async function readDeployed(
  asked: string | undefined,
): Promise<Deployed | undefined> {
  const ref = asked ?? findDefaultBranch();
  const commit =
    ref && git("rev-parse", "--verify", "--quiet", `${ref}^{commit}`);
  if (!ref || !commit) {
    if (asked) note(`Not compared: git has no ${asked}`);
    return undefined;
  }
  const head = git("rev-parse", "--abbrev-ref", "HEAD");
  if (!asked && (head === ref || `origin/${head}` === ref)) return undefined;
  const tree = mkdtempSync(join(tmpdir(), "deployed-"));
  try {
    const top = git("rev-parse", "--show-toplevel") ?? root;
    const prefix = git("rev-parse", "--show-prefix") ?? "";
    await $`git -C ${top} archive ${commit} | tar -x -C ${tree}`.quiet();
    const folder = join(tree, prefix);
    for (const [from, to] of [
      [top, tree],
      [root, folder],
    ] as const) {
      const modules = join(from, "node_modules");
      if (existsSync(modules) && !existsSync(join(to, "node_modules")))
        symlinkSync(modules, join(to, "node_modules"));
    }
    const exported = await loadSchema(folder);
    const { casing } = loadProject(folder);
    const schema = await describeExports(exported, "", casing);
    return { ref, schema, isAsked: asked !== undefined };
  } catch (error) {
    note(
      `Not compared: the schema of ${ref} cannot be loaded: ${(error as Error).message.split("\n")[0]}`,
    );
    return undefined;
  } finally {
    rmSync(tree, { recursive: true, force: true });
  }
}

/** Something that the deployed code does and that fails. */
export interface Break {
  table: string;
  column: string | null;
  what: string;
  /** How to make the change in two deploys. */
  way: string;
}

/** Lists what the deployed code does and what fails in this database. */
export async function listBreaks(sql: Sql, schema: Snapshot): Promise<Break[]> {
  const tables = Object.values(schema.tables);
  const schemas = [...new Set(tables.map((table) => table.schema || "public"))];
  const found = await introspect(sql, ["public", ...schemas]);
  const breaks: Break[] = [];
  await sql.unsafe("begin");
  try {
    for (const [key, table] of Object.entries(schema.tables)) {
      const now = found.tables[key] ?? found.views[key];
      breaks.push(...(await tryTable(sql, key, table, now?.columns ?? {})));
    }
  } finally {
    await sql.unsafe("rollback");
  }
  return breaks;
}

async function tryTable(
  sql: Sql,
  key: string,
  table: SnapshotTable,
  now: Record<string, SnapshotColumn>,
): Promise<Break[]> {
  const name = `${quoteIdentifier(table.schema || "public")}.${quoteIdentifier(table.name)}`;
  const label = key.replace(/^public\./, "");
  const columns = Object.values(table.columns);
  const fails = async (statement: string) => {
    await sql.unsafe("savepoint attempt");
    try {
      await sql.unsafe(statement);
      return undefined;
    } catch (error) {
      return (error as { code?: string }).code ?? "";
    } finally {
      await sql.unsafe("rollback to savepoint attempt");
    }
  };
  const broken = (column: string | null, what: string, way: string): Break => ({
    table: label,
    column,
    what,
    way,
  });

  if (await fails(`select from ${name} limit 0`))
    return [
      broken(
        null,
        "is gone",
        "stop using it in one deploy, and drop it in the next",
      ),
    ];
  const breaks: Break[] = [];
  for (const column of columns) {
    const quoted = quoteIdentifier(column.name);
    const next = now[column.name];
    if (!next || (await fails(`select ${quoted} from ${name} limit 0`)))
      breaks.push(
        broken(
          column.name,
          "is gone",
          "add what takes its place, and drop it in the deploy after the one that stops using it",
        ),
      );
    else if (!isAlike(column, next))
      breaks.push(
        broken(
          column.name,
          `is ${printType(next)}, no longer ${printType(column)}`,
          "add a column of the new type, write to both, and drop this one in a later deploy",
        ),
      );
  }
  const there = columns.filter(({ name: column }) => column in now);
  // The columns that the code must write; others may be left to the database.
  const written = there.filter(
    ({ notNull, default: value, generated, identity, type }) =>
      notNull &&
      value === undefined &&
      !generated &&
      !identity &&
      !/serial$/.test(type),
  );
  const list = written.map((column) => quoteIdentifier(column.name)).join(", ");
  const values = written.map((column) => `${sampleOf(column, now)}`).join(", ");
  const refused = await fails(
    written.length > 0
      ? `insert into ${name} (${list}) values (${values})`
      : `insert into ${name} default values`,
  );
  if (refused === "23502" || refused === "428C9") {
    const required = Object.values(now).filter(
      ({ name: column, notNull, default: value, generated, identity, type }) =>
        notNull &&
        value === undefined &&
        !generated &&
        !identity &&
        !/serial$/.test(type) &&
        !written.some((one) => one.name === column),
    );
    for (const { name: column } of required)
      breaks.push(
        broken(
          column,
          "has to be written, and is not",
          "give it a default or leave it nullable, and require it in the deploy after the one that writes it",
        ),
      );
    for (const { name: column, generated } of Object.values(now))
      if (generated && written.some((one) => one.name === column))
        breaks.push(
          broken(
            column,
            "is computed, and cannot be written",
            "stop writing it in one deploy, and change it in the next",
          ),
        );
  }
  const [first] = there;
  if (first) {
    const quoted = quoteIdentifier(first.name);
    const isKept =
      (await fails(`update ${name} set ${quoted} = ${quoted} where false`)) !==
        "55000" && (await fails(`delete from ${name} where false`)) !== "55000";
    if (!isKept)
      breaks.push(
        broken(
          null,
          "cannot be written any more",
          "stop writing it in one deploy, and change it in the next",
        ),
      );
  }
  return breaks;
}

/** True when the code gets the same values, and its comparisons still work. */
function isAlike(column: SnapshotColumn, next: SnapshotColumn): boolean {
  const [old, now] = [kindOf(column), kindOf(next)];
  if (old === now) return true;
  if (now === "text") return STRINGS.includes(old);
  return old === "integer" && /^(numeric|double precision)$/.test(now);
}

/** Types whose values the code reads and writes as text. */
const STRINGS =
  "uuid inet cidr macaddr macaddr8 interval time bit varbit".split(" ");

function kindOf(column: SnapshotColumn): string {
  const [array = ""] = /(\[\d*\])+$/.exec(column.type) ?? [];
  if (column.typeSchema) return `text${array && "[]"}`;
  const type = column.type
    .replace(/(\[\d*\])+$/, "")
    .replace(/ ?\([^)]*\)/, "")
    .replace(/^character varying$/, "varchar")
    .replace(/^character$/, "char");
  const kind = KINDS.find((names) => names.includes(type))?.[0] ?? type;
  return `${kind}${array && "[]"}`;
}

const KINDS = [
  "integer smallint bigint serial smallserial bigserial",
  "text varchar char citext",
  "json jsonb",
]
  .map((names) => names.split(" "))
  .concat([["double precision", "real"]]);

/** Returns a value of the column's type; references and checks are not tried. */
function sampleOf(
  column: SnapshotColumn,
  now: Record<string, SnapshotColumn>,
): string {
  const next = now[column.name] ?? column;
  const { type } = next;
  if (/\]$/.test(type)) return "'{}'";
  if (next.typeSchema) return `(enum_range(null::${printType(next)}))[1]`;
  const samples: [RegExp, string][] = [
    [/int|serial|numeric|real|double|oid/, "'0'"],
    [/^bool/, "'f'"],
    [/^uuid/, "gen_random_uuid()"],
    [/^json/, "'{}'"],
    [/^(date|timestamp|time)/, "now()"],
    [/^interval/, "'1 day'"],
    [/^(inet|cidr)/, "'10.0.0.1'"],
    [/^macaddr/, "'08:00:2b:01:02:03'"],
    [/^bit/, "'0'"],
  ];
  return samples.find(([pattern]) => pattern.test(type))?.[1] ?? "''";
}

/**
 * Lists as problems what fails after the pending migrations and not before them.
 * `-- breaks-deployed: <reason>` in a migration accepts its problems.
 */
export function describeBreaks(
  before: Break[],
  after: Break[],
  pending: Migration[],
  { ref, isAsked }: Deployed,
): Problem[] {
  const keyOf = ({ table, column }: Break) => `${table}.${column}`;
  const known = new Set(before.map(keyOf));
  return after
    .filter((one) => !known.has(keyOf(one)))
    .flatMap((one) => {
      const { table, column, what, way } = one;
      const names = [column, table.split(".").at(-1)].filter(
        (name) => name != null,
      );
      const blamed =
        pending.find(({ text }) =>
          names.every((name) => text.includes(name)),
        ) ??
        pending.find(({ text }) => text.includes(names[0] ?? "")) ??
        pending.at(-1);
      if (!blamed || /^\s*--\s*breaks-deployed:\s*\S/m.test(blamed.text))
        return [];
      const line =
        blamed.text
          .split("\n")
          .findIndex((row) => row.includes(names[0] ?? "")) + 1;
      const found = problem(
        "breaks_deployed",
        `${table}${column ? `.${column}` : ""} ${what}, and the code of ${ref} uses it: ${way}; or accept it with \`-- breaks-deployed: <reason>\``,
        { tag: blamed.tag, file: blamed.file, line: Math.max(1, line) },
      );
      return [isAsked ? found : { ...found, severity: "warning" as const }];
    });
}
