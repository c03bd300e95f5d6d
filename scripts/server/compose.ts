// The development server in Docker, as docker-compose.dev.yml has it.
import { join } from "node:path";
import { spawn } from "bun";
import { type Env, root } from "../../src/env";
import { nameServer } from "../lib/explain-connection";
import { failure } from "../lib/report";

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
 * @throws what kept it from starting; the volume is as it was.
 */
export async function startCompose(env: Env): Promise<void> {
  const up = [
    "up",
    "--detach",
    "--wait",
    "--wait-timeout",
    String(START_SECONDS),
  ];
  const { exitCode, stderr } = await compose(env, [...up, "db"]);
  if (exitCode === 0) return;

  const logs = await compose(env, [
    "logs",
    "--no-log-prefix",
    "--tail",
    "20",
    "db",
  ]);
  // A container that did not start would stay behind; its volume is kept.
  await compose(env, ["rm", "--stop", "--force", "db"]);
  throw explain(stderr, logs.stdout, env);
}

/**
 * Stops the container, if it runs; its volume is kept.
 *
 * @returns whether it ran.
 * @throws when the Docker engine does not answer.
 */
export async function stopCompose(env: Env): Promise<boolean> {
  if (!(await isComposeRunning(env))) return false;
  const { exitCode, stderr } = await compose(env, ["stop", "db"]);
  if (exitCode !== 0) throw explain(stderr, "", env);
  return true;
}

/** @throws when the Docker engine does not answer. */
export async function isComposeRunning(env: Env): Promise<boolean> {
  const running = ["ps", "--quiet", "--status", "running", "db"];
  const { exitCode, stdout, stderr } = await compose(env, running);
  if (exitCode !== 0) throw explain(stderr, "", env);
  return stdout.trim() !== "";
}

/** The port of this machine that the container has; undefined when it does not run. */
export async function readComposePort(env: Env): Promise<number | undefined> {
  const { exitCode, stdout } = await compose(env, ["port", "db", "5432"]);
  const port = /:(\d+)\s*$/.exec(stdout)?.[1];
  return exitCode === 0 && port ? Number(port) : undefined;
}

/** A command line of `docker compose` for this clone, and its environment. */
export function composeCommand(env: Env, args: string[]) {
  const { user, password, database, port } = env.database;
  return {
    command: ["docker", "compose", "--file", composeFile, ...args],
    // Compose itself reads only .env.
    variables: {
      ...process.env,
      COMPOSE_PROJECT_NAME: env.composeProjectName,
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
      child.stdout.text(),
      child.stderr.text(),
      child.exited,
    ]);
    return { exitCode, stdout, stderr };
  } catch {
    return { exitCode: 127, stdout: "", stderr: NO_DOCKER };
  }
}

/** Turns what Compose and the container wrote into one error. */
function explain(stderr: string, log: string, env: Env): Error {
  if (/port is already allocated|address already in use/i.test(stderr))
    return failure(`${nameServer(env.database)} is taken by another program`, {
      hint: "free the port, or set another `POSTGRES_PORT` in `.env.local`",
    });
  if (
    stderr === "" ||
    stderr === NO_DOCKER ||
    /docker daemon|docker API|permission denied/i.test(stderr)
  )
    return failure(
      "the Docker engine does not answer, and this clone's database is in Docker",
      {
        hint: "start Docker; or set `DB_ENGINE=embedded` in `.env.local` for another, empty database",
      },
    );
  if (/no space left on device/i.test(stderr + log))
    return failure("Docker's disk is full", {
      hint: "free some space, for instance with `docker image prune`",
    });
  const other = /initialized by PostgreSQL version (\d+)/.exec(log)?.[1];
  if (other)
    return failure(
      `the volume holds the data of PostgreSQL ${other}, and the image is another version`,
      {
        hint: `set the image in \`docker-compose.dev.yml\` back to postgres:${other}, dump the data, and restore it`,
      },
    );
  const reason =
    log.split("\n").findLast((line) => /FATAL|PANIC|[Ee]rror/.test(line)) ??
    stderr.trim().split("\n").at(-1);
  return failure(`the container did not start: ${reason?.trim()}`, {
    hint: "see what Docker says with `docker compose --file docker-compose.dev.yml up`",
  });
}
