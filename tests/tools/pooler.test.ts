// Behind pgbouncer in transaction mode, as many hosted databases are.
import { expect } from "bun:test";
import { chownSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawn } from "bun";
import postgres from "postgres";
import { openConnection } from "../../scripts/lib/connection";
import { isPooled } from "../../scripts/lib/pooler";
import { probe } from "../../scripts/lib/probe";
import { parseDatabaseUrl } from "../../src/database-url";
import { urlOf } from "../lib/command";
import type { TestDatabase } from "../lib/database";
import { test } from "../lib/test";
import { findQuietPort } from "../lib/ports";

// Debian has it in a folder that is not on an ordinary user's PATH.
const PATH = `${process.env.PATH}:/usr/sbin`;

/** Runs `work` with the URL of a pgbouncer before the database. */
async function withPgbouncer(
  { address }: TestDatabase,
  work: (url: string) => Promise<void>,
  settings = "pool_mode = transaction",
  ignored = "extra_float_digits",
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "starter-pgbouncer-"));
  const port = await findQuietPort(); // a connection cannot meet itself there
  const config = join(folder, "pgbouncer.ini");
  const { host, user, password } = address;
  writeFileSync(
    config,
    `[databases]
* = host=${host === "localhost" ? "127.0.0.1" : host} port=${address.port} user=${user} password=${password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
${settings}
ignore_startup_parameters = ${ignored}
`,
    { mode: 0o600 },
  );
  const nobody = 65534; // it refuses to run as root
  const isRoot = process.getuid?.() === 0;
  if (isRoot)
    for (const path of [folder, config]) chownSync(path, nobody, nobody);
  const command = isRoot
    ? [
        "setpriv",
        `--reuid=${nobody}`,
        `--regid=${nobody}`,
        "--clear-groups",
        "pgbouncer",
        config,
      ]
    : ["pgbouncer", config];
  const pgbouncer = spawn(command, {
    env: { ...process.env, PATH },
    stdout: "ignore",
    stderr: "ignore",
  });
  const pooled = { ...address, host: "127.0.0.1", port };
  try {
    while ((await probe(pooled)).state === "silent") await Bun.sleep(20);
    await work(urlOf({ ...pooled, sslmode: "disable" }));
  } finally {
    pgbouncer.kill();
    await pgbouncer.exited;
    rmSync(folder, { recursive: true });
  }
}

if (!Bun.which("pgbouncer", { PATH }))
  console.warn("Left out: the pooler, for there is no pgbouncer");
else {
  test(
    "what needs a session is refused, with the variable to set",
    "empty",
    async (database) => {
      await withPgbouncer(database, async (url) => {
        const DATABASE_URL = url;
        const pooled = { DATABASE_URL, DATABASE_URL_UNPOOLED: "" };

        const status = await database.run("db:status --json", pooled);
        const refused = await database.run("db:migrate", pooled);
        const others = ["rollback", "baseline", "migrate:repair"];
        const all = [refused];
        for (const command of [...others, "push", "reset", "check"])
          all.push(await database.run(`db:${command}`, pooled));
        const migrated = await database.run("db:migrate", { DATABASE_URL });

        expect(JSON.parse(status.stdout)).toMatchObject({ pooled: true });
        for (const { exitCode, stderr } of all) {
          expect(stderr).toEndWith(
            `Error: ${new URL(url).host} is a transaction pooler, where no session can hold a lock\nHint: set \`DATABASE_URL_UNPOOLED\` to a direct connection to the server\n`,
          );
          expect(exitCode).toBe(2);
        }
        expect(migrated.exitCode).toBe(0);
      });
    },
  );

  test("a pooler is known with many connections to the server, and with a single one", async (database) => {
    const ask = async (url: string) => {
      const address = parseDatabaseUrl(`${url}&connect_timeout=1`, "X");
      await using sql = await openConnection(address, "tests");
      return await isPooled(sql, address);
    };
    await withPgbouncer(
      database,
      async (url) => {
        const sql = postgres(url, { max: 3, prepare: false });
        await sql.begin(() =>
          sql.begin(() => sql.begin((last) => last`select 1`)),
        );

        expect(await ask(url)).toBe(true);
        await sql.end();
      },
      "pool_mode = transaction\nserver_round_robin = 1",
    );
    const locks = async () =>
      await database.sql`
        select from pg_locks join pg_database on pg_database.oid = database
        where locktype = 'advisory' and datname = ${database.name}`;
    await withPgbouncer(
      database,
      async (url) => {
        await using first = await openConnection(
          parseDatabaseUrl(url, "X"),
          "tests",
        );
        expect(await isPooled(first, parseDatabaseUrl(url, "X"))).toBe(false);
        expect(await locks()).toHaveLength(0); // while the session goes on
      },
      "pool_mode = session",
    );
    await withPgbouncer(
      database,
      async (url) =>
        await expect(ask(url)).rejects.toMatchObject({
          message: `${new URL(url).host} did not open a second connection within 1 seconds`,
          code: "POOLED",
          exitCode: 2,
          hint: "set `DATABASE_URL_UNPOOLED` to a direct connection to the server",
        }),
      "pool_mode = session\ndefault_pool_size = 1",
    );
    await withPgbouncer(
      database,
      async (url) =>
        await expect(ask(url)).rejects.toMatchObject({
          code: "UNREACHABLE",
          exitCode: 1,
        }),
      "pool_mode = session\nmax_client_conn = 1",
    );
  });

  test("db:status says that a pooler keeps no options of a session", async (database) => {
    const options = "options=-c%20statement_timeout%3D5s";
    await withPgbouncer(
      database,
      async (url) => {
        const DATABASE_URL = `${url}&${options}`;
        const { stdout, stderr } = await database.run("db:status", {
          ...{ DATABASE_URL, DATABASE_URL_UNPOOLED: "" },
        });

        expect(stdout).toContain("\nPooler       a transaction pooler\n");
        expect(stderr).toBe(
          "Warning: a transaction pooler does not keep the options in DATABASE_URL: set them for the role, with `alter role … set …`\n",
        );
      },
      undefined,
      "extra_float_digits,options",
    );
  });

  test("a session's options are refused by name", async (database) => {
    await withPgbouncer(database, async (url) => {
      const address = parseDatabaseUrl(`${url}&options=-c%20a.b%3Dc`, "X");

      const opened = openConnection(address, "tests");

      await expect(opened).rejects.toMatchObject({
        message: expect.stringContaining(
          "refuses: unsupported startup parameter: options",
        ),
        hint: "leave `options` out of `X` and set it for the role: `alter role … set …`",
      });
    });
  });

  test("the application and the seeds work", "migrated", async (database) => {
    await withPgbouncer(database, async (url) => {
      const DATABASE_URL = url;

      const seeded = await database.run("db:seed", { DATABASE_URL });
      const tested = await database.run("db:test --json", { DATABASE_URL });

      expect(seeded.stdout).toStartWith("Seeded: dev ");
      expect(JSON.parse(tested.stdout)).toMatchObject({
        connected: true,
        pending: [],
      });
    });
  });
}
