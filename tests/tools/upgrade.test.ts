// docs/UPGRADE.md: from the tests' server, which CI also runs as PostgreSQL 15,
// to PostgreSQL 18 in Docker.
import { expect, test } from "bun:test";
import { join } from "node:path";
import { $ } from "bun";
import { findPostgresTools } from "../../scripts/server/client-programs";
import { isDockerReady } from "../../scripts/server/compose";
import { readEnv, root } from "../../src/env";
import { type TestDatabase, withDatabase } from "../lib/database";
import { findFreePort } from "../lib/ports";
import { copyProject, type Project } from "../lib/project";
import { isWhole } from "../lib/sample";

const obstacle = await findObstacle();
if (obstacle) console.warn(`Left out: upgrades: ${obstacle}`);
else
  test("a backup of an older server goes into a new one, and the old volume is refused", async () => {
    using project = copyProject();
    const move = (database: TestDatabase) => moveTo18(project, database);
    await withDatabase("seeded", move, project.folder);
  }, 600_000);

async function findObstacle(): Promise<string | undefined> {
  if (!isWhole) return "ALL=1 runs them";
  if (!(await isDockerReady())) return "no Docker engine answers";
  try {
    await findPostgresTools(["pg_dump"], readEnv());
  } catch (error) {
    return (error as Error).message;
  }
}

async function moveTo18(project: Project, database: TestDatabase) {
  const name = `starter-test-${crypto.randomUUID().slice(0, 8)}`;
  project.write(
    ".env.local",
    `COMPOSE_PROJECT_NAME=${name}\nPOSTGRES_PORT=${await findFreePort()}\nPOSTGRES_DB=app\nPOSTGRES_USER=postgres\nPOSTGRES_PASSWORD=secret\n`,
  );
  const file = "docker-compose.dev.yml";
  // The data of another version, where the image looks for its own.
  const old =
    "cd /var/lib/postgresql && mkdir -p 18/docker && echo 15 > 18/docker/PG_VERSION && touch 18/docker/postgresql.conf && chown -R postgres . && chmod 700 18/docker";
  const run = ["docker", "run", "--rm", "--entrypoint", "sh"];
  const volume = ["--volume", `${name}_db-data:/var/lib/postgresql`];
  const BACKUP_DIR = join(project.folder, "backups");
  try {
    await $`${run} ${volume} postgres:18-alpine -c ${old}`.quiet();

    const backup = await database.run(
      "db:backup --json",
      { BACKUP_DIR },
      root, // from where the programs of the tests' server are found
    );
    const { file: archive, tables } = JSON.parse(backup.stdout);
    const refused = await project.run("db:start");
    project.replace(file, "- db-data:/var", "- db-data-18:/var");
    project.replace(file, "  db-data:\n", "  db-data-18:\n");
    const started = await project.run("db:start");
    const restored = await project.run(`db:restore --json ${archive}`);
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
    await $`docker compose --project-name ${name} --file ${file} down --volumes`
      .cwd(project.folder)
      .quiet();
    await $`docker volume rm ${name}_db-data`.quiet().nothrow();
  }
}
