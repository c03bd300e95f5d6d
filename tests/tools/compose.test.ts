// The server in Docker, in a clone and a Compose project of its own; and, without Docker,
// what is made of its answers.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { $ } from "bun";
import { isDockerReady } from "../../scripts/server/compose";
import { findFreePort } from "../lib/ports";
import { copyProject } from "../lib/project";
import { isWhole } from "../lib/sample";
import { copyWithDocker, fail, say } from "../lib/told-docker";
import { testServer } from "../setup";

test("what Docker answers is told apart, and another checkout's project left alone", async () => {
  using clone = copyWithDocker();
  const container = (state: string, folder: string, port = 5499) => ({
    "ps*": say(`${state}\\t0.0.0.0:${port}->5432/tcp\\t${folder}\\n`),
  });
  const auto = { engine: "auto" };
  const usual = container("running", clone.folder, 5432);
  const ours = container("running", clone.folder);
  const noVolume = { "volume*": "exit 1" };
  const start = (stderr: string, log = "") => ({
    call: ["startCompose"] as [string],
    answers: {
      ...ours,
      "*--wait-timeout*": fail(stderr),
      "*logs*": say(log),
    },
  });
  clone.write(
    ".data/server.json",
    JSON.stringify({ folder: "/moved", port: 1, identity: "1" }),
  );

  const names: string[] = [];
  const outcomes: Awaited<ReturnType<typeof clone.callAll>> = [];
  const callAll = async (cases: Parameters<typeof clone.callAll>[0]) => {
    names.push(...cases.map(({ call }) => call.join(" ")));
    outcomes.push(...(await clone.callAll(cases)));
  };
  await callAll([
    { call: ["isDockerReady"] },
    { call: ["isDockerReady"], answers: { version: "exit 1" } },
    { call: ["isDockerReady"], answers: { "compose?version": "exit 1" } },
    { call: ["startCompose"], answers: ours },
    start("Bind for 0.0.0.0:5432 failed: port is already allocated"),
    start("listen tcp 0.0.0.0:5432: bind: address already in use"),
    start(""),
    start("Cannot connect to the Docker daemon at unix:///var/run"),
    start("failed to connect to the docker API at unix:///var/run"),
    start("permission denied while trying to connect"),
    start("write: no space left on device"),
    start("unhealthy", "FATAL:  initialized by PostgreSQL version 15, which"),
    start("unhealthy", "there appears to be PostgreSQL data in:"),
    start("unhealthy", "FATAL:  first\\nFATAL:  no such role \\nended"),
    start("unhealthy", "ok\\nError: no password\\nended"),
    start("one\\ndb-1 is unhealthy\\n"),
    { call: ["stopCompose"], answers: container("exited", clone.folder) },
    { call: ["stopCompose"], answers: container("running", "/tmp") },
    { call: ["stopCompose"], answers: ours },
    {
      call: ["stopCompose"],
      answers: { ...ours, "*stop*": fail("it is busy") },
    },
    { call: ["stopCompose"], answers: { "ps*": "exit 1" } },
    { call: ["stopCompose"], answers: { "ps*": "true" } },
    { call: ["readComposePort"], answers: ours },
    { call: ["readComposePort"], answers: container("running", "/tmp") },
    { call: ["readComposePort"], answers: { "ps*": "exit 1" } },
    { call: ["findContainerId"], answers: { "ps*": say("c1\\nc2\\n") } },
    { call: ["findContainerId"] },
    { call: ["requireOwnProject"], answers: container("running", "/tmp") },
    { call: ["requireOwnProject"], answers: container("running", "/moved") },
    { call: ["requireOwnProject"], answers: container("running", "/gone") },
    { call: ["requireOwnProject"] },
    { call: ["requireOwnProject"], answers: noVolume },
    { call: ["requireOwnProject"], env: { composeProjectName: "named" } },
  ]);
  // As in a copy of a clone that is still there.
  const record = { folder: "/tmp", port: 1, identity: "1" };
  clone.write(".data/server.json", JSON.stringify(record));
  const at = (host: string, otherHosts: object[] = []) => ({
    ...{ ...auto, database: { host, port: 5432, otherHosts } },
  });
  await callAll([
    { call: ["requireOwnProject"], answers: container("running", "/tmp") },
    { call: ["stopCompose"], answers: container("created", clone.folder) },
    { call: ["chooseEngine"], env: at("/run") },
    { call: ["chooseEngine"], env: at("db.example.com") },
    {
      call: ["chooseEngine"],
      env: at("localhost", [{ host: "localhost", port: 5433 }]),
    },
    { call: ["chooseEngine"], env: at("localhost") },
    { call: ["chooseEngine"], env: auto },
    { call: ["chooseEngine"], env: auto, answers: { version: "exit 1" } },
    { call: ["chooseEngine"], env: { engine: "external" } },
    { call: ["findEngine"], answers: usual },
    { call: ["findEngine"], answers: ours },
    { call: ["findEngine"], answers: usual, env: { engine: "external" } },
    { call: ["isEngineRunning", "env", "compose"], answers: ours },
    {
      call: ["isEngineRunning", "env", "compose"],
      answers: { "ps*": "true" },
    },
    { call: ["isEngineRunning", "env", "embedded"], answers: ours },
    { call: ["isEngineRunning", "env", "external"], answers: ours },
    { call: ["stopServer"], answers: ours },
  ]);
  clone.write(".data/engine", "compose\n");
  await callAll([
    { call: ["stopServer"], answers: ours },
    { call: ["stopServer"], answers: { "ps*": "true" } },
    { call: ["chooseEngine"], env: auto, answers: { version: "exit 1" } },
  ]);
  clone.write(".data/project", "ourclone");
  const [noted] = await clone.callAll([{ call: ["requireOwnProject"] }]);

  const told = outcomes.map(({ outcome, calls, note }, index) =>
    [
      `${names[index]}: ${outcome}`,
      ...calls
        // All of those that start, once; and of the others what they change.
        .filter((call) => index === 3 || call.startsWith("compose"))
        .filter(() => index < 5 || index > 15)
        .map((call) => `  docker ${call}`)
        .sort(),
      ...(note ? [`  project: ${note}`] : []),
    ].join("\n"),
  );
  expect(told.join("\n").replaceAll(clone.folder, "…")).toMatchSnapshot();
  expect(noted?.outcome).toBeUndefined();
}, 60_000);

test("docker:dev passes on what it is told, with the variables of the other commands, and records a server that is up", async () => {
  using clone = copyWithDocker();
  const { host, port, user, password = "" } = testServer;
  const variables = {
    ...{ POSTGRES_HOST: host, POSTGRES_PORT: String(port) },
    ...{ POSTGRES_USER: user, POSTGRES_PASSWORD: password },
    POSTGRES_DB: "postgres",
  };
  const names = ["COMPOSE_PROJECT_NAME", ...Object.keys(variables).slice(1)];
  const print = `echo ${names.map((name) => `"$${name}"`).join(" ")}`;
  const answers = {
    "volume*": "exit 1",
    "*down*": `${print}; exit 7`,
    "*up*": print,
  };
  const record = () =>
    ["server.json", "engine"].map((file) =>
      existsSync(join(clone.folder, ".data", file))
        ? clone.read(`.data/${file}`)
        : undefined,
    );

  const down = await clone.runTold("docker:dev:down --volumes", answers);
  const failed = await clone.runTold(
    "docker:dev",
    { ...answers, "*up*": "exit 7" },
    variables,
  );
  const silent = await clone.runTold("docker:dev", answers, {
    ...variables,
    POSTGRES_PORT: "1",
  });
  clone.write(".data/engine", "embedded");
  await clone.runTold("docker:dev", answers, variables);
  const embedded = record();
  rmSync(join(clone.folder, ".data/engine"));
  const up = await clone.runTold("docker:dev", answers, variables);
  const noVolume = { "volume*": "exit 1" };
  const kept = await clone.runTold("docker:dev:down", noVolume);
  const logs = await clone.runTold("db:logs --lines 5", {
    ...noVolume,
    "*logs*": `${say("a log\\n")}; exit 3`,
  });
  const followed = await clone.runTold("db:logs -f", noVolume);
  const others = await clone.runTold("db:logs", {
    "ps*": say("running\\t\\t/tmp"),
  });

  const file = `compose --file ${clone.folder}/docker-compose.dev.yml`;
  expect(down).toMatchObject({
    exitCode: 1,
    stdout: "ourclone 5432 postgres postgres app\n",
  });
  expect(down.calls.at(-2)).toBe(`${file} down --volumes`);
  expect([failed.exitCode, silent.exitCode]).toEqual([1, 0]);
  expect(embedded).toEqual([undefined, "embedded"]);
  expect(up).toMatchObject({
    exitCode: 0,
    stdout: `ourclone ${port} ${user} ${password} postgres\n`,
  });
  expect(up.calls).toContain(`${file} up --detach --wait`);
  const [server = "", engine] = record();
  expect(JSON.parse(server)).toEqual({
    ...{ folder: clone.folder, port },
    identity: expect.stringMatching(/^\d+/),
  });
  expect(engine).toBe("compose\n");
  expect(kept.calls).toContain(`${file} down`);
  expect(logs).toMatchObject({ exitCode: 3, stdout: "a log\n" });
  expect(logs.calls.at(-1)).toBe(`${file} logs --no-log-prefix --tail 5 db`);
  expect(followed.calls.at(-1)).toBe(
    `${file} logs --no-log-prefix --tail 100 --follow db`,
  );
  expect(others).toMatchObject({ exitCode: 2, stdout: "" });
}, 60_000);

if (!isWhole) console.warn("Left out: compose, which ALL=1 runs");
else if (!(await isDockerReady()))
  console.warn("Left out: compose, for no Docker engine answers");
else
  describe("compose", () => {
    const name = `starter-test-${crypto.randomUUID().slice(0, 8)}`;
    const project = copyProject();
    const compose = (...args: string[]) =>
      $`docker compose --project-name ${name} --file docker-compose.dev.yml ${args}`
        .cwd(project.folder)
        .quiet();

    beforeAll(async () => {
      const port = await findFreePort();
      project.write(
        ".env.local",
        `COMPOSE_PROJECT_NAME=${name}\nPOSTGRES_PORT=${port}\nPOSTGRES_DB=mine\nPOSTGRES_USER=me\nPOSTGRES_PASSWORD=secret\n`,
      );
    });
    afterAll(async () => {
      await compose("down", "--volumes");
      project[Symbol.dispose]();
    }, 60_000);

    test("db:setup takes it without being told, and says so", async () => {
      const first = await project.run("db:setup");
      const second = await project.run("db:setup");

      expect(first.stderr).toBe("");
      expect(first.exitCode).toBe(0);
      expect(first.stdout).toMatch(/\(compose\)\n/);
      expect(second.exitCode).toBe(0);
      expect(second.stdout).toContain("Nothing to seed: ");
    }, 120_000);

    test("db:stop and db:start keep the data, and db:reset --undo a deleted row", async () => {
      await project.run("db:setup");
      await project.run("db:stop");
      const stopped = await project.run("db:status --json");
      await project.run("db:start");
      await project.run(
        "db:shell",
        {},
        "delete from builds where number = 1;\n",
      );
      await project.run("db:reset");
      await project.run("db:reset --undo");

      const count = await project.run(
        "db:shell -- -At",
        {},
        "select count(*) from builds;\n",
      );

      expect(JSON.parse(stopped.stdout)).toMatchObject({
        engine: "compose",
        running: false,
      });
      expect(count.stdout).toBe("2\n");
    }, 120_000);

    test("db:status and db:logs tell of it", async () => {
      await project.run("db:start");

      const status = JSON.parse((await project.run("db:status --json")).stdout);
      const logs = await project.run("db:logs --lines 200");

      expect(status).toMatchObject({
        engine: "compose",
        running: true,
        reachable: true,
        database: "mine",
        user: "me",
      });
      expect(logs.stdout + logs.stderr).toContain(
        "database system is ready to accept connections",
      );
    }, 120_000);

    test("a volume that was made with another password is said to be", async () => {
      await project.run("db:start");

      const { exitCode, stderr } = await project.run("db:start", {
        POSTGRES_PASSWORD: "other",
      });

      expect(exitCode).toBe(1);
      expect(stderr).toContain(
        "its volume was created with a different password",
      );
    }, 120_000);

    test("docker:dev and docker:dev:down bring the file up and down, and keep the volume", async () => {
      await project.run("db:setup");
      const down = await project.run("docker:dev:down");
      const up = await project.run("docker:dev");

      const { stdout } = await project.run("db:test --json");

      expect([down.exitCode, up.exitCode]).toEqual([0, 0]);
      expect(JSON.parse(stdout).counts).toEqual({
        users: 1,
        tenants: 1,
        memberships: 1,
      });
    }, 120_000);

    test("a second checkout with the project's name leaves it alone", async () => {
      await project.run("db:start");
      using second = copyProject();
      const port = await findFreePort();
      const variables = { POSTGRES_PORT: String(port) };
      second.write(".env.local", project.read(".env.local"));

      const outcomes = [];
      for (const command of ["db:start", "docker:dev", "docker:dev:down"])
        outcomes.push(await second.run(command, variables));
      const left = await project.run("db:status --json");

      for (const { exitCode, stdout, stderr } of outcomes) {
        expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: "" });
        expect(stderr).toContain(`the Compose project ${name} belongs to the`);
      }
      expect(JSON.parse(left.stdout)).toMatchObject({ engine: "compose" });
    }, 120_000);
  });
