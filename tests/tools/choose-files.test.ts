// Which files a `bun test` runs, in a clone with a remote.
import { afterAll, expect, test } from "bun:test";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { $, Glob } from "bun";
import { root } from "../../src/env";
import type { Choice } from "../lib/choose-files";
import { author } from "../lib/git";
import { copyApplication } from "../lib/project";

const origin = copyApplication("origin");
const clone = join(origin.folder, "../clone");

afterAll(() => origin[Symbol.dispose]());

test("a seventh of tests/tools, and what was edited of it; where a command differs from the default branch, what depends on it", async () => {
  cpSync(join(root, "tests"), join(origin.folder, "tests"), {
    recursive: true,
  });
  await $`git init --quiet --initial-branch=trunk`.cwd(origin.folder);
  await commitAll(origin.folder);
  await $`git clone --quiet . ${clone}`.cwd(origin.folder);
  const files = [...new Glob("tests/**/*.test.ts").scanSync(root)].sort();
  const tools = files.filter(isTool);

  const runs = await chooseAll();
  await edit("src/infrastructure/database/schema.ts");
  await edit("src/infrastructure/database/migrations/0009_mine.sql");
  await edit("scripts/seeds/mine.ts");
  await edit("src/users/index.ts");
  await edit("tests/app/seeds.test.ts");
  await edit("tests/tools/seed.test.ts");
  await edit("tests/tools/mine.test.ts");
  const edited = await chooseAll();
  await edit("scripts/schema/print-schema.ts");
  const part = await choose();
  await commitAll(clone);
  const committed = await choose();
  await edit("scripts/bootstrap-roles.ts");
  const parts = await choose();
  await edit("scripts/nobody-needs-it.ts");
  const unknown = await choose();
  await $`rm scripts/nobody-needs-it.ts`.cwd(clone);
  await edit("scripts/lib/quote.ts");
  const whole = await choose();

  for (const run of [...runs, ...edited])
    expect(run?.files.filter((file) => !isTool(file))).toEqual(
      files.filter((file) => !isTool(file)),
    );
  expect(runs.flatMap((run) => run?.files.filter(isTool)).sort()).toEqual(
    tools,
  );
  expect(runs[0]).toMatchObject({
    all: tools.length,
    branch: "origin/trunk",
    isSample: true,
  });
  for (const run of edited)
    expect(run?.files).toContainValues([
      "tests/tools/mine.test.ts",
      "tests/tools/seed.test.ts",
    ]);
  expect(part?.files.filter(isTool)).toEqual([
    "tests/tools/commands.test.ts",
    "tests/tools/copy.test.ts",
    "tests/tools/drizzle.test.ts",
    "tests/tools/every-entry.test.ts",
    "tests/tools/mine.test.ts",
    "tests/tools/schema.test.ts",
    "tests/tools/seed.test.ts",
    "tests/tools/setup.test.ts",
  ]);
  expect(committed).toEqual(part);
  expect(parts?.files).toContainValues([
    "tests/tools/bootstrap.test.ts",
    "tests/tools/drizzle.test.ts",
  ]);
  expect([unknown, whole]).toEqual([null, null]);
}, 60_000);

const isTool = (file: string) => file.startsWith("tests/tools/");

const edit = (file: string) => Bun.write(join(clone, file), "// edited\n");

const commitAll = (folder: string) =>
  $`git add --all && git ${author} commit --quiet --message=test`.cwd(folder);

const choose = async () => (await chooseParts([0]))[0];
const chooseAll = () => chooseParts([0, 1, 2, 3, 4, 5, 6]);

/** Returns what `bun test` chooses in the clone, for each part. */
async function chooseParts(parts: number[]): Promise<(Choice | null)[]> {
  const program = `import { chooseFiles } from "./tests/lib/choose-files";
    console.log(JSON.stringify(${JSON.stringify(parts)}.map((part) => chooseFiles(part) ?? null)));`;
  const output = await $`${process.execPath} --eval ${program}`
    .cwd(clone)
    .env({ ...process.env, TESTS_FOLDER: origin.folder })
    .text();
  return JSON.parse(output);
}
