// docker:prod on a Docker Engine: a first deploy, one whose migration is broken,
// one under load, the way back, and down.
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
