// Reads the schema.ts of the deployed code from git, and describes what that code
// can no longer do after the pending migrations.
import { existsSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { $ } from "bun";
import { root } from "../../src/env";
import { loadProject, loadSchema, type Project } from "../../src/project";
import { type Problem, problem } from "../lib/problem";
import { note, refusal } from "../lib/report";
import { findTemporaryFolder } from "../lib/temporary-folder";
import type { Migration } from "../migrations/journal";
import { findDefaultBranch, git } from "./default-branch";
import type { Break } from "./old-queries";

/** The deployed code, by its git ref. */
export interface Deployed {
  ref: string;
  /** What its schema.ts exports. */
  exported: Record<string, unknown>;
  casing: Project["casing"];
  /** True when the user named the ref: then a break is an error, not a warning. */
  isAsked: boolean;
}

/** @throws with exit code 2 when git does not have the ref. */
export function requireRef(ref: string): void {
  if (!findCommit(ref))
    throw refusal(`git has no ${ref}, which --deployed names`, {
      code: "USAGE",
      hint: "name a branch, a tag or a commit; a shallow clone has few of them",
    });
}

function findCommit(ref: string): string | undefined {
  const find = (name: string) =>
    git("rev-parse", "--verify", "--quiet", `${name}^{commit}`);
  // A checkout of CI has the branches of others only as `origin/…`.
  return find(ref) ?? find(`origin/${ref}`);
}

/**
 * Reads the schema.ts of the deployed code, from its own tree in git.
 *
 * @param asked a git ref; without it the default branch, unless that is checked out.
 * @returns undefined when there is nothing to compare with; where its schema cannot be
 * loaded, a note says why.
 */
export async function readDeployed(
  asked: string | undefined,
): Promise<Deployed | undefined> {
  const ref = asked ?? findDefaultBranch();
  const commit = ref && findCommit(ref);
  if (!ref || !commit) return undefined;
  const head = git("rev-parse", "--abbrev-ref", "HEAD");
  if (!asked && (head === ref || `origin/${head}` === ref)) return undefined;
  const tree = mkdtempSync(join(findTemporaryFolder(), "deployed-"));
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
    return { ref, exported, casing, isAsked: asked !== undefined };
  } catch (error) {
    // The shell's own message has only the exit code.
    const { message, stderr } = error as Error & { stderr?: Buffer };
    const [reason] = (String(stderr ?? "").trim() || message).split("\n");
    note(`Not compared: the schema of ${ref} cannot be loaded: ${reason}`);
    return undefined;
  } finally {
    rmSync(tree, { recursive: true, force: true });
  }
}

/**
 * Describes as problems what fails after the pending migrations. `-- breaks-deployed:
 * <reason>` in a migration accepts its problems.
 */
export function describeBreaks(
  breaks: Break[],
  pending: Migration[],
  { ref, isAsked }: Deployed,
): Problem[] {
  return breaks.flatMap((one) => {
    const { table, column, what, way } = one;
    const names = [column, table.split(".").at(-1)].filter(
      (name) => name != null,
    );
    const blamed =
      pending.find(({ text }) => names.every((name) => text.includes(name))) ??
      pending.find(({ text }) => text.includes(names[0] ?? "")) ??
      pending.at(-1);
    if (!blamed || /^\s*--\s*breaks-deployed:\s*\S/m.test(blamed.text))
      return [];
    const line =
      blamed.text.split("\n").findIndex((row) => row.includes(names[0] ?? "")) +
      1;
    const found = problem(
      "breaks_deployed",
      `${table}${column ? `.${column}` : ""} ${what}, which breaks the code of ${ref}: ${way}; or accept it with \`-- breaks-deployed: <reason>\``,
      { tag: blamed.tag, file: blamed.file, line: Math.max(1, line) },
    );
    return [isAsked ? found : { ...found, severity: "warning" as const }];
  });
}
