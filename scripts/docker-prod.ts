// bun run docker:prod: deploys this checkout with docker-compose.yml: builds a
// version, migrates, and replaces the version that serves. When anything fails, the
// old version goes on serving. Needs Docker. Exits 1 when the deploy failed, 2 when
// there is no Docker or the Compose project is another checkout's.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { userInfo } from "node:os";
import { join } from "node:path";
import { parse } from "dotenv";
import { root } from "../src/env";
import { readOptions } from "./lib/options";
import { failure, note, print, refusal } from "./lib/report";
import { findTemporaryFolder } from "./lib/temporary-folder";
import {
  hasOwnContainer,
  hasVolume,
  isDockerReady,
  projectOf,
} from "./server/compose";
import { withFileLock } from "./server/file-lock";
import {
  compose,
  docker,
  listVersions,
  nameImage,
  nameVersion,
  type Production,
  readImage,
  readLogs,
  readRelease,
  removeOthers,
  type Release,
  switchRelease,
} from "./server/release";

const usage = `bun run docker:prod [--rollback] | docker:prod:down

Builds a version, migrates, and replaces the version that serves.
docker:prod:down stops everything and keeps the data.`;

/** How many images are kept. */
const KEPT = 5;

const { values, positionals } = readOptions(
  usage,
  {
    rollback: { type: "boolean", help: "go back to the previous version" },
  },
  { allowPositionals: true },
);
const [verb] = positionals;
if (!["up", "down"].includes(positionals.join(" ")))
  throw refusal("docker-prod.ts takes up or down, nothing else");
if (!(await isDockerReady()))
  throw refusal("no Docker engine with Compose v2 answers", {
    hint: "install or start Docker",
  });

const production = findProduction();
const file = readFileSync(join(root, "docker-compose.yml"), "utf8");
const services = file.includes("\n  gate:") ? ["app", "gate"] : ["app"];
const lock = `compose-${production.project}-${userInfo().uid}.lock`;
await withFileLock(
  join(findTemporaryFolder(), lock),
  async () => {
    const hasContainer = await hasOwnContainer(
      production.project,
      "",
      ".env.production",
    );
    if (verb === "down") return await takeDown();
    if (values.rollback) return await rollBack();
    if (!existsSync(production.envFile)) await writeSettings(hasContainer);
    await deploy();
  },
  () => note("Waiting: another docker:prod is running"),
);

/** Returns production's Compose project, which differs from the development server's. */
function findProduction(): Production {
  const envFile = join(root, ".env.production");
  const settings = existsSync(envFile) ? parse(readFileSync(envFile)) : {};
  const composeProjectName = process.env.COMPOSE_PROJECT_NAME;
  const project =
    settings.COMPOSE_PROJECT_NAME ??
    `${projectOf({ composeProjectName })}-production`;
  return { project, envFile };
}

/** Writes a new password, unless there is a volume already, with another password. */
async function writeSettings(hasContainer: boolean): Promise<void> {
  const { project, envFile } = production;
  const volume = `${project}_production-data`;
  if (hasContainer || (await hasVolume(volume)))
    throw refusal(
      `the volume ${volume} exists, and .env.production with its password is missing`,
      {
        hint: "restore `.env.production`; or, for another database, set `COMPOSE_PROJECT_NAME`",
      },
    );
  const password = crypto.getRandomValues(new Uint8Array(24)).toHex();
  const text = `# Written by docker:prod. Keep a copy: without this password the database cannot be opened.
COMPOSE_PROJECT_NAME=${project}
POSTGRES_PASSWORD=${password}
`;
  writeFileSync(envFile, text, { mode: 0o600, flag: "wx" });
  print("Wrote: .env.production, with a new password");
}

async function deploy(): Promise<void> {
  const old = readRelease(production);
  let version = nameVersion();
  const variables = { APP_VERSION: version };
  const keeps = old ? `; version ${old.version} is left in place` : "";

  if (!(await compose(production, ["build", ...services], variables)))
    throw failure(`the image was not built${keeps}`);
  if (old?.image === readImage(production, version)) {
    docker(["rmi", nameImage(production, version)]);
    version = old.version;
    print(`Nothing to build: ${version} is this version`);
  } else print(`Built: ${nameImage(production, version)}`);

  let how = "";
  try {
    if (!(await compose(production, ["up", "--detach", "--wait", "db"])))
      throw failure(`the database did not become healthy${keeps}`);
    const init = ["run", "--rm", "--no-deps", "-T", "db-init"];
    if (!(await compose(production, init, { APP_VERSION: version })))
      throw failure(`db-init failed: see its output above${keeps}`);
    print("Migrated: by db-init");
    const isOld = version === old?.version;
    how = await replace(old, version, isOld ? old.previous : old?.version);
  } catch (error) {
    if (version !== old?.version)
      docker(["rmi", nameImage(production, version)]);
    throw error;
  }
  if (services.includes("gate")) await openGate(version);
  print(how);
  docker([
    "tag",
    nameImage(production, version),
    nameImage(production, "latest"),
  ]);
  const kept = [
    version,
    old?.version,
    ...listVersions(production).slice(-KEPT),
  ];
  for (const other of listVersions(production))
    if (!kept.includes(other)) docker(["rmi", nameImage(production, other)]);
}

async function rollBack(): Promise<void> {
  const old = readRelease(production);
  if (!old) throw failure("no version serves");
  if (!old.previous || !readImage(production, old.previous))
    throw failure(`there is no image of the version before ${old.version}`, {
      hint: "check out the commit to go back to, and run `bun run docker:prod`",
    });
  print(await replace(old, old.previous));
}

async function openGate(version: string): Promise<void> {
  const up = ["up", "--detach", "--no-deps", "--wait", "gate"];
  if (await compose(production, up)) return;
  throw failure(`version ${version} runs, but no request reaches it`, {
    hint: "if the port is taken, set another `PORT`, in the environment or in `.env.production`",
  });
}

/** Replaces the old version with another; returns a sentence that says how. */
async function replace(
  old: Release | undefined,
  version: string,
  previous = "",
): Promise<string> {
  const variables = { APP_VERSION: version, APP_PREVIOUS: previous };
  if (!old || version === old.version) {
    const up = ["up", "--detach", "--no-deps", "--wait", "app"];
    if (!(await compose(production, up, variables))) {
      const lines = readLogs(production);
      if (!old) removeOthers(production);
      throw failure(`version ${version} does not become healthy`, { lines });
    }
    return `Deployed: ${version}`;
  }
  try {
    const isBeside = await switchRelease(production, old, variables);
    const how = isBeside
      ? "which ended once the new one was healthy"
      : "which ended first, because they share a published port";
    return `Deployed: ${version} in place of ${old.version}, ${how}`;
  } catch (error) {
    const { message } = error as Error;
    (error as Error).message =
      `${message}; version ${old.version} is left in place`;
    throw error;
  }
}

async function takeDown(): Promise<void> {
  if (!existsSync(production.envFile))
    return print("Nothing to take down: docker:prod was not run here");
  if (!(await compose(production, ["down"])))
    throw failure("docker compose down failed");
  print("Taken down: the data is kept");
}
