// What a command says when the server cannot be reached: at once, or within ten
// seconds, never with a stack trace, never with the password. And what each
// sslmode does, against a server with a certificate.
import { afterAll, beforeAll, describe, expect } from "bun:test";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { $ } from "bun";
import { startEmbedded, stopEmbedded } from "../../scripts/server/embedded";
import { clusterAddress, copyCluster } from "../lib/cluster";
import { type Outcome, run, urlOf } from "../lib/command";
import { useDatabase } from "../lib/database";
import { findFreePort, listen } from "../lib/ports";

const { database, test } = useDatabase("empty");
const login = "postgres://someone:secret@127.0.0.1";

/** Runs a command against a URL; asserts what holds for every failure. */
async function fail(command: string, url: string): Promise<Outcome> {
  const start = Date.now();
  const outcome = await run(command, {
    DATABASE_URL: url,
    DB_ENGINE: "external",
  });
  expect(Date.now() - start).toBeLessThan(30_000);
  expect(outcome.exitCode).toBe(1);
  expect(outcome.stdout + outcome.stderr).not.toContain("secret");
  expect(outcome.stderr).not.toMatch(/^ +at /m);
  return outcome;
}

describe.concurrent("an unreachable server", () => {
  const commands = [
    "db:migrate",
    "db:migrate:status",
    "db:seed",
    "db:test",
    "db:reset",
    "db:push",
    "db:pull",
    "db:shell",
    "db:studio",
    "db:start",
  ];
  for (const command of commands)
    test(`${command} says that nothing listens`, async () => {
      const port = await findFreePort();

      const { stderr } = await fail(command, `${login}:${port}/app`);

      expect(stderr).toStartWith(
        `Error: nothing listens on 127.0.0.1:${port}\nHint: `,
      );
    });

  test("db:status and db:test print their document with the error in it", async () => {
    const url = `${login}:${await findFreePort()}/app`;

    const status = JSON.parse((await fail("db:status --json", url)).stdout);
    const tested = JSON.parse((await fail("db:test --json", url)).stdout);

    expect(status).toMatchObject({
      reachable: false,
      error: { code: "UNREACHABLE" },
    });
    expect(tested).toMatchObject({
      connected: false,
      error: { code: "UNREACHABLE" },
    });
  });

  test("a host name that does not exist is named", async () => {
    const { stderr } = await fail(
      "db:migrate",
      "postgres://u:secret@nowhere.invalid/app",
    );

    expect(stderr).toStartWith(
      "Error: the host name nowhere.invalid cannot be resolved\n",
    );
  });
});

describe.concurrent("a port that is not PostgreSQL's", () => {
  const kinds = {
    "accepts and closes": (socket: Socket) => socket.end(),
    "answers as HTTP": (socket: Socket) =>
      socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"),
    "resets connections": (socket: Socket) => socket.resetAndDestroy(),
  };
  for (const [kind, onConnection] of Object.entries(kinds))
    test(`db:migrate and db:start give up where it ${kind}`, async () => {
      const { port, close } = await listen(onConnection);

      const migrated = await fail("db:migrate", `${login}:${port}/app`);
      const started = await fail("db:start", `${login}:${port}/app`);
      await close();

      expect(migrated.stderr).toStartWith(
        `Error: 127.0.0.1:${port} closed the connection without answering as PostgreSQL\n`,
      );
      expect(started.stderr).toStartWith(
        `Error: 127.0.0.1:${port} is taken by another program, which does not answer as PostgreSQL\nHint: free the port`,
      );
    });

  test("db:migrate gives up where it accepts and says nothing", async () => {
    const { port, close } = await listen(() => {});

    const { stderr } = await fail("db:migrate", `${login}:${port}/app`);
    await close();

    expect(stderr).toStartWith(
      `Error: 127.0.0.1:${port} did not answer within 10 seconds\n`,
    );
  });
});

describe.concurrent("a server that does not let us in", () => {
  test("a wrong password is said to be wrong, and not shown", async () => {
    const url = urlOf({ ...database.address, password: "secret" });

    const { stderr } = await fail("db:migrate", url);
    const started = await fail("db:start", url);

    expect(stderr).toContain(
      `does not accept this password for user "${database.address.user}"`,
    );
    // The server may be this clone's own, in Docker, or somebody else's.
    expect(started.stderr).toMatch(
      / is taken: |its volume was created with a different password/,
    );
    expect(started.stderr).toContain("in `.env.local`");
  });

  test("a database that is not there is named", async () => {
    const { stderr } = await fail(
      "db:migrate",
      urlOf({ ...database.address, database: "nowhere" }),
    );

    expect(stderr).toStartWith('Error: there is no database "nowhere" on ');
    expect(stderr).toContain("`bun run db:start`");
  });

  test("parameters that only other clients know are left out", async () => {
    const url = `${database.url}&channel_binding=require&pgbouncer=true&schema=public&connection_limit=5&pool_timeout=5&uselibpqcompat=true`;

    const { exitCode } = await run("db:migrate:status", { DATABASE_URL: url });

    expect(exitCode).toBe(3); // pending, hence read
  });

  test("a script ends when its server process is ended under it", async () => {
    const waiting = run("db:migrate", { DATABASE_URL: database.url });
    await database.sql.begin(async (transaction) => {
      await transaction`select pg_advisory_xact_lock(28273295023041637)`;
      let ended = 0;
      while (ended === 0)
        ended = (
          await database.sql`
            select pg_terminate_backend(pid) from pg_stat_activity
            where application_name = 'db:migrate' and datname = ${database.name}
              and query like '%pg_try_advisory_lock%'`
        ).count;
    });

    const { exitCode, stderr } = await waiting;

    expect(exitCode).toBe(1);
    expect(stderr).toStartWith(
      "Error: the session was ended before it had the lock, and nothing was changed\nHint: ",
    );
    expect(stderr).not.toMatch(/^ +at /m);
  });

  test("require against a server without TLS is refused", async () => {
    const { stderr } = await fail(
      "db:migrate",
      `${database.url.replace(/\?.*/, "")}?sslmode=require`,
    );

    expect(stderr).toContain("has no TLS, which sslmode=require requires");
  });
});

// A server with a certificate of its own.
const dataDir = mkdtempSync(join(tmpdir(), "starter-tls-"));
const authority = join(dataDir, "authority.pem");
let port: number;

const hasOpenssl = Bun.which("openssl") !== null;
beforeAll(async () => {
  if (!hasOpenssl) return;
  for (const command of [
    "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=Authority -keyout authority.key -out authority.pem",
    "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout server.key -out server.csr",
    "x509 -req -in server.csr -days 2 -CA authority.pem -CAkey authority.key -CAcreateserial -copy_extensions copy -out server.pem",
  ])
    await $`openssl ${{ raw: command }}`.cwd(dataDir).quiet();
  chmodSync(join(dataDir, "server.key"), 0o600);
  port = await findFreePort();
  await copyCluster(dataDir);
  await startEmbedded(dataDir, clusterAddress(port), [
    "ssl=on",
    `ssl_cert_file=${dataDir}/server.pem`,
    `ssl_key_file=${dataDir}/server.key`,
  ]);
}, 30_000);
afterAll(async () => {
  await stopEmbedded(dataDir);
  rmSync(dataDir, { recursive: true, force: true });
}, 60_000);

if (!hasOpenssl)
  console.warn("Left out: TLS, for there is no openssl to make certificates");
else
  describe.concurrent("sslmode", () => {
    const runWith = (command: string, query: string, host = "localhost") =>
      run(command, {
        DATABASE_URL: `postgres://postgres:postgres@${host}:${port}/postgres${query}`,
        DB_ENGINE: "external",
      });

    const encryption: [query: string, tls: boolean][] = [
      ["", true],
      ["?sslmode=disable", false],
      ["?sslmode=prefer", true],
      ["?sslmode=require", true],
      ["?ssl=true", true],
    ];
    for (const [query, tls] of encryption)
      test(`${query || "nothing"} ${tls ? "encrypts" : "does not encrypt"}`, async () => {
        const { stdout } = await runWith("db:status --json", query);

        expect(JSON.parse(stdout)).toMatchObject({ reachable: true, tls });
      });

    // db:test goes by the application's client as well as by the scripts' own.
    const root = `sslrootcert=${authority}`;
    const trust: [query: string, host: string, connected: boolean][] = [
      ["?sslmode=verify-ca", "localhost", false],
      ["?sslmode=verify-full", "localhost", false],
      [`?sslmode=verify-ca&${root}`, "localhost", true],
      [`?sslmode=verify-full&${root}`, "localhost", true],
      // The certificate is for localhost.
      [`?sslmode=verify-ca&${root}`, "127.0.0.1", true],
      [`?sslmode=verify-full&${root}`, "127.0.0.1", false],
    ];
    for (const [query, host, connected] of trust)
      test(`${query.replace(authority, "…")} ${connected ? "trusts" : "does not trust"} ${host}`, async () => {
        const { stdout } = await runWith("db:test --json", query, host);

        const document = JSON.parse(stdout);
        expect(document.connected).toBe(connected);
        if (!connected)
          expect(document.error.message).toContain("is not trusted");
      });

    test("a file of authorities that is not there is refused", async () => {
      const query = "?sslmode=verify-full&sslrootcert=/nowhere.pem";

      const { exitCode, stderr } = await runWith("db:migrate", query);

      expect(exitCode).toBe(2);
      expect(stderr).toStartWith(
        "Error: the sslrootcert of DATABASE_URL cannot be read",
      );
    });
  });
