// Finds the snapshot that a migration led to. After a merge its file may have the
// snapshot of another migration, and its own is only in git.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { spawnSync } from "bun";
import { root } from "../../src/env";
import { refusal } from "../lib/report";
import type { Migration } from "../migrations/journal";
import { splitStatements } from "../migrations/statements";
import { outsideHooks } from "./default-branch";
import { diffRenamed } from "./down-file";
import { loadDrizzleKit } from "./drizzle-kit";
import { isOnline, writeOnline } from "./online";
import { readRenames } from "./renames";
import { nameSnapshotFile, type Snapshot } from "./snapshots";

/**
 * Returns the snapshot that gives the SQL of a migration: the one in its file, or,
 * when a merge has replaced that, an earlier version of the file in git.
 *
 * @param parent the snapshot that the migration was made from.
 * @throws with exit code 2 when none does, because the SQL was edited.
 */
export async function findSnapshot(
  parent: Snapshot,
  { tag, file, text }: Migration,
): Promise<Snapshot> {
  const { generateMigration } = await loadDrizzleKit();
  const wanted = listSql(text);
  const renames = readRenames(text);
  for (const candidate of listVersions(nameSnapshotFile(tag))) {
    const ways = [
      await diffRenamed(parent, candidate, renames),
      await generateMigration(parent, candidate).catch(() => []),
    ];
    if (isOnline(text))
      ways.push([await writeOnline(parent, candidate, renames)]);
    if (ways.some((way) => Bun.deepEquals(listSql(way.join("\n")), wanted)))
      return candidate;
  }
  throw refusal(`no snapshot gives the SQL of ${file}: it was edited by hand`, {
    hint: `save your edit elsewhere, restore \`${file}\` as it was generated, and run this again`,
  });
}

/** Lists statements in a form that ignores spelling and order. */
function listSql(text: string): string[] {
  return splitStatements(text)
    .map(({ tokens }) => tokens.map((token) => token.text).join(" "))
    .sort();
}

/** Lists the versions of the file: on disk, and in git's commits. */
function listVersions(file: string): Snapshot[] {
  const git = (...args: string[]) => {
    const { stdout, success } = spawnSync(["git", ...args], {
      cwd: root,
      env: outsideHooks(),
    });
    return success ? stdout.toString() : "";
  };
  const commits = git("log", "--all", "--format=%H", "--", file).split("\n");
  const texts = [
    readFileSync(join(root, file), "utf8"),
    ...commits
      .filter(Boolean)
      .map((commit) => git("show", `${commit}:./${file}`)),
  ];
  return texts.flatMap((text) => {
    try {
      return [JSON.parse(text) as Snapshot];
    } catch {
      return []; // it has merge conflict markers
    }
  });
}
