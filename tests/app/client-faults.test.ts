// What the client does when a connection, a server or the network fails.
import { expect, spyOn, test as bunTest } from "bun:test";
import { eq, sql } from "drizzle-orm";
import { pgTable, timestamp } from "drizzle-orm/pg-core";
import pg from "pg";
import {
  codeOf,
  databaseError,
  explainRefusal,
} from "../../src/infrastructure/database/errors";
import { type DatabaseAddress, parseDatabaseUrl } from "../../src/database-url";
import { type ClientSettings, readEnv } from "../../src/env";
import type { Transaction } from "../../src/infrastructure/database/database";
import { openPool } from "../../src/infrastructure/database/pool";
import {
  CREATE_ITEMS,
  items,
  openClient,
  openNetwork,
  rejection,
} from "../lib/client";
import {
  testDatabase,
  type TestDatabase,
  until,
  withDatabase,
} from "../lib/database";
import { listen } from "../lib/ports";
import { withRoles } from "../lib/roles";
import { proxyTo } from "../lib/severing-proxy";

/** A test with a database that holds one empty table. */
const test = (
  sentence: string,
  body: (database: TestDatabase) => Promise<void>,
) =>
  testDatabase(sentence, "empty", async (database) => {
    await database.sql.unsafe(CREATE_ITEMS);
    await body(database);
  });

/** Ends the server's process for a transaction. */
async function sever({ sql }: TestDatabase, tx: Transaction) {
  const [row] = await tx.execute("select pg_backend_pid() as pid");
  await sql`select pg_terminate_backend(${Number(row?.pid)}, 5000)`;
}

/** Runs twice as many transactions at once as the pool may have connections, and returns
 * how many connections they had. */
async function useWholePool(
  { db }: ReturnType<typeof openClient>,
  size: number,
) {
  const pids = new Set<unknown>();
  const all = Promise.withResolvers<void>();
  const held = Array.from({ length: 2 * size }, () =>
    db.transaction(async (tx) => {
      const [row] = await tx.execute("select pg_backend_pid() as pid");
      if (pids.add(row?.pid).size === size) all.resolve();
      await all.promise;
    }),
  );
  await Promise.all(held);
  return pids.size;
}

/** Waits until the client has that many sessions on the server: others are closed, and
 * not only left until they have been idle for long. */
async function untilSessions({ sql }: TestDatabase, count: number) {
  const start = Date.now();
  await until(
    sql,
    `pid = pg_backend_pid() and ${count} = (select count(*) from pg_stat_activity
      where application_name = 'app' and datname = current_database())`,
  );
  expect(Date.now() - start).toBeLessThan(25_000);
}

bunTest(
  "an error that opens no connection says why, and its code is found",
  () => {
    const address = { variable: "DATABASE_URL" } as DatabaseAddress;
    const answer = (code: string, message: string) =>
      Object.assign(new pg.DatabaseError(message, 1, "error"), { code });
    const explain = (error: Error) => {
      const explained = explainRefusal(error, address) as Error;
      if (explained === error) return "unchanged";
      expect(codeOf(explained)).toBe("CANNOT_CONNECT");
      expect(explained.cause).toBe(error);
      return explained.message;
    };
    const refused = Object.assign(new Error("all"), {
      refusals: [
        { host: { host: "one", port: 1 }, error: new Error("no") },
        { host: { host: "two", port: 2 }, error: new Error("gone") },
      ],
    });
    const inCircle = new Error("a", { cause: new Error("b") });
    (inCircle.cause as Error).cause = inCircle;
    const pooler = new Error(
      "unsupported startup parameter: statement_timeout",
    );

    for (const code of ["28P01", "22008", "22P53"])
      expect(explain(answer(code, "wrong password"))).toBe("unchanged");
    expect(codeOf(Object.assign(refused, { code: 7 }))).toBeUndefined();
    expect(explain(databaseError("CONFIGURATION" as never, "x"))).toBe(
      "unchanged",
    );
    for (const code of ["53300", "57P03", "08P01"])
      expect(explain(answer(code, "no"))).toBe("cannot connect to no");
    expect(explain(refused)).toBe("cannot connect to one:1: no; two:2: gone");
    expect(explain(pooler)).toBe(
      "DATABASE_URL leads to a pooler, which refuses the startup parameter statement_timeout",
    );
    expect(explainRefusal(pooler, address)).toMatchObject({
      hint: expect.stringContaining("`DATABASE_URL_UNPOOLED`"),
    });
    expect(
      explainRefusal(
        new Error("unsupported startup parameter: options"),
        address,
      ),
    ).toMatchObject({
      hint: expect.stringContaining("leave `options` out of the URL"),
    });
    expect(
      explain(new Error("unsupported startup parameter in options: work_mem")),
    ).toEndWith(" refuses the startup parameter work_mem");
    expect(codeOf(inCircle)).toBeUndefined();
    expect(codeOf(new Error("a", { cause: answer("40001", "b") }))).toBe(
      "40001",
    );
  },
);

test("a session has what its address sets, and the format of dates that drizzle reads", async (database) => {
  const { address, name, sql: server } = database;
  await server.unsafe(`alter database ${name} set datestyle = 'German'`);
  const options = "-c work_mem=5MB";
  const set = openClient({
    ...address,
    parameters: { application_name: "mine", options },
  });
  const [row] = await set.db.execute(sql`
    select current_setting('application_name') as name,
      current_setting('work_mem') as memory, current_setting('datestyle') as dates`);
  await set.closeDatabase();
  const bound = openClient({
    ...address,
    sslmode: "disable",
    settings: { channel_binding: "require" },
  });
  const unbound = await rejection(bound.db.execute("select 1"));
  await bound.closeDatabase();
  await server.unsafe(
    `alter database ${name} set default_transaction_read_only = on`,
  );
  const { host, port } = address;
  const several = openClient({ ...address, otherHosts: [{ host, port }] });
  const unwritable = await rejection(several.db.execute("select 1"));
  await several.closeDatabase();
  await untilSessions(database, 0);

  expect(row).toEqual({
    name: "mine",
    memory: "5MB",
    dates: expect.stringMatching(/^ISO/),
  });
  expect(String((unwritable as Error).cause)).toContain(
    "is read-only, and this requires read-write",
  );
  expect(codeOf(unbound)).toBe("CANNOT_CONNECT");
  expect(String((unbound as Error).cause)).toContain(
    "it offers no channel binding, which the URL requires",
  );
});

test("a transaction that loses its connection has written nothing, and goes on nowhere else", async (database) => {
  const client = openClient(database.address, { poolSize: 3 });
  const { db } = client;
  let isOver = false;
  const others = Array.from({ length: 6 }, async () => {
    while (!isOver) await db.execute("select pg_sleep(0.01)");
  });

  const error = await rejection(
    db.transaction(async (tx) => {
      await tx.insert(items).values({ slug: "first" });
      await sever(database, tx);
      await tx
        .insert(items)
        .values({ slug: "second" })
        .catch(() => {});
      await tx
        .insert(items)
        .values({ slug: "third" })
        .catch(() => {});
    }),
  );
  isOver = true;
  await Promise.all(others);
  const written = await db.$count(items);
  const usable = await useWholePool(client, 3);
  await database.sql`
    select pg_terminate_backend(pid, 5000) from pg_stat_activity
    where datname = current_database() and application_name = 'app'`;
  const again = await useWholePool(client, 3);
  await client.closeDatabase();

  expect(codeOf(error)).toBe("CONNECTION_LOST");
  expect(String((error as Error).cause)).toBe(
    "Error: the connection to the database was lost: terminating connection due to administrator command",
  );
  expect(written).toBe(0);
  expect([usable, again]).toEqual([3, 3]);
});

test("what was lost before COMMIT is repeated, and nothing else", async (database) => {
  const { db, transactWithRetry, closeDatabase } = openClient(database.address);
  const tries: Record<string, number> = {};
  const attempt = (
    name: string,
    fail: (tx: Transaction) => Promise<unknown>,
    failing = Infinity,
  ) =>
    transactWithRetry(
      async (tx) => {
        tries[name] = (tries[name] ?? 0) + 1;
        await tx.insert(items).values({ slug: `${name}-${tries[name]}` });
        if (tries[name] <= failing) await fail(tx);
      },
      { attempts: 3 },
    ).catch(codeOf);
  const lose = async (tx: Transaction) => {
    await sever(database, tx);
    await tx.execute("select 1"); // or COMMIT might be the first to hear of it
  };
  const raise = (code: string) => (tx: Transaction) =>
    tx.execute(`do $$ begin raise sqlstate '${code}'; end $$`);
  const die = "select pg_terminate_backend(pg_backend_pid())";
  const stay = async (tx: Transaction) => {
    while (true) {
      await Bun.sleep(2);
      await tx.execute("select 1");
    }
  };

  const codes = [
    await attempt("lost", lose, 2),
    await attempt("lost-for-good", lose),
    await attempt(
      "quoted",
      (tx) =>
        tx.execute(`${die} as "it is ""commit""", 'it''s; end', 'commit'`),
      1,
    ),
    await attempt("ended", (tx) => tx.execute(`${die}; END`)),
    await attempt("prepared", (tx) =>
      tx.execute(`${die}; PREPARE TRANSACTION 'a'`),
    ),
    await attempt("serialization", raise("40001"), 1),
    await attempt("deadlock", raise("40P01"), 1),
    await attempt("swallowed", (tx) => raise("40001")(tx).catch(() => {}), 1),
    await attempt("duplicate", raise("23505")),
    // A statement of its own may have been committed.
    await attempt("elsewhere", () => db.execute(die)),
    await attempt("another", () => db.transaction(raise("40001"))),
    await attempt("idle", async (tx) => {
      await tx.execute("set local idle_in_transaction_session_timeout = 1");
      await stay(tx);
    }),
    await attempt("long", async (tx) => {
      // PostgreSQL 17 and newer know it.
      await tx.execute(`do $$ begin set local transaction_timeout = 5;
        exception when undefined_object then
        set local idle_in_transaction_session_timeout = 1; end $$`);
      await stay(tx);
    }),
  ];
  let attempts = 0;
  const start = Date.now();
  await transactWithRetry((tx) => {
    attempts += 1;
    return raise("40001")(tx);
  }).catch(() => {});
  const waited = Date.now() - start;
  const [level] = await transactWithRetry(
    (tx) => tx.execute("show transaction_isolation"),
    { isolationLevel: "repeatable read" },
  );
  const rows = await db.select().from(items).orderBy(items.slug);
  await closeDatabase();

  expect(codes).toEqual([
    undefined,
    "CONNECTION_LOST",
    undefined,
    "COMMIT_UNKNOWN",
    "COMMIT_UNKNOWN",
    undefined,
    undefined,
    undefined,
    "23505",
    "CONNECTION_LOST",
    "40001",
    "CONNECTION_LOST",
    "CONNECTION_LOST",
  ]);
  expect(tries).toEqual({
    lost: 3,
    "lost-for-good": 3,
    quoted: 2,
    ended: 1,
    prepared: 1,
    serialization: 2,
    deadlock: 2,
    swallowed: 2,
    duplicate: 1,
    elsewhere: 1,
    another: 1,
    idle: 1,
    long: 1,
  });
  expect(level).toEqual({ transaction_isolation: "repeatable read" });
  expect(attempts).toBe(5);
  expect(waited).toBeGreaterThan(360); // the pause between them gets longer
  expect(rows.map(({ slug }) => slug)).toEqual([
    "deadlock-2",
    "lost-3",
    "quoted-2",
    "serialization-2",
    "swallowed-2",
  ]);
});

bunTest(
  "a connection that is refused is tried again, and one that is not answered is not",
  async () => {
    let dialled = 0;
    let isSilent = false;
    const { port, close } = await listen((socket) => {
      dialled += 1;
      if (!isSilent) socket.resetAndDestroy();
    });
    const address = {
      ...parseDatabaseUrl(`postgres://u@127.0.0.1:${port}/a`, "DATABASE_URL"),
      sslmode: "disable" as const,
    };
    const dial = async (limits: Partial<ClientSettings>) => {
      const { transactWithRetry, closeDatabase } = openClient(address, limits);
      dialled = 0;
      const error = await rejection(
        transactWithRetry(() => Promise.reject("it has begun"), {
          attempts: 3,
        }),
      );
      await closeDatabase();
      return [dialled, codeOf(error), (error as Error).message];
    };

    const refused = await dial({});
    isSilent = true;
    const unanswered = await dial({ connectMs: 100 });
    const waiting = await dial({ connectMs: 400, acquireMs: 50 });
    await close();

    const reason = `cannot connect to 127.0.0.1:${port}: `;
    expect(refused).toEqual([
      3,
      "CANNOT_CONNECT",
      expect.stringContaining(reason),
    ]);
    expect(unanswered).toEqual([
      1,
      "CANNOT_CONNECT",
      `${reason}it did not answer`,
    ]);
    expect(waiting.slice(1)).toEqual([
      "CANNOT_CONNECT",
      "cannot connect to the database: it did not answer",
    ]);
  },
);

test("after COMMIT was sent the outcome is unknown, and is not repeated", async (database) => {
  const { address, sql: server } = database;
  const silenced: (string | undefined)[] = [];
  let tries = 0;

  for (const slug of ["COMMIT", "END"]) {
    // Array types, BEGIN, INSERT, and then what commits: its answer is lost.
    const proxy = await proxyTo(address.port, (count) => count === 4);
    const { transactWithRetry, closeDatabase } = openClient(
      { ...address, port: proxy.port, sslmode: "disable" },
      { statementMs: 500 },
    );
    const error = await rejection(
      transactWithRetry(async (tx) => {
        tries += 1;
        await tx.insert(items).values({ slug });
        if (slug === "END") await tx.execute("end");
      }),
    );
    silenced.push(codeOf(error));
    await closeDatabase();
    await proxy.close();
  }
  const rows = await server`select slug from items`;
  await server.unsafe(`
    create function die() returns trigger language plpgsql as
      'begin perform pg_terminate_backend(pg_backend_pid()); return null; end';
    create constraint trigger die after insert on items
      deferrable initially deferred for each row execute function die()`);
  const direct = openClient(address);
  let lost = 0;
  const ended = await rejection(
    direct.transactWithRetry(async (tx) => {
      lost += 1;
      await tx.insert(items).values({ slug: "lost" });
    }),
  );
  await direct.closeDatabase();

  expect([...silenced, codeOf(ended)]).toEqual(Array(3).fill("COMMIT_UNKNOWN"));
  expect([tries, lost]).toEqual([2, 1]);
  expect(rows).toHaveLength(2);
});

test("a silent server is an error within the limit, and the whole pool is usable when it is back", async ({
  address,
}) => {
  const network = await openNetwork(address);
  const client = openClient(
    { ...address, port: network.port },
    { poolSize: 3, statementMs: 500, connectMs: 1500 },
  );
  const { db, transactWithRetry, closeDatabase } = client;
  await useWholePool(client, 3);
  network.swallow(true);

  const start = Date.now();
  const asked = Array.from({ length: 3 }, () => db.execute("select 1"));
  // More than there are connections: one has to open its own.
  const opened = Array.from({ length: 4 }, () =>
    transactWithRetry((tx) => tx.execute("select 1")),
  );
  const errors = await Promise.all([...asked, ...opened].map(rejection));
  const waited = Date.now() - start;
  network.swallow(false);
  const usable = await useWholePool(client, 3);
  await closeDatabase();
  await network.close();

  expect(new Set(errors.map(codeOf))).toEqual(
    new Set(["NO_ANSWER", "CANNOT_CONNECT"]),
  );
  const unanswered = errors.find((error) => codeOf(error) === "NO_ANSWER");
  expect((unanswered as Error).cause).toMatchObject({
    message:
      "the database did not answer within 1.5 s, and the connection was closed; whether the statement took effect is unknown",
  });
  expect(waited).toBeLessThan(5000);
  expect(usable).toBe(3);
});

test("a connection that the silence swallowed fails nobody who asks afterwards", async ({
  address,
}) => {
  const network = await openNetwork(address);
  const { db, closeDatabase } = openClient(
    { ...address, port: network.port },
    { poolSize: 2, connectMs: 1000 },
  );
  const release = Promise.withResolvers<void>();

  const swallowed = network.swallow(true);
  const held = db.transaction(() => release.promise);
  await swallowed;
  await network.swallow(false);
  // Its connection goes to the first one, so it waits for another.
  const code = await db.execute("select 1").then(() => undefined, codeOf);
  release.resolve();
  await held;
  await closeDatabase();
  await network.close();

  expect(code).toBeUndefined();
});

test("a transaction says what became of it", async (database) => {
  const { db, closeDatabase } = openClient(database.address);
  let leaked: Transaction | undefined;

  const nested = await db.transaction(async (tx) => {
    leaked = tx;
    await Promise.all(
      ["a", "b"].map((slug) => tx.insert(items).values({ slug: slug })),
    );
    await tx
      .transaction(async (inner) => {
        await inner.insert(items).values({ slug: "c" });
        inner.rollback();
      })
      .catch(() => {});
    return await tx.$count(items);
  });
  const swallowed = await rejection(
    db.transaction(async (tx) => {
      await tx
        .insert(items)
        .values({ slug: "a" })
        .catch(() => {});
      await tx.execute("select 1").catch(() => {});
    }),
  );
  const never = new Date(NaN);
  const dated = pgTable("dated", { at: timestamp() });
  const unsent = [
    (tx: Transaction) => tx.execute(sql`select ${{ big: 1n }}::jsonb`),
    (tx: Transaction) => tx.insert(dated).values({ at: never }),
  ].map((send) =>
    db
      .transaction(async (tx) => {
        await tx.insert(items).values({ slug: "unsent" });
        await rejection((async () => await send(tx))());
      })
      .catch((error) => [codeOf(error), String(error.cause)]),
  );
  const saved = await db.transaction(async (tx) => {
    const part = tx.transaction((inner) => inner.execute(sql`select ${never}`));
    await rejection(part);
    return await tx.$count(items);
  });
  const undone = await rejection(
    db.transaction(async (tx) => {
      await tx.insert(items).values({ slug: "undone" });
      await tx.execute("abort");
    }),
  );
  const kept = await db.transaction(async (tx) => {
    await tx.insert(items).values({ slug: "kept" });
    await tx.execute("commit");
    return "kept";
  });
  const thrown = await rejection(
    db.transaction(async () => {
      throw new Error("mine");
    }),
  );
  const inner = await rejection(
    db.transaction((tx) =>
      tx.transaction(async (part) => {
        await sever(database, part);
        await rejection(part.execute("select 1"));
        throw new Error("mine as well");
      }),
    ),
  );
  const late: unknown[] = [];
  for (const text of ["select 1", "rollback"])
    late.push(codeOf(await rejection(leaked?.execute(text) ?? db.execute(""))));
  const begun = await rejection(db.execute("begin"));
  const left = await db.select().from(items).where(eq(items.slug, "a"));
  // The one that had begun a transaction is closed.
  await until(
    database.sql,
    `pid = pg_backend_pid() and not exists (select from pg_stat_activity
      where datname = current_database() and state like 'idle in transaction%')`,
  );
  await closeDatabase();

  expect(nested).toBe(2);
  expect(swallowed).toMatchObject({
    code: "ROLLED_BACK",
    message:
      "the transaction was rolled back at COMMIT: one of its statements had failed",
    cause: { code: "23505" },
  });
  expect(await Promise.all(unsent)).toEqual([
    ["ROLLED_BACK", expect.stringContaining("BigInt")],
    ["ROLLED_BACK", "RangeError: Invalid Date"],
  ]);
  expect(saved).toBe(2);
  expect(undone).toMatchObject({
    code: "ROLLED_BACK",
    message: "the transaction was rolled back by a statement of its own",
  });
  expect(kept).toBe("kept");
  expect(thrown).toEqual(new Error("mine"));
  expect(inner).toEqual(new Error("mine as well"));
  expect(late).toEqual(["TRANSACTION_OVER", "TRANSACTION_OVER"]);
  expect((begun as Error).cause).toMatchObject({
    code: "UNSAFE_TRANSACTION",
    hint: "use `db.transaction()`",
  });
  expect(left).toHaveLength(1);
});

test("limits hold on the server, and behind a pooler in transactions", async ({
  address,
}) => {
  const limits = { statementMs: 2000, idleTransactionMs: 3000 };
  const shown = sql`select current_setting('statement_timeout') as statement,
      current_setting('idle_in_transaction_session_timeout') as idle,
      current_setting('application_name') as name`;
  const ask = async (isPooled: boolean) => {
    const { db, closeDatabase } = openClient(address, {
      ...{ ...limits, poolSize: 1 },
      isPooled,
      canPrepare: !isPooled,
    });
    await db.select().from(items).prepare("named").execute();
    const [outside] = await db.execute(shown);
    const [inside] = await db.transaction((tx) => tx.execute(shown));
    const [after] = await db.execute(shown);
    const prepared = await db.execute(
      "select name from pg_prepared_statements",
    );
    await closeDatabase();
    return { outside, inside, after, prepared: [...prepared] };
  };
  const set = { statement: "2s", idle: "3s", name: "app" };
  const unset = { statement: "0", idle: "0", name: "app" };

  const direct = await ask(false);
  const pooled = await ask(true);
  const small = openClient(address, { poolSize: 1, acquireMs: 1000 });
  const busy = await small.db.transaction(() =>
    rejection(small.db.execute("select 1")),
  );
  const free = await small.db.execute("select 1");
  await small.closeDatabase();

  expect(direct).toEqual({
    ...{ outside: set, inside: set, after: set },
    prepared: [{ name: "named" }],
  });
  expect(pooled).toEqual({
    ...{ outside: unset, inside: set, after: unset },
    prepared: [],
  });
  expect((busy as Error).cause).toMatchObject({
    code: "POOL_BUSY",
    message:
      "no connection to the database was free within 1 s (1 of 1 are open)",
    hint: "raise `DATABASE_POOL_SIZE`, or look for transactions that wait for something else",
  });
  expect(free).toHaveLength(1);
});

test("a host that is silent costs the time limit of the URL, and only once", async ({
  address,
}) => {
  let dialled = 0;
  const silent = await listen(() => void (dialled += 1));
  const { host, port } = address;
  const { db, closeDatabase } = openClient(
    {
      ...address,
      host: "127.0.0.1",
      port: silent.port,
      otherHosts: [{ host, port }],
      settings: { ...address.settings, connect_timeout: "1" },
    },
    { connectMs: 60_000, poolSize: 2 },
  );

  await db.execute("select 1");
  const sleep = () => db.execute("select pg_sleep(0.05)");
  const both = await Promise.all([sleep(), sleep()]); // one on a new connection
  await closeDatabase();
  await silent.close();

  expect(both).toHaveLength(2);
  expect(dialled).toBe(1);
});

test("where a role may have few connections they are shared, and none is an error at once", (database) =>
  withRoles(database, 1, async ({ name }) => {
    const address = { ...database.address, user: name, password: name };
    const limits = { poolSize: 3, acquireMs: 20_000 };
    await database.sql.unsafe(`alter role ${name} connection limit 1`);
    const network = await openNetwork(address);
    const few = openClient({ ...address, port: network.port }, limits);
    const answers = await Promise.all(
      Array.from({ length: 3 }, () => few.db.execute("select pg_sleep(0.2)")),
    );
    await few.closeDatabase();
    await network.close();
    await database.sql.unsafe(`alter role ${name} connection limit 0`);
    const none = openClient(address, limits);
    const start = Date.now();
    const error = await rejection(none.db.execute("select 1"));
    const waited = Date.now() - start;
    await none.closeDatabase();

    expect(answers).toHaveLength(3);
    expect(network.count()).toBeLessThan(8); // it does not ask again and again
    expect(codeOf(error)).toBe("CANNOT_CONNECT");
    expect(waited).toBeLessThan(10_000);
  }));

test("what is under way finishes when the client is closed, and nothing new begins", async ({
  address,
}) => {
  const { db, closeDatabase } = openClient(address);
  const request = async () => {
    await db.execute("select pg_sleep(0.1)");
    return await db.transaction(async (tx) => {
      await tx.insert(items).values({ slug: "last" });
      return await tx.$count(items);
    });
  };

  const running = request();
  await Promise.all([closeDatabase(), closeDatabase()]);
  const answered = await running;
  const refused = await rejection(db.execute("select 1"));

  expect(answered).toBe(1);
  expect(codeOf(refused)).toBe("CLOSED");
});

test("a pool that is closed or dropped ends what is under way, and leaves no session", async (database) => {
  const limits = { ...readEnv().client, isPooled: false };
  const one = { text: "select 1" };
  const sleep = { text: "select pg_sleep(0.3)" };
  const outcomes: Record<string, unknown> = {};

  for (const end of ["drop", "close"] as const) {
    const network = await openNetwork(database.address);
    const { port } = network;
    const pool = openPool({ ...database.address, port }, limits, 1);
    const ask = (query: Promise<unknown>) =>
      query.then(() => "answered", codeOf);
    const opening = ask(pool.query(one, []));
    pool.drop();
    const lease = await pool.acquire();
    await untilSessions(database, 1); // what was being opened is closed
    expect(network.count()).toBe(2);
    const running = ask(lease.query(sleep, []));
    const waiting = ask(pool.query(one, []));
    expect(Date.now() - pool.usedAt()).toBeLessThan(100);
    pool[end]();
    outcomes[end] = [await opening, await running, await waiting];
    expect(lease.isLost()).toBe(true);
    lease.release();
    outcomes[`after ${end}`] = await ask(pool.query(one, []));
    pool.close();
    await untilSessions(database, 0);
    await network.close();
  }

  const lost = "CONNECTION_LOST";
  expect(outcomes).toEqual({
    drop: [lost, lost, lost],
    "after drop": "answered",
    close: [lost, lost, "CLOSED"],
    "after close": "CLOSED",
  });
});

test("what comes after COMMIT or ROLLBACK was sent is refused, and writes nothing", async (database) => {
  const { db, closeDatabase } = openClient(database.address);
  await database.sql.unsafe(`
    create function check_late() returns trigger language plpgsql as $$ begin
      perform pg_sleep(0.3);
      if new.slug = 'refused' then raise 'refused'; end if;
      return null;
    end $$;
    create constraint trigger check_late after insert on items
      deferrable initially deferred for each row execute function check_late()`);
  const insert = (tx: Transaction, slug: string) =>
    tx.insert(items).values({ slug });

  const late: Promise<unknown>[] = [];
  for (const slug of ["accepted", "refused"])
    await db
      .transaction(async (tx) => {
        await insert(tx, slug);
        const send = () => late.push(insert(tx, "late").then(() => {}, codeOf));
        setTimeout(send, 100); // COMMIT takes longer
      })
      .catch(() => {});
  const own = await rejection(
    db.transaction(async (tx) => {
      await tx.execute("COMMIT");
      await insert(tx, "late");
    }),
  );
  const codes = await Promise.all(late);
  const rows = await db.select().from(items);
  await closeDatabase();

  expect(codes).toEqual(["TRANSACTION_OVER", "TRANSACTION_OVER"]);
  expect(codeOf(own)).toBe("TRANSACTION_OVER");
  expect(rows.map(({ slug }) => slug)).toEqual(["accepted"]);
});

test("a failed statement leaves nothing that others meet", async (database) => {
  const { db, closeDatabase } = openClient(database.address, {
    poolSize: 1,
    canPrepare: true,
  });
  const ask = () => db.execute("select 1");

  const after = [];
  for (let i = 0; i < 10; i++) {
    await rejection(db.execute("begin; select 1 / 0; commit"));
    after.push(await ask().then(() => undefined, codeOf));
  }
  await db.insert(items).values({ slug: "a" });
  const prepared = db.select().from(items).prepare("changed");
  await prepared.execute();
  await db.execute("alter table items alter name type varchar");
  const changed = await prepared.execute();
  const again = await prepared.execute();
  await db.execute("discard all");
  const discarded = await prepared.execute();
  const cast = db
    .select({ value: sql`${sql.placeholder("value")}::jsonb` })
    .from(items)
    .prepare("cast");
  await rejection(cast.execute({ value: { big: 1n } }));
  const sent = await cast.execute({ value: { big: 1 } });
  const half = db
    .select({ value: sql`${sql.placeholder("value")} / 2.0` })
    .from(items)
    .prepare("half");
  await half.execute({ value: 1n });
  const halved = await half.execute({ value: "1.5" });
  // A function may raise what would end a session, or what a prepared statement gets.
  const raised = await rejection(
    db.execute("do $$ begin raise sqlstate '08006'; end $$"),
  );
  await db.execute(`create sequence calls; create function stale() returns int
    language plpgsql as 'begin perform nextval(''calls''); raise sqlstate ''26000''; end'`);
  const stale = db
    .select({ value: sql`stale()` })
    .from(items)
    .prepare("stale");
  await rejection(stale.execute());
  const [calls] = await db.execute(
    "select last_value::int as count from calls",
  );
  const forgotten = await rejection(
    db.transaction(async (tx) => {
      const kept = tx.select().from(items).prepare("kept");
      await kept.execute();
      await tx.execute("deallocate all");
      await kept.execute();
    }),
  );
  const taken = await rejection(
    db.transaction(async (tx) => {
      await tx.execute("prepare taken as select 1");
      await tx.select().from(items).prepare("taken").execute();
    }),
  );
  const backend = async () =>
    (await db.execute("select pg_backend_pid() as pid"))[0]?.pid;
  const before = await backend();
  const readOnly = await rejection(
    db.transaction((tx) => tx.insert(items).values({ slug: "b" }), {
      accessMode: "read only",
    }),
  );
  const replaced = await backend();
  const one = db
    .select({ value: sql`1 / ${sql.placeholder("value")}::int` })
    .from(items)
    .prepare("one");
  await one.execute({ value: 1 });
  const divided = await rejection(one.execute({ value: 0 }));
  const kept = await backend();
  await untilSessions(database, 1);
  const missing = await rejection(
    db
      .select()
      .from(items)
      .where(eq(items.slug, undefined as never)),
  );
  await closeDatabase();

  expect(codeOf(raised)).toBe("08006");
  expect(calls).toEqual({ count: 1 });
  for (const error of [forgotten, taken])
    expect((error as Error).cause).toMatchObject({
      code: "NOT_PREPARED",
      message: expect.stringMatching(
        /^DATABASE_URL leads to a transaction pooler, which does not keep prepared statements: prepared statement/,
      ),
      hint: "set `DATABASE_PREPARE=false`, or `DATABASE_URL_UNPOOLED` to the server itself",
    });
  expect(codeOf(readOnly)).toBe("25006");
  expect(codeOf(divided)).toBe("22012");
  expect(kept).toBe(replaced);
  expect(replaced).not.toBe(before); // the server may have become a standby
  expect(String((missing as Error).cause)).toContain("parameter is undefined");
  expect(after).toEqual(Array(10).fill(undefined));
  expect(changed).toHaveLength(1);
  expect(again).toHaveLength(1);
  expect(discarded).toHaveLength(1);
  expect(sent).toEqual([{ value: { big: 1 } }]);
  expect(Number(halved[0]?.value)).toBe(0.75);
});

// By itself: the timers of the process are other ones for its time.
bunTest(
  "a connection that nobody uses is closed after half a minute",
  () =>
    withDatabase("empty", async (database) => {
      await untilSessions(database, 0); // that connection has such a timer as well
      const wait = globalThis.setTimeout;
      const sooner = (work: () => void, ms?: number, ...rest: []) =>
        wait(work, ms === 30_000 ? 50 : ms, ...rest);
      const timers = spyOn(globalThis, "setTimeout").mockImplementation(
        sooner as typeof setTimeout,
      );
      const { db, closeDatabase } = openClient(database.address, {
        statementMs: 20_000,
      });
      const backend = async (seconds: number) => {
        const text = `select pg_backend_pid() as pid from pg_sleep(${seconds})`;
        return (await db.execute(text))[0]?.pid;
      };
      try {
        const first = await backend(0);
        const again = await backend(0.3); // while it runs, it is not idle
        await untilSessions(database, 0);
        const next = await backend(0);

        expect(again).toBe(first);
        expect(next).not.toBe(first);
      } finally {
        timers.mockRestore();
        await closeDatabase();
      }
    }),
  60_000,
);
