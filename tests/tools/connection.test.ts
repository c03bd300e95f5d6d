// How a server is reached, and what is said when it cannot be: never with a
// stack trace, never with the password. What each parameter of TLS and of
// several hosts does, against a primary with a certificate and its standby.
import { afterAll, beforeAll, describe, expect, spyOn, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import {
  type AddressInfo,
  connect as connectSocket,
  createServer,
  Socket,
} from "node:net";
import {
  connect as connectTls,
  createServer as createTlsServer,
} from "node:tls";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { $ } from "bun";
import {
  connect,
  onNotice,
  openConnection,
  reachedAddress,
  settledAddress,
} from "../../scripts/lib/connection";
import { explainConnectionError } from "../../scripts/lib/explain-connection";
import { isPooled } from "../../scripts/lib/pooler";
import { nameReplication } from "../../scripts/lib/replication";
import type { FailureFields } from "../../scripts/lib/report";
import { startEmbedded, stopEmbedded } from "../../scripts/server/embedded";
import {
  openSession,
  openSocket,
  type Refusal,
  type Role,
  type Wanted,
} from "../../src/database-socket";
import { type Host, parseDatabaseUrl } from "../../src/database-url";
import { type ClientSettings, readEnv, root } from "../../src/env";
import { causesOf } from "../../src/infrastructure/database/errors";
import { openPools } from "../../src/infrastructure/database/pools";
import { clusterAddress, copyCluster } from "../lib/cluster";
import { type Outcome, urlOf } from "../lib/command";
import { shareDatabase } from "../lib/database";
import { findFreePort, listen } from "../lib/ports";
import { copyProject } from "../lib/project";
import { sharedProject } from "../lib/test";

const TIMEOUT_MS = 300_000;
const { run, folder: projectFolder } = sharedProject();
const { database, test: databaseTest } = shareDatabase("empty", projectFolder);
const login = "postgres://someone:secret@127.0.0.1";

/** Opens a connection as commands do, and asks it one thing. */
async function ask(
  url: string,
  question: string,
  wanted?: Parameters<typeof openConnection>[2],
): Promise<unknown> {
  const address = parseDatabaseUrl(url, "DATABASE_URL");
  await using sql = await openConnection(address, "tests", wanted);
  const [row] = await sql.unsafe(`select ${question} as answer`);
  return row?.answer;
}

/** What opening a connection fails with; not with the password. */
async function refuse(url: string): Promise<Error & { hint?: string }> {
  const error: Error & { hint?: string } = await ask(url, "1").then(
    () => new Error("it connected"),
    (error: Error) => error,
  );
  expect(error.message + error.hint).not.toContain("secret");
  return error;
}

/** Runs a command against a URL; asserts what holds for every failure. */
async function fail(command: string, url: string): Promise<Outcome> {
  const outcome = await run(command, {
    DATABASE_URL: url,
    DB_ENGINE: "external",
  });
  expect(outcome.exitCode).toBe(1);
  expect(outcome.stdout + outcome.stderr).not.toContain("secret");
  expect(outcome.stderr).not.toMatch(/^ +at /m);
  return outcome;
}

/** Passes on what a client says to the server for the tests, and its answers. */
function pass(client: Socket): void {
  const { host, port } = database.address;
  const server = connectSocket({ host, port, allowHalfOpen: true });
  client.on("error", () => server.destroy()).pipe(server);
  server.on("error", () => client.destroy()).pipe(client, { end: false });
  client.once("close", () => server.destroy());
}

describe.concurrent("an unreachable server", () => {
  test(
    "every command says that nothing listens; db:status and db:test in their document",
    async () => {
      const port = await findFreePort();
      const url = `${login}:${port}/app`;
      const found: Record<string, string> = {};

      for (const command of ["db:migrate", "db:shell", "db:studio", "db:start"])
        found[command] = (await fail(command, url)).stderr;
      const status = await fail("db:status --json", url);
      const tested = await fail("db:test --json", url);
      const screen = await fail("db:status", url);

      const nothing = expect.stringMatching(
        new RegExp(
          `^Error: nothing listens on 127\\.0\\.0\\.1:${port}\nHint: `,
        ),
      );
      expect(found).toEqual({
        "db:migrate": nothing,
        "db:shell": nothing,
        "db:studio": nothing,
        "db:start": nothing,
      });
      const error = {
        code: "UNREACHABLE",
        message: `nothing listens on 127.0.0.1:${port}`,
        hint: "start that server, or check host and port in `DATABASE_URL`",
      };
      const unknown = { role: null, lagSeconds: null, serverVersion: null };
      expect(JSON.parse(status.stdout)).toEqual({
        engine: "external",
        running: false,
        reachable: false,
        host: "127.0.0.1",
        port,
        database: "app",
        user: "someone",
        ...unknown,
        tls: null,
        pooled: null,
        environment: null,
        sizeBytes: null,
        connections: null,
        migrations: null,
        lockHolder: null,
        lastBackup: null,
        error,
      });
      expect(JSON.parse(tested.stdout)).toEqual({
        connected: false,
        latencyMs: null,
        ...unknown,
        counts: null,
        pending: null,
        error,
      });
      expect(screen.stdout).toBe(
        `Engine       external, not running
Server       none reached on 127.0.0.1:${port}
Database     app
User         someone
`,
      );
    },
    TIMEOUT_MS,
  );

  const kinds = {
    "accepts and closes": (socket: Socket) => socket.end(),
    "answers as HTTP": (socket: Socket) =>
      socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"),
    "resets connections": (socket: Socket) => socket.resetAndDestroy(),
  };
  for (const [kind, onConnection] of Object.entries(kinds))
    for (const sslmode of ["prefer", "disable"])
      test(
        `a port that ${kind} is not PostgreSQL, also with sslmode=${sslmode}`,
        async () => {
          const { port, close } = await listen(onConnection);
          const url = `${login}:${port}/app?sslmode=${sslmode}&connect_timeout=5`;

          const { message } = await refuse(url);
          await close();

          expect(message).toBe(
            `127.0.0.1:${port} closed the connection without answering as PostgreSQL`,
          );
        },
        TIMEOUT_MS,
      );

  test(
    "a server that is stopped or slow is not called another program",
    async () => {
      const { port, close } = await listen(() => {});
      const url = `${login}:${port}/app?connect_timeout=1`;

      const migrated = await fail("db:migrate", url);
      const started = await fail("db:start", url);
      await close();

      const message = `Error: 127.0.0.1:${port} did not answer within 1 seconds\n`;
      expect(migrated.stderr).toStartWith(message);
      expect(started.stderr).toStartWith(message);
    },
    TIMEOUT_MS,
  );

  test(
    "a database that is being replaced is waited for, and one that does not exist is not",
    async () => {
      const answer = async (detail: string, refusals: number) => {
        let asked = 0;
        const { port, close } = await listen((client) => {
          asked += 1;
          if (asked > refusals) pass(client);
          else
            client.once("data", () => {
              const fields = ["SFATAL", "C3D000", "Mnone", `D${detail}`, ""];
              const text = Buffer.from(fields.join("\0") + "\0");
              const length = Buffer.alloc(4);
              length.writeInt32BE(text.length + 4);
              client.end(Buffer.concat([Buffer.from("E"), length, text]));
            });
        });
        const url = urlOf({ ...database.address, port, sslmode: "disable" });
        const outcome = await ask(url, "1").catch(({ message }) => message);
        await close();
        return { outcome, asked };
      };
      const renamed = "It seems to have just been dropped or renamed.";

      const [swapped, gone, missing] = await Promise.all([
        answer(renamed, 3),
        answer(renamed, 99),
        answer("", 99),
      ]);

      expect(swapped).toEqual({ outcome: 1, asked: 4 });
      const none = expect.stringMatching(/^there is no database "/);
      expect(gone).toEqual({ outcome: none, asked: 20 });
      expect(missing).toEqual({ outcome: none, asked: 1 });
    },
    TIMEOUT_MS,
  );

  test("a server that leaves a connection open is not waited for at the end", async () => {
    const left = Promise.withResolvers<void>();
    const server = createServer({ allowHalfOpen: true }, (client) => {
      pass(client);
      client.once("end", () => {
        const timer = setInterval(() => client.write("x"), 20);
        client.once("error", () => clearInterval(timer));
        client.once("close", left.resolve);
      });
    });
    await new Promise<void>((listening) => server.listen(0, listening));
    const { port } = server.address() as { port: number };

    await ask(urlOf({ ...database.address, port, sslmode: "disable" }), "1");
    await left.promise;
    server.close();
  }, 30_000);

  test("a host name that does not exist is named", async () => {
    const { message } = await refuse("postgres://u:secret@nowhere.invalid/app");

    expect(message).toBe("the host name nowhere.invalid cannot be resolved");
  });
});

/** Codes of a failed connection, with the message and the hint; without a host it is
 * db.example.com:6432, without a text it is "why". */
const failures: [
  codes: string,
  message: string,
  hint: string | undefined,
  error?: { message?: string; isTls?: boolean },
  url?: string,
][] = [
  [
    "ECONNREFUSED ENOENT",
    "nothing listens on db.example.com:6432",
    "start that server, or check host and port in `DATABASE_URL`",
  ],
  [
    "ECONNREFUSED",
    "nothing listens on [::1]:6432",
    "start that server, or check host and port in `DATABASE_URL`",
    {},
    "postgres://ada:secret@[::1]:6432/app",
  ],
  [
    "ENOENT",
    "nothing listens on /run/.s.PGSQL.6432",
    "start that server, or check host and port in `DATABASE_URL`",
    {},
    "postgres://ada:secret@:6432/app?host=/run",
  ],
  [
    "CONNECT_TIMEOUT ETIMEDOUT",
    "db.example.com:6432 did not answer within 7 seconds",
    "check that it runs, and check host and port in `DATABASE_URL`; to wait longer, add `connect_timeout=30` to the URL",
  ],
  [
    "57P01 57P03",
    "the server on db.example.com:6432 is starting up or shutting down",
    "try again in a moment; `bun run db:logs` shows what it is doing",
  ],
  [
    "3D000",
    'there is no database "app" on db.example.com:6432',
    "create it, or fix its name in `DATABASE_URL`",
  ],
  [
    "28P01",
    'the server on db.example.com:6432 does not accept this password for user "ada"',
    "fix user and password in `DATABASE_URL`",
  ],
  [
    "28000",
    "the server on db.example.com:6432 refuses: why",
    "fix user and password in `DATABASE_URL`",
  ],
  [
    "CONNECTION_CLOSED NOT_POSTGRES ECONNRESET EPIPE",
    "db.example.com:6432 closed the connection without answering as PostgreSQL",
    "check host and port in `DATABASE_URL`",
  ],
  [
    "ECONNRESET",
    "db.example.com:5432 closed the connection: it may not trust the certificate of sslcert",
    "check `sslcert` in `DATABASE_URL`",
    {},
    "postgres://ada:secret@db.example.com/app?sslcert=/own.pem&sslkey=/own.key",
  ],
  [
    "UNSUITABLE",
    "db.example.com:6432 why",
    "name a server that suits in `DATABASE_URL`, or several: `…@one:5432,two:5432/app`",
  ],
  [
    "NO_TLS",
    "db.example.com:6432 has no TLS, which sslmode=require requires",
    "set `sslmode=disable` in `DATABASE_URL` if the network in between is safe",
  ],
  [
    "53300",
    "the server on db.example.com:6432 takes no more connections: why",
    "try again when other sessions have ended; `bun run db:status` counts them",
  ],
  [
    "08P01",
    "the pooler on db.example.com:6432 refuses: unsupported startup parameter: options",
    "leave `options` out of `DATABASE_URL` and set it for the role: `alter role … set …`",
    { message: "unsupported startup parameter: options" },
  ],
  [
    "ENOTFOUND EAI_AGAIN",
    "the host name db.example.com cannot be resolved",
    "check host and port in `DATABASE_URL`",
  ],
  [
    "SELF_SIGNED_CERT_IN_CHAIN UNABLE_TO_VERIFY_LEAF_SIGNATURE",
    "the certificate of db.example.com:6432 is not trusted: why",
    "name its authorities with `sslrootcert` in `DATABASE_URL`",
  ],
  [
    "ECONNRESET",
    "TLS with db.example.com:6432 failed: why",
    "check the TLS parameters in `DATABASE_URL`",
    { isTls: true },
  ],
  ["08P01 42501", "cannot connect to db.example.com:6432: why", undefined],
  [
    "EHOSTUNREACH",
    "cannot connect to db.example.com:6432: why",
    "check host and port in `DATABASE_URL`",
  ],
];

test("every kind of failure is explained, with what to do about it", () => {
  const far =
    "postgres://ada:secret@db.example.com:6432/app?sslmode=require&connect_timeout=7";
  for (const [codes, message, hint, fields, url = far] of failures)
    for (const code of codes.split(" ")) {
      const error = Object.assign(new Error("why"), { code, ...fields });
      const address = parseDatabaseUrl(url, "DATABASE_URL");

      const explained: Error & FailureFields = explainConnectionError(
        error,
        address,
      );

      const sqlstate = /^\d/.test(code) ? code : undefined;
      expect({
        code,
        message: explained.message,
        hint: explained.hint,
      }).toEqual({ code, message, hint });
      expect(explained).toMatchObject({
        code: "UNREACHABLE",
        exitCode: 1,
        details: { sqlstate },
      });
    }
});

test("db:start is named for a server that it starts: on this machine, at the configured port, unless that is another's", () => {
  const own = "postgres://u:p@localhost:6432/app";
  const hintFor = (url: string, DB_ENGINE = "auto") => {
    const before = { ...process.env };
    Object.assign(process.env, { DATABASE_URL: own, DB_ENGINE });
    const error = Object.assign(new Error(), { code: "ECONNREFUSED" });
    const explained: Error & FailureFields = explainConnectionError(
      error,
      parseDatabaseUrl(url, "DATABASE_URL"),
    );
    Object.assign(process.env, before);
    return explained.hint;
  };

  const start = "start it with `bun run db:start`";
  const other = "start that server, or check host and port in `DATABASE_URL`";
  expect([
    hintFor(own),
    hintFor(own, "compose"),
    hintFor("postgres://u:p@127.0.0.1:6432/other"),
    hintFor(own, "external"),
    hintFor("postgres://u:p@localhost:6433/app"),
    hintFor("postgres://u:p@db.example.com:6432/app"),
    hintFor("postgres://u:p@:6432/app?host=/run"),
  ]).toEqual([start, start, start, other, other, other, other]);
});

test("a standby is named with how far it is behind, where that is known", () => {
  const names = [null, 0, 2.5].map((lagSeconds) =>
    nameReplication({ role: "standby", lagSeconds }),
  );

  expect(names).toEqual([
    "standby, lag unknown",
    "standby, 0 s behind",
    "standby, 2.5 s behind",
  ]);
});

test("a server suits what is wanted by its role", async () => {
  const { port, close } = await listen(() => {});
  const roles = {
    primary: { isStandby: false, isReadOnly: false },
    "read-only": { isStandby: false, isReadOnly: true },
    standby: { isStandby: true, isReadOnly: true },
  };
  const take = async (role: Role, wanted: Wanted) => {
    let closed = 0;
    const driver = {
      logIn: async () => ({ role }),
      close: async () => void (closed += 1),
    };
    const address = parseDatabaseUrl(
      `postgres://u@127.0.0.1:${port}/a?sslmode=disable`,
      "X",
    );
    const refused = await openSession(address, driver, wanted).then(
      () => "",
      ({ message }: Error) => message,
    );
    // One that does not suit is not left open.
    expect(closed > 0).toBe(refused !== "");
    return refused;
  };
  const refusals: string[] = [];
  for (const wanted of [
    ...(["any", "read-write", "read-only"] as const),
    ...(["primary", "standby", "prefer-primary"] as const),
  ])
    for (const [name, role] of Object.entries(roles)) {
      if (wanted === "prefer-primary" && role.isStandby) continue;
      const refused = await take(role, wanted);
      if (refused) refusals.push(`${name}: ${refused}`);
    }
  await close();

  expect(refusals).toEqual([
    "read-only: is read-only, and this requires read-write",
    "standby: is a standby, and this requires read-write",
    "primary: is a primary, and this requires read-only",
    "standby: is a standby, and this requires a primary",
    "primary: is a primary, and this requires a standby",
    "read-only: is read-only, and this requires a standby",
  ]);
});

describe.concurrent("a host", () => {
  const primary = { isStandby: false, isReadOnly: false };
  const behind = { isStandby: true, isReadOnly: true };

  test(
    "is left for the next one only where that one may answer otherwise",
    async () => {
      const servers = [await listen(() => {}), await listen(() => {})];
      const ports = servers.map(({ port }) => port);
      const hosts = ports.map((port) => `127.0.0.1:${port}`).join();
      /** Returns which hosts were asked, in their order; each does as it is told, the
       * first one something else once its session was closed. */
      const ask = async (
        answers: (Role | Error)[],
        query = "",
        wanted?: Wanted,
        later = answers[0],
      ): Promise<{ asked: string; refusals?: unknown }> => {
        const asked: number[] = [];
        const told = [...answers];
        const driver = {
          logIn: async (_: Socket, { port }: Host) => {
            const index = ports.indexOf(port);
            asked.push(index + 1);
            const answer = told[index] ?? primary;
            if (answer instanceof Error) throw answer;
            return { role: answer };
          },
          close: async () => void (told[0] = later ?? primary),
        };
        const url = `postgres://u@${hosts}/a?sslmode=disable${query}`;
        const found = openSession(parseDatabaseUrl(url, "X"), driver, wanted);
        const refusals = await found.then(
          ({ way }) =>
            expect(way.port).toBe(ports[(asked.at(-1) ?? 0) - 1] ?? 0),
          (error: { refusals: Refusal[] }) =>
            error.refusals.map(({ host, error }) => [
              ports.indexOf(host.port) + 1,
              error.message,
            ]),
        );
        return { asked: asked.join(), refusals };
      };
      const no = (code?: string, fields = {}) =>
        Object.assign(new Error("no"), { code, ...fields });

      for (const code of [
        undefined,
        "ECONNRESET",
        "EPIPE",
        "57P03",
        "UNSUITABLE",
      ])
        expect(await ask([no(code)])).toEqual({ asked: "1,2" });
      for (const error of [
        ...["28P01", "28000", "3D000", "53300"].map((code) => no(code)),
        no("EPROTO", { isTls: true }),
      ])
        expect(await ask([error])).toEqual({
          asked: "1",
          refusals: [[1, "no"]],
        });
      expect(await ask([no(), no()], "", "prefer-primary")).toEqual({
        asked: "1,2",
        refusals: [
          [1, "no"],
          [2, "no"],
        ],
      });
      expect(await ask([behind, behind], "", "prefer-primary")).toEqual({
        asked: "1,2,1",
      });
      expect(
        await ask([behind, no("28P01")], "", "prefer-primary", no("3D000")),
      ).toEqual({ asked: "1,2,1", refusals: [[1, "no"]] });
      expect(
        await ask([behind, behind], "&target_session_attrs=primary"),
      ).toEqual({
        asked: "1,2",
        refusals: [1, 2].map((index) => [
          index,
          "is a standby, and this requires a primary",
        ]),
      });
      const first = async (query: string) => {
        const found = Array.from({ length: 40 }, () => ask([], query));
        return new Set((await Promise.all(found)).map(({ asked }) => asked))
          .size;
      };
      expect(await first("&load_balance_hosts=disable")).toBe(1);
      expect(await first("&load_balance_hosts=random")).toBe(2);
      for (const { close } of servers) await close();
    },
    TIMEOUT_MS,
  );

  test(
    "that does not answer as PostgreSQL has a code for it, and no socket is left open",
    async () => {
      const open = async (answer: string | undefined, query: string) => {
        const closed = Promise.withResolvers<void>();
        const { port, close } = await listen((socket) => {
          socket.once("close", closed.resolve);
          if (answer) socket.once("data", () => socket.write(answer));
          else socket.resume();
          if (answer === "") socket.end();
        });
        const address = parseDatabaseUrl(
          `postgres://u@127.0.0.1:${port}/a?${query}`,
          "X",
        );
        const driver = {
          logIn: async (socket: Socket) => {
            if (answer !== "N") await new Promise(() => {}); // it waits for an answer
            socket.destroy();
            return { role: primary };
          },
          close: async () => {},
        };
        const settings = {
          ...address.settings,
          connect_timeout: answer === undefined ? "0.5" : "20",
        };
        const found = await openSession({ ...address, settings }, driver).then(
          ({ way }) => way.tls,
          ({ code, message }) => [code, message],
        );
        await closed.promise;
        await close();
        return found;
      };
      const other = ["NOT_POSTGRES", "it does not answer as PostgreSQL"];

      expect(
        await Promise.all([
          open(undefined, "sslmode=disable"),
          open("", "sslmode=disable"),
          open("", "sslmode=require"),
          open("N", "sslmode=require"),
          open("N", "sslmode=prefer"),
          open("Sx", "sslmode=require"), // somebody in between may have added it
          open("HTTP/1.1", "sslmode=require"),
        ]),
      ).toEqual([
        ["CONNECT_TIMEOUT", "it did not answer"],
        ["CONNECTION_CLOSED", "it closed the connection"],
        ["CONNECTION_CLOSED", "it closed the connection"],
        ["NO_TLS", "it has no TLS"],
        false,
        other,
        other,
      ]);
    },
    TIMEOUT_MS,
  );

  test(
    "may be a Unix socket, and is asked to keep the connection alive as the URL says",
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "starter-socket-"));
      const server = createServer(() => {});
      const file = join(folder, ".s.PGSQL.7");
      await new Promise<void>((resolve) => server.listen(file, resolve));
      const keepAlive = spyOn(Socket.prototype, "setKeepAlive");
      const open = async (query: string) => {
        const url = `postgres://u@/a?host=${folder}&port=7&${query}`;
        const address = parseDatabaseUrl(url, "X");
        const way = { host: folder, port: 7, tls: false as const };
        (await openSocket(way, address)).destroy();
      };

      await open("keepalives=0&keepalives_idle=7");
      await open("keepalives=1&keepalives_idle=9");
      await open("");
      const calls = keepAlive.mock.calls.map((call) => call.join());
      keepAlive.mockRestore();
      server.close();
      rmSync(folder, { recursive: true });

      expect(calls).toEqual(
        expect.arrayContaining(["false,7000", "true,9000", "true,30000"]),
      );
    },
    TIMEOUT_MS,
  );
});

databaseTest(
  "a connection is one session of the server, which only its end closes, and which keeps nothing there",
  async () => {
    const address = parseDatabaseUrl(database.url, "X");
    const named = {
      ...address,
      parameters: { application_name: "mine", options: "-c my.own=1" },
    };
    await using sql = await openConnection(address, "tests");
    await using other = await openConnection(named, "tests");
    const notices: (string | undefined)[] = [];
    const tell = (text: string) =>
      sql.unsafe(`do $$ begin raise notice '${text}'; end $$`);

    {
      using _ = onNotice(sql, ({ message }) => notices.push(message));
      await tell("heard");
    }
    await tell("not heard");
    const [one] = await sql`
      select current_setting('application_name') as name,
        (select count(*)::int from pg_prepared_statements) as prepared`;
    const [two] = await other`
      select current_setting('application_name') as name, current_setting('my.own') as own`;
    const unreached = { ...address, host: "nowhere" };

    expect(notices).toEqual(["heard"]);
    expect(one).toEqual({ name: "tests", prepared: 0 });
    expect(two).toEqual({ name: "mine", own: "1" });
    expect(sql.options).toMatchObject({
      max: 1,
      idle_timeout: null,
      max_lifetime: null,
      keep_alive: null,
      fetch_types: false,
    });
    expect(() => connect(unreached, "tests")).toThrow(
      `nowhere:${address.port} was not reached before`,
    );
    expect(reachedAddress(unreached)).toBe(unreached);
  },
);

describe("a server that does not let us in", () => {
  databaseTest("a wrong password is wrong, and not shown", async () => {
    const url = urlOf({ ...database.address, password: "secret" });

    const { message } = await refuse(url);
    const started = await fail("db:start", url);
    const status = await fail("db:status --json", url);
    const start = performance.now();
    const waited = await fail("db:migrate --wait-for-server 600", url);

    expect(performance.now() - start).toBeLessThan(300_000);
    expect(waited.stderr).toStartWith(`Error: ${message}\n`);
    expect(JSON.parse(status.stdout)).toMatchObject({
      engine: "external",
      running: true, // it has answered
      reachable: false,
    });
    expect(message).toContain(
      `does not accept this password for user "${database.address.user}"`,
    );
    // The server may be this clone's own, in Docker, or somebody else's.
    expect(started.stderr).toMatch(
      / is taken: |its volume was created with a different password/,
    );
    expect(started.stderr).toContain("in `DATABASE_URL`");
  });

  databaseTest("a database that is not there is named", async () => {
    const nowhere = { ...database.address, database: "nowhere" };

    const { message, hint } = await refuse(urlOf(nowhere));

    expect(message).toStartWith('there is no database "nowhere" on ');
    expect(hint).toContain("`bun run db:start`");
  });

  databaseTest(
    "a role that may connect once can, and its limit is named",
    async () => {
      const role = `once_${crypto.randomUUID().slice(0, 8)}`;
      await database.sql.unsafe(
        `create role ${role} login password 'p' connection limit 1`,
      );
      const url = urlOf({ ...database.address, user: role, password: "p" });
      try {
        const tested = await run("db:test", {
          DATABASE_URL: url,
          DB_ENGINE: "external",
        });
        const address = parseDatabaseUrl(url, "DATABASE_URL");
        await using first = await openConnection(address, "tests");
        const { message, hint } = await refuse(url);

        expect(tested.stdout).toStartWith("Connected: ");
        expect(await isPooled(first, address)).toBe(false);
        expect(message).toContain(`too many connections for role "${role}"`);
        expect(hint).toContain(`ALTER ROLE "${role}" CONNECTION LIMIT`);
      } finally {
        await database.sql.unsafe(`drop role ${role}`);
      }
    },
  );

  databaseTest(
    "a script ends when its server process is ended under it",
    async () => {
      const { outcome } = await database.sql.begin(async (transaction) => {
        await transaction`select pg_advisory_xact_lock(28273295023041637)`;
        const outcome = run("db:migrate", { DATABASE_URL: database.url });
        let ended = 0;
        while (ended === 0)
          ended = (
            await database.sql`
            select pg_terminate_backend(pid) from pg_stat_activity
            where application_name = 'db:migrate' and datname = ${database.name}
              and query like '%pg_try_advisory_lock%'`
          ).count;
        return { outcome };
      });

      const { exitCode, stderr } = await outcome;

      expect(exitCode).toBe(1);
      expect(stderr).toBe(
        "Error: the session was ended before it got the lock, and nothing was changed\nHint: run it again: the database may just have been replaced\n",
      );
      expect(stderr).not.toMatch(/^ +at /m);
    },
  );

  databaseTest(
    "db:shell calls psql with what is meant for it, without a password, and ends like it",
    async () => {
      const [server] = await database.sql<{ major: string }[]>`
        select current_setting('server_version_num')::int / 10000 as major`;
      const bin = mkdtempSync(join(tmpdir(), "starter-psql-"));
      const name = `${database.name}'s`;
      await database.sql.unsafe(`create database "${name}"`);
      writeFileSync(
        join(bin, "psql"),
        `#!/bin/sh\n[ "$1" = --version ] && echo ${server?.major} && exit\nprintf '%s\\n' "$@" "$PGPASSFILE"; exit 5\n`,
        { mode: 0o755 },
      );

      const { exitCode, stdout } = await run("db:shell -A -- --command=x", {
        DATABASE_URL: urlOf({ ...database.address, database: name }),
        DB_ENGINE: "external",
        PATH: `${bin}:/usr/bin:/bin`,
      });
      rmSync(bin, { recursive: true });

      expect(exitCode).toBe(5);
      expect(stdout.replace(/ connect_timeout.*/, "").split("\n")).toEqual([
        "--dbname",
        `dbname='${database.name}\\'s'`,
        "-A",
        "--command=x",
        "/nonexistent",
        "",
      ]);
    },
  );

  databaseTest(
    "db:studio listens on this machine only, on the server that was reached, and fails where drizzle-kit does",
    async () => {
      using project = copyProject();
      const modules = join(project.folder, "node_modules");
      rmSync(modules);
      project.write("node_modules/drizzle-kit/package.json", "{}");
      project.write(
        "node_modules/drizzle-kit/bin.cjs",
        "console.log(...process.argv.slice(2), process.env.DATABASE_URL); process.exit(3)",
      );
      for (const name of ["postgres", "dotenv"])
        symlinkSync(join(root, "node_modules", name), join(modules, name));

      const { exitCode, stdout, stderr } = await project.run(
        "db:studio --port 4999",
        { DATABASE_URL: database.url, DB_ENGINE: "external" },
      );

      expect({ exitCode, stderr }).toEqual({
        exitCode: 1,
        stderr: "Error: drizzle-kit studio failed\n",
      });
      expect(stdout).toStartWith("studio --host 127.0.0.1 --port 4999 ");
      expect(stdout).toMatch(/sslmode=(require|disable)/);
      const isEncrypted = await ask(database.url, TLS);
      expect(stdout.includes("sslmode=require")).toBe(isEncrypted === true);
    },
  );

  databaseTest("require against a server without TLS is refused", async () => {
    const url = urlOf({ ...database.address, sslmode: "require" });

    const { message } = await refuse(url);

    expect(message).toEndWith("has no TLS, which sslmode=require requires");
  });
});

// A primary with a certificate of its own, and a standby of it.
const folder = mkdtempSync(join(tmpdir(), "starter-tls-"));
const [primary, standby] = [join(folder, "primary"), join(folder, "standby")];
let ports: Record<"primary" | "standby" | "silent", number>;

const hasOpenssl = Bun.which("openssl") !== null;
beforeAll(async () => {
  if (!hasOpenssl) return;
  ports = {
    primary: await findFreePort(),
    standby: await findFreePort(),
    silent: await findFreePort(),
  };
  await makeCertificates();
  for (const dataDir of [primary, standby]) {
    await copyCluster(dataDir);
    // Whom it lets in shows whether a connection was encrypted.
    writeFileSync(
      join(dataDir, "postgres/pg_hba.conf"),
      `hostssl all only_cert all cert
hostssl all only_tls all trust
hostnossl all only_plain all trust
host all postgres all scram-sha-256
host replication postgres all scram-sha-256
`,
    );
  }
  writeFileSync(join(standby, "postgres/standby.signal"), "");
  writeFileSync(
    join(standby, "postgres/postgresql.auto.conf"),
    `primary_conninfo = 'host=127.0.0.1 port=${ports.primary} user=postgres password=postgres'\n`,
  );
  const tls = ["ssl=on", "ssl_cert_file", "ssl_key_file", "ssl_ca_file"];
  const files = ["", "server.pem", "server.key", "authority.pem"];
  const settings = tls.map((name, index) =>
    index === 0 ? name : `${name}=${folder}/${files[index]}`,
  );
  await startEmbedded(primary, clusterAddress(ports.primary), settings);
  await startEmbedded(standby, clusterAddress(ports.standby), settings);
  const url = urlOf(clusterAddress(ports.primary));
  await using sql = await openConnection(parseDatabaseUrl(url, "X"), "tests");
  for (const role of ["only_cert", "only_tls", "only_plain"])
    await sql.unsafe(`create role ${role} login`);
}, TIMEOUT_MS);
afterAll(async () => {
  for (const dataDir of [standby, primary]) await stopEmbedded(dataDir);
  rmSync(folder, { recursive: true, force: true });
}, TIMEOUT_MS);

async function makeCertificates(): Promise<void> {
  const key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
  const sign =
    "-days 2 -CA authority.pem -CAkey authority.key -CAcreateserial -copy_extensions copy";
  for (const command of [
    `req -x509 ${key} -days 2 -subj /CN=Authority -keyout authority.key -out authority.pem`,
    `req -x509 ${key} -days 2 -subj /CN=Other -keyout other.key -out other.pem`,
    `req ${key} -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout server.key -out server.csr`,
    `x509 -req -in server.csr ${sign} -out server.pem`,
    `req ${key} -subj /CN=only_cert -keyout client.key -out client.csr`,
    `x509 -req -in client.csr ${sign} -out client.pem`,
  ])
    await $`openssl ${{ raw: command }}`.cwd(folder).quiet();
  for (const name of ["server.key", "client.key"])
    chmodSync(join(folder, name), 0o600);
}

/** Asks as the application's client does, outside of transactions, until it is answered
 * as expected; returns the last answer, or why there is none. */
async function askClient(
  url: string,
  question: string,
  replicas: string[] = [],
  {
    expected,
    ...limits
  }: Partial<ClientSettings> & { expected?: unknown } = {},
): Promise<unknown> {
  const client = { ...readEnv().client, isPooled: false, ...limits };
  const pools = openPools({
    database: parseDatabaseUrl(url, "DATABASE_URL"),
    replicas: replicas.map((url) => parseDatabaseUrl(url, "X")),
    client,
  });
  const ask = async () => {
    const text = `select ${question} as answer`;
    const { rows } = await pools.query({ text, rowMode: "array" }, []);
    return (rows as unknown[][])[0]?.[0];
  };
  try {
    const deadline = Date.now() + 60_000;
    let answer = await ask();
    // On a busy machine a replica may be left out for a second.
    while (expected && answer !== expected && Date.now() < deadline) {
      await Bun.sleep(20);
      answer = await ask();
    }
    return answer;
  } catch (error) {
    return causesOf(error)
      .map((cause) => (cause as Error).message)
      .join(": ");
  } finally {
    for (const pool of pools.all) pool.close();
  }
}

const TLS =
  "(select ssl from pg_stat_ssl where pid = pg_catalog.pg_backend_pid())";
type Verdict = "tls" | "plain" | "fails";
const psql = findPsql();

/** Finds psql itself: Debian's is a script that takes three times as long. */
function findPsql(): string | null {
  const packages = "/usr/lib/postgresql";
  const [newest] = existsSync(packages)
    ? readdirSync(packages).sort((one, other) => Number(other) - Number(one))
    : [];
  const program = `${packages}/${newest}/bin/psql`;
  return existsSync(program) ? program : Bun.which("psql");
}

if (!hasOpenssl)
  console.warn("Left out: TLS, for there is no openssl to make certificates");
else {
  describe.concurrent("TLS", () => {
    const right = "sslrootcert=authority.pem";
    const wrong = "sslrootcert=other.pem";
    const client = "sslcert=client.pem&sslkey=client.key";
    const verdicts: [user: string, query: string, verdict: Verdict][] = [
      ["postgres", "", "tls"],
      ["postgres", "sslmode=disable", "plain"],
      ["postgres", "sslmode=allow", "plain"],
      ["postgres", "ssl=true", "tls"],
      ["only_tls", "sslmode=disable", "fails"],
      ["only_tls", "sslmode=allow", "tls"],
      ["only_plain", "sslmode=prefer", "plain"],
      ["only_plain", "sslmode=require", "fails"],
      // An authority that is named is asked, and prefer then goes on without TLS.
      ["postgres", `sslmode=prefer&${wrong}`, "plain"],
      ["only_tls", `sslmode=prefer&${wrong}`, "fails"],
      ["only_tls", `sslmode=allow&${wrong}`, "fails"],
      ["postgres", `sslmode=require&${wrong}`, "fails"],
      ["postgres", `sslmode=require&${right}`, "tls"],
      ["postgres", `sslmode=verify-ca&${wrong}`, "fails"],
      ["postgres", `sslmode=verify-ca&${right}`, "tls"],
      ["postgres", `sslmode=verify-full&${right}`, "tls"],
      // The certificate is for localhost.
      ["postgres", `sslmode=verify-ca&${right}&host=127.0.0.1`, "tls"],
      ["postgres", `sslmode=verify-full&${right}&host=127.0.0.1`, "fails"],
      // Another host would have another certificate: libpq does not ask it.
      [
        "postgres",
        `sslmode=verify-full&${right}&host=127.0.0.1,localhost`,
        "fails",
      ],
      ["only_cert", "sslmode=require", "fails"],
      ["only_cert", `sslmode=require&${client}`, "tls"],
      ["only_cert", `sslmode=verify-full&${right}&${client}`, "tls"],
      ["postgres", "sslmode=require&ssl_max_protocol_version=TLSv1.1", "fails"],
      ["postgres", "sslmode=require&ssl_min_protocol_version=TLSv1.3", "tls"],
      [
        "postgres",
        "sslmode=require&ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
        "fails",
      ],
    ];
    for (const [user, query, verdict] of verdicts)
      test(
        `${user} ${query || "by default"}: ${verdict}, as psql says`,
        async () => {
          const files = query.replace(/=(\w+\.(pem|key))/g, `=${folder}/$1`);
          const url = `postgres://${user}:postgres@localhost:${ports.primary}/postgres?${files}`;

          const ours = await ask(url, TLS).catch(() => "fails");
          const theirs =
            psql &&
            (await $`${psql} -XAtc ${`select ${TLS}`} ${url}`
              .env({ PATH: process.env.PATH ?? "", HOME: folder })
              .nothrow()
              .quiet());

          expect(ours === true ? "tls" : ours || "plain").toBe(verdict);
          if (theirs)
            expect(theirs.stdout.toString().trim() || "fails").toBe(
              { tls: "t", plain: "f", fails: "fails" }[verdict],
            );
        },
        TIMEOUT_MS,
      );

    test("a file that is not there, and a key that others can read, are refused", async () => {
      const url = `postgres://postgres@localhost:${ports.primary}/postgres`;
      chmodSync(join(folder, "other.key"), 0o644);
      const pair = `sslcert=${folder}/other.pem&sslkey=${folder}/other.key`;

      const missing = await refuse(
        `${url}?sslmode=require&sslrootcert=/nowhere.pem`,
      );
      const open = await refuse(`${url}?${pair}`);

      expect(missing).toMatchObject({
        exitCode: 2,
        message: expect.stringContaining("the sslrootcert of DATABASE_URL"),
      });
      expect(open).toMatchObject({
        exitCode: 2,
        message: "the sslkey of DATABASE_URL can be read by others",
      });
    });
  });

  test(
    "the application's client binds the channel where its URL requires it: nobody in between can be it",
    async () => {
      const read = (file: string) => readFileSync(join(folder, file), "utf8");
      let isPlain = false;
      // It passes the login on, under a certificate of its own.
      const between = createTlsServer(
        {
          key: read("other.key"),
          cert: read("other.pem"),
          ALPNProtocols: ["postgresql"],
        },
        (client) => {
          const server = isPlain
            ? connectSocket(ports.primary, "127.0.0.1")
            : connectTls({
                host: "localhost",
                port: ports.primary,
                rejectUnauthorized: false,
                ALPNProtocols: ["postgresql"],
              });
          for (const socket of [client, server]) socket.on("error", () => {});
          client.pipe(server).pipe(client);
        },
      );
      await new Promise<void>((resolve) => between.listen(0, resolve));
      const { port } = between.address() as AddressInfo;
      const open = (query: string, user = "postgres", at = ports.primary) =>
        askClient(
          `postgres://${user}:postgres@localhost:${at}/postgres?sslmode=require&sslnegotiation=direct&${query}`,
          TLS,
        );
      const bound = "channel_binding=require";
      const unbound = "it offers no channel binding, which the URL requires";

      const answers = [
        await open(""),
        await open(bound),
        await open("channel_binding=prefer", "postgres", port),
        await open(bound, "postgres", port),
        await open(bound, "only_tls"),
      ];
      isPlain = true;
      answers.push(await open("", "postgres", port));
      answers.push(await open(bound, "postgres", port));
      between.close();

      expect(answers).toEqual([
        true,
        true,
        true,
        expect.stringContaining("channel binding"),
        expect.stringContaining(unbound),
        false,
        expect.stringContaining(unbound),
      ]);
    },
    TIMEOUT_MS,
  );

  describe("TLS of the commands", () => {
    test(
      "the system's authorities are asked where none is named, also by psql",
      async () => {
        const url = `postgres://postgres:postgres@localhost:${ports.primary}/postgres`;
        const verified = { DATABASE_URL: `${url}?sslmode=verify-full` };
        const own = { SSL_CERT_FILE: join(folder, "authority.pem") };

        const refused = await fail("db:status", `${url}?sslrootcert=system`);
        const trusted = await run("db:status", { ...verified, ...own });
        const { PATH = "" } = process.env;
        const shell = await run("db:shell -- -Atc select", {
          ...{ ...verified, ...own, PATH },
        });

        expect(refused.stderr).toContain("is not trusted");
        expect(trusted.exitCode).toBe(0);
        if (psql) expect(shell.exitCode).toBe(0);
      },
      TIMEOUT_MS,
    );

    test(
      "TLS without asking first is known here, and refused by name where psql is too old for it",
      async () => {
        const url = `postgres://postgres:postgres@localhost:${ports.primary}/postgres?sslmode=require&sslnegotiation=direct`;

        const encrypted = await ask(url, TLS);
        const { exitCode, stderr } = await run("db:shell -- --command=select", {
          DATABASE_URL: url,
          DB_ENGINE: "external",
        });

        expect(encrypted).toBe(true);
        if (exitCode === 0) return; // psql 17 or newer
        expect(exitCode).toBe(psql ? 2 : 1);
        if (psql)
          expect(stderr).toMatch(
            /^Error: sslnegotiation=direct in DATABASE_URL requires client programs of version 17, and psql is version \d+\nHint: leave `sslnegotiation=direct` out, or install PostgreSQL's client programs, version 17 or newer\n$/,
          );
      },
      TIMEOUT_MS,
    );

    test("whether a connection was encrypted is known for the programs that follow", async () => {
      const settled: string[] = [];
      for (const [user, sslmode] of [
        ["only_plain", "prefer"],
        ["postgres", "prefer"],
        ["postgres", "allow"],
        ["only_tls", "allow"],
        ["postgres", "disable"],
        ["postgres", `verify-ca&sslrootcert=${folder}/authority.pem`],
      ]) {
        const url = `postgres://${user}:postgres@localhost:${ports.primary}/postgres?sslmode=${sslmode}`;
        await ask(url, "1");
        settled.push(settledAddress(parseDatabaseUrl(url, "X")).sslmode);
      }

      expect(settled).toEqual([
        ...["disable", "require", "disable", "require", "disable", "verify-ca"],
      ]);
    });

    test(
      "what psql and pg_dump can and this cannot is said once",
      async () => {
        const url = `postgres://postgres:postgres@localhost:${ports.primary}/postgres?sslmode=require`;
        const asked = `${url}&channel_binding=require`;
        const notes = spyOn(process.stderr, "write").mockReturnValue(true);

        for (const one of [url, asked, asked]) await ask(one, "1");
        const said = notes.mock.calls.flat();
        notes.mockRestore();
        const { stdout } = await run("db:status", { DATABASE_URL: asked });

        expect(said).toEqual([
          "Warning: this command connects without the channel binding that channel_binding=require in DATABASE_URL asks for\n",
        ]);
        expect(stdout).toContain(
          "\nTLS          on, without the channel binding that is required\n",
        );
      },
      TIMEOUT_MS,
    );
  });

  describe("several hosts", () => {
    /** The port of the host that is taken of a list of them. */
    const take = (
      names: (keyof typeof ports)[],
      query = "",
      wanted?: Parameters<typeof openConnection>[2],
    ) => {
      const hosts = names.map((name) => `localhost:${ports[name]}`).join();
      return ask(
        `postgres://postgres:postgres@${hosts}/postgres?${query}`,
        "current_setting('port')::int",
        wanted,
      );
    };

    test("the first that answers and suits is taken", async () => {
      expect(await take(["silent", "standby", "primary"])).toBe(ports.primary);
      const reading = ["silent", "standby"] as const;
      expect(await take([...reading], "", "any")).toBe(ports.standby);
      expect(await take([...reading, "silent"], "", "prefer-primary")).toBe(
        ports.standby,
      );
      expect(await take(["standby", "primary"], "", "prefer-primary")).toBe(
        ports.primary,
      );
      expect(
        await take(
          ["standby", "silent", "primary"],
          "load_balance_hosts=random",
        ),
      ).toBe(ports.primary);
    });

    test("a process stays with the server that it has reached, while that suits", async () => {
      const names = ["standby", "primary", "silent", "silent"] as const;
      const hosts = names.map((name) => `localhost:${ports[name]}`).join();
      const url = `postgres://postgres:postgres@${hosts}/postgres`;
      const address = parseDatabaseUrl(url, "X");

      const first = await take([...names], "", "any");
      const reached = reachedAddress(address);
      const writing = await take([...names], "", "primary");

      expect([first, writing]).toEqual([ports.standby, ports.primary]);
      expect(await take([...names], "", "any")).toBe(ports.primary);
      expect(reached).toMatchObject({ port: ports.standby, otherHosts: [] });
      expect(reachedAddress(address)).toMatchObject({ port: ports.primary });
    });

    const attributes = {
      any: "standby",
      "read-write": "primary",
      "read-only": "standby",
      primary: "primary",
      standby: "standby",
      "prefer-standby": "standby",
    } as const;
    for (const [index, [attrs, name]] of Object.entries(attributes).entries())
      test(`target_session_attrs=${attrs} takes the ${name}`, async () => {
        // Each its own list: a process stays with what it has reached of one.
        const silent = Array<"silent">(index + 2).fill("silent");
        const query = `target_session_attrs=${attrs}`;

        expect(await take([...silent, "standby", "primary"], query)).toBe(
          ports[name],
        );
        if (attrs !== "any")
          expect(await take(["primary", ...silent, "standby"], query)).toBe(
            ports[name],
          );
      });

    test(
      "the application reads from a standby while it is not too far behind",
      async () => {
        const [one, two] = [primary, standby].map((_, index) =>
          urlOf(clusterAddress(index === 0 ? ports.primary : ports.standby)),
        ) as [string, string];
        const port = "current_setting('port')::int";
        const read = (replicaMaxLagMs: number, expected: number) =>
          askClient(one, port, [two], { replicaMaxLagMs, expected });

        const caughtUp = await read(1, ports.standby);
        await ask(two, "pg_wal_replay_pause()", "any");
        await ask(one, "pg_logical_emit_message(true, 'a', 'b')");
        const behind = await read(20, ports.primary);
        const inTime = await read(60_000, ports.standby);
        await ask(two, "pg_wal_replay_resume()", "any");

        expect([caughtUp, behind, inTime]).toEqual([
          ports.standby,
          ports.primary,
          ports.standby,
        ]);
      },
      TIMEOUT_MS,
    );

    test("why each host was not taken is said", async () => {
      const hosts = `localhost:${ports.silent},localhost:${ports.standby}`;

      const { message } = await refuse(
        `postgres://postgres:postgres@${hosts}/postgres`,
      );

      expect(message).toBe(
        `nothing listens on localhost:${ports.silent}; localhost:${ports.standby} is a standby, and this requires a primary`,
      );
    });

    test(
      "db:status tells a standby, and how far it is behind; what writes takes the one that is promoted",
      async () => {
        const variables = {
          DATABASE_URL: `postgres://postgres:postgres@localhost:${ports.standby},localhost:${ports.primary}/postgres`,
          DB_ENGINE: "external",
        };

        const before = await run("db:status --json", variables);
        const onStandby = {
          ...variables,
          DATABASE_URL: urlOf(clusterAddress(ports.standby)),
        };
        const read = await run("db:test", onStandby);
        const listed = await run("db:migrate:status", onStandby);
        await stopEmbedded(primary);
        await ask(urlOf(clusterAddress(ports.standby)), "pg_promote()", "any");
        const migrated = await run("db:migrate", variables);
        const after = await run("db:status --json", variables);

        expect(JSON.parse(before.stdout)).toMatchObject({
          port: ports.standby,
          role: "standby",
          lagSeconds: expect.any(Number),
        });
        expect(read.stdout).toMatch(
          /^Connected: postgres on 127\.0\.0\.1:\d+ \(standby, .* s behind\), /,
        );
        expect(listed).toMatchObject({ exitCode: 3, stderr: "" });
        expect(migrated.exitCode).toBe(0);
        expect(JSON.parse(after.stdout)).toMatchObject({
          port: ports.standby,
          role: "primary",
          lagSeconds: null,
        });
      },
      TIMEOUT_MS,
    );
  });
}
