// bun run db:generate: writes the migration from the newest snapshot to schema.ts,
// with its reverse and its snapshot; drizzle-kit makes the SQL. Exits 2 when it has
// to ask whether something was renamed, and there is no terminal.
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { checkEnv, readEnv, root } from "../src/env";
import { readProject } from "../src/project";
import { openConnection } from "./lib/connection";
import { askBetween } from "./lib/consent";
import { jsonFlag, readOptions } from "./lib/options";
import { advise, note, print, printJson, refusal } from "./lib/report";
import { listFolders } from "./migrations/folders";
import {
  type Migration,
  readMigrations,
  nameDownFile,
  nameFolder,
  nameJournal,
} from "./migrations/journal";
import { planMigrations, readRecords } from "./migrations/plan";
import {
  askRenames,
  type RenameAnswers,
  renameFlags,
} from "./schema/ask-renames";
import { compareWithDefaultBranch } from "./schema/default-branch";
import { diffSnapshots } from "./schema/diff-snapshots";
import { BREAKPOINT, diffRenamed, printDown } from "./schema/down-file";
import { listEffects } from "./schema/effects";
import { loadDrizzleKit } from "./schema/drizzle-kit";
import { findSnapshot } from "./schema/find-snapshot";
import { lintMigrations } from "./schema/lint";
import { isOnline, listOwn, writeOnline } from "./schema/online";
import { readRenames } from "./schema/renames";
import {
  emptySnapshot,
  findFork,
  type Fork,
  nameSnapshotFile,
  readParent,
  readSnapshot,
  type Snapshot,
} from "./schema/snapshots";
import {
  nameAfter,
  removeFiles,
  writeDownFile,
  writeJournal,
  writeMigration,
  writeSnapshot,
  type WrittenMigration,
} from "./schema/write-migration";

const usage = `bun run db:generate [name] [flags]

Writes the migration that brings the schema to schema.ts, and its reverse.`;

const { values, positionals } = readOptions(
  usage,
  {
    ...renameFlags,
    online: {
      type: "boolean",
      help: "for large tables in use: no step blocks writers for long",
    },
    custom: { type: "boolean", help: "write an empty one, for your own SQL" },
    down: {
      type: "boolean",
      value: "[tag]",
      help: "write the missing down files, or only this one",
    },
    rebase: {
      type: "boolean",
      help: "after a merge of two migrations: generate one again, on top\nof the other; the newer, unless it is applied here or is on\nthe default branch",
    },
    ...jsonFlag,
  },
  { allowPositionals: true },
);
const [name, ...surplus] = positionals;
if (surplus.length > 0)
  throw refusal(`unexpected argument "${surplus[0]}"`, { code: "USAGE" });
const isGiven = (flag: keyof typeof values) =>
  String(values[flag] ?? "") !== "";
for (const [flag, ...others] of [
  ["custom", "down", "rebase", "online", "rename", "no-rename"],
  ["down", "rebase", "online", "rename", "no-rename"],
] as const) {
  const other = others.find(isGiven);
  if (isGiven(flag) && other)
    throw refusal(`--${flag} and --${other} do not go together`, {
      code: "USAGE",
    });
}

checkEnv(); // a malformed variable is an error in every command
refuseLayout();
if (!values.custom) await loadDrizzleKit();
const migrations = readMigrationsIfAny();
const fork = findFork(migrations);
if (values.down) await writeMissingDownFiles();
else if (values.rebase) await rebase(fork);
else if (fork) throw forkError(fork);
else if (values.custom) await generateCustom();
else await generate(migrations, name);

/**
 * Refuses two layouts: the folders of drizzle-kit 1.0, where a journal beside them
 * would be taken for the migrations, and no prefix, where drizzle-kit keeps one
 * snapshot file for all migrations.
 */
function refuseLayout(): void {
  const { config, prefix } = readProject();
  if (prefix === "none")
    throw refusal(`${config}: migrations.prefix is none`, {
      hint: `set \`migrations.prefix\` in \`${config}\` to \`index\` or \`timestamp\`: without a prefix all migrations share one snapshot file`,
    });
  if (listFolders(readProject().migrationsFolder).length === 0) return;
  throw refusal(
    `${nameFolder()} has the layout of drizzle-kit 1.0, and db:generate writes that of 0.31`,
    {
      hint: "generate with drizzle-kit 1.0 itself, `drizzle-kit generate`, and write `down.sql` beside `migration.sql`",
    },
  );
}

function readMigrationsIfAny(): Migration[] {
  return existsSync(join(root, nameJournal())) ? readMigrations() : [];
}

async function generate(
  base: Migration[],
  title: string | undefined,
  before = readNewest(base),
  prepare = () => {},
  online = values.online === true,
): Promise<WrittenMigration | undefined> {
  // Loaded only now, for it loads drizzle-orm.
  const { describeSchema } = await import("./schema/describe-schema");
  const after = await describeSchema(before.id);
  const { isTTY } = process.stdin;
  const isAttended = isTTY && process.stdout.isTTY && !values.json;
  const answers: RenameAnswers = {
    renames: values.rename,
    isComplete: values["no-rename"] === true,
    asked: isAttended ? new Map() : undefined,
  };
  const renames = await askBetween(() => askRenames(before, after, answers));
  const options = optionsAfter(base);
  const statements = await diffRenamed(before, after, renames, options);
  if (statements.length === 0) {
    print("Nothing to generate: schema.ts matches the newest migration");
    printJson({ tag: null, file: null, down: null, findings: [] });
    return undefined;
  }
  const { breakpoints } = readProject();
  const text = online
    ? await writeOnline(before, after, renames, options)
    : statements.join(breakpoints ? BREAKPOINT : "\n");
  const own = await listOwn(before, after, text, options);
  const down = await printDown(before, after, text, own);
  prepare();
  const written = writeMigration(
    base,
    title || nameAfter(statements),
    { text, down, snapshot: after },
    migrations,
  );
  print(`Generated: ${written.file}`);
  print(`Generated: ${written.down}`);
  const findings = await lintMigrations([written.file]);
  for (const { file, line, rule, message } of findings)
    note(`Lint: ${file}:${line} ${rule}: ${message}`);
  printJson({ ...written, findings });
  return written;
}

function optionsAfter(base: Migration[]) {
  return { history: base.map(({ text }) => text).join("\n") };
}

/** Reads the newest snapshot: drizzle-kit compares schema.ts with that. */
function readNewest(base: Migration[]): Snapshot {
  const missing: string[] = [];
  for (const { tag } of base.toReversed()) {
    const snapshot = readSnapshot(tag);
    if (!snapshot) {
      missing.push(nameSnapshotFile(tag));
      continue;
    }
    for (const file of missing)
      note(`Warning: ${file} is missing: the snapshot before it is used`);
    return snapshot;
  }
  if (base.length === 0) return emptySnapshot;
  throw refusal(
    `${nameFolder()} has migrations, but no snapshot to compare with`,
    {
      code: "SNAPSHOT_MISSING",
      hint: `restore \`${nameFolder()}/meta\` from git: \`git log --all -- ${nameFolder()}/meta\` lists its commits`,
    },
  );
}

async function generateCustom(): Promise<void> {
  const before = readNewest(migrations);
  const snapshot = { ...before, id: crypto.randomUUID(), prevId: before.id };
  const written = writeMigration(migrations, name || "custom", {
    text: "-- Custom SQL migration file, put your code below! --\n",
    snapshot,
  });
  print(`Generated: ${written.file}`);
  advise(`write the SQL that undoes it into ${nameDownFile(written.tag)}`);
  printJson({ ...written, findings: [] });
}

async function writeMissingDownFiles(): Promise<void> {
  const wanted = migrations.filter(({ tag }) => !name || tag === name);
  if (name && wanted.length === 0)
    throw refusal(`there is no migration ${name}`, {
      hint: "`bun run db:migrate:status` lists them",
    });
  const written: string[] = [];
  for (const migration of wanted) {
    const { tag, text } = migration;
    const file = nameDownFile(tag);
    if (existsSync(join(root, file))) continue;
    const refuse = (reason: string) =>
      note(`Not written: ${file} (${reason}): write its reverse yourself`);
    const after = readSnapshot(tag);
    if (!after) {
      refuse(`${tag} has no snapshot`);
      continue;
    }
    const earlier = migrations.slice(0, migrations.indexOf(migration));
    const { before, surplus } = await findParent(earlier, after, text);
    if (!before) {
      refuse(
        surplus
          ? `its snapshots have ${surplus}, which is not in its SQL`
          : `the snapshot that ${tag} was generated from is missing`,
      );
      continue;
    }
    if ((await diffSnapshots(before, after)).length === 0) {
      refuse(`${tag} is custom SQL`);
      continue;
    }
    const options = optionsAfter(earlier);
    const own = await listOwn(before, after, text, options);
    writeDownFile(tag, await printDown(before, after, text, own));
    written.push(file);
    print(`Generated: ${file}`);
  }
  if (written.length === 0)
    print("Nothing to generate: no missing down file can be generated");
  printJson({ files: written });
}

/**
 * Finds the snapshot that a migration was generated from: the one that it names,
 * or that of the migration before it, if the SQL has every effect of the
 * difference between the two snapshots.
 *
 * @returns the snapshot; without one, an effect that the SQL does not have.
 */
async function findParent(
  earlier: Migration[],
  after: Snapshot,
  text: string,
): Promise<{ before?: Snapshot; surplus?: string }> {
  const previous = earlier.at(-1);
  const candidates = [
    () => readParent(earlier, after),
    () => (previous ? readSnapshot(previous.tag) : emptySnapshot),
  ];
  const effects = listEffects(text);
  let surplus: string | undefined;
  for (const read of candidates) {
    const before = read();
    if (!before) continue;
    const statements = await diffRenamed(before, after, readRenames(text));
    const unsaid = listEffects(statements.join(BREAKPOINT)).difference(effects);
    if (unsaid.size === 0) return { before };
    surplus ??= [...unsaid][0];
  }
  return { surplus };
}

function forkError({ older, newer }: Fork): Error {
  return refusal(
    `${older.tag} and ${newer.tag} were both generated from the same migration`,
    {
      code: "SNAPSHOT_CHAIN",
      hint: "generate one of them again on top of the other, with `bun run db:generate --rebase`: the newer, unless it is applied here or is on the default branch",
    },
  );
}

/** Generates one of the two again, on top of everything else. */
async function rebase(found: Fork | undefined): Promise<void> {
  if (!found) {
    print("Nothing to rebase: no two migrations have the same parent");
    return printJson({ tag: null, file: null, down: null, findings: [] });
  }
  const redone = await choosePending(found);
  const other = redone === found.newer ? found.older : found.newer;
  const base = migrations.filter((migration) => migration !== redone);
  const parent = readNewest(base.slice(0, migrations.indexOf(found.older)));
  const own = await findSnapshot(parent, redone);
  await requireUnedited(parent, own, redone);
  const child = base.find(({ tag }) => readSnapshot(tag)?.prevId === own.id);
  if (child)
    throw refusal(`${child.tag} was generated on top of ${redone.tag}`, {
      hint: "restore the migrations folder of the branch that you merge, and generate one migration for all of your changes",
    });

  const snapshot = await findSnapshot(parent, other);
  const isShared = nameSnapshotFile(other.tag) === nameSnapshotFile(redone.tag);
  const before = other === base.at(-1) ? snapshot : readNewest(base);
  const title = redone.tag.replace(/^[^_]*_/, "");
  const restore = () => writeSnapshot(other.tag, snapshot);
  const online = values.online === true || isOnline(redone.text);
  const written = await generate(base, title, before, restore, online);
  if (!written) writeJournal(base);
  if (written?.tag !== redone.tag) {
    removeFiles(redone.tag, isShared);
    print(`Removed: ${redone.file}, generated without ${other.tag}`);
  }
}

/** Returns the newer one, unless it is applied or on the default branch; then the older. */
async function choosePending({ older, newer }: Fork): Promise<Migration> {
  const branch = compareWithDefaultBranch(dirname(newer.file));
  const applied = await readApplied(newer);
  const { direct } = readEnv();
  const taken = [newer, older].map((migration) => {
    if (applied.has(migration)) return `applied on ${direct.database}`;
    return branch?.has(migration.file) ? `on ${branch.branch}` : undefined;
  });
  if (!taken[0]) return newer;
  if (!taken[1]) return older;
  throw refusal(
    `${newer.tag} is ${taken[0]}, and ${older.tag} is ${taken[1]}: neither may change`,
    {
      hint: "if one is applied only on your own database, undo it there first, with `bun run db:rollback`",
    },
  );
}

/** Reads which migrations are applied; warns and returns none when no server answers. */
async function readApplied(newer: Migration): Promise<Set<Migration>> {
  const { direct } = readEnv();
  await using sql = await openConnection(direct, "db:generate", "any").catch(
    ({ message }: Error) => {
      note(`Warning: cannot tell whether ${newer.tag} is applied: ${message}`);
      return undefined;
    },
  );
  if (!sql) return new Set();
  const plan = planMigrations(migrations, await readRecords(sql));
  return new Set(plan.applied.keys());
}

/** Refuses when the files were edited by hand: edits and comments would be lost. */
async function requireUnedited(
  before: Snapshot,
  after: Snapshot,
  redone: Migration,
): Promise<void> {
  const { tag, file, text } = redone;
  const down = nameDownFile(tag);
  const isReversed = existsSync(join(root, down));
  const options = optionsAfter(migrations.slice(0, migrations.indexOf(redone)));
  const own = await listOwn(before, after, text, options);
  const isOwn =
    !isReversed ||
    readFileSync(join(root, down), "utf8") ===
      (await printDown(before, after, text, own));
  const isCommented = isOnline(text)
    ? text !== (await writeOnline(before, after, readRenames(text), options))
    : /^\s*--(?!> statement-breakpoint| Loses: | Keeps )/m.test(text);
  if (isOwn && !isCommented) return;
  const edited = isOwn ? file : down;
  throw refusal(`${edited} was edited by hand, and the edit would be lost`, {
    hint: `save your edit elsewhere, restore \`${edited}\` as it was generated, and run this again`,
  });
}
