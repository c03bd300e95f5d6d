// Writes the SQL that undoes a migration, from the snapshots before and after it.
// It is a draft to review: a comment above a line says what cannot be restored.
import { readWords, splitStatements } from "../migrations/statements";
import { type DiffOptions, diffSnapshots } from "./diff-snapshots";
import { listEffects } from "./effects";
import { KEEP_START } from "./keep-extras";
import {
  applyRename,
  invertRename,
  printRenames,
  type Rename,
  readRenames,
} from "./renames";
import { listWider } from "./retype";
import type { Snapshot } from "./snapshots";

/** The separator that drizzle-kit writes between two statements. */
export const BREAKPOINT = "--> statement-breakpoint\n";

/** Returns the SQL from one snapshot to another, with the renames first. */
export async function diffRenamed(
  before: Snapshot,
  after: Snapshot,
  renames: Rename[],
  options: DiffOptions = {},
): Promise<string[]> {
  const { statements, renamed } = await writeRenames(before, after, renames);
  return [...statements, ...(await diffSnapshots(renamed, after, options))];
}

/** Returns the SQL of the renames, and the snapshot after it. Only the views that have
 * a name which something else gets are dropped before. */
export async function writeRenames(
  before: Snapshot,
  after: Snapshot,
  renames: Rename[],
): Promise<{ statements: string[]; renamed: Snapshot }> {
  const given = renames
    .filter(({ table }) => table === undefined)
    .map(({ schema, to, toSchema = schema }) => `${toSchema}.${to}`);
  const kept = Object.entries(before.views).filter(
    ([key]) => !given.includes(key),
  );
  const freed = { ...before, views: Object.fromEntries(kept) };
  const isFree = kept.length === Object.keys(before.views).length;
  return {
    statements: [
      ...(isFree ? [] : await diffSnapshots(before, freed)),
      ...printRenames(before, after, renames),
    ],
    renamed: renameSnapshot(freed, after, renames),
  };
}

/** Returns the first snapshot after the renames. */
function renameSnapshot(
  before: Snapshot,
  after: Snapshot,
  renames: Rename[],
): Snapshot {
  const renamed = renames.reduce(applyRename, before);
  // A schema that schema.ts does not export is neither created nor dropped.
  const known = { ...before.schemas, ...after.schemas };
  const schemas = Object.entries(renamed.schemas).filter(
    ([key]) => key in known,
  );
  return { ...renamed, schemas: Object.fromEntries(schemas) };
}

/**
 * Returns the text of a down file.
 *
 * @param text the SQL of the migration, for its renames and for what snapshots do
 * not have: functions, triggers, data.
 * @param own statements of it that stand for the difference of the snapshots.
 */
export async function printDown(
  before: Snapshot,
  after: Snapshot,
  text: string,
  own = new Set<string>(),
): Promise<string> {
  const renames = readRenames(text).toReversed().map(invertRename);
  const statements = (await diffRenamed(after, before, renames)).filter(
    (statement) => !isKeyLeft(statement, text),
  );
  const lost = listLostValues(after, before);
  const wider = listWider(renameSnapshot(after, before, renames), before);
  const commented = statements.map((statement) => {
    const isWider = wider.some((start) => statement.startsWith(start));
    const comment = isWider ? undefined : describeLoss(statement, lost);
    return comment ? `-- ${comment}\n${statement}` : statement;
  });
  // A migration of custom SQL has the same snapshot before and after it.
  const isCustom = Bun.deepEquals(
    { ...before, id: "", prevId: "" },
    { ...after, id: "", prevId: "" },
  );
  const forward = await diffRenamed(before, after, readRenames(text));
  const written = splitStatements(forward.join(BREAKPOINT));
  const said = listEffects(forward.join("\n"));
  const isSaid = (statement: string) =>
    [...listEffects(statement)].every((effect) => said.has(effect));
  const foreign = splitStatements(text)
    .filter(
      ({ tokens, text: statement }) =>
        !own.has(statement) &&
        !statement.startsWith(KEEP_START) &&
        !written.some((one) => one.text === statement) &&
        (isCustom ||
          !isOfSnapshots(readWords(tokens, 3)) ||
          !isSaid(statement)),
    )
    .map((statement) => `--   ${statement.text.replace(/\s+/g, " ")}\n`);
  const heading =
    foreign.length > 0
      ? `-- Not undone here, for snapshots do not know of it:\n${foreign.join("")}`
      : "";
  return `${heading}${commented.join(BREAKPOINT)}\n`;
}

/** True when the migration does not drop the old primary key: drizzle-kit writes
 * only a comment for it. */
function isKeyLeft(statement: string, text: string): boolean {
  const [, start] = /^(ALTER TABLE .+) ADD PRIMARY KEY /.exec(statement) ?? [];
  return (
    start !== undefined &&
    text.includes(`-- ${start} DROP CONSTRAINT "<constraint_name>"`)
  );
}

/** Says what the statement cannot restore, or when it fails. */
function describeLoss(statement: string, lost: string[]): string | undefined {
  if (/^CREATE TABLE /.test(statement))
    return "The table comes back empty: its rows are gone.";
  if (/ ADD COLUMN /.test(statement)) {
    if (/ GENERATED ALWAYS AS \(/.test(statement)) return undefined;
    const isRequired =
      / NOT NULL/.test(statement) &&
      !/ DEFAULT | GENERATED | (big|small)?serial /.test(statement);
    return isRequired
      ? "The column comes back empty, which fails while its table has rows."
      : "The column comes back empty: its values are gone.";
  }
  if (/ SET DATA TYPE text;$/.test(statement) && lost.length > 0)
    return `This fails while a row has one of the values that go: ${lost.join(", ")}.`;
  if (/ SET DATA TYPE (?!text;)/.test(statement))
    return "This fails where a value does not fit the type.";
  if (/ DROP EXPRESSION;$/.test(statement))
    return "The column keeps what was computed: the values that it had before are gone.";
  if (/ SET NOT NULL;$/.test(statement))
    return "This fails while a row has no value.";
  return undefined;
}

function listLostValues(from: Snapshot, to: Snapshot): string[] {
  return Object.entries(from.enums).flatMap(([key, { values }]) => {
    const left = to.enums[key]?.values;
    if (!left) return [];
    return values
      .filter((value) => !left.includes(value))
      .map((value) => `'${value}'`);
  });
}

function isOfSnapshots([verb = "", ...words]: string[]): boolean {
  const kind =
    words[0] === "UNIQUE" || words[0] === "MATERIALIZED" ? words[1] : words[0];
  const kinds =
    "TABLE TYPE INDEX SEQUENCE SCHEMA VIEW POLICY ROLE CONCURRENTLY".split(" ");
  return (
    (["CREATE", "ALTER", "DROP"].includes(verb) &&
      kinds.includes(kind ?? "")) ||
    ["BEGIN", "COMMIT", "START", "END", "SET"].includes(verb)
  );
}
