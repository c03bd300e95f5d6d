// Finds out what was renamed: from the flags, or on a terminal by asking, for tables
// and columns with the questions of drizzle-kit.
import { askKeyboard } from "../lib/consent";
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

/** The flags of the commands that may ask about renames. */
export const renameFlags = {
  rename: {
    type: "string",
    multiple: true,
    default: [] as string[],
    value: "<old>=<new>",
    help: "a table, <table>.<column> or <enum>.<value> has a new name;\nrepeatable",
  },
  "no-rename": {
    type: "boolean",
    help: "nothing else was renamed: dropped and created again",
  },
} as const;

/** The answers about renames, from flags and keyboard. */
export interface RenameAnswers {
  /** The values of `--rename`, such as `users.bio=about`. */
  renames: string[];
  /** True when nothing else was renamed. */
  isComplete: boolean;
  /** The answers from the keyboard, by question; undefined without a terminal. */
  asked: Map<string, Rename[]> | undefined;
}

/**
 * Returns the renames between two snapshots.
 *
 * @throws with exit code 2 when an answer matches nothing, or a question has no
 * answer; the latter for `askBetween`.
 */
export async function askRenames(
  before: Snapshot,
  after: Snapshot,
  answers: RenameAnswers,
): Promise<Rename[]> {
  const { renames, unused } = answerRenames(before, after, answers.renames);
  const renamed = renames.reduce(applyRename, before);
  const open = listAmbiguities(renamed, after);
  if (unused[0] !== undefined)
    throw refusal(
      `--rename ${unused[0]} matches nothing that was removed and added`,
      {
        code: "USAGE",
        lines: listOpen(open),
        hint: "write `<old table>=<new table>`, `<table>.<old column>=<new column>` or `<enum>.<old value>=<new value>`",
      },
    );
  if (answers.isComplete || open.length === 0) return renames;
  const { asked } = answers;
  const question = JSON.stringify(open);
  const answer = asked?.get(question);
  if (answer) return [...renames, ...answer];
  const ask = async () => {
    const values = await askValues(open);
    const answered = values.reduce(applyRename, renamed);
    const others = await askDrizzleKit(answered, after);
    asked?.set(question, [...values, ...others]);
  };
  throw Object.assign(explainUnanswered(open), asked && { ask });
}

/** Asks which values of enums were renamed, because drizzle-kit does not ask. */
async function askValues(open: Ambiguity[]): Promise<Rename[]> {
  const renames: Rename[] = [];
  for (const place of open.filter(({ kind }) => kind === "value")) {
    const left = [...place.gone];
    for (const to of place.made) {
      if (left.length === 0) break;
      const list = left.map((name) => nameOld(place, name)).join(", ");
      const from = await askKeyboard(
        `Is ${nameOld(place, to)} new, or a new name of ${list}? Type the old value, or nothing if it is new: `,
      );
      const index = left.indexOf(from.replace(/^.*\./, ""));
      if (index === -1) continue;
      const [old = ""] = left.splice(index, 1);
      renames.push({ ...placeOf(place), from: old, to });
    }
  }
  return renames;
}

function placeOf({ kind, schema, table }: Ambiguity) {
  return { kind, schema, table };
}

/** Asks with drizzle-kit's questions, about objects that hold data only. */
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

/** Lists what is gone and what is new, a line for each place. */
function listOpen(open: Ambiguity[]): string[] {
  return open.map((place) => {
    const list = (names: string[]) =>
      names.map((name) => nameOld(place, name)).join(", ");
    return `  ${place.kind}: gone ${list(place.gone)}; new ${list(place.made)}`;
  });
}

function explainUnanswered(open: Ambiguity[]): Error {
  // Which of several is which cannot be known: a pair would be taken as advice.
  const flags = open.map(({ gone, made, ...place }) => {
    const [old = ""] = gone;
    return gone.length === 1 && made.length === 1
      ? `--rename ${nameOld({ gone, made, ...place }, old)}=${made[0]}`
      : `--rename <old ${place.kind}>=<new ${place.kind}>`;
  });
  return refusal("cannot tell whether something was renamed", {
    code: "RENAME_UNANSWERED",
    lines: listOpen(open),
    hint: `answer with flags such as \`${flags.join(" ")}\`, or \`--no-rename\` if nothing was renamed`,
    details: { ambiguous: open },
  });
}
