// Connects a script to the database. Where postgres.js would try again for
// ever, a script's connection gives up: after a deadline while connecting, and
// at once when an established connection is lost.
import { connect as dial, type Socket } from "node:net";
import postgres, { type Sql } from "postgres";
import {
  connectionOptions,
  type DatabaseAddress,
  isLocal,
} from "../../src/database-url";
import { failure, refusal } from "./report";

const CONNECT_SECONDS = 4;
const GOODBYE_MS = 1000;
/** How often, and after how long, to look again for a database. */
const SWAP_ATTEMPTS = 20;
const SWAP_MS = 50;
/** For a session that works long, whatever is set for the database or the role. */
export const patient = `
  select set_config(name, case name when 'lock_timeout' then '60s' else '0' end, false)
  from pg_settings
  where name in ('statement_timeout', 'transaction_timeout', 'lock_timeout',
    'idle_session_timeout', 'idle_in_transaction_session_timeout')`;

const DIRECT =
  "set `DATABASE_URL_UNPOOLED` to a direct connection to the server";

/**
 * A client with a single connection, opened by its first query.
 *
 * @param name the application name that others see in pg_stat_activity.
 */
export function connect(address: DatabaseAddress, name: string): Sql {
  let isDialled = false;
  // Without this, later queries and `end` would wait for what never comes.
  const giveUp = () => void sql.end({ timeout: 0 });
  const sql = postgres({
    ...connectionOptions(address),
    // postgres.js would look for a missing password in PGPASSWORD.
    password: address.password || (() => ""),
    max: 1,
    // Behind a transaction pooler prepared statements vanish.
    prepare: false,
    fetch_types: false,
    connect_timeout: CONNECT_SECONDS,
    connection: { application_name: name, ...address.parameters },
    onnotice: () => {},
    // postgres.js calls this again when it wants to reconnect.
    socket: async () => {
      try {
        if (isDialled) throw connectionClosed();
        isDialled = true;
        const socket = await openSocket(address);
        // A server that does not answer the goodbye is not waited for.
        socket.once("finish", () => {
          const timer = setTimeout(() => socket.destroy(), GOODBYE_MS);
          socket.once("close", () => clearTimeout(timer));
        });
        return socket.once("error", giveUp).once("close", giveUp);
      } catch (error) {
        giveUp();
        throw error;
      }
    },
  } as postgres.Options<{}>);
  return sql;
}

function connectionClosed(): Error {
  return Object.assign(new Error("the server closed the connection"), {
    code: "CONNECTION_CLOSED",
  });
}

/** Postgres.js reads `host` for the name that TLS has to prove. */
function openSocket({ host, port }: DatabaseAddress): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const socket = host.startsWith("/")
    ? dial(`${host}/.s.PGSQL.${port}`)
    : dial(port, host);
  const timer = setTimeout(
    () =>
      socket.destroy(
        Object.assign(new Error("no answer"), { code: "CONNECT_TIMEOUT" }),
      ),
    CONNECT_SECONDS * 1000,
  );
  socket.once("error", reject);
  socket.once("close", () => clearTimeout(timer));
  socket.once("connect", () => {
    clearTimeout(timer);
    socket.off("error", reject);
    resolve(Object.assign(socket, { host, port }));
  });
  return promise;
}

/**
 * Connects and waits for the server's first answer.
 *
 * @throws what is wrong with the server or the address, and its mend.
 */
export async function openConnection(
  address: DatabaseAddress,
  name: string,
): Promise<Sql> {
  for (let attempt = 1; ; attempt += 1) {
    const sql = connect(address, name);
    try {
      await sql`select 1`;
      return sql;
    } catch (error) {
      await sql.end({ timeout: 0 });
      const isLast = attempt === SWAP_ATTEMPTS || !isBeingSwapped(error);
      if (isLast) throw explainConnectionError(error as Error, address);
      await Bun.sleep(SWAP_MS);
    }
  }
}

/** The database was there, and another one is about to have its name. */
function isBeingSwapped(error: unknown): boolean {
  const { code, detail = "" } = error as { code?: string; detail?: string };
  return code === "3D000" && detail !== "";
}

/**
 * Whether a transaction pooler stands between: the proof is that a transaction
 * on a second connection is given the server process of the first, or that the
 * first is given another one, which does not hold its lock.
 *
 * @throws with exit code 2 when there is no second connection to be had.
 */
export async function isPooled(
  sql: Sql,
  address: DatabaseAddress,
): Promise<boolean> {
  const second = connect(address, "db:probe");
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    void second.end({ timeout: 0 });
  }, CONNECT_SECONDS * 1000);
  const key = Math.floor(Math.random() * 2 ** 31);
  try {
    const [first] = await sql.unsafe<{ pid: number }[]>(
      `select pg_backend_pid() as pid, pg_advisory_lock(${key})`,
    );
    const isShared = await second.begin(async (transaction) => {
      const [row] = await transaction.unsafe<{ pid: number }[]>(
        "select pg_backend_pid() as pid",
      );
      return row?.pid === first?.pid;
    });
    const [lock] = await sql.unsafe<{ held: boolean }[]>(`
      select exists (
        select from pg_locks
        where pid = pg_backend_pid() and locktype = 'advisory' and objid = ${key}
      ) as held, pg_advisory_unlock(${key})`);
    return isShared || !lock?.held;
  } catch (error) {
    if (!isLate) throw explainConnectionError(error as Error, address);
    throw refusal(
      `${nameServer(address)} gave no second connection within ${CONNECT_SECONDS} seconds`,
      { code: "POOLED", hint: DIRECT },
    );
  } finally {
    clearTimeout(timer);
    await second.end({ timeout: 0 });
  }
}

/**
 * For what needs a session of its own, such as the migration lock.
 *
 * @throws with exit code 2 behind a transaction pooler.
 */
export async function requireDirect(
  sql: Sql,
  address: DatabaseAddress,
): Promise<void> {
  if (!(await isPooled(sql, address))) return;
  throw refusal(
    `${nameServer(address)} is a transaction pooler, behind which there are no sessions to hold a lock`,
    {
      code: "POOLED",
      hint: DIRECT,
    },
  );
}

/** What an attempt to connect found at an address. */
export type Probe =
  { state: "ready"; version: string } | { state: Obstacle; error: Error };

/**
 * `silent`: nothing listens. `starting`: PostgreSQL, on its way up or down.
 * `no-database`: PostgreSQL without that database. `denied`: PostgreSQL that
 * does not let this user in. `foreign`: not PostgreSQL. `failed`: the rest.
 */
type Obstacle =
  "silent" | "starting" | "no-database" | "denied" | "foreign" | "failed";

/** Tells by a connection of its own what is at an address. */
export async function probe(address: DatabaseAddress): Promise<Probe> {
  const sql = connect(address, "db:probe");
  try {
    const [row] = await sql<{ version: string }[]>`
      select split_part(current_setting('server_version'), ' ', 1) as version`;
    return { state: "ready", version: row?.version ?? "" };
  } catch (error) {
    return {
      state: readObstacle(error as Error),
      error: explainConnectionError(error as Error, address),
    };
  } finally {
    await sql.end({ timeout: 0 });
  }
}

function readObstacle({ code }: Error & { code?: string }): Obstacle {
  switch (code) {
    case "ECONNREFUSED":
    case "ENOENT": // a Unix socket that is not there
      return "silent";
    case "57P01": // admin_shutdown
    case "57P03": // cannot_connect_now
      return "starting";
    case "3D000": // invalid_catalog_name
      return "no-database";
    case "28P01": // invalid_password
    case "28000": // invalid_authorization_specification
      return "denied";
    case "CONNECTION_CLOSED":
    case "CONNECT_TIMEOUT":
    case "ECONNRESET":
      return "foreign";
    default:
      return "failed";
  }
}

/** `localhost:5432`, or the file of a Unix socket. */
export function nameServer({ host, port }: DatabaseAddress): string {
  if (host.startsWith("/")) return `${host}/.s.PGSQL.${port}`;
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Says in a person's words why connecting failed, and what mends it. */
export function explainConnectionError(
  error: Error & { code?: string },
  address: DatabaseAddress,
): Error {
  // It was there, and was lost: that says nothing of the address.
  if (error.code === "CONNECTION_ENDED") return error;
  const server = nameServer(address);
  const { database, user, sslmode, variable } = address;
  const explain = (message: string, hint?: string) =>
    failure(message, {
      code: "UNREACHABLE",
      hint,
      details: { sqlstate: sqlstate(error) },
    });

  const elsewhere = `check host and port in \`${variable}\``;
  const start = isLocal(address)
    ? "start it with `bun run db:start`"
    : elsewhere;
  switch (readObstacle(error)) {
    case "silent":
      return explain(`nothing listens on ${server}`, start);
    case "starting":
      return explain(
        `the server on ${server} is starting up or shutting down`,
        "try again in a moment; `bun run db:logs` shows what it is doing",
      );
    case "no-database":
      return explain(
        `there is no database "${database}" on ${server}`,
        isLocal(address)
          ? "make it with `bun run db:start`"
          : `create it, or correct its name in \`${variable}\``,
      );
    case "denied":
      return explain(
        error.code === "28P01"
          ? `the server on ${server} does not accept this password for user "${user}"`
          : `the server on ${server} refuses: ${error.message}`,
        `correct user and password in \`${variable}\``,
      );
  }
  if (error.code === "53300")
    return explain(
      `the server on ${server} takes no more connections: ${error.message}`,
      "try again when others have left; `bun run db:status` counts them",
    );
  if (error.code === "CONNECT_TIMEOUT")
    return explain(
      `${server} did not answer within ${CONNECT_SECONDS} seconds`,
      elsewhere,
    );
  if (readObstacle(error) === "foreign")
    return ["disable", "prefer"].includes(sslmode)
      ? explain(
          `${server} closed the connection without answering as PostgreSQL`,
          elsewhere,
        )
      : explain(
          `${server} closed the connection when it was asked for TLS`,
          `set \`sslmode=disable\` in \`${variable}\` if the server has no TLS`,
        );
  if (error.code === "ENOTFOUND" || error.code === "EAI_AGAIN")
    return explain(
      `the host name ${address.host} cannot be resolved`,
      elsewhere,
    );
  if (/CERT|SIGNATURE/.test(error.code ?? ""))
    return explain(
      `the certificate of ${server} is not trusted: ${error.message}`,
      `name its authorities with \`sslrootcert\` in \`${variable}\``,
    );
  // One that has a SQLSTATE is the server's own answer.
  return explain(
    `cannot connect to ${server}: ${error.message}`,
    sqlstate(error) ? undefined : elsewhere,
  );
}

function sqlstate({ code }: { code?: string }): string | undefined {
  return code && /^[0-9A-Z]{5}$/.test(code) ? code : undefined;
}
