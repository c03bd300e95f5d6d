// What git has on the default branch, for what must not change once it is there.
import { spawnSync } from "bun";
import { root } from "../../src/env";

/** A folder, compared with what the default branch has of it. */
export interface BranchComparison {
  /** The branch, or the commit that it was left at. */
  branch: string;
  /** Paths from the project's root that the branch has, with another content. */
  changed: string[];
  /** Paths that the branch has and this checkout has not. */
  removed: string[];
  /** Whether the branch has a path. */
  has: (file: string) => boolean;
  /** The branch's content of a path. */
  read: (file: string) => string;
}

/**
 * Compares a folder, uncommitted changes included.
 *
 * @param folder a path from the project's root.
 * @returns undefined where there is no git, or no commit on a default branch.
 */
export function compareWithDefaultBranch(
  folder: string,
): BranchComparison | undefined {
  const branch = findDefaultBranch();
  if (!branch) return undefined;
  const base = git("merge-base", branch, "HEAD") ?? branch;
  const list = git("ls-tree", "-r", "-z", "--name-only", base, "--", folder);
  const diff = git(
    "diff",
    "--name-status",
    "-z",
    "--no-renames",
    "--relative",
    base,
    "--",
    folder,
  );
  if (list === undefined || diff === undefined) return undefined;
  const files = new Set(list.split("\0"));
  const parts = diff.split("\0");
  const withStatus = (wanted: string) =>
    parts.filter((_, index) => index % 2 === 1 && parts[index - 1] === wanted);
  return {
    branch,
    changed: withStatus("M"),
    removed: withStatus("D"),
    has: (file) => files.has(file),
    read: (file) => git("show", `${base}:./${file}`) ?? "",
  };
}

/** As the remote says, or by its usual names. */
export function findDefaultBranch(): string | undefined {
  const names = [
    git("rev-parse", "--abbrev-ref", "origin/HEAD"),
    "origin/main",
    "origin/master",
    "main",
    "master",
  ];
  return names.find(
    (name) =>
      name && git("rev-parse", "--verify", "--quiet", `${name}^{commit}`),
  );
}

/** Its output; undefined where it failed, or is not installed. */
export function git(...args: string[]): string | undefined {
  try {
    const { stdout, success } = spawnSync(["git", ...args], {
      cwd: root,
      stderr: "ignore",
    });
    return success ? stdout.toString().replace(/\n$/, "") : undefined;
  } catch {
    return undefined;
  }
}
