// Every command of package.json as a process of its own, as a person starts it:
// other tests run most of them in workers.
import { afterAll, expect, test } from "bun:test";
import { mkdirSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { spawn } from "bun";
import { root } from "../../src/env";
import { copyProject } from "../lib/project";

const project = copyProject();
afterAll(() => project[Symbol.dispose]());
const { read, folder } = project;
// Only what is quick to load: --help needs neither drizzle-orm nor drizzle-kit.
rmSync(join(folder, "node_modules"));
mkdirSync(join(folder, "node_modules"));
for (const name of ["postgres", "dotenv"])
  symlinkSync(
    join(root, "node_modules", name),
    join(folder, "node_modules", name),
  );
const { scripts } = JSON.parse(read("package.json"));
const commands = Object.keys(scripts).filter((name) =>
  /^(db|docker):|^copy$/.test(name),
);

test("every command says how it is called, and that is all it does", async () => {
  const { PATH, HOME } = process.env;
  for (const command of commands) {
    // As people do: the other tests leave out `bun run`.
    const child = spawn([process.execPath, "run", command, "--help"], {
      cwd: folder,
      env: { PATH, HOME },
      stderr: "pipe",
    });
    const stdout = await new Response(child.stdout).text();
    const stderr = await new Response(child.stderr).text();
    const exitCode = await child.exited;

    expect({ command, exitCode, stderr }).toEqual({
      command,
      exitCode: 0,
      stderr: "",
    });
    expect(stdout).toStartWith("bun run ");
    if (command === "db:generate") expect(stdout).toContain("  --online ");
  }
  expect(commands.length).toBeGreaterThan(25);
}, 300_000);
