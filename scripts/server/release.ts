// Docker for docker:prod: the versions of the application's image, and the
// container that serves.
import { spawn, spawnSync } from "bun";
import { root } from "../../src/env";
import { failure } from "../lib/report";

/** A container of the application. */
export interface Release {
  container: string;
  /** The tag of its image. */
  version: string;
  image: string;
  /** The version before it, for `--rollback`. */
  previous: string;
}

/** The Compose project of production, and the path of .env.production. */
export interface Production {
  project: string;
  envFile: string;
}

/** Returns the name of an image of the application. */
export const nameImage = ({ project }: Production, version: string) =>
  `${project}-app:${version}`;

/** Reads which version serves; undefined when none does. */
export function readRelease(production: Production): Release | undefined {
  // An interrupted deploy leaves two containers: the older one served.
  const container =
    listContainers(production, ["--filter=health=healthy"]).at(-1) ??
    listContainers(production, ["--filter=status=running"]).at(-1);
  if (!container) return undefined;
  const format =
    '{{.Config.Image}}\t{{.Image}}\t{{index .Config.Labels "previous-version"}}';
  const [name = "", image = "", previous = ""] = ask([
    "inspect",
    `--format=${format}`,
    container,
  ]).split("\t");
  return { container, image, previous, version: name.replace(/^.*:/, "") };
}

/** Lists the application's containers, newest first; by default stopped ones too. */
function listContainers({ project }: Production, flags = ["--all"]): string[] {
  const label = "com.docker.compose";
  const filters = [`project=${project}`, "service=app", "oneoff=False"].map(
    (filter) => `--filter=label=${label}.${filter}`,
  );
  return ask(["ps", "--quiet", "--no-trunc", ...flags, ...filters])
    .split("\n")
    .filter(Boolean);
}

/** Reads the id of an image; empty when there is none. */
export function readImage(production: Production, version: string): string {
  const name = nameImage(production, version);
  const { success, stdout } = docker([
    "image",
    "inspect",
    "--format={{.Id}}",
    name,
  ]);
  return success ? stdout.trim() : "";
}

/** Lists the versions that have an image, oldest first. */
export function listVersions({ project }: Production): string[] {
  const tags = ask(["images", "--format={{.Tag}}", `${project}-app`]);
  return tags
    .split("\n")
    .filter((tag) => /^\d{14}/.test(tag))
    .sort();
}

/** Returns a new version: the time in UTC, and the commit if there is git. */
export function nameVersion(): string {
  const time = new Date().toISOString().replace(/\D/g, "").slice(0, 14);
  const git = spawnSync(["git", "rev-parse", "--short", "HEAD"], {
    cwd: root,
    stderr: "ignore",
  });
  const commit = git.success ? git.stdout.toString().trim() : "";
  return commit ? `${time}-${commit}` : time;
}

/**
 * Runs `docker compose` to its end, with its output on stderr.
 *
 * @param variables further variables of docker-compose.yml.
 * @returns true when it exited with 0.
 */
export async function compose(
  { project, envFile }: Production,
  args: string[],
  variables: Record<string, string> = {},
): Promise<boolean> {
  const files = ["--env-file", envFile, "--file", "docker-compose.yml"];
  const child = spawn(["docker", "compose", ...files, ...args], {
    cwd: root,
    env: { ...process.env, COMPOSE_PROJECT_NAME: project, ...variables },
    stdio: ["ignore", process.stderr.fd, process.stderr.fd],
  });
  return (await child.exited) === 0;
}

/**
 * Starts a version beside the one that serves, and removes the old one once the
 * new one is healthy. If they share a published port, the old one ends first.
 *
 * @returns false when the old one ended first.
 * @throws when the new one does not become healthy; the old one then serves.
 */
export async function switchRelease(
  production: Production,
  old: Release,
  variables: Record<string, string>,
): Promise<boolean> {
  const isBeside = ask(["port", old.container]) === "";
  const keep = isBeside ? ["--no-recreate", "--scale=app=2"] : [];
  removeOthers(production, old.container); // left by an interrupted deploy
  const up = ["up", "--detach", "--no-deps", "--wait", "app"];
  if (await compose(production, [...up, ...keep], variables)) {
    if (isBeside)
      for (const end of ["stop", "rm"]) docker([end, old.container]);
    return isBeside;
  }
  const lines = readLogs(production, old.container);
  if (isBeside) removeOthers(production, old.container);
  else
    await compose(production, up, {
      APP_VERSION: old.version,
      APP_PREVIOUS: old.previous,
    });
  throw failure("the new version does not become healthy", { lines });
}

/** Reads the last lines of the log of every container of the application but one. */
export function readLogs(production: Production, except = ""): string[] {
  return listContainers(production)
    .filter((container) => container !== except)
    .flatMap((container) => docker(["logs", "--tail=20", container]).lines);
}

/** Removes every container of the application but one. */
export function removeOthers(production: Production, kept = ""): void {
  for (const container of listContainers(production))
    if (container !== kept) docker(["rm", "--force", container]);
}

/** Runs a short `docker` command to its end. */
export function docker(args: string[]) {
  const { stdout, stderr, success } = spawnSync(["docker", ...args]);
  const lines = `${stdout}${stderr}`.trimEnd().split("\n");
  return { success, stdout: stdout.toString(), lines };
}

/** Returns the output of `docker`. @throws when it fails. */
function ask(args: string[]): string {
  const { success, stdout, lines } = docker(args);
  if (success) return stdout.trim();
  throw failure(`docker ${args[0]} failed: ${lines.at(-1)}`);
}
