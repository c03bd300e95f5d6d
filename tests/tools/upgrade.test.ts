// docs/UPGRADE.md: from the tests' server, which CI also runs as PostgreSQL 15,
// to PostgreSQL 18 in Docker.
import { expect } from "bun:test";
import { join } from "node:path";
import { $ } from "bun";
import { findPostgresTools } from "../../scripts/server/client-programs";
import { isDockerReady } from "../../scripts/server/compose";
import { readEnv } from "../../src/env";
import { findFreePort } from "../lib/ports";
import { copyProject } from "../lib/project";
import { isWhole } from "../lib/sample";
import { test } from "../lib/test";

if (!isWhole) console.warn("Left out: upgrades, which ALL=1 runs");
else if (!(await isDockerReady()))
  console.warn("Left out: upgrades, for no Docker engine answers");
else if (await findMissingTool())
  console.warn(`Left out: upgrades, for ${await findMissingTool()}`);
else
  test(
    "a backup of an older server goes into a new one, and the old volume is refused",
    "seeded",
    async ({ database }) => {
      using project = copyProject();
      const name = `starter-test-${crypto.randomUUID().slice(0, 8)}`;
      project.write(
        ".env.local",
        `COMPOSE_PROJECT_NAME=${name}\nPOSTGRES_PORT=${await findFreePort()}\nPOSTGRES_DB=app\nPOSTGRES_USER=postgres\nPOSTGRES_PASSWORD=secret\n`,
      );
      const backups = join(project.folder, "backups");
      const backup = await database.run("db:backup --json", {
        BACKUP_DIR: backups,
      });
      const { file, tables } = JSON.parse(backup.stdout);
      try {
        // The volume of another version, as an older image has left it.
        await $`docker run --rm --volume ${name}_db-data:/var/lib/postgresql --entrypoint sh postgres:18-alpine -c ${"cd /var/lib/postgresql && mkdir -p 18/docker && echo 15 > 18/docker/PG_VERSION && touch 18/docker/postgresql.conf && chown -R postgres . && chmod 700 18/docker"}`.quiet();
        const refused = await project.run("db:start");
        project.replace(
          "docker-compose.dev.yml",
          "- db-data:/var",
          "- db-data-18:/var",
        );
        project.replace(
          "docker-compose.dev.yml",
          "  db-data:\n",
          "  db-data-18:\n",
        );
        const started = await project.run("db:start");
        const restored = await project.run(`db:restore --json ${file}`);
        const tested = await project.run("db:test --json");

        expect(refused).toMatchObject({ exitCode: 1, stdout: "" });
        expect(refused.stderr).toStartWith(
          "Error: the volume holds the data of PostgreSQL 15, and the image is another version\nHint: ",
        );
        expect(started.stdout).toContain("(compose)");
        expect(restored.exitCode).toBe(0);
        expect(JSON.parse(restored.stdout).tables).toEqual(tables);
        expect(tested.exitCode).toBe(0);
      } finally {
        await $`docker compose --project-name ${name} --file docker-compose.dev.yml down --volumes`
          .cwd(project.folder)
          .quiet();
        await $`docker volume rm ${name}_db-data`.quiet().nothrow();
      }
    },
  );

async function findMissingTool(): Promise<string | undefined> {
  try {
    await findPostgresTools(["pg_dump"], readEnv());
  } catch (error) {
    return (error as Error).message;
  }
}
