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
  const usages: string[] = [];
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
    usages.push(stdout);
  }
  expect([...new Set(usages)].join("\n")).toMatchSnapshot();
  expect(commands.length).toBeGreaterThan(25);
}, 300_000);

const programOf = (name: string) => scripts[name]?.split(" ")[1];

/** Calls that are wrong; what is said of them is in the snapshot. */
const wrongCalls = [
  "db:backup --keep 0",
  "db:backup --keep 1 --list",
  "db:backup --verify a --drill b",
  "db:backup --verify=",
  "db:backup --drill=",
  "db:bootstrap --email= --name=",
  "db:bootstrap",
  "db:bootstrap --email ada",
  "db:bootstrap user --email a@b.c",
  "db:bootstrap:roles",
  "db:check 0001_bio",
  "db:check --accept lint 0001_bio x --reason y",
  "db:check --accept lint 0001_bio",
  "db:check --accept lint --reason y",
  "db:check --reason y",
  "db:check --offline --deployed main",
  "db:generate a b",
  "db:generate --down 0009_no",
  "db:generate --online --down",
  "db:generate --custom --rebase",
  "db:generate --custom --online",
  "db:generate --down --rebase",
  "db:generate --down --rename a=b",
  "db:generate --down --no-rename",
  "db:generate a --custom --no-rename",
  "db:logs --lines x",
  "db:migrate --wait 1000000000",
  "db:restore",
  "db:restore a.dump b.dump",
  "db:restore a.dump --undo",
  "db:rollback --steps 1 --to 0001_bio",
  "db:seed dev rbac",
  "db:studio --port 65536",
  "docker:prod x",
  "copy",
  "copy app --into ../b",
  "docker:dev:down x",
  "docker:dev --volumes",
];

testProject(
  "refuses a wrong call before it connects",
  async ({ run, folder }) => {
    mkdirSync(join(folder, "app"));
    writeFileSync(join(folder, "app/package.json"), "{}");
    const said: string[] = [];
    for (const command of wrongCalls) {
      const { exitCode, stdout, stderr } = await run(command);

      expect({ command, exitCode, stdout }).toEqual({
        command,
        exitCode: 2,
        stdout: "",
      });
      said.push(`$ bun run ${command}\n${stderr}`);
    }
    expect(said.join("\n")).toMatchSnapshot();
    const PATH = dirname(process.execPath);
    const undocked = "Error: no Docker engine with Compose v2 answers\nHint: ";
    const dev = await run("docker:dev", { PATH });
    expect(dev).toMatchObject({
      exitCode: 2,
      stderr: `${undocked}install or start Docker; or run \`bun run db:start\`, which also works without Docker\n`,
    });
    const prod = await run("docker:prod", { PATH });
    expect(prod).toMatchObject({
      exitCode: 2,
      stderr: `${undocked}install or start Docker\n`,
    });
    // No server answers here: the greatest number is not refused.
    const { exitCode } = await run("db:migrate --wait 999999999");
    expect(exitCode).toBe(1);
  },
);
