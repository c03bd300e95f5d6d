// docker:prod on a Docker Engine: a first deploy, one whose migration is broken,
// one under load, the way back, and down; and, without Docker, what is made of its answers.
import { expect, test } from "bun:test";
import { readFileSync, statSync } from "node:fs";
import { userInfo } from "node:os";
import { join } from "node:path";
import { $ } from "bun";
import { isDockerReady } from "../../scripts/server/compose";
import { withFileLock } from "../../scripts/server/file-lock";
import { root } from "../../src/env";
import { start } from "../lib/command";
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
}, 60_000);

test("docker:prod goes from step to step, and keeps the old version where one fails", async () => {
  using clone = copyWithDocker();
  const environment = '"$COMPOSE_PROJECT_NAME|$APP_VERSION|$APP_PREVIOUS"';
  const told = { "*--wait?app*": `echo with ${environment} >>"$0.calls"` };
  const image = (id: number) => ({
    "image?inspect*": say(`sha256:${id}`),
  });
  const tags = [1, 2, 3, 4, 5, 6, 7].map((day) => `2026010${day}000000`);
  const images = { "images*": say(tags.join("\\n")) };
  const fails = (step: string) => ({ [step]: "exit 1" });
  const transcript: string[] = [];
  const run = async (command: string, answers: Record<string, string> = {}) => {
    const outcome = await clone.runTold(command, answers);
    const { exitCode, stdout, stderr, calls } = outcome;
    const isAsked = (call: string) => !/^(compose )?version$/.test(call);
    transcript.push(
      [
        `$ bun run ${command}`,
        stdout + stderr,
        ...calls.filter(isAsked).map((call) => `docker ${call}`),
        `exit code ${exitCode}\n`,
      ]
        .join("\n")
        .replaceAll(
          `compose --env-file ${clone.folder}/.env.production --file docker-compose.yml`,
          "compose …",
        )
        .replaceAll("--filter=label=com.docker.compose.", "…")
        .replaceAll(/\b20\d{6}(?!000000)\d{6}\b/g, "<version>"),
    );
  };

  clone.write("docker-compose.yml", "services:\n  gate:\n");
  await run("docker:prod:down");
  await run("docker:prod --rollback");
  await run("docker:prod", { "*service=db*": say("running\\t\\t/tmp") });
  await run("docker:prod"); // there is a volume
  const first = { "volume*": "exit 1", ...images };
  const ill = { ...fails("*--wait?app*"), "logs*": say("why\\n") };
  const none = {
    "*service=db*": "true",
    "ps*--all*": say("c1"),
    "ps*": "true",
  };
  await run("docker:prod", { ...first, ...none, ...ill });
  const settings = clone.read(".env.production");
  const { mode } = statSync(join(clone.folder, ".env.production"));
  await run("docker:prod", { ...told, ...images });
  await run("docker:prod", { ...serving, ...fails("*?build*") });
  await run("docker:prod", { ...serving, ...fails("*--wait?db*") });
  await run("docker:prod", { ...serving, ...image(3), ...fails("*db-init*") });
  await run("docker:prod", { ...told, ...serving, ...image(2), ...images });
  const published = { "port*": say("3000/tcp -> 0.0.0.0:3000") };
  await run("docker:prod", {
    ...told,
    ...serving,
    ...published,
    ...fails("*--wait?gate*"),
  });
  await run("docker:prod --rollback", {
    ...told,
    ...serving,
    ...image(1),
    ...published,
  });
  await run("docker:prod --rollback", { ...serving, ...fails("image*") });
  await run("docker:prod --rollback", { ...serving, ...image(1), ...ill });
  await run("docker:prod:down", fails("*down"));
  clone.write("docker-compose.yml", "services:\n  app:\n");
  const kept = tags.with(1, "20260102000000-b").join("\\n");
  await run("docker:prod", {
    ...serving,
    ...image(3),
    "images*": say(kept),
  });
  const lock = `compose-ourclone-production-${userInfo().uid}.lock`;
  const args = "scripts/docker-prod.ts down";
  const waiting = await withFileLock(join(clone.folder, lock), async () => {
    const { stdout, stderr } = start(args, clone.variables, clone.folder);
    const { value } = await stderr.getReader().read();
    return { stdout, said: new TextDecoder().decode(value) };
  });
  const down = await new Response(waiting.stdout).text();

  expect(settings).toMatch(/\nPOSTGRES_PASSWORD=[0-9a-f]{48}\n$/);
  expect(settings.replace(/[0-9a-f]{48}/, "…")).toMatchSnapshot();
  expect(waiting.said).toBe("Waiting: another docker:prod is running\n");
  expect(down).toBe("Taken down: the data is kept\n");
  expect(mode & 0o777).toBe(0o600);
  expect(transcript.join("\n")).toMatchSnapshot();
}, 120_000);

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
          await Bun.sleep(50); // the deployment needs the processor as well
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
