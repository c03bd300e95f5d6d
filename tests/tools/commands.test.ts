// Every command of package.json as a process of its own, as a person starts it:
// other tests run most of them in workers.
import { afterAll, expect, test } from "bun:test";
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { spawn } from "bun";
import { root } from "../../src/env";
import { copyProject } from "../lib/project";
import { testProject } from "../lib/test";

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
    const [, named = ""] = /^bun run ([\w:]+)/.exec(stdout) ?? [];
    expect(programOf(named)).toBe(programOf(command));
    if (command === "db:generate") expect(stdout).toContain("  --online ");
  }
  expect(commands.length).toBeGreaterThan(25);
}, 300_000);

const programOf = (name: string) => scripts[name]?.split(" ")[1];

const wrongCalls: [command: string, error: string][] = [
  ["db:backup --keep 0", "--keep 0 would keep none"],
  [
    "db:backup --keep 1 --list",
    "use only one of --keep, --list, --verify and --drill",
  ],
  ["db:backup --verify=", "--verify and --drill take an archive"],
  ["db:bootstrap --email= --name=", "--name is empty"],
  ["db:bootstrap", "--email is missing"],
  ["db:bootstrap --email ada", '"ada" is not an email address'],
  ["db:bootstrap user --email a@b.c", 'unexpected argument "user"'],
  ["db:bootstrap:roles", "--app-role is missing"],
  ["db:check 0001_bio", 'unexpected argument "0001_bio"'],
  ["db:check --accept lint 0001_bio x --reason y", 'unexpected argument "x"'],
  [
    "db:check --accept lint 0001_bio",
    "--accept, its tag and --reason go together",
  ],
  [
    "db:check --accept lint --reason y",
    "--accept, its tag and --reason go together",
  ],
  ["db:check --reason y", "--accept, its tag and --reason go together"],
  [
    "db:check --offline --deployed main",
    "--deployed needs a database, and --offline leaves it out",
  ],
  ["db:generate a b", 'unexpected argument "b"'],
  ["db:generate --down 0009_no", "there is no migration 0009_no"],
  ["db:generate --online --down", "--down and --online do not go together"],
  [
    "db:generate a --custom --no-rename",
    "--custom and --no-rename do not go together",
  ],
  [
    "db:logs --lines x",
    '--lines takes a whole number of at most 999999999, not "x"',
  ],
  [
    "db:migrate --wait 1000000000",
    '--wait takes a whole number of at most 999999999, not "1000000000"',
  ],
  ["db:restore", "name one file, or add --undo"],
  ["db:restore a.dump b.dump", "name one file, or add --undo"],
  ["db:restore a.dump --undo", "name one file, or add --undo"],
  ["db:rollback --steps 1 --to 0001_bio", "use either --steps or --to"],
  ["db:seed dev rbac", 'unexpected argument "rbac"'],
  [
    "db:studio --port 65536",
    '--port takes a whole number of at most 65535, not "65536"',
  ],
  ["docker:prod x", "docker-prod.ts takes up or down, nothing else"],
  ["copy", "the folder of the application is missing"],
  ["copy app --into ../b", "--into names a folder outside the application"],
];

testProject(
  "refuses a wrong call before it connects",
  async ({ run, folder }) => {
    mkdirSync(join(folder, "app"));
    writeFileSync(join(folder, "app/package.json"), "{}");
    for (const [command, error] of wrongCalls) {
      const { exitCode, stderr } = await run(command);
      const [line] = stderr.split("\n");

      expect({ command, exitCode, line }).toEqual({
        command,
        exitCode: 2,
        line: `Error: ${error}`,
      });
    }
    const PATH = dirname(process.execPath);
    const undocked = await run("docker:dev", { PATH });
    expect(undocked).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining(
        "no Docker engine with Compose v2 answers",
      ),
    });
    // No server answers here: the greatest number is not refused.
    const { exitCode } = await run("db:migrate --wait 999999999");
    expect(exitCode).toBe(1);
  },
);
