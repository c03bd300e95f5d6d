// Chooses the files for a `bun test` that names none: of those that test the commands, the
// ones that depend on what has changed; where nothing has, a seventh of them.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Glob } from "bun";
import { findNeeds, readPackage } from "../../scripts/copying/files";
import { findDefaultBranch, git } from "../../scripts/schema/default-branch";
import { root } from "../../src/env";
import { seed } from "./sample";

const PARTS = 7;
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
  /** The branch with which the commands were compared. */
  branch: string;
  /** True where nothing differs, and the files are a sample. */
  isSample: boolean;
}

/**
 * Chooses by what differs from the default branch, committed or not; where nothing
 * does, by the seed, so that seven seeds in a row have every file. A file of tests that
 * was edited is always among them.
 *
 * @param part which seventh.
 * @returns undefined when all files have to run: they depend on what differs, or it is
 * unknown what does, or git cannot tell.
 */
export function chooseFiles(part = seed % PARTS): Choice | undefined {
  const branch = findDefaultBranch();
  const changed = branch && listChanges(branch);
  if (!changed) return undefined;
  const found = [...new Glob("tests/**/*.test.ts").scanSync(root)].sort();
  const tools = found.filter(isTool);
  const isSample = changed.every(isTool);
  const chosen = isSample
    ? tools.filter(
        (file, index) => index % PARTS === part || changed.includes(file),
      )
    : listDependents(tools, changed);
  if (chosen.length === tools.length) return undefined;
  return {
    files: [...found.filter((file) => !isTool(file)), ...chosen],
    chosen: chosen.length,
    all: tools.length,
    branch,
    isSample,
  };
}

const isTool = (file: string) => /^tests\/tools\/.*\.test\.ts$/.test(file);

/** Lists the tests that depend on one of the files; all of them where a file is such
 * that none seems to. */
function listDependents(tests: string[], changed: string[]): string[] {
  const pairs = tests.map((test) => [test, listDependencies(test)] as const);
  const dependents = changed.map((file) =>
    pairs.flatMap(([test, files]) => (files.has(file) ? [test] : [])),
  );
  if (dependents.some((list) => list.length === 0)) return tests;
  return tests.filter((test) => dependents.some((list) => list.includes(test)));
}

/** Lists what a test and tests/setup.ts import, and what the commands need that these
 * files name; a test that reads package.json may run each. */
function listDependencies(test: string): Set<string> {
  const read = (file: string) => readFileSync(join(root, file), "utf8");
  const { files } = findNeeds([test, "tests/setup.ts"]);
  const text = files
    .filter((file) => file.startsWith("tests/"))
    .map(read)
    .join("\n");
  const mayRunAll = read(test).includes('"package.json"');
  const programs = Object.entries(readPackage(root).scripts)
    .map(([name, script]) => [name, script.split(" ")[1] ?? ""] as const)
    .filter(([, program]) => program.startsWith("scripts/"))
    .filter((names) => mayRunAll || names.some((name) => isNamed(name, text)));
  return new Set([
    ...files,
    ...findNeeds(programs.map(([, program]) => program)).files,
  ]);
}

/** True where a string begins with the name. */
const isNamed = (name: string, text: string) =>
  new RegExp(`["'\`]${name}(?![\\w:-])`).test(text);

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
