// The server in Docker, in a clone and a Compose project of its own.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { $ } from "bun";
import { isDockerReady } from "../../scripts/server/compose";
import { findFreePort } from "../lib/ports";
import { copyProject } from "../lib/project";
import { isWhole } from "../lib/sample";

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
