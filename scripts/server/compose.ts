// Runs the development server in Docker, from docker-compose.dev.yml. Compose
// names a project after its folder: two checkouts in folders of the same name
// would share a container and a volume, so each call checks whose they are.
import {
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  writeFileSync,
} from "node:fs";
import { userInfo } from "node:os";
import { basename, join } from "node:path";
import { spawn, spawnSync } from "bun";
import { type Env, root } from "../../src/env";
import { nameServer } from "../lib/explain-connection";
import { readOwnServer } from "../lib/own-server";
import { failure, refusal } from "../lib/report";
import { findTemporaryFolder } from "../lib/temporary-folder";
import { withFileLock } from "./file-lock";

const START_SECONDS = 60;
const ANSWER_SECONDS = 8;
const NO_DOCKER = "there is no docker";
const composeFile = join(root, "docker-compose.dev.yml");

/** True when a Docker engine answers and has Compose v2. */
export async function isDockerReady(): Promise<boolean> {
  const [engine, plugin] = await Promise.all([
    run(["docker", "version"]),
    run(["docker", "compose", "version"]),
  ]);
  return engine.exitCode === 0 && plugin.exitCode === 0;
}

/**
 * Starts the container and waits until it is healthy.
 *
 * @throws why it did not start; the volume is unchanged.
 */
export async function startCompose(env: Env): Promise<void> {
  await withProject(env, async () => {
    const up = ["up", "--detach", "--wait", "--wait-timeout"];
    const { exitCode, stderr } = await compose(env, [
      ...up,
      String(START_SECONDS),
      "db",
    ]);
    if (exitCode === 0) return;

    const tail = ["logs", "--no-log-prefix", "--tail", "40", "db"];
    const logs = await compose(env, tail);
    // Removes the container that did not start; its volume is kept.
    await compose(env, ["rm", "--stop", "--force", "db"]);
    throw explain(stderr, logs.stdout, env);
  });
}

/**
 * Stops this clone's container, if it runs; its volume is kept.
 *
 * @returns true when it ran.
 * @throws when the Docker engine does not answer.
 */
export async function stopCompose(env: Env): Promise<boolean> {
  const container = await findContainer(projectOf(env), env.dataDir);
  if (!container?.isOurs || !container.isRunning) return false;
  const { exitCode, stderr } = await compose(env, ["stop", "db"]);
  if (exitCode !== 0) throw explain(stderr, "", env, "stop");
  return true;
}

/**
 * Returns the port of this clone's container on this machine; undefined when the
 * container does not run, or no Docker engine answers.
 */
export async function readComposePort(env: Env): Promise<number | undefined> {
  if (!Bun.which("docker")) return undefined;
  const container = await findContainer(projectOf(env), env.dataDir).catch(
    () => undefined,
  );
  return container?.isOurs ? container.port : undefined;
}

/**
 * Runs `work` while no other clone of this user changes the Compose project, and
 * records that this checkout uses it.
 *
 * @throws with exit code 2 when the project is another checkout's.
 */
export async function withProject<T>(
  env: Env,
  work: () => Promise<T>,
): Promise<T> {
  const lock = `compose-${projectOf(env)}-${userInfo().uid}.lock`;
  return await withFileLock(join(findTemporaryFolder(), lock), async () => {
    await requireOwnProject(env);
    try {
      return await work();
    } finally {
      if (await hasVolume(`${projectOf(env)}_db-data`)) {
        mkdirSync(env.dataDir, { recursive: true });
        writeFileSync(noteFile(env), projectOf(env));
      }
    }
  });
}

/** @throws with exit code 2 when the Compose project is another checkout's. */
export async function requireOwnProject(env: Env): Promise<void> {
  const project = projectOf(env);
  if (await hasOwnContainer(project, env.dataDir)) return;

  // A volume has no record of its owner: the checkout that created it keeps a note.
  const isOwn = env.composeProjectName ?? readNote(env) === project;
  if (isOwn || !(await hasVolume(`${project}_db-data`))) return;
  throw refusal(
    `the volume ${project}_db-data may belong to another checkout: this one did not create it`,
    {
      hint: `if it belongs to this checkout, set \`COMPOSE_PROJECT_NAME=${project}\`, in the environment or in \`.env.local\`; if not, set another name`,
    },
  );
}

const noteFile = (env: Env) => join(env.dataDir, "project");

/** Reads the project that this checkout has used. */
function readNote(env: Env): string | undefined {
  const file = noteFile(env);
  return existsSync(file) ? readFileSync(file, "utf8") : undefined;
}

/** True when Docker has a volume of this name. */
export async function hasVolume(volume: string): Promise<boolean> {
  return (await run(["docker", "volume", "inspect", volume])).exitCode === 0;
}

/**
 * True when the project has a container of this checkout, running or not.
 *
 * @throws with exit code 2 when the container is another checkout's.
 */
export async function hasOwnContainer(
  project: string,
  dataDir: string,
  file = ".env.local",
): Promise<boolean> {
  const container = await findContainer(project, dataDir);
  if (!container || container.isOurs) return container !== undefined;
  throw refusal(
    `the Compose project ${project} belongs to the checkout in ${container.folder}`,
    {
      hint: `set \`COMPOSE_PROJECT_NAME\`, in the environment or in \`${file}\`, to a name of this checkout's own`,
    },
  );
}

/** Returns the name of this clone's Compose project. */
export function projectOf({
  composeProjectName,
}: Pick<Env, "composeProjectName">): string {
  const folder = basename(root).toLowerCase();
  const name = folder.replace(/[^a-z0-9_-]/g, "").replace(/^[_-]+/, "");
  return composeProjectName ?? (name || "app");
}

/** Returns the id of the running container of this clone's Compose project. */
export function findContainerId(env: Env): string | undefined {
  const command = ["docker", "ps", "--quiet", ...filterOf(projectOf(env))];
  const { stdout } = spawnSync(command, {
    stderr: "ignore",
    timeout: ANSWER_SECONDS * 1000,
  });
  return stdout.toString().split("\n")[0] || undefined;
}

const LABEL = "com.docker.compose";
const filterOf = (project: string) => [
  `--filter=label=${LABEL}.project=${project}`,
  `--filter=label=${LABEL}.service=db`,
];

/**
 * Finds the container of the project, running or not.
 *
 * @throws when the Docker engine does not answer.
 */
async function findContainer(project: string, dataDir: string) {
  const { exitCode, stdout } = await run([
    "docker",
    "ps",
    "--all",
    "--no-trunc",
    ...filterOf(project),
    `--format={{.State}}\t{{.Ports}}\t{{.Label "${LABEL}.project.working_dir"}}`,
  ]);
  if (exitCode !== 0) throw engineError();
  const [state, ports = "", folder] = stdout.trim().split("\t");
  if (folder === undefined) return undefined;
  const port = /:(\d+)->5432/.exec(ports)?.[1];
  // A checkout that was moved still has its record, with the old folder.
  const isMoved =
    !existsSync(folder) && readOwnServer(dataDir)?.folder === folder;
  return {
    folder,
    isOurs: isMoved || isSameFolder(folder, root),
    isRunning: state === "running",
    port: port ? Number(port) : undefined,
  };
}

/** Returns a `docker compose` command line for this clone, and its environment. */
export function composeCommand(env: Env, args: string[]) {
  const { user, password, database, port } = env.database;
  return {
    command: ["docker", "compose", "--file", composeFile, ...args],
    // Compose itself reads only .env.
    variables: {
      ...process.env,
      COMPOSE_PROJECT_NAME: projectOf(env),
      POSTGRES_USER: user,
      POSTGRES_PASSWORD: password,
      POSTGRES_DB: database,
      POSTGRES_PORT: String(port),
    },
  };
}

async function compose(env: Env, args: string[]) {
  const { command, variables } = composeCommand(env, args);
  return await run(command, variables);
}

async function run(command: string[], variables = process.env) {
  try {
    const child = spawn(command, {
      env: variables,
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      // An engine may accept a connection and then never answer.
      timeout: command.includes("up") ? undefined : ANSWER_SECONDS * 1000,
    });
    const [stdout, stderr, exitCode] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    return { exitCode, stdout, stderr };
  } catch {
    return { exitCode: 127, stdout: "", stderr: NO_DOCKER };
  }
}

function isSameFolder(one: string, other: string): boolean {
  try {
    return realpathSync(one) === realpathSync(other);
  } catch {
    return false; // it does not exist, or this user may not read it
  }
}

function engineError(): Error {
  return failure(
    "the Docker engine does not answer, and this clone's database is in Docker",
    {
      hint: "start Docker; or set `DB_ENGINE=embedded` in `.env.local` for another, empty database",
    },
  );
}

/** Returns one error for the output of Compose and the container's log. */
function explain(stderr: string, log: string, env: Env, verb = "start"): Error {
  if (/port is already allocated|address already in use/i.test(stderr))
    return failure(`${nameServer(env.database)} is taken by another program`, {
      hint: "free the port, or set another `POSTGRES_PORT` in `.env.local`",
    });
  const isGone = /^$|docker daemon|docker API|permission denied/i.test(stderr);
  if (isGone || stderr === NO_DOCKER) return engineError();
  if (/no space left on device/i.test(stderr + log))
    return failure("Docker's disk is full", {
      hint: "free some space, for instance with `docker image prune`",
    });
  // PostgreSQL's own message, and that of its image since version 18.
  const other = /initialized by PostgreSQL version (\d+)/.exec(log)?.[1];
  if (other || log.includes("there appears to be PostgreSQL data in"))
    return failure(
      `the volume holds the data of PostgreSQL ${other ?? "17 or older"}, and the image is another version`,
      {
        hint: "set the old version in `docker-compose.dev.yml`, then run `bun run db:start` and `bun run db:backup`; docs/UPGRADE.md has the other steps",
      },
    );
  const reason =
    log.split("\n").findLast((line) => /FATAL|PANIC|[Ee]rror/.test(line)) ??
    stderr.trim().split("\n").at(-1);
  return failure(`the container did not ${verb}: ${reason?.trim()}`, {
    hint: "see what Docker says with `docker compose --file docker-compose.dev.yml up`",
  });
}
