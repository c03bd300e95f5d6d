// db:setup in a new clone, on the embedded engine.
import { expect } from "bun:test";
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { $ } from "bun";
import { startEmbedded, stopEmbedded } from "../../scripts/server/embedded";
import { clusterAddress, copyCluster } from "../lib/cluster";
import { ownHead, ownMigrations } from "../lib/migrations";
import { findFreePort, findQuietPort, listen } from "../lib/ports";
import { copyProject, type Project } from "../lib/project";
import { testBeside } from "../lib/database";

const variables = { DB_ENGINE: "embedded" };

/** A test on a new clone whose .env.example names a port that is free. */
function test(
  sentence: string,
  body: (clone: Project, port: number) => Promise<void>,
) {
  testBeside(sentence, async () => {
    using clone = copyProject();
    const port = await findFreePort();
    const example = readFileSync(join(clone.folder, ".env.example"), "utf8");
    clone.write(".env.example", example.replace("PORT=5432", `PORT=${port}`));
    await copyCluster(join(clone.folder, ".data"));
    try {
      await body(clone, port);
    } finally {
      await stopEmbedded(join(clone.folder, ".data"));
    }
  });
}

test("makes a working database beside what has the usual port, says so, and finds nothing to do the second time", async (clone) => {
  const port = await findQuietPort();
  const dataDir = mkdtempSync(join(tmpdir(), "starter-other-"));
  const example = (port: number) =>
    `POSTGRES_PORT=${port}\nPOSTGRES_DB=app\nPOSTGRES_USER=postgres\nPOSTGRES_PASSWORD=postgres\n`;
  clone.write(".env.example", example(port));
  // Another clone's server, which would let us in, and another program beside it.
  await copyCluster(dataDir);
  await startEmbedded(dataDir, clusterAddress(port));
  const program = await listen((socket) => socket.end(), port + 1);

  const before = await clone.run("db:reset", variables);
  const told = { ...variables, POSTGRES_PORT: String(port) };
  const taken = [
    await clone.run("db:reset", told),
    await clone.run("db:start", told),
    await clone.run("db:migrate --wait-for-server 1", told),
  ];
  const first = await clone.run("db:setup", {
    ...variables,
    COMPOSE_PROJECT_NAME: "mine",
  });
  await program.close();
  await stopEmbedded(dataDir);
  rmSync(dataDir, { recursive: true });
  const log = await clone.run("db:logs", variables);
  const second = await clone.run("db:setup", variables);

  expect({ ...before, stderr: before.stderr.split("\n")[0] }).toEqual({
    exitCode: 2,
    stdout: "",
    stderr: `Error: this clone did not start the server on localhost:${port}: it may be another clone's`,
  });
  expect(taken.map(({ exitCode }) => exitCode)).toEqual([2, 1, 2]);
  expect(taken[0]?.stderr.split("\n")[0]).toBe(before.stderr.split("\n")[0]);
  expect(taken[1]?.stderr).toContain("a server that this clone did not start");
  const [, chosen = ""] = /with port (\d+)/.exec(first.stdout) ?? [];
  const figures = /PostgreSQL \d+\.\d+|[\d.]+ ms/g;
  expect({ exitCode: first.exitCode, stderr: first.stderr }).toEqual({
    exitCode: 0,
    stderr: "",
  });
  expect(first.stdout.replace(figures, "…").split("\n")).toEqual([
    `Wrote: .env.local, with port ${chosen}, because localhost:${port} is taken by another program`,
    `Started: … on localhost:${chosen} (embedded)`,
    "Created: database app",
    ...ownMigrations.map(({ tag }) => `Applied: ${tag} (…)`),
    "Seeded: dev (users 1, tenants 1, tenant_members 1, builds 3)",
    `Connected: app on localhost:${chosen} (primary), …, … a query`,
    "Counted: users 1, tenants 1, memberships 1",
    "Compared: no migration is pending",
    "",
  ]);
  expect(Number(chosen)).toBeGreaterThan(port + 1);
  expect(log.stdout).not.toMatch(/ERROR|FATAL/);
  expect(second.exitCode).toBe(0);
  expect(second.stdout).toStartWith("Already running: ");
  expect(second.stdout).toContain(
    `Nothing to migrate: app is at ${ownHead}\nNothing to seed: the dev rows are already there`,
  );
  expect(clone.read(".env.local")).toBe(
    `${example(Number(chosen))}\n# For Docker Compose.\nCOMPOSE_PROJECT_NAME=mine\n`,
  );
});

test("does each step once when three run at once, on the usual port when it is free", async (clone, port) => {
  const all = await Promise.all(
    Array.from({ length: 3 }, () => clone.run("db:setup", variables)),
  );

  expect(all.map(({ exitCode, stderr }) => ({ exitCode, stderr }))).toEqual(
    Array(3).fill({ exitCode: 0, stderr: "" }),
  );
  const output = all.map(({ stdout }) => stdout).join("");
  for (const line of [
    "Wrote: .env.local\n",
    `Started: PostgreSQL 18.4 on localhost:${port} (embedded)\n`,
    "Applied: ",
    "Seeded: ",
  ])
    expect(output.split(line)).toHaveLength(2);
  const file = join(clone.folder, ".env.local");
  expect(readFileSync(file, "utf8")).toBe(clone.read(".env.example"));
  expect(statSync(file).mode & 0o777).toBe(0o600);
});

test("writes no .env.local that an .env or the environment contradicts, and stops at the step that failed", async (clone) => {
  // Only a port may differ from .env.example, and is written.
  const isThere = () => existsSync(join(clone.folder, ".env.local"));
  const POSTGRES_PORT = String(await findFreePort());
  const told = { DB_ENGINE: "external", POSTGRES_PORT };
  const chosen = await clone.run("db:setup", told);
  const written = clone.read(".env.local");
  rmSync(join(clone.folder, ".env.local"));
  await $`${process.execPath} -e ${`
    import { writeEnvFile } from "./scripts/server/env-file";
    import { readEnv } from "./src/env";
    const told = ${JSON.stringify(told)};
    for (const [name, value] of [
      ["POSTGRES_HOST", "127.0.0.1"],
      ["POSTGRES_DB", "other"],
      ["POSTGRES_USER", "other"],
      ["POSTGRES_PASSWORD", "other"],
    ])
      await writeEnvFile(readEnv(undefined, { ...told, [name]: value }));`}`.cwd(
    clone.folder,
  );
  const isContradicted = isThere();
  const homeless = await clone.run("db:setup", { TMPDIR: "/nowhere" });
  const remote = await clone.run("db:setup", { POSTGRES_HOST: "host.invalid" });
  const closed = await findFreePort();
  const production = await clone.run("db:setup", {
    NODE_ENV: "production",
    DATABASE_URL: `postgres://u:p@127.0.0.1:${closed}/app`,
  });
  clone.write(
    ".env",
    `DATABASE_URL=postgres://u:p@127.0.0.1:${closed}/app\nDB_ENGINE=external\n`,
  );
  const local = await clone.run("db:setup");
  // A hint names no command that was not copied with the others.
  clone.replace("package.json", '"db:start":', '"start":');
  const copied = await clone.run("db:migrate", { DB_ENGINE: "embedded" });

  expect(chosen).toMatchObject({ exitCode: 1, stdout: "Wrote: .env.local\n" });
  expect(written).toContain(`\nPOSTGRES_PORT=${POSTGRES_PORT}\n`);
  expect(isContradicted).toBe(false);
  expect(homeless).toEqual({
    exitCode: 2,
    stdout: "",
    stderr:
      "Error: the folder for temporary files is missing: /nowhere\nHint: create it, or set `TMPDIR` to a folder that exists\n",
  });
  expect(production).toEqual({
    exitCode: 2,
    stdout: "",
    stderr:
      "Error: db:setup is for development, and NODE_ENV is production\nHint: docs/DATABASE_SETUP.md lists the steps of a first deploy\n",
  });
  expect(remote).toMatchObject({ exitCode: 1, stdout: "" });
  expect(remote.stderr).toContain("host.invalid");
  expect(local).toEqual({
    exitCode: 1,
    stdout: "",
    stderr: `Error: nothing listens on 127.0.0.1:${closed}\nHint: start that server, or check host and port in \`DATABASE_URL\`\n`,
  });
  expect(copied.stderr).toBe(`Error: nothing listens on 127.0.0.1:${closed}\n`);
  expect(isThere()).toBe(false);
});
