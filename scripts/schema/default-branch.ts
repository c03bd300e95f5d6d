// Compares a folder with git's default branch: what is there must not change.
import { spawnSync } from "bun";
import { root } from "../../src/env";

/** A folder, compared with the default branch. */
export interface BranchComparison {
  /** The branch, or the commit at which this branch left it. */
  branch: string;
  /** Paths from the project's root that have another content on the branch. */
  changed: string[];
  /** True when the branch has the path. */
  has: (file: string) => boolean;
  /** Returns the content of a path on the branch. */
  read: (file: string) => string;
}

/**
 * Compares a folder with the default branch, including uncommitted changes.
 *
 * @param folder a path from the project's root.
 * @returns undefined when there is no git, or no commit on a default branch.
 */
export function compareWithDefaultBranch(
  folder: string,
): BranchComparison | undefined {
  const branch = findDefaultBranch();
  if (!branch) return undefined;
  const base = git("merge-base", branch, "HEAD") ?? branch;
  const list = git("ls-tree", "-r", "-z", "--name-only", base, "--", folder);
  const diff = git(
    ...["diff", "--name-only", "--diff-filter=M", "-z", "--relative"],
    ...[base, "--", folder],
  );
  if (list === undefined || diff === undefined) return undefined;
  const files = new Set(list.split("\0"));
  return {
    branch,
    changed: diff.split("\0").filter(Boolean),
    has: (file) => files.has(file),
    read: (file) => git("show", `${base}:./${file}`) ?? "",
  };
}

/** Returns the default branch: the one of the remote, or one with a usual name. */
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

/** Says why there is nothing to compare with. */
export function explainNoBranch(): string {
  if (!Bun.which("git")) return "there is no git";
  const { stderr } = spawnSync(["git", "rev-parse"], {
    cwd: root,
    env: { ...outsideHooks(), LC_ALL: "C" },
  });
  return stderr.toString().includes("dubious ownership")
    ? `git refuses this folder, which belongs to another user: \`git config --global --add safe.directory ${root}\` allows it`
    : "found no origin/HEAD, main or master";
}

/** Returns git's output; undefined when git fails or is not installed. */
export function git(...args: string[]): string | undefined {
  try {
    const { stdout, success } = spawnSync(["git", ...args], {
      cwd: root,
      env: outsideHooks(),
      stderr: "ignore",
    });
    return success ? stdout.toString().replace(/\n$/, "") : undefined;
  } catch {
    return undefined;
  }
}

/** Returns the environment without the variables that git sets for a hook: with them
 * it would take the working directory for the top of the repository. */
export function outsideHooks(): Record<string, string | undefined> {
  return Object.fromEntries(
    Object.entries(process.env).filter(
      ([name]) => !/^GIT_(DIR|WORK_TREE|INDEX_FILE|PREFIX)$/.test(name),
    ),
  );
}
