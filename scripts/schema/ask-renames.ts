// What was renamed: by the flags, on a terminal by drizzle-kit's own questions.
import { refusal } from "../lib/report";
import { loadDrizzleKit } from "./drizzle-kit";
import {
  type Ambiguity,
  answerRenames,
  applyRename,
  listAmbiguities,
  nameOld,
  readRenames,
  type Rename,
} from "./renames";
import type { Snapshot } from "./snapshots";

/** What the flags say. */
export interface RenameAnswers {
  /** Such as `users.bio=about`. */
  renames: string[];
  /** Whatever is left was not renamed. */
  isComplete: boolean;
  /** What the keyboard answered, by question; undefined without a terminal. */
  asked: Map<string, Rename[]> | undefined;
  /** The hint, where nobody can; it is given the flags that would answer. */
  explain: (flags: string) => string;
}

/**
 * The renames between two snapshots.
 *
 * @throws with exit code 2 for an answer that fits nothing, and for a question
 * that nobody has answered, for `askBetween`.
 */
export async function askRenames(
  before: Snapshot,
  after: Snapshot,
  answers: RenameAnswers,
): Promise<Rename[]> {
  const { renames, unused } = answerRenames(before, after, answers.renames);
  if (unused[0] !== undefined)
    throw refusal(`--rename ${unused[0]} fits nothing that is gone and new`, {
      code: "USAGE",
      hint: "it takes `<old table>=<new table>` or `<table>.<old column>=<new column>`",
    });
  const renamed = renames.reduce(applyRename, before);
  const open = listAmbiguities(renamed, after);
  if (answers.isComplete || open.length === 0) return renames;
  const { asked } = answers;
  const question = JSON.stringify(open);
  const answer = asked?.get(question);
  if (answer) return [...renames, ...answer];
  const ask = async () =>
    asked?.set(question, await askDrizzleKit(renamed, after));
  throw Object.assign(unanswered(open, answers), asked && { ask });
}

/** With the arrow keys; only of what holds data. */
async function askDrizzleKit(
  before: Snapshot,
  after: Snapshot,
): Promise<Rename[]> {
  const { generateMigration } = await loadDrizzleKit();
  const withData = (snapshot: Snapshot) => ({
    ...snapshot,
    views: {},
    roles: {},
    policies: {},
    tables: Object.fromEntries(
      Object.entries(snapshot.tables).map(([key, table]) => [
        key,
        { ...table, policies: {} },
      ]),
    ),
  });
  const interrupt = () => {
    process.exitCode = 130; // it exits with 1 itself, after Ctrl-C
  };
  process.once("exit", interrupt);
  try {
    const statements = await generateMigration(
      withData(before),
      withData(after),
    );
    return readRenames(statements.join("\n"));
  } finally {
    process.off("exit", interrupt);
  }
}

function unanswered(open: Ambiguity[], { explain }: RenameAnswers): Error {
  const lines = open.map((place) => {
    const list = (names: string[]) =>
      names.map((name) => nameOld(place, name)).join(", ");
    return `  ${place.kind}: gone ${list(place.gone)}; new ${list(place.made)}`;
  });
  const flags = open.map(
    (place) =>
      `--rename ${nameOld(place, place.gone[0] ?? "")}=${place.made[0]}`,
  );
  return refusal("it cannot be told whether something was renamed", {
    code: "RENAME_UNANSWERED",
    lines,
    hint: explain(flags.join(" ")),
    details: { ambiguous: open },
  });
}
