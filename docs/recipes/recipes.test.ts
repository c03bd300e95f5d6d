// Follows the README of each recipe, block by block, in a copy of this project with
// a database of its own: `bun run test:recipes`. Recipes that need packages install
// them there.
import { expect } from "bun:test";
import {
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { spawn } from "bun";
import { root } from "../../src/env";
import { urlOf } from "../../tests/lib/command";
import { testBeside, withDatabase } from "../../tests/lib/database";
import { testServer } from "../../tests/setup";

/** What a copy leaves out, as a clone does. */
const OWN =
  /^(\.git|\.env(\.(?!example$).+)?|\.data|backups|node_modules|pulled)$/;

for (const { name, parentPath } of readdirSync(import.meta.dir, {
  withFileTypes: true,
}).filter((entry) => entry.isDirectory()))
  testBeside(`${name}: every command of its README does what it shows`, () =>
    withDatabase("empty", async ({ url }) => {
      const readme = readFileSync(join(parentPath, name, "README.md"), "utf8");
      const folder = mkdtempSync(join(tmpdir(), "starter-recipe-"));
      const clone = join(folder, "clone");
      cpSync(root, clone, {
        recursive: true,
        filter: (path) => !OWN.test(relative(root, path)),
      });
      if (!readme.includes("bun add "))
        symlinkSync(join(root, "node_modules"), join(clone, "node_modules"));
      writeFileSync(
        join(clone, ".env.local"),
        `DATABASE_URL='${url}'\nTEST_DATABASE_URL='${urlOf(testServer)}'\nDB_ENGINE=external\n`,
      );
      const shell = openShell(clone);
      try {
        await follow(readme, clone, shell);
        const check = await shell.run(`cd ${clone} && bun run check`);
        expect({ command: "bun run check", ...check }).toMatchObject({
          exitCode: 0,
        });
      } finally {
        await shell.close();
        rmSync(folder, { recursive: true });
      }
    }),
  );

/**
 * Does what the code blocks of a README say, in their order. Commands of `sh` succeed;
 * those of `console` print what stands below them, and fail where that is an error;
 * a `diff` is applied to the file that its first line names; `ts` is put beside the
 * application, for the check of types.
 */
async function follow(
  readme: string,
  clone: string,
  shell: ReturnType<typeof openShell>,
): Promise<void> {
  const blocks = [...readme.matchAll(/^```(\w+)\n([^]*?)^```$/gm)];
  for (const [index, [, language, text = ""]] of blocks.entries())
    if (language === "diff") applyDiff(clone, text);
    else if (language === "ts")
      writeFileSync(join(clone, `src/readme-${index}.ts`), text);
    else if (language === "sh")
      for (const command of text.trim().split("\n"))
        expect({ command, ...(await shell.run(command)) }).toMatchObject({
          exitCode: 0,
        });
    else if (language === "console")
      for (const part of text.split(/^\$ /m).slice(1)) {
        const [, command = "", shown = ""] = /^(.*)\n([^]*)$/.exec(part) ?? [];
        const { exitCode, output } = await shell.run(command);
        expect({ command, isDone: exitCode === 0, output }).toEqual({
          command,
          isDone: !/^(Error:| *[1-9]\d* fail$)/m.test(shown),
          output: expect.stringMatching(toPattern(shown)),
        });
      }
}

/** Returns what an output has to match: a time is any time, `…` is anything. */
function toPattern(shown: string): RegExp {
  const text = shown
    .replace(/[.*+?^${}()|[\]\\]/g, "\\$&")
    .replace(/\d+(\.\d+)? ms/g, "\\d+(\\.\\d+)? ms")
    .replaceAll("…", "[^]*?");
  return new RegExp(`^${text.trimEnd()}\\n*$`);
}

/** Applies a diff whose first line is `--- <file>`, and whose hunks have no numbers. */
function applyDiff(clone: string, diff: string): void {
  const [first = "", ...hunks] = diff.split(/^@@\n/m);
  const file = join(clone, first.trim().replace("--- ", ""));
  for (const hunk of hunks) {
    const side = (omitted: string) =>
      hunk
        .replace(new RegExp(`^[${omitted}].*\\n`, "gm"), "")
        .replace(/^./gm, "");
    const text = readFileSync(file, "utf8");
    expect({ file, hunk, times: text.split(side("+")).length - 1 }).toEqual({
      file,
      hunk,
      times: 1,
    });
    writeFileSync(
      file,
      text.replace(side("+"), () => side("-")),
    );
  }
}

/** Starts a shell without a terminal, in which a `cd` or an `export` lasts. */
function openShell(cwd: string) {
  const { PATH, HOME } = process.env;
  const end = crypto.randomUUID();
  const shell = spawn(["bash"], {
    cwd,
    env: { PATH, HOME },
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const reader = shell.stdout.pipeThrough(new TextDecoderStream()).getReader();
  return {
    async run(command: string) {
      shell.stdin.write(`{ ${command}\n} </dev/null 2>&1; echo "${end}$?"\n`);
      await shell.stdin.flush();
      let output = "";
      for (;;) {
        const { value = "", done } = await reader.read();
        output += value;
        const [, printed = "", exitCode] =
          new RegExp(`^([^]*)${end}(\\d+)\n$`).exec(output) ?? [];
        if (exitCode) return { exitCode: Number(exitCode), output: printed };
        if (done) throw new Error(`the shell ended in ${command}: ${output}`);
      }
    },
    async close() {
      await shell.stdin.end();
      await shell.exited;
    },
  };
}
