// Lists the problems of the migrations' folder on disk: of its journal, files,
// snapshots and down files, also compared with git.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../src/env";
import { readProject } from "../../src/project";
import { type Problem, problem } from "../lib/problem";
import { type FailureFields, note } from "../lib/report";
import {
  findLeftDownFiles,
  listFolders,
  readStamp,
} from "../migrations/folders";
import {
  nameDownFile,
  nameFolder,
  nameJournal,
  nameUpFile,
  type Journal,
  type JournalEntry,
  parseJournal,
  readJournal,
} from "../migrations/journal";
import { hashStatements, splitStatements } from "../migrations/statements";
import {
  type BranchComparison,
  compareWithDefaultBranch,
  explainNoBranch,
} from "./default-branch";
import { diffSnapshots } from "./diff-snapshots";
import { loadDrizzleKit } from "./drizzle-kit";
import { lintMigrations } from "./lint";
import { diagramFile, drawDiagram } from "./mermaid";
import {
  emptySnapshot,
  findFork,
  nameSchema,
  nameSnapshotFile,
  readSnapshot,
  type Snapshot,
} from "./snapshots";

/** Lists all problems that can be found without a database. */
export async function checkFolder(): Promise<Problem[]> {
  const branch = compareWithDefaultBranch(nameFolder());
  if (!branch) note(`Not compared with git: ${explainNoBranch()}`);
  const names = listFolders(readProject().migrationsFolder);
  if (names.length > 0) return await checkFolders(names, branch);
  const { entries, text, problems } = tryReadJournal();
  const tags = new Set(entries.map(({ tag }) => tag));
  if (problems.length > 0) return problems;
  return [
    ...checkOrder(entries, text),
    ...checkFiles(entries, tags),
    ...checkSnapshots(entries),
    ...(branch ? checkEdits(tags, branch) : []),
    ...(await checkSchema(entries)),
    ...(branch ? await lintNew(entries, branch) : []),
  ];
}

/** Reads the journal; returns a problem when it is invalid. */
function tryReadJournal(): Pick<Journal, "entries" | "text"> & {
  problems: Problem[];
} {
  try {
    return { ...readJournal(), problems: [] };
  } catch (error) {
    const { code, message, hint } = error as Error & FailureFields;
    if (code !== "JOURNAL_INVALID") throw error;
    const what = message.replace(`${nameJournal()} `, "the journal ");
    const place = { file: nameJournal() };
    const found = problem("journal_invalid", `${what}; ${hint}`, place);
    return { entries: [], text: "", problems: [found] };
  }
}

function checkOrder(entries: JournalEntry[], text: string): Problem[] {
  const problems: Problem[] = [];
  const seen = {
    tag: new Map<unknown, JournalEntry>(),
    idx: new Map<unknown, JournalEntry>(),
    when: new Map<unknown, JournalEntry>(),
  };
  const highest: Partial<Record<"idx" | "when", JournalEntry>> = {};
  const nextLine = findLines(text);
  for (const entry of entries) {
    const { tag } = entry;
    const place = { tag, file: nameJournal(), line: nextLine(tag) };
    for (const field of ["tag", "idx", "when"] as const) {
      const twin = seen[field].get(entry[field]);
      if (!twin) seen[field].set(entry[field], entry);
      else
        problems.push(
          problem(
            "journal_duplicate",
            `${tag} has the same ${field} as ${twin.tag}, ${entry[field]}: generate it again with \`bun run db:generate --rebase\`, or give it another one`,
            place,
          ),
        );
    }
    for (const field of ["idx", "when"] as const) {
      const later = highest[field];
      if (!later || later[field] <= entry[field]) highest[field] = entry;
      else
        problems.push(
          problem(
            "journal_unordered",
            `${tag} comes after ${later.tag}, and its ${field} is lower: raise it above ${later[field]}, or generate it again with \`bun run db:generate --rebase\``,
            place,
          ),
        );
    }
  }
  return problems;
}

/** Returns a function that finds the line of a tag. For a repeated tag, each call
 * returns the next line. */
function findLines(text: string): (tag: string) => number {
  const lines = new Map<string, number[]>();
  for (const [index, line] of text.split("\n").entries()) {
    const [, tag] = /"tag": ("(?:[^"\\]|\\.)*")/.exec(line) ?? [];
    if (tag) lines.set(tag, [...(lines.get(tag) ?? []), index + 1]);
  }
  return (tag) => lines.get(JSON.stringify(tag))?.shift() ?? 1;
}

function checkFiles(entries: JournalEntry[], tags: Set<string>): Problem[] {
  const missing = entries
    .filter(({ tag }) => !existsSync(join(root, nameUpFile(tag))))
    .map(({ tag }) => {
      const file = nameUpFile(tag);
      return problem(
        "file_missing",
        `the journal names it: \`git log --all -- ${file}\` lists its commits`,
        { tag, file },
      );
    });
  const orphan = (file: string) =>
    problem(
      "file_orphan",
      `the journal does not name it, so no command uses it: add its entry, or \`rm ${file}\``,
      { file },
    );
  const files = readdirSync(join(root, nameFolder()));
  const orphans = files
    .filter((name) => /\.(sql|partial)$/.test(name))
    .filter((name) => !tags.has(name.replace(/(\.down)?\.sql$/, "")))
    .map((name) => orphan(`${nameFolder()}/${name}`));
  const snapshots = new Set(entries.map(({ tag }) => nameSnapshotFile(tag)));
  const lost = readdirSync(join(root, nameFolder(), "meta"))
    .filter((name) => name !== "_journal.json")
    .map((name) => `${nameFolder()}/meta/${name}`)
    .filter((file) => !snapshots.has(file))
    .map(orphan);
  return [...missing, ...orphans, ...lost, ...checkDownFiles(entries)];
}

/** From this number on, missing files are reported as one problem. */
const MANY = 6;

function checkDownFiles(entries: JournalEntry[]): Problem[] {
  const missing = entries
    .map(({ tag }) => ({ tag, file: nameDownFile(tag) }))
    .filter(({ file }) => !existsSync(join(root, file)));
  const isInFolders = missing[0]?.file.endsWith("/down.sql");
  if (missing.length >= MANY)
    return [
      problem(
        "down_missing",
        `${missing.length} of ${entries.length} migrations have no down file and cannot be rolled back${isInFolders ? "" : ": `bun run db:generate --down` writes those that it can"}`,
        { file: nameFolder() },
      ),
    ];
  return missing.map((place) =>
    problem(
      "down_missing",
      isInFolders
        ? `${place.tag} cannot be rolled back: write the SQL that undoes it`
        : `${place.tag} cannot be rolled back: \`bun run db:generate --down ${place.tag}\` writes it; for custom SQL, write it yourself`,
      place,
    ),
  );
}

/**
 * Checks the layout of drizzle-kit 1.0, which has no journal and another kind of
 * snapshots.
 */
async function checkFolders(
  names: string[],
  branch: BranchComparison | undefined,
): Promise<Problem[]> {
  const entries = names.map((tag, idx) => ({ tag, idx, when: readStamp(tag) }));
  note("Not compared: snapshots of drizzle-kit 1.0 with schema.ts");
  const left = findLeftDownFiles(join(root, nameFolder())).map(
    ({ tag, from, to }) =>
      problem(
        "file_orphan",
        `\`drizzle-kit up\` has left it behind: \`git mv ${nameFolder()}/${from} ${nameFolder()}/${to}\``,
        { tag, file: `${nameFolder()}/${from}` },
      ),
  );
  return [
    ...left,
    ...checkDownFiles(entries),
    ...(branch ? checkEdits(new Set(names), branch) : []),
    ...(branch ? await lintNew(entries, branch) : []),
  ];
}

/** Checks the chain of snapshots: each names the snapshot that it was made from. */
function checkSnapshots(entries: JournalEntry[]): Problem[] {
  const problems: Problem[] = [];
  const owners = new Map<string, string>();
  let parent: string | undefined = emptySnapshot.id;
  const headers = new Map(
    entries.map(({ tag }) => [tag, readHeader(nameSnapshotFile(tag))]),
  );
  const readPrevId = (tag: string) => headers.get(tag)?.prevId;
  const isForked = findFork(entries, readPrevId) !== undefined;
  for (const [index, { tag }] of entries.entries()) {
    const file = nameSnapshotFile(tag);
    const place = { tag, file };
    const owner = owners.get(file);
    const snapshot = headers.get(tag);
    owners.set(file, tag);
    if (owner !== undefined) {
      const message = `${tag} and ${owner} share one snapshot file, as after a merge: run \`bun run db:generate --rebase\``;
      problems.push(problem("snapshot_chain", message, place));
    } else if (!snapshot && existsSync(join(root, file))) {
      const message = `cannot be read, as after a merge conflict: take either side, and run \`bun run db:generate --rebase\``;
      problems.push(problem("snapshot_chain", message, place));
    } else if (!snapshot) {
      const isNewest = index === entries.length - 1;
      const missing = problem(
        "snapshot_missing",
        `it is not there: \`git log --all -- ${file}\` lists its commits`,
        place,
      );
      problems.push(isNewest ? missing : { ...missing, severity: "warning" });
    } else if (parent !== undefined && snapshot.prevId !== parent) {
      const way = isForked
        ? "`bun run db:generate --rebase`"
        : `where that is history, \`bun run db:check --accept snapshot_chain ${tag} --reason <text>\``;
      const message = `not made from the snapshot before it, as after a merge: ${way}`;
      problems.push(problem("snapshot_chain", message, place));
    }
    parent = snapshot?.id;
  }
  const older = problems.filter(
    ({ code, severity }) =>
      code === "snapshot_missing" && severity === "warning",
  );
  if (older.length < MANY) return problems;
  const message = `${older.length} of ${entries.length} migrations have no snapshot, which db:generate --down needs`;
  const one = problem("snapshot_missing", message, {
    file: `${nameFolder()}/meta`,
  });
  return [
    ...problems.filter((found) => !older.includes(found)),
    { ...one, severity: "warning" as const },
  ];
}

/** Reads the ids of a snapshot of any version; undefined when it cannot be read. */
function readHeader(file: string): Pick<Snapshot, "id" | "prevId"> | undefined {
  try {
    const { id, prevId } = JSON.parse(readFileSync(join(root, file), "utf8"));
    return { id, prevId };
  } catch {
    return undefined;
  }
}

/** Finds edited and removed migrations of the default branch: they may already be
 * applied to any database. */
function checkEdits(tags: Set<string>, branch: BranchComparison): Problem[] {
  const hashSql = (text: string) => hashStatements(splitStatements(text));
  const edited = [...tags]
    .map((tag) => ({ tag, file: nameUpFile(tag) }))
    .filter(({ file }) => branch.changed.includes(file))
    .filter(
      ({ file }) =>
        hashSql(branch.read(file)) !==
        hashSql(readFileSync(join(root, file), "utf8")),
    )
    .map(({ tag, file }) =>
      problem(
        "modified",
        `its SQL differs from the one on ${branch.branch}: restore it with \`git checkout ${branch.branch} -- ${file}\`, and put the change into a new migration`,
        { tag, file },
      ),
    );
  const gone = readTags(branch.read(nameJournal()))
    .filter((tag) => !tags.has(tag))
    .map((tag) =>
      problem(
        "missing",
        `${tag} is in the journal of ${branch.branch}, and not in this one: \`git checkout ${branch.branch} -- ${nameFolder()}\``,
        { tag, file: nameJournal() },
      ),
    );
  return [...edited, ...gone];
}

function readTags(journal: string): string[] {
  try {
    return parseJournal(journal, nameJournal()).entries.map(({ tag }) => tag);
  } catch {
    return []; // the branch has no journal
  }
}

/** Checks whether a migration for schema.ts, or a newer diagram, is missing. */
async function checkSchema(entries: JournalEntry[]): Promise<Problem[]> {
  const newest = entries.at(-1);
  if (!(await hasDrizzleKit())) return [];
  const before = newest ? tryReadSnapshot(newest.tag) : emptySnapshot;
  const { describeSchema } = await import("./describe-schema");
  const after = await describeSchema(before?.id ?? "");
  const statements = before ? await diffSnapshots(before, after) : [];
  const found: Problem[] = [];
  if (statements.length > 0)
    found.push(
      problem(
        "schema_not_generated",
        `changed without a migration (first: \`${statements[0]}\`): run \`bun run db:generate\``,
        { file: nameSchema() },
      ),
    );
  const path = join(root, diagramFile);
  if (existsSync(path) && readFileSync(path, "utf8") !== drawDiagram(after))
    found.push(
      problem(
        "diagram_stale",
        "out of date with schema.ts: run `bun run db:diagram`",
        {
          file: diagramFile,
        },
      ),
    );
  return found;
}

/** True when drizzle-kit is installed. Without it, as in an install for production,
 * the rest is checked. */
async function hasDrizzleKit(): Promise<boolean> {
  try {
    await loadDrizzleKit();
    return true;
  } catch (error) {
    const { message, hint } = error as Error & { hint?: string };
    note(`Not compared: schema.ts (${message}: ${hint})`);
    return false;
  }
}

/** Reads a snapshot; undefined when it cannot be read, which another check reports. */
function tryReadSnapshot(tag: string): Snapshot | undefined {
  try {
    return readSnapshot(tag);
  } catch {
    return undefined;
  }
}

async function lintNew(
  entries: JournalEntry[],
  branch: BranchComparison,
): Promise<Problem[]> {
  const isNew = ({ tag }: JournalEntry) =>
    !branch.has(nameUpFile(tag)) && existsSync(join(root, nameUpFile(tag)));
  const tags = new Map(
    entries.filter(isNew).map(({ tag }) => [nameUpFile(tag), tag]),
  );
  const findings = await lintMigrations([...tags.keys()]);
  return findings.map(({ file, line, rule, message }) => {
    const way = ` Fix it, or write \`-- squawk-ignore ${rule} -- <reason>\` above it`;
    const isOwn = /^(loses|squawk-ignore)$/.test(rule);
    return problem("lint", `${rule}: ${message}${isOwn ? "" : way}`, {
      tag: tags.get(file),
      file,
      line,
    });
  });
}
