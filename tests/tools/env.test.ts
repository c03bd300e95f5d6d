// What is read from where, and what a malformed value is answered with.
import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import type { ConnectionOptions } from "node:tls";
import { dirname, join } from "node:path";
import { $ } from "bun";
import {
  connectionOptions,
  findSystemAuthorities,
  tlsOptions,
} from "../../src/database-tls";
import {
  connectSeconds,
  formatDatabaseUrl,
  hostsOf,
  isLocal,
  parseDatabaseUrl as parse,
} from "../../src/database-url";
import { checkEnv, readEnv, readVariables, root } from "../../src/env";
import { fixture } from "../lib/project";
import { sharedProject } from "../lib/test";

const { run, folder: project } = sharedProject();

type Files = Record<string, string | Uint8Array>;

/** Reads the environment in a folder with these files. */
function read(files: Files, variables: Record<string, string> = {}) {
  const folder = mkdtempSync(join(tmpdir(), "starter-env-"));
  try {
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(dirname(join(folder, name)), { recursive: true });
      writeFileSync(join(folder, name), text);
    }
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

/** What is said where a part of a URL may hold what has to be encoded. */
const encode =
  "percent-encode special characters in the user name and password: # is `%23`, % is `%25`, / is `%2F`, ? is `%3F`, @ is `%40`, : is `%3A`";

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
    expect(
      catchError(() => read({ ...example, ".env": "A=b\n" })).message,
    ).toBe("DATABASE_URL is not set");
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
    for (const [part, value] of Object.entries({
      ...{ POSTGRES_HOST: "127.0.0.1", POSTGRES_PORT: "9", POSTGRES_DB: "b" },
      ...{ POSTGRES_USER: "v", POSTGRES_PASSWORD: "q" },
    }))
      expect(guardOf(".env.example", { [part]: value })).toEqual([true, false]);
    expect(guardOf(".env", { DB_ENGINE: "external" })).toBeUndefined();
    expect(guardOf(".env", { POSTGRES_HOST: "elsewhere" })).toBeUndefined();
    expect(guardOf(".env", { POSTGRES_HOST: "/run/pg" })).toBeUndefined();
  });

  test("a direct connection is guarded as well, for itself", () => {
    const far = "postgres://u@elsewhere/a";
    const isGuarded = (DATABASE_URL: string, DATABASE_URL_UNPOOLED: string) => {
      const env = read({}, { DATABASE_URL, DATABASE_URL_UNPOOLED });
      return [env.database, env.direct].map(({ guard }) => guard !== undefined);
    };

    expect(isGuarded(to("a"), far)).toEqual([true, false]);
    expect(isGuarded(far, to("a"))).toEqual([false, true]);
  });

  test("what is not set has a default, and what is set is taken", () => {
    const url = { DATABASE_URL: to("a") };
    const own = {
      NODE_ENV: "production",
      DB_ENGINE: "compose",
      DB_DATA_DIR: "/data",
      BACKUP_DIR: "/backups",
      COMPOSE_PROJECT_NAME: "mine",
      TEST_DATABASE_URL: to("t"),
    };
    const { database, direct, client, ...rest } = read({}, url);

    expect(direct).toBe(database);
    expect(database).toEqual({
      ...parse(to("a"), "DATABASE_URL"),
      guard: { dataDir: rest.dataDir, isChosen: true, isUrl: true },
    });
    expect(rest).toEqual({
      isProduction: false,
      replicas: [],
      engine: "auto",
      dataDir: expect.stringMatching(/\/starter-env-[^/]+\/\.data$/),
      test: undefined,
      backupDir: expect.stringMatching(/\/starter-env-[^/]+\/backups$/),
      composeProjectName: undefined,
    });
    expect(read({}, { ...url, ...own })).toMatchObject({
      isProduction: true,
      engine: "compose",
      dataDir: "/data",
      backupDir: "/backups",
      composeProjectName: "mine",
      test: { database: "t", variable: "TEST_DATABASE_URL" },
    });
    for (const DB_ENGINE of ["auto", "compose", "embedded", "external"])
      expect(read({}, { ...url, DB_ENGINE }).engine as string).toBe(DB_ENGINE);
    expect(read({}, { ...url, NODE_ENV: "test" }).isProduction).toBe(false);
  });

  test("the parts of an address are as strict as a URL, and a blank is part of a password only", () => {
    const variables = {
      POSTGRES_DB: " a ",
      POSTGRES_USER: " u ",
      POSTGRES_PASSWORD: " p\nq \r\n",
    };

    expect(read({}, variables).database).toEqual({
      variable: "POSTGRES_*",
      host: "localhost",
      port: 5432,
      otherHosts: [],
      database: "a",
      user: "u",
      password: " p\nq ",
      sslmode: "prefer",
      sslrootcert: undefined,
      parameters: {},
      guard: expect.anything(),
    });
    expect(
      hostsOf(
        read(
          {},
          { ...variables, POSTGRES_HOST: "one,two", POSTGRES_PORT: "1,2" },
        ).database,
      ),
    ).toEqual([
      { host: "one", port: 1 },
      { host: "two", port: 2 },
    ]);
  });

  test("a config of drizzle-kit sees each variable, and the URL under each of its names", () => {
    const folder = mkdtempSync(join(tmpdir(), "starter-env-"));
    const before = { ...process.env };
    const files = {
      ".env.local": `OWN=local\nBLANK=" "\nPOSTGRES_URL=${to("local")}\n`,
      ".env": "OWN=env\nBLANK=env\nLEFT=env\nMINE=env\n",
    };
    try {
      for (const [name, text] of Object.entries(files))
        writeFileSync(join(folder, name), text);
      delete process.env.DATABASE_URL;
      process.env.MINE = "process";

      const variables = readVariables(folder);

      expect(variables).toMatchObject({
        OWN: "local",
        BLANK: "env",
        LEFT: "env",
        MINE: "process",
        DATABASE_URL: to("local"),
        POSTGRES_URL: to("local"),
      });
      expect(variables).not.toContainKey("DATABASE_URL_FILE");
      process.env.DATABASE_URL = to("process");
      expect(readVariables(folder)).toMatchObject({
        DATABASE_URL: to("process"),
        POSTGRES_URL: to("local"),
      });
    } finally {
      Object.assign(process.env, before);
      delete process.env.MINE;
      rmSync(folder, { recursive: true });
    }
  });

  test("a command that needs no database refuses a malformed one, and no other", () => {
    const before = { ...process.env };
    try {
      process.env.DATABASE_URL = "file:./dev.db";
      expect(checkEnv).toThrow("is not a PostgreSQL connection string");
      for (const name of Object.keys(process.env))
        if (/DATABASE|POSTGRES|DIRECT/.test(name)) delete process.env[name];
      process.env.NODE_ENV = "production"; // without it there is the example
      expect(checkEnv).not.toThrow();
    } finally {
      Object.assign(process.env, before);
    }
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

    expect(open({ DATABASE_URL: " " })).toMatchObject({
      database: "parts",
      password: " from a file ",
    });
    expect(open({ DATABASE_URL_FILE: " url " }).database).toBe("file");
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
    expect(direct(parts, { POSTGRES_PORT: "8" })).toBe("a");
    expect(direct(parts, { POSTGRES_PASSWORD: "secret" })).toBe("direct");
  });

  test("replicas are separated by commas, also where one names several hosts", () => {
    const DATABASE_REPLICA_URLS =
      "postgres://u@one:1,two:2/a , postgres://u@three/b,";

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
  const url = { DATABASE_URL: to("a") };
  const parts = { POSTGRES_DB: "a", POSTGRES_USER: "u" };
  const utf8 = (name: string) =>
    `save \`${name}\` as UTF-8; PowerShell 5 writes UTF-16 with \`>\``;
  const aFile = "set `DATABASE_URL_FILE` to a file that holds the value";
  const aTime = (name: string) =>
    `set \`${name}\` to a number with its unit, such as 500ms, 30s or 5min`;
  const aCount = (name: string) =>
    `set \`${name}\` to a whole number from 1 to 9999`;
  const refused: [
    what: string,
    files: Files,
    variables: {},
    message: string,
    hint: string,
  ][] = [
    [
      "a file in UTF-16",
      { ".env.local": Buffer.from(`\ufeff${text}`, "utf16le") },
      {},
      ".env.local is not encoded as UTF-8",
      utf8(".env.local"),
    ],
    [
      "a file in UTF-16 without a mark",
      { ".env": Buffer.from(text, "utf16le") },
      {},
      ".env is not encoded as UTF-8",
      utf8(".env"),
    ],
    [
      "a file in an older encoding",
      { ".env": Buffer.from(`# \xe9\n${text}`, "latin1") },
      {},
      ".env is not encoded as UTF-8",
      utf8(".env"),
    ],
    [
      "a folder where a file is",
      { "secret/file": "" },
      { DATABASE_URL_FILE: "secret" },
      "the file of DATABASE_URL_FILE cannot be read: EISDIR: illegal operation on a directory, read",
      "make the file of DATABASE_URL_FILE a file that this user may read",
    ],
    [
      "a part that is missing",
      { ".env.local": "POSTGRES_DB=app\nPOSTGRES_USER=postgres\n" },
      {},
      "POSTGRES_PASSWORD is not set",
      "set `POSTGRES_PASSWORD` in `.env.local`, as `.env.example` shows",
    ],
    ...["POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"].map(
      (part): (typeof refused)[number] => [
        `a connection of which there is only ${part}`,
        {},
        { [part]: "x" },
        `${part === "POSTGRES_DB" ? "POSTGRES_USER" : "POSTGRES_DB"} is not set`,
        `set \`${part === "POSTGRES_DB" ? "POSTGRES_USER" : "POSTGRES_DB"}\` in \`.env.local\`, as \`.env.example\` shows`,
      ],
    ),
    [
      "no connection",
      {},
      { POSTGRES_HOST: "localhost" },
      "DATABASE_URL is not set",
      "set `DATABASE_URL` in `.env.local`, as `.env.example` shows",
    ],
    [
      "a file of a secret that is missing",
      {},
      { DATABASE_URL_FILE: "nowhere" },
      "DATABASE_URL_FILE in the environment names a file that is missing",
      aFile,
    ],
    [
      "a file of a secret that is empty",
      { empty: "\n" },
      { DATABASE_URL_FILE: "empty" },
      "DATABASE_URL_FILE in the environment names a file that is empty",
      aFile,
    ],
    [
      "a file of a password that has only blanks",
      { ".env": "POSTGRES_PASSWORD_FILE=blank\n", blank: " \n" },
      parts,
      "POSTGRES_PASSWORD_FILE in .env names a file that is empty",
      "set `POSTGRES_PASSWORD_FILE` to a file that holds the value",
    ],
    ...["0", "65536", "1.5"].map((port): (typeof refused)[number] => [
      `a port that is none: ${port}`,
      {},
      { ...parts, POSTGRES_PASSWORD: "p", POSTGRES_PORT: port },
      "POSTGRES_PORT in the environment names a port that is not a number from 1 to 65535",
      "fix the port: PostgreSQL's default is 5432",
    ]),
    [
      "more hosts than ports",
      {},
      {
        ...{ ...parts, POSTGRES_PASSWORD: "p" },
        ...{ POSTGRES_HOST: "a,b,c", POSTGRES_PORT: "1,2" },
      },
      "POSTGRES_PORT in the environment names 3 hosts and 2 ports",
      "name one port for each host, or one for all",
    ],
    [
      "an engine that is none",
      { ".env": "DB_ENGINE=docker" },
      url,
      "DB_ENGINE in .env is not an engine",
      "set `DB_ENGINE` to auto, compose, embedded or external",
    ],
    ...Object.entries({
      DATABASE_STATEMENT_TIMEOUT: "soon",
      DATABASE_ACQUIRE_TIMEOUT: "5 minutes",
      DATABASE_CONNECT_TIMEOUT: "0",
      DATABASE_IDLE_TRANSACTION_TIMEOUT: "in 5s",
      DATABASE_REPLICA_MAX_LAG: "2147423648ms",
    }).map(([name, value]): (typeof refused)[number] => [
      `a time that is none: ${value}`,
      {},
      { ...url, [name]: value },
      `${name} in the environment is not a time`,
      aTime(name),
    ]),
    [
      "a flag that is neither",
      {},
      { ...url, DATABASE_PREPARE: "yes" },
      "DATABASE_PREPARE in the environment is neither true nor false",
      "set `DATABASE_PREPARE` to false behind a transaction pooler that forgets prepared statements, to true behind one that keeps them",
    ],
    ...Object.entries({
      DATABASE_POOL_SIZE: ["0", "12345", "x5"],
      DATABASE_REPLICA_POOL_SIZE: ["10000", "5x", "1.5"],
    }).flatMap(([name, values]) =>
      values.map((value): (typeof refused)[number] => [
        `a pool of ${value} connections`,
        {},
        { ...url, [name]: value },
        `${name} in the environment is not a number of connections`,
        aCount(name),
      ]),
    ),
    [
      "a malformed value in a file, which is named",
      { ".env.local": "DATABASE_URL=postgres://u:1#secret@127.0.0.1:9/app\n" },
      {},
      "DATABASE_URL in .env.local names no user",
      encode,
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
        DATABASE_REPLICA_MAX_LAG: "35790min",
      }),
    ).toMatchObject({
      poolSize: 3,
      replicaPoolSize: 3,
      statementMs: 500,
      connectMs: 2000,
      acquireMs: 1500,
      idleTransactionMs: 300_000,
      replicaMaxLagMs: 2_147_400_000,
    });
    expect(
      limits({ DATABASE_POOL_SIZE: "9999", DATABASE_ACQUIRE_TIMEOUT: "1ms" }),
    ).toMatchObject({ poolSize: 9999, replicaPoolSize: 9999, acquireMs: 1 });
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

  for (const [what, files, variables, message, hint] of refused)
    test(`refuses ${what}`, () => {
      const error = catchError(() => read(files, variables));

      expect(error.message).toBe(message);
      expect(error).toMatchObject({ code: "CONFIGURATION", exitCode: 2, hint });
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
    expect(hosts("one:65535/db")).toEqual([{ ...one, port: 65535 }]);
    expect(hosts("/db?host=[::1],[::2]&port=1,")).toEqual([
      { host: "::1", port: 1 },
      { host: "::2", port: 5432 },
    ]);
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
    expect(isHere("127.0.0.1234")).toBe(false);
    expect(isHere("1127.0.0.1")).toBe(false);
    expect(isHere("localhost.elsewhere")).toBe(false);
    expect(isHere("127.0.0.1.elsewhere")).toBe(false);
  });

  test("each value that libpq knows is taken", () => {
    const versions = "TLSv1 TLSv1.1 TLSv1.2 TLSv1.3";
    const read = (query: string) => parse(`postgresql://u@h/db?${query}`, "X");

    for (const [name, values] of Object.entries({
      target_session_attrs:
        "any read-write read-only primary standby prefer-standby",
      load_balance_hosts: "disable random",
      sslnegotiation: "postgres",
      channel_binding: "disable prefer require",
      ssl_min_protocol_version: versions,
      ssl_max_protocol_version: versions,
      connect_timeout: "-1 0 15",
      keepalives: "0 1",
      keepalives_idle: "15",
      keepalives_interval: "15",
      keepalives_count: "15",
      tcp_user_timeout: "15",
      client_encoding: "auto UTF8 utf-8",
      gssencmode: "disable prefer",
      sslcertmode: "allow",
      sslcompression: "0",
      sslsni: "1",
    }))
      for (const value of values.split(" "))
        expect(read(`${name}=${value}`).settings).toEqual({ [name]: value });
    for (const sslmode of ["disable", "allow", "prefer", "require"] as const)
      expect(read(`sslmode=${sslmode}`)).toMatchObject({
        sslmode,
        settings: {},
      });
    for (const query of [
      ...["sslmode=require", "sslmode=verify-ca", "sslmode=verify-full"],
      "sslrootcert=system",
    ])
      expect(read(`${query}&sslnegotiation=direct`).settings).toEqual({
        sslnegotiation: "direct",
      });
    expect(read("sslmode=verify-full&sslrootcert=system").sslmode).toBe(
      "verify-full",
    );
    expect(read("ssl=true&sslmode=verify-ca").sslmode).toBe("verify-ca");
    expect(read("sslrootcert=/ca.pem&sslcert=/c&sslkey=/k")).toMatchObject({
      sslmode: "prefer",
      sslrootcert: "/ca.pem",
      settings: { sslcert: "/c", sslkey: "/k" },
    });
  });

  test("parameters of other clients, and empty ones, are left out", () => {
    for (const name of [
      ...["connection_limit", "max_idle_connection_lifetime", "pgbouncer"],
      ...["pool_timeout", "schema", "single_use_connections"],
      ...["socket_timeout", "statement_cache_size", "pool_mode", "supa"],
      ...["workaround", "uselibpqcompat"],
    ])
      expect(parse(`postgres://u@h/db?${name}=x`, "X").settings).toEqual({});
    const address = parse("postgres://u@h/db?&sslmode=&port=&options=", "X");
    expect(address).toEqual(parse("postgres://u@h/db", "X"));
    expect(address.parameters).toEqual({});
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
      parse(
        "postgres://v:q@h/e?user=u&password=p%3D=&dbname=d&sslrootcert=system",
        "X",
      ),
    ).toMatchObject({
      user: "u",
      password: "p==",
      database: "d",
      sslmode: "verify-full",
      settings: {},
    });
  });

  test("a session has the name that is given, and never waits forever", () => {
    const read = (query: string) => parse(`postgres://u@h/db?${query}`, "X");
    const fallback = "fallback_application_name=b";

    expect(
      read(`application_name=a&${fallback}`).parameters.application_name,
    ).toBe("a");
    expect(read(fallback).parameters.application_name).toBe("b");
    expect(read("application_name=c\nd").parameters).toEqual({
      application_name: "c\nd",
    });
    for (const wait of ["", "connect_timeout=0", "connect_timeout=-1"])
      expect(connectSeconds(read(wait))).toBe(10);
    expect(connectSeconds(read("connect_timeout=3"))).toBe(3);
  });

  test("TLS is left out on this machine only, and never used on a socket", () => {
    const ssl = (rest: string) =>
      connectionOptions(parse(`postgres://u@${rest}`, "X")).ssl;
    const unchecked = { rejectUnauthorized: false, servername: "elsewhere" };

    expect(ssl("localhost/db")).toBe(false);
    expect(ssl("localhost/db?sslmode=allow")).toBe(false);
    expect(ssl("localhost/db?sslmode=require")).toMatchObject({
      servername: "localhost",
    });
    expect(ssl("elsewhere/db?sslmode=allow")).toMatchObject(unchecked);
    expect(ssl("elsewhere/db?sslmode=disable")).toBe(false);
    expect(ssl("%2Frun/db?sslmode=require")).toBe(false);
    expect(
      ssl("elsewhere/db?sslmode=require&ssl_min_protocol_version=TLSv1.3"),
    ).toMatchObject({ ...unchecked, minVersion: "TLSv1.3" });
  });

  test("what TLS is given: the files that are named, and the name that is checked", () => {
    const folder = mkdtempSync(join(tmpdir(), "starter-tls-"));
    const own = process.env.SSL_CERT_FILE;
    const file = (name: string, mode = 0o600) => {
      writeFileSync(join(folder, name), name, { mode });
      return join(folder, name);
    };
    const [ca, cert, key] = [file("ca"), file("cert"), file("key")];
    const tls = (query: string, host = "h") =>
      tlsOptions(parse(`postgres://u@${host}/db?${query}`, "X"));
    const names = (query: string, host?: string) => {
      const { checkServerIdentity } = tls(query, host) as ConnectionOptions;
      const certificate = { subjectaltname: "DNS:h, IP Address:127.0.0.1" };
      return ["h", "other"].map(
        (name) =>
          checkServerIdentity?.(name, certificate as never) === undefined,
      );
    };
    const plain = {
      rejectUnauthorized: false,
      servername: "h",
      checkServerIdentity: expect.any(Function),
      ALPNProtocols: ["postgresql"],
    };
    try {
      process.env.SSL_CERT_FILE = file("system");

      expect(tls("sslmode=disable")).toBe(false);
      for (const mode of ["allow", "prefer", "require"])
        expect(tls(`sslmode=${mode}`)).toEqual(plain);
      expect(tls("", "127.0.0.1")).not.toContainKey("servername");
      expect(
        tls(
          `sslmode=require&sslrootcert=${ca}&sslcert=${cert}&sslkey=${key}&ssl_min_protocol_version=TLSv1.2&ssl_max_protocol_version=TLSv1.3`,
        ),
      ).toEqual({
        ...plain,
        ...{ rejectUnauthorized: true, ca: "ca", cert: "cert", key: "key" },
        ...{ minVersion: "TLSv1.2", maxVersion: "TLSv1.3" },
      });
      for (const query of [
        ...["sslmode=verify-ca", "sslmode=verify-full"],
        "sslrootcert=system",
      ])
        expect(tls(query)).toEqual({
          ...plain,
          ...{ rejectUnauthorized: true, ca: "system" },
        });
      expect(names("sslmode=verify-full")).toEqual([true, true]);
      expect(names("sslmode=verify-full", "other")).toEqual([false, false]);
      expect(names("sslmode=verify-full", "127.0.0.1")).toEqual([true, true]);
      expect(names("sslmode=verify-ca", "other")).toEqual([true, true]);

      const nowhere = join(folder, "nowhere");
      const parameter = {
        sslrootcert: nowhere,
        sslcert: `${nowhere}&sslkey=${key}`,
        sslkey: `${nowhere}&sslcert=${cert}`,
      };
      for (const [name, value] of Object.entries(parameter))
        expect(catchError(() => tls(`${name}=${value}`))).toMatchObject({
          message: `the ${name} of X cannot be read: ENOENT: no such file or directory, open '${nowhere}'`,
          hint: `set \`${name}\` to a file in PEM form`,
        });
      process.env.SSL_CERT_FILE = nowhere;
      expect(findSystemAuthorities()).not.toBe(nowhere);

      const isRefused = (mode: number) => {
        chmodSync(key, mode);
        try {
          return !tls(`sslcert=${cert}&sslkey=${key}`);
        } catch (error) {
          expect(error).toMatchObject({
            message: "the sslkey of X can be read by others",
            hint: "run `chmod 600` on the file of the key",
          });
          return true;
        }
      };
      const modes = [0o600, 0o400, 0o640, 0o660, 0o610, 0o604, 0o602, 0o601];
      const isRoot = process.getuid?.() === 0;
      // Of the superuser's key its group may be a reader.
      const others = [false, false, true, true, true, true, true, true];
      if (isRoot) {
        expect(modes.map(isRefused)).toEqual(
          modes.map((mode) => (mode & 0o027) > 0),
        );
        chownSync(key, 65534, 65534);
      }
      expect(modes.map(isRefused)).toEqual(others);
    } finally {
      if (own === undefined) delete process.env.SSL_CERT_FILE;
      else process.env.SSL_CERT_FILE = own;
      rmSync(folder, { recursive: true });
    }
  });

  test("an address is written as it was read, and drizzle-kit is given no empty password", () => {
    const url =
      "postgres://us%40er:@[::1]:9,%2Frun:8/my%20app?sslmode=require&sslrootcert=ca.pem&target_session_attrs=any&options=-c%20a%3Db";
    const address = parse(url, "X");
    const secret =
      "postgres://u%3A:p%40%23@h%20h:5432/a%3Fb?sslmode=prefer&application_name=%26";

    expect(formatDatabaseUrl(address)).toBe(url);
    expect(formatDatabaseUrl(parse(secret, "X"))).toBe(secret);
    expect(connectionOptions({ ...address, sslrootcert: undefined })).toEqual({
      host: "::1",
      port: 9,
      user: "us@er",
      password: undefined,
      database: "my app",
      ssl: expect.objectContaining({ rejectUnauthorized: false }),
    });
    expect(connectionOptions(parse(secret, "X"))).toMatchObject({
      password: "p@#",
      ssl: { servername: "h h" },
    });
  });

  const url =
    "write `DATABASE_URL` as `postgres://user:password@host:5432/database`";
  const port = "fix the port: PostgreSQL's default is 5432";
  const aPort = "names a port that is not a number from 1 to 65535";
  const refused: [url: string, message: string, hint: string][] = [
    ...[
      "postgres://u:se#cret@127.0.0.1:9/app",
      "postgres://u:1#secret@127.0.0.1:9/app",
      "postgres://u:secret@127.0.0.1:9/app#more",
      "postgres://u:se#postgres://cret@127.0.0.1:9/app",
      "postgres://u:se/cret@127.0.0.1:9/app",
      "postgres://u:1/secret@127.0.0.1:9/app",
      "postgres://u:se?cret@127.0.0.1:9/app",
      "postgres://u:p@127.0.0.1:9/a%2Fb",
      "postgres://u:se@1?cret@127.0.0.1:9/app",
      "postgres://u:se@1/a?cret@127.0.0.1:9/app",
    ].map((url): (typeof refused)[number] => [
      url,
      "is not a valid URL",
      encode,
    ]),
    [
      "postgres://u:se%cret@127.0.0.1:9/app",
      "has a % that encodes nothing",
      encode,
    ],
    ...[
      "mysql://u:secret@127.0.0.1/app",
      '"postgres://u:secret@127.0.0.1/app"',
      "postgres:u:secret@127.0.0.1/app",
    ].map((text): (typeof refused)[number] => [
      text,
      "is not a PostgreSQL connection string",
      url,
    ]),
    ["postgres://127.0.0.1:9/app", "names no user", encode],
    [
      "postgres://u:secret@127.0.0.1:9",
      "names no database",
      "end it with the database's name: `…@host:5432/database`",
    ],
    [
      "postgres://u@one:1,two:2,three/app?port=1,2",
      "names 3 hosts and 2 ports",
      "name one port for each host, or one for all",
    ],
    ["postgres://u:secret@127.0.0.1:port/app", aPort, port],
    ["postgres://u:secret@127.0.0.1:65536/app", aPort, port],
    ["postgres://u:secret@127.0.0.1/app?port=abc", aPort, port],
  ];
  const pair = "name the file of the certificate and the file of its key";
  const strong = "set `sslmode` to require, verify-ca or verify-full";
  const number = (name: string) => `set \`${name}\` to a whole number`;
  const without = (name: string) =>
    `leave \`${name}\` out; a setting of the server is written as \`options=-c%20name%3Dvalue\``;
  const modes = "disable, allow, prefer, require, verify-ca, verify-full";
  const parameters: [query: string, message: string, hint: string][] = [
    [
      "sslmode=on",
      "has an unknown sslmode",
      `set \`sslmode\` to one of ${modes}`,
    ],
    [
      "target_session_attrs=master",
      "has an unknown target_session_attrs",
      "set `target_session_attrs` to one of any, read-write, read-only, primary, standby, prefer-standby",
    ],
    ["sslsni=0", "has an unknown sslsni", "set `sslsni` to 1"],
    ...["latin1", "utf8mb4", "not-utf8"].map(
      (encoding): (typeof parameters)[number] => [
        `client_encoding=${encoding}`,
        "has a wrong client_encoding",
        "set `client_encoding` to UTF8",
      ],
    ),

    [
      "gssencmode=require",
      "has an unknown gssencmode",
      "set `gssencmode` to one of disable, prefer",
    ],
    ...["soon", "3s", "s3", "1.5"].map((time): (typeof parameters)[number] => [
      `connect_timeout=${time}`,
      "has a wrong connect_timeout",
      number("connect_timeout"),
    ]),
    ...[
      ...["keepalives_idle", "keepalives_interval", "keepalives_count"],
      "tcp_user_timeout",
    ].flatMap((name) =>
      ["-1", "3s"].map((value): (typeof parameters)[number] => [
        `${name}=${value}`,
        `has a wrong ${name}`,
        number(name),
      ]),
    ),
    ...["sslpassword", "hasOwnProperty", "statement_timeout"].map(
      (name): (typeof parameters)[number] => [
        `${name}=x`,
        `has a parameter that is not supported: ${name}`,
        without(name),
      ],
    ),
    ["sslcert=x.pem", "has only one of sslcert and sslkey", pair],
    ["sslkey=x.key", "has only one of sslcert and sslkey", pair],
    [
      "sslrootcert=system&sslmode=require",
      "has sslrootcert=system with a weaker sslmode",
      "set `sslmode` to verify-full, or leave it out",
    ],
    ...["", "sslmode=disable", "sslmode=allow", "sslmode=prefer"].map(
      (mode): (typeof parameters)[number] => [
        `${mode}&sslnegotiation=direct`,
        "has sslnegotiation=direct with a weak sslmode",
        strong,
      ],
    ),
    [
      "channel_binding=require&sslmode=disable",
      "has channel_binding=require with sslmode=disable",
      strong,
    ],
  ];
  for (const [url, message, hint] of [
    ...refused,
    ...parameters.map(
      ([query, ...rest]) =>
        [`postgres://u:secret@h/app?${query}`, ...rest] as const,
    ),
  ])
    test(`refuses ${url}, without showing the password`, () => {
      const error = catchError(() => parse(url, "DATABASE_URL"));

      expect(error.message).toBe(`DATABASE_URL in the environment ${message}`);
      expect(error).toMatchObject({ code: "CONFIGURATION", exitCode: 2, hint });
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
