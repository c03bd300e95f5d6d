// docker:prod on a Docker Engine: a first deploy, one whose migration is broken,
// one under load, the way back, and down; and, without Docker, what is made of its answers.
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { $ } from "bun";
import { isDockerReady } from "../../scripts/server/compose";
import { root } from "../../src/env";
import { writeMigrations } from "../lib/migrations";
import { findFreePort } from "../lib/ports";
import { copyProject } from "../lib/project";
import { isWhole } from "../lib/sample";
import { copyWithDocker, fail, say } from "../lib/told-docker";

/** A version that serves, in the older of two containers. */
const serving = {
  "*service=db*": "true",
  "ps*healthy*": say("c2\\nc1\\n"),
  "ps*": say("c2\\nc1\\n"),
  "inspect*": say("p-app:20260102000000-b\\tsha256:2\\t20260101000000-a\\n"),
};

test("the version that serves is found, and the new one takes its place only where it is healthy", async () => {
  using clone = copyWithDocker();
  const production = { project: "p", envFile: "none" };
  const old = {
    container: "c1",
    version: "20260102000000-b",
    image: "sha256:2",
    previous: "20260101000000-a",
  };
  const read = (answers: Record<string, string>) => ({
    call: ["readRelease", production] as [string, object],
    answers,
  });
  const replace = (answers: Record<string, string>) => ({
    call: ["switchRelease", production, old, {}] as [string, ...object[]],
    answers: { ...serving, ...answers },
  });
  const published = { "port*": say("3000/tcp -> 0.0.0.0:3000") };
  const ill = { "compose*": "exit 1", "logs*": say("why\\n") };

  const outcomes = await clone.callAll([
    read(serving),
    read({ ...serving, "ps*healthy*": "true", "ps*running*": say("c1\\n") }),
    read({}),
    read({ "ps*": fail("first\\nno engine") }),
    {
      call: ["listVersions", production],
      answers: {
        "images*": say("latest\\n20260102000000-b\\n20260101000000-a\\n<none>"),
      },
    },
    {
      call: ["readImage", production, "1"],
      answers: { "image*": `${say("[]")}; exit 1` },
    },
    replace({}),
    replace(ill),
    replace(published),
    replace({ ...published, ...ill }),
  ]);

  expect(outcomes.map(({ outcome }) => outcome)).toEqual([
    old,
    old,
    undefined,
    "docker ps failed: no engine",
    ["20260101000000-a", "20260102000000-b"],
    "",
    true,
    "the new version does not become healthy",
    false,
    "the new version does not become healthy",
  ]);
  expect(outcomes[0]?.calls[0]).toEndWith(
    "--filter=label=com.docker.compose.project=p --filter=label=com.docker.compose.service=app --filter=label=com.docker.compose.oneoff=False",
  );
  const changes = outcomes
    .slice(6)
    .map(({ calls }) =>
      calls
        .filter((call) => /^(compose|rm|stop) /.test(call))
        .map((call) => call.replace(/^.*--wait app ?/, "up ")),
    );
  const others = "rm --force c2"; // left by an interrupted deploy
  const beside = "up --no-recreate --scale=app=2";
  expect(changes).toEqual([
    [others, beside, "stop c1", "rm c1"],
    [others, beside, others],
    [others, "up "],
    [others, "up ", "up "],
  ]);
});

test("docker:prod goes from step to step, and keeps the old version where one fails", async () => {
  using clone = copyWithDocker();
  clone.write("docker-compose.yml", "services:\n  gate:\n");
  const tags = [1, 2, 3, 4, 5, 6, 7].map((day) => `2026010${day}000000`);
  const project = "ourclone-production";

  const none = await clone.runTold("docker:prod --rollback");
  const first = await clone.runTold("docker:prod", {
    "volume*": "exit 1",
    "images*": say(tags.join("\\n")),
  });
  const left = await clone.runTold("docker:prod", {
    ...serving,
    "image*": say("sha256:3"),
    "*db-init*": "exit 1",
  });

  expect(none).toMatchObject({
    exitCode: 1,
    stderr: "Error: no version serves\n",
  });
  const [, version = ""] = /Deployed: (\S+)\n$/.exec(first.stdout) ?? [];
  expect(first).toMatchObject({
    exitCode: 0,
    stdout: `Wrote: .env.production, with a new password\nBuilt: ${project}-app:${version}\nMigrated: by db-init\nDeployed: ${version}\n`,
  });
  expect(clone.read(".env.production")).toMatch(
    new RegExp(
      `\nCOMPOSE_PROJECT_NAME=${project}\nPOSTGRES_PASSWORD=[0-9a-f]{48}\n$`,
    ),
  );
  const steps = first.calls.filter((call) => /^(compose -|rmi)/.test(call));
  expect(steps.map((call) => call.replace(/^.*\.yml /, ""))).toEqual([
    "build app gate",
    "up --detach --wait db",
    "run --rm --no-deps -T db-init",
    "up --detach --no-deps --wait app",
    "up --detach --no-deps --wait gate",
    `rmi ${project}-app:${tags[0]}`,
    `rmi ${project}-app:${tags[1]}`,
  ]);
  expect(left.exitCode).toBe(1);
  expect(left.stderr).toEndWith(
    "Error: db-init failed: see its output above; version 20260102000000-b is left in place\n",
  );
  expect(left.calls.at(-1)).toStartWith(`rmi ${project}-app:`);
  expect(left.calls.join("\n")).not.toContain("--wait app");
});

const hasImage = async () =>
  (await $`docker image inspect oven/bun:1`.quiet().nothrow()).exitCode === 0;

if (!isWhole) console.warn("Left out: docker:prod, which ALL=1 runs");
else if (!(await isDockerReady()) || !(await hasImage()))
  console.warn("Left out: docker:prod, for there is no image oven/bun:1");
else
  test("docker:prod deploys, keeps the old version where a migration fails, replaces it without a failed request, and goes back", async () => {
    using project = copyProject();
    for (const file of [
      ".dockerignore",
      "Dockerfile",
      "bun.lock",
      "docker-compose.yml",
    ])
      project.write(file, readFileSync(join(root, file), "utf8"));
    const name = `starter-test-${crypto.randomUUID().slice(0, 8)}`;
    const port = await findFreePort();
    const url = `http://127.0.0.1:${port}`;
    const variables = { COMPOSE_PROJECT_NAME: name, PORT: String(port) };
    const deploy = async (flag = "") => {
      const command = `docker:prod ${flag}`.trim();
      const { exitCode, stdout, stderr } = await project.run(
        command,
        variables,
      );
      return { exitCode, last: stdout.trim().split("\n").at(-1), stderr };
    };
    const ask = async (path: string) => await (await fetch(url + path)).text();
    const one = { "0000_one": "create table one (id int);" };

    try {
      writeMigrations(project, {
        ...one,
        "0000_roles": project.read(
          "src/infrastructure/database/migrations/0000_initial.sql",
        ),
      });
      const first = await deploy();
      const health = await ask("/health");

      project.replace("src/server.ts", "It works.", "It works, too.");
      const initial = project.read(
        "src/infrastructure/database/migrations/0000_roles.sql",
      );
      const before = { ...one, "0000_roles": initial };
      writeMigrations(project, { ...before, "0001_broken": "broken;" });
      const broken = await deploy();
      const kept = await ask("/");

      writeMigrations(project, { ...before, "0001_two": "select 1;" });
      let requests = 0;
      let isDeploying = true;
      const load = Array.from({ length: 4 }, async () => {
        while (isDeploying) {
          await ask("/health");
          requests += 1;
        }
      });
      const second = await deploy();
      isDeploying = false;
      await Promise.all(load); // a failed request would throw here
      const replaced = await ask("/");

      const back = await deploy("--rollback");
      const rolledBack = await ask("/");
      const down = await project.run("docker:prod:down", variables);
      const volumes = await $`docker volume ls --quiet`.text();

      expect(first).toMatchObject({ exitCode: 0 });
      expect(first.last).toStartWith("Deployed: ");
      expect(JSON.parse(health)).toEqual({ healthy: true });
      expect(broken.exitCode).toBe(1);
      expect(broken.stderr).toContain("Error: 0001_broken failed: ");
      expect(broken.stderr).toMatch(/db-init failed: .* is left in place\n$/);
      expect(kept).toBe("It works.\n");
      expect(second).toMatchObject({ exitCode: 0 });
      expect(second.last).toEndWith("ended once the new one was healthy");
      expect(requests).toBeGreaterThan(10);
      expect(replaced).toBe("It works, too.\n");
      expect(back).toMatchObject({ exitCode: 0 });
      expect(rolledBack).toBe("It works.\n");
      expect(down).toMatchObject({
        exitCode: 0,
        stdout: "Taken down: the data is kept\n",
      });
      expect(volumes).toContain(`${name}-production_production-data\n`);
    } finally {
      await project.run("docker:prod:down", variables);
      await $`docker volume rm ${name}-production_production-data`
        .quiet()
        .nothrow();
      const images =
        await $`docker images --quiet --filter ${`reference=${name}-*`}`.text();
      for (const image of new Set(images.split("\n").filter(Boolean)))
        await $`docker rmi --force ${image}`.quiet().nothrow();
    }
  }, 600_000);
