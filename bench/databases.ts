// Makes the databases that are measured, on the server of DATABASE_URL.
import { openConnection } from "../scripts/lib/connection";
import { formatDatabaseUrl } from "../src/database-url";
import { readEnv } from "../src/env";

type Variables = Record<string, string | undefined>;

/** Databases that are dropped at the end of a block with `await using`. */
export interface Databases extends AsyncDisposable {
  /** Creates one. @returns the environment of a command that uses it. */
  create: () => Promise<Variables>;
  /** Makes one empty again. */
  empty: (variables: Variables | undefined) => Promise<void>;
  /** Runs statements in one. */
  run: (variables: Variables, statements: string) => Promise<void>;
}

/** Connects to the server. */
export async function openDatabases(): Promise<Databases> {
  const server = readEnv().direct;
  const sql = await openConnection(server, "bench");
  const names: string[] = [];
  const addressOf = (database = "") => ({ ...server, database });
  const drop = async (name: string) => {
    for (const suffix of ["", "__previous"])
      await sql.unsafe(
        `drop database if exists "${name}${suffix}" with (force)`,
      );
  };
  return {
    create: async () => {
      const name = `bench_${crypto.randomUUID().slice(0, 8)}`;
      await sql.unsafe(`create database "${name}"`);
      names.push(name);
      const url = formatDatabaseUrl(addressOf(name));
      return {
        ...process.env,
        DATABASE_URL: url,
        DATABASE_URL_UNPOOLED: url,
        DB_ENGINE: "external",
        PGHOST: server.host,
        PGPORT: String(server.port),
        PGUSER: server.user,
        PGPASSWORD: server.password,
        PGDATABASE: name,
      };
    },
    empty: async (variables) => {
      const name = variables?.PGDATABASE;
      if (!name) return;
      await drop(name);
      await sql.unsafe(`create database "${name}"`);
      await sql.unsafe("checkpoint").catch(() => {}); // a right that few have
    },
    run: async ({ PGDATABASE }, statements) => {
      await using own = await openConnection(addressOf(PGDATABASE), "bench");
      await own.unsafe(statements);
    },
    [Symbol.asyncDispose]: async () => {
      for (const name of names) await drop(name);
      await sql.end();
    },
  };
}
