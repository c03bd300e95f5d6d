// What is read from where, and what a malformed value is answered with.
import { describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { $ } from "bun";
import { connectionOptions } from "../../src/database-tls";
import {
  connectSeconds,
  formatDatabaseUrl,
  hostsOf,
  isLocal,
  parseDatabaseUrl as parse,
} from "../../src/database-url";
import { readEnv, root } from "../../src/env";
import { fixture } from "../lib/project";
import { sharedProject } from "../lib/test";

const { run, folder: project } = sharedProject();

type Files = Record<string, string | Uint8Array>;

/** Reads the environment in a folder with these files. */
function read(files: Files, variables: Record<string, string> = {}) {
  const folder = mkdtempSync(join(tmpdir(), "starter-env-"));
  try {
    for (const [name, text] of Object.entries(files))
      writeFileSync(join(folder, name), text);
    return readEnv(folder, variables);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function catchError(body: () => unknown): Error & { hint?: string } {
  try {
    body();
  } catch (error) {
    return error as Error;
  }
  throw new Error("nothing was thrown");
}

/** A connection string that names a database, for telling one from another. */
const to = (database: string) => `postgres://u:p@127.0.0.1:9/${database}`;

describe("where variables come from", () => {
  test("without any file the example's values hold, but not in production", async () => {
    const example = {
      ".env.example": await Bun.file(join(fixture, ".env.example")).text(),
    };

    expect(read(example, { POSTGRES_PORT: "9" }).database).toMatchObject({
      host: "localhost",
      port: 9,
      database: "app",
      user: "postgres",
    });
    expect(catchError(() => read(example, { NODE_ENV: "production" }))).toEqual(
      expect.objectContaining({
        exitCode: 2,
        message: "DATABASE_URL is not set",
        hint: "set `DATABASE_URL` in the environment: with NODE_ENV=production there is no default",
      }),
    );
  });

  test("folders are relative to the files, and an address is guarded that may be another clone's", () => {
    const own = { ".env": "POSTGRES_DB=a\nPOSTGRES_USER=u\n" };
    const guardOf = (name: string, variables = {}) => {
      const text = `${own[".env"]}POSTGRES_PASSWORD=p\nBACKUP_DIR=b\n`;
      const env = read({ [name]: text }, variables);
      const { guard } = env.database;
      expect(env.backupDir).toMatch(/\/starter-env-[^/]+\/b$/);
      if (guard) expect(guard.dataDir).toBe(join(env.backupDir, "../.data"));
      return guard && [guard.isChosen, guard.isUrl];
    };

    expect(guardOf(".env.example")).toEqual([false, false]);
    expect(guardOf(".env")).toEqual([true, false]);
    expect(guardOf(".env", { POSTGRES_URL: to("b") })).toEqual([true, true]);
    expect(guardOf(".env.example", { POSTGRES_PORT: "9" })).toEqual([
      true,
      false,
    ]);
    expect(guardOf(".env", { DB_ENGINE: "external" })).toBeUndefined();
    expect(guardOf(".env", { POSTGRES_HOST: "elsewhere" })).toBeUndefined();
    expect(guardOf(".env", { POSTGRES_HOST: "/run/pg" })).toBeUndefined();
  });

  test("the process wins over .env.local, which wins over .env", () => {
    const env = { ".env": `DATABASE_URL=${to("env")}\nDB_ENGINE=external\n` };
    const local = { ...env, ".env.local": `DATABASE_URL=${to("local")}\n` };
    const own = { DATABASE_URL: to("own") };

    expect(read(env).database.database).toBe("env");
    expect(read(local).database.database).toBe("local");
    expect(read(local).engine).toBe("external");
    expect(read(local, own).database.database).toBe("own");
  });

  test("one connection string has several names, and wins over its parts", () => {
    const files = {
      ".env.local":
        "POSTGRES_DB=parts\nPOSTGRES_USER=u\nPOSTGRES_PASSWORD_FILE=secret\n",
      secret: " from a file \r\n",
      url: `${to("file")}\n`,
    };
    const open = (variables: Record<string, string>) =>
      read(files, variables).database;
    const DATABASE_URL_FILE = "url";
    const POSTGRES_URL = to("other");

    expect(open({ DATABASE_URL: "" })).toMatchObject({
      database: "parts",
      password: " from a file ",
    });
    expect(open({ DATABASE_URL_FILE }).database).toBe("file");
    expect(open({ DATABASE_URL_FILE, POSTGRES_URL })).toMatchObject({
      database: "other",
      variable: "POSTGRES_URL",
    });
    expect(open({ DATABASE_URL: to("whole"), POSTGRES_URL }).database).toBe(
      "whole",
    );
  });

  test("a direct connection is taken, but not a file's for the process's own address", () => {
    const url = {
      ".env.local": `DATABASE_URL=${to("a")}\nDATABASE_URL_UNPOOLED=${to("direct")}\n`,
    };
    const parts = {
      ".env.local": `POSTGRES_DB=a\nPOSTGRES_USER=u\nPOSTGRES_PASSWORD=p\nDIRECT_URL=${to("direct")}\n`,
    };
    const DATABASE_URL = to("b");
    const DIRECT_URL = to("c");
    const direct = (files: Files, variables: Record<string, string> = {}) =>
      read(files, variables).direct.database;

    expect(direct(url)).toBe("direct");
    expect(direct(url, { DATABASE_URL })).toBe("b");
    expect(direct(url, { DATABASE_URL, DIRECT_URL })).toBe("c");
    // They are not what is used.
    expect(direct(url, { POSTGRES_DB: "b" })).toBe("direct");
    expect(direct(parts)).toBe("direct");
    expect(direct(parts, { POSTGRES_DB: "b" })).toBe("b");
    expect(direct(parts, { POSTGRES_HOST: "elsewhere" })).toBe("a");
    expect(direct(parts, { POSTGRES_PASSWORD: "secret" })).toBe("direct");
  });

  test("replicas are separated by commas, also where one names several hosts", () => {
    const DATABASE_REPLICA_URLS =
      "postgres://u@one:1,two:2/a, postgres://u@three/b,";

    const { replicas } = read(
      {},
      { DATABASE_URL: to("a"), DATABASE_REPLICA_URLS },
    );

    expect(replicas.map(hostsOf)).toEqual([
      [
        { host: "one", port: 1 },
        { host: "two", port: 2 },
      ],
      [{ host: "three", port: 5432 }],
    ]);
  });

  test("a file from Windows is read, and a $ stays as it is", () => {
    const text = `\ufeffexport DATABASE_URL='postgres://$HOME:x@127.0.0.1:9/$USER' # mine\r\nDB_ENGINE=external\r\n`;

    const { database, engine } = read({ ".env.local": text });

    expect(database).toMatchObject({ user: "$HOME", database: "$USER" });
    expect(engine).toBe("external");
  });

  const text = `DATABASE_URL=${to("a")}\r\n`;
  const refused: [
    what: string,
    files: Files,
    variables: {},
    message: RegExp,
  ][] = [
    [
      "a file in UTF-16",
      { ".env.local": Buffer.from(`\ufeff${text}`, "utf16le") },
      {},
      /^\.env\.local is not encoded as UTF-8$/,
    ],
    [
      "a file in UTF-16 without a mark",
      { ".env": Buffer.from(text, "utf16le") },
      {},
      /^\.env is not encoded as UTF-8$/,
    ],
    [
      "a part that is missing",
      { ".env.local": "POSTGRES_DB=app\nPOSTGRES_USER=postgres\n" },
      {},
      /^POSTGRES_PASSWORD is not set$/,
    ],
    [
      "a file of a secret that is missing",
      {},
      { DATABASE_URL_FILE: "nowhere" },
      /^DATABASE_URL_FILE in the environment names a file that is missing$/,
    ],
    [
      "a file of a secret that is empty",
      { empty: "\n" },
      { DATABASE_URL_FILE: "empty" },
      /^DATABASE_URL_FILE in the environment names a file that is empty$/,
    ],
    [
      "a port that is none",
      {},
      {
        POSTGRES_DB: "a",
        POSTGRES_USER: "u",
        POSTGRES_PASSWORD: "p",
        POSTGRES_PORT: "0",
      },
      /^POSTGRES_PORT in the environment names a port that is not a number/,
    ],
    [
      "an engine that is none",
      {},
      { DATABASE_URL: to("a"), DB_ENGINE: "docker" },
      /^DB_ENGINE in the environment is not an engine$/,
    ],
    [
      "a time that is none",
      {},
      { DATABASE_URL: to("a"), DATABASE_STATEMENT_TIMEOUT: "soon" },
      /^DATABASE_STATEMENT_TIMEOUT in the environment is not a time$/,
    ],
    [
      "a time of nothing",
      {},
      { DATABASE_URL: to("a"), DATABASE_CONNECT_TIMEOUT: "0" },
      /^DATABASE_CONNECT_TIMEOUT in the environment is not a time$/,
    ],
    [
      "a time that JavaScript cannot wait",
      {},
      { DATABASE_URL: to("a"), DATABASE_REPLICA_MAX_LAG: "35791min" },
      /^DATABASE_REPLICA_MAX_LAG in the environment is not a time$/,
    ],
    [
      "a flag that is neither",
      {},
      { DATABASE_URL: to("a"), DATABASE_PREPARE: "yes" },
      /^DATABASE_PREPARE in the environment is neither true nor false$/,
    ],
    [
      "a pool of no connections",
      {},
      { DATABASE_URL: to("a"), DATABASE_POOL_SIZE: "0" },
      /^DATABASE_POOL_SIZE in the environment is not a number of connections$/,
    ],
    [
      "a malformed value in a file, which is named",
      { ".env.local": "DATABASE_URL=postgres://u:1#secret@127.0.0.1:9/app\n" },
      {},
      /^DATABASE_URL in \.env\.local names no user$/,
    ],
  ];
  test("the limits of the client have units, and a pooler is told from a direct connection", () => {
    const url = { DATABASE_URL: to("a") };
    const limits = (variables: {}) => read({}, { ...url, ...variables }).client;

    expect(limits({ DATABASE_REPLICA_POOL_SIZE: "4" })).toEqual({
      isPooled: false,
      canPrepare: true,
      poolSize: 10,
      replicaPoolSize: 4,
      connectMs: 5000,
      acquireMs: 10_000,
      statementMs: 30_000,
      idleTransactionMs: 30_000,
      replicaMaxLagMs: 10_000,
    });
    expect(
      limits({
        DATABASE_POOL_SIZE: "3",
        DATABASE_STATEMENT_TIMEOUT: "500ms",
        DATABASE_CONNECT_TIMEOUT: "2",
        DATABASE_ACQUIRE_TIMEOUT: "1.5 s",
        DATABASE_IDLE_TRANSACTION_TIMEOUT: "5min",
      }),
    ).toMatchObject({
      poolSize: 3,
      replicaPoolSize: 3,
      statementMs: 500,
      connectMs: 2000,
      acquireMs: 1500,
      idleTransactionMs: 300_000,
    });
    const pooled = [
      limits({}),
      limits({ DATABASE_URL_UNPOOLED: to("b") }),
      limits({ DATABASE_PREPARE: "false" }),
      limits({ DATABASE_URL_UNPOOLED: to("b"), DATABASE_PREPARE: "true" }),
    ].map(({ isPooled, canPrepare }) => [isPooled, canPrepare]);
    expect(pooled).toEqual([
      [false, true],
      [true, false],
      [true, false],
      [true, true],
    ]);
  });

  for (const [what, files, variables, message] of refused)
    test(`refuses ${what}`, () => {
      const error = catchError(() => read(files, variables));

      expect(error.message).toMatch(message);
      expect(error).toMatchObject({ exitCode: 2, hint: expect.any(String) });
    });
});

describe("connection strings", () => {
  test("several hosts, in every way to write them", () => {
    const hosts = (rest: string) => hostsOf(parse(`postgres://u@${rest}`, "X"));
    const [one, two] = [
      { host: "one", port: 1 },
      { host: "two", port: 2 },
    ];

    expect(hosts("one:1,two:2/db")).toEqual([one, two]);
    expect(hosts("/db?host=one,two&port=1,2")).toEqual([one, two]);
    expect(hosts("ignored:7/db?host=one&port=1")).toEqual([one]);
    expect(hosts("one,two/db?port=1")).toEqual([one, { ...two, port: 1 }]);
    expect(hosts("[::1]:9,%2Frun%2Fpg,/db")).toEqual([
      { host: "::1", port: 9 },
      { host: "/run/pg", port: 5432 },
      { host: "localhost", port: 5432 },
    ]);
  });

  test("one host that is elsewhere makes it all remote", () => {
    const isHere = (hosts: string) =>
      isLocal(parse(`postgres://u@${hosts}/db`, "X"));

    expect(isHere("localhost,127.0.0.2,[::1],%2Frun")).toBe(true);
    expect(isHere("localhost,elsewhere")).toBe(false);
    expect(isHere("localhost.elsewhere")).toBe(false);
    expect(isHere("127.0.0.1.elsewhere")).toBe(false);
  });

  test("parameters are read as libpq reads them, and other clients' are ignored", () => {
    const url =
      "postgres://us%40er:p%23%25%2F:@[::1]:9/my%20app?options=-c%20a%3Db+c&application_name=x&connect_timeout=3&ssl=true&pgbouncer=true&schema=public&connection_limit=5&channel_binding=require";

    expect(parse(url, "X")).toEqual({
      variable: "X",
      host: "::1",
      port: 9,
      otherHosts: [],
      user: "us@er",
      password: "p#%/:",
      database: "my app",
      sslmode: "require",
      sslrootcert: undefined,
      settings: {
        connect_timeout: "3",
        channel_binding: "require",
      },
      parameters: { options: "-c a=b+c", application_name: "x" },
    });
    expect(
      parse("postgres://h/?user=u&password=p&dbname=d&sslrootcert=system", "X"),
    ).toMatchObject({
      user: "u",
      password: "p",
      database: "d",
      sslmode: "verify-full",
    });
  });

  test("a session has the name that is given, and never waits forever", () => {
    const read = (query: string) => parse(`postgres://u@h/db?${query}`, "X");
    const fallback = "fallback_application_name=b";

    expect(
      read(`application_name=a&${fallback}`).parameters.application_name,
    ).toBe("a");
    expect(read(fallback).parameters.application_name).toBe("b");
    for (const wait of ["", "connect_timeout=0", "connect_timeout=-1"])
      expect(connectSeconds(read(wait))).toBe(10);
    expect(connectSeconds(read("connect_timeout=3"))).toBe(3);
  });

  test("TLS is left out on this machine only, and never used on a socket", () => {
    const ssl = (rest: string) =>
      connectionOptions(parse(`postgres://u@${rest}`, "X")).ssl;
    const unchecked = { rejectUnauthorized: false, servername: "elsewhere" };

    expect(ssl("localhost/db")).toBe(false);
    expect(ssl("elsewhere/db?sslmode=allow")).toMatchObject(unchecked);
    expect(ssl("elsewhere/db?sslmode=disable")).toBe(false);
    expect(ssl("%2Frun/db?sslmode=require")).toBe(false);
    expect(
      ssl("elsewhere/db?sslmode=require&ssl_min_protocol_version=TLSv1.3"),
    ).toMatchObject({ ...unchecked, minVersion: "TLSv1.3" });
  });

  test("an address is written as it was read, and drizzle-kit is given no empty password", () => {
    const url =
      "postgres://us%40er:@[::1]:9,%2Frun:8/my%20app?sslmode=require&sslrootcert=ca.pem&target_session_attrs=any&options=-c%20a%3Db";
    const address = parse(url, "X");

    expect(formatDatabaseUrl(address)).toBe(url);
    expect(
      connectionOptions({ ...address, sslrootcert: undefined }),
    ).toMatchObject({
      host: "::1",
      password: undefined,
      ssl: { rejectUnauthorized: false },
    });
  });

  const refused: [url: string, message: string][] = [
    ["postgres://u:se#cret@127.0.0.1:9/app", "is not a valid URL"],
    ["postgres://u:1#secret@127.0.0.1:9/app", "is not a valid URL"],
    ["postgres://u:se%cret@127.0.0.1:9/app", "has a % that encodes nothing"],
    ["postgres://u:se/cret@127.0.0.1:9/app", "is not a valid URL"],
    ["postgres://u:1/secret@127.0.0.1:9/app", "is not a valid URL"],
    ["postgres://u:se?cret@127.0.0.1:9/app", "is not a valid URL"],
    ["postgres://u:p@127.0.0.1:9/a%2Fb", "is not a valid URL"],
    ["postgres://u:se@1?cret@127.0.0.1:9/app", "is not a valid URL"],
    ["postgres://u:se@1/a?cret@127.0.0.1:9/app", "is not a valid URL"],
    ["mysql://u:secret@127.0.0.1/app", "is not a PostgreSQL connection string"],
    [
      '"postgres://u:secret@127.0.0.1/app"',
      "is not a PostgreSQL connection string",
    ],
    ["postgres://127.0.0.1:9/app", "names no user"],
    ["postgres://u:secret@127.0.0.1:9", "names no database"],
    [
      "postgres://u@one:1,two:2,three/app?port=1,2",
      "names 3 hosts and 2 ports",
    ],
    [
      "postgres://u:secret@127.0.0.1:port/app",
      "names a port that is not a number from 1 to 65535",
    ],
    [
      "postgres://u:secret@127.0.0.1:65536/app",
      "names a port that is not a number from 1 to 65535",
    ],
    [
      "postgres://u:secret@127.0.0.1/app?port=abc",
      "names a port that is not a number from 1 to 65535",
    ],
  ];
  const parameters: [query: string, message: string][] = [
    ["sslmode=on", "has an unknown sslmode"],
    ["target_session_attrs=master", "has an unknown target_session_attrs"],
    ["connect_timeout=soon", "has a wrong connect_timeout"],
    ["client_encoding=latin1", "has a wrong client_encoding"],
    ["gssencmode=require", "has an unknown gssencmode"],
    ["sslpassword=x", "has a parameter that is not supported: sslpassword"],
    [
      "hasOwnProperty=x",
      "has a parameter that is not supported: hasOwnProperty",
    ],
    [
      "statement_timeout=5",
      "has a parameter that is not supported: statement_timeout",
    ],
    ["sslcert=x.pem", "has only one of sslcert and sslkey"],
    [
      "sslrootcert=system&sslmode=require",
      "has sslrootcert=system with a weaker sslmode",
    ],
    ["sslnegotiation=direct", "has sslnegotiation=direct with a weak sslmode"],
    [
      "channel_binding=require&sslmode=disable",
      "has channel_binding=require with sslmode=disable",
    ],
  ];
  for (const [url, message] of [
    ...refused,
    ...parameters.map(([query, message]) => [
      `postgres://u:secret@h/app?${query}`,
      message,
    ]),
  ])
    test(`refuses ${url}, without showing the password`, () => {
      const error = catchError(() => parse(url ?? "", "DATABASE_URL"));

      expect(error).toMatchObject({ exitCode: 2, hint: expect.any(String) });
      expect(error.message).toBe(`DATABASE_URL in the environment ${message}`);
      expect(error.message + error.hint).not.toContain("cret");
    });
});

test.concurrent(
  "every command refuses a malformed one in two lines, with exit code 2",
  async () => {
    const DATABASE_URL = "postgres://u:se#cret@127.0.0.1:9/app";

    for (const command of ["db:migrate", "db:test", "db:seed"]) {
      const { exitCode, stdout, stderr } = await run(command, { DATABASE_URL });

      expect({ command, exitCode, stdout }).toEqual({
        command,
        exitCode: 2,
        stdout: "",
      });
      expect(stderr).toMatch(
        /^Error: DATABASE_URL in the environment is not a valid URL\nHint: percent-encode .*\n$/,
      );
      expect(stderr).not.toContain("cret");
    }
    const { exitCode, stdout, stderr } = await sharedProject().run(
      "db:test --json",
      {
        DATABASE_URL,
      },
    );
    expect({ exitCode, stderr }).toEqual({ exitCode: 2, stderr: "" });
    expect(JSON.parse(stdout).error).toMatchObject({ code: "CONFIGURATION" });
  },
  30_000,
);

test("the tests and the benchmarks refuse in two lines as well, with exit code 2", async () => {
  const refuse = async (command: string, variables = {}) => {
    const { PATH, HOME } = process.env;
    const child = Bun.spawn([process.execPath, ...command.split(" ")], {
      cwd: root,
      env: { PATH, HOME, ...variables },
      stdout: "ignore",
      stderr: "pipe",
    });
    const stderr = await new Response(child.stderr).text();
    return [await child.exited, ...stderr.trim().split("\n").slice(-2)];
  };
  const none = "tests/rooms.test.ts";

  expect(
    await refuse(`test ${none}`, { DATABASE_URL: "file:./dev.db" }),
  ).toEqual([
    2,
    "Error: DATABASE_URL in the environment is not a PostgreSQL connection string",
    "Hint: write `DATABASE_URL` as `postgres://user:password@host:5432/database`",
  ]);
  if (existsSync(join(root, "bench")))
    expect(await refuse("bench/bench.ts --bogus")).toEqual([
      2,
      "Error: unknown option '--bogus'",
      "Hint: `bun run bench --help` lists the flags",
    ]);
}, 30_000);

test("an application's variables stay in place, and the commands ignore libpq's", async () => {
  const variables = {
    PGOPTIONS: "-c a=b",
    PGTARGETSESSIONATTRS: "standby",
    PGMINE: "mine",
    DATABASE_URL: to("a"),
  };
  const script = `
    const names = () => Object.keys(process.env).filter((name) => name.startsWith("PG")).sort().join();
    await import("./src/infrastructure/database");
    console.log(names());
    await import("./scripts/lib/connection");
    console.log(names());
    process.exit();`;

  const output = await $`${process.execPath} -e ${script}`
    .cwd(project)
    .env({ PATH: process.env.PATH ?? "", ...variables })
    .text();

  expect(output).toBe("PGMINE,PGOPTIONS,PGTARGETSESSIONATTRS\nPGMINE\n");
}, 30_000);
