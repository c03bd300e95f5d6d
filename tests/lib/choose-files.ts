// Chooses the files for a `bun test` that names none: all of them, or only a quarter of
// those that test the commands, where nothing of the commands has changed.
import { Glob } from "bun";
import { findDefaultBranch, git } from "../../scripts/schema/default-branch";
import { root } from "../../src/env";
import { seed } from "./sample";

const PARTS = 4;
/** What the tests in tests/tools depend on: everything that a project of theirs has but
 * the schema, the migrations and the seeds, which it has of its own. */
const NEEDED = [
  ...["scripts", ":!scripts/seeds", "tests", ":!tests/app"],
  ...[":(glob)src/*.ts", ":(glob)src/infrastructure/database/*.ts"],
  ":!src/infrastructure/database/schema.ts",
  ...["package.json", "bun.lock", "bunfig.toml", "tsconfig.json"],
  ...[".bun-version", "Dockerfile", ":(glob)docker-compose*.yml"],
];

/** The files of a run. */
export interface Choice {
  files: string[];
  /** Those of tests/tools among them, and how many there are. */
  chosen: number;
  all: number;
  /** The branch from which nothing of the commands differs. */
  branch: string;
}

/**
 * Chooses by the seed, so that four seeds in a row have every file; a file of tests
 * that was edited is always among them.
 *
 * @returns undefined when all files have to run: the commands differ from the default
 * branch, committed or not, or git cannot tell.
 */
export function chooseFiles(): Choice | undefined {
  const branch = findDefaultBranch();
  if (!branch) return undefined;
  const changed = listChanges(branch);
  if (!changed?.every(isTool)) return undefined;
  const found = [...new Glob("tests/**/*.test.ts").scanSync(root)].sort();
  const tools = found.filter(isTool);
  const chosen = tools.filter(
    (file, index) => index % PARTS === seed % PARTS || changed.includes(file),
  );
  return {
    files: [...found.filter((file) => !isTool(file)), ...chosen],
    chosen: chosen.length,
    all: tools.length,
    branch,
  };
}

const isTool = (file: string) => /^tests\/tools\/.*\.test\.ts$/.test(file);

/** Returns undefined when git cannot tell. */
function listChanges(branch: string): string[] | undefined {
  const base = git("merge-base", branch, "HEAD");
  if (!base) return undefined;
  const lists = [
    git("diff", "--name-only", "--relative", base, "--", ...NEEDED),
    git("ls-files", "--others", "--exclude-standard", "--", ...NEEDED),
  ];
  if (lists.includes(undefined)) return undefined;
  return lists.join("\n").split("\n").filter(Boolean);
}
