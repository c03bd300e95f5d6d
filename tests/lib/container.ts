// The server for a run of many files where the development server is in Docker: another
// container of the same image, with its data in memory.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { $, spawn } from "bun";
import { composeCommand } from "../../scripts/server/compose";
import type { DatabaseAddress } from "../../src/database-url";
import type { Env } from "../../src/env";
import { findFreePort } from "./ports";

/** The file in the folder of a run with the name of its Compose project. */
const noteIn = (runFolder: string) => join(runFolder, "container");

/**
 * Starts a container in a Compose project of this run.
 *
 * @throws what Docker says when it does not start.
 */
export async function startContainer(
  env: Env,
  runFolder: string,
): Promise<DatabaseAddress> {
  const composeProjectName = `starter-tests-${process.pid}`;
  const port = await findFreePort();
  // It is this run's own, and no server that a clone has started.
  const database = { ...env.database, port, guard: undefined };
  writeFileSync(noteIn(runFolder), composeProjectName);
  const { command, variables } = composeCommand(
    { ...env, database, composeProjectName },
    ["--file", join(import.meta.dir, "container.yml"), "up", "--wait", "db"],
  );
  const child = spawn(command, {
    env: variables,
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
  });
  const stderr = await new Response(child.stderr).text();
  if ((await child.exited) !== 0) throw new Error(stderr.trim());
  // The commands look for pg_dump in the container of this project.
  process.env.COMPOSE_PROJECT_NAME = composeProjectName;
  return database;
}

/** Removes the container of a run, if it has one. */
export async function removeContainer(runFolder: string): Promise<void> {
  if (!existsSync(noteIn(runFolder))) return;
  const project = readFileSync(noteIn(runFolder), "utf8");
  await $`docker compose --project-name ${project} down --timeout 0`
    .quiet()
    .nothrow();
}
