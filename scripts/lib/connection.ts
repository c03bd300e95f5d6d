// Connects a script to the database. postgres.js would reconnect forever; a
// script's connection fails after a deadline while connecting, and at once when
// an established connection is lost.
import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { Notice, Options, Sql } from "postgres";
import type { Role, Wanted, Way } from "../../src/database-socket";
import { connectSeconds, type DatabaseAddress } from "../../src/database-url";
import { explainConnectionError, nameServer } from "./explain-connection";
import { requireOwnServer } from "./own-server";
import { note } from "./report";

// libpq's variables are ignored: psql and postgres.js would let them override
// what src/env.ts reads. https://www.postgresql.org/docs/current/libpq-envars.html
for (const name of `HOST HOSTADDR PORT DATABASE USER PASSWORD PASSFILE SERVICE
  SERVICEFILE SYSCONFDIR REQUIREAUTH CHANNELBINDING OPTIONS APPNAME SSLMODE
  REQUIRESSL SSLNEGOTIATION SSLCOMPRESSION SSLCERT SSLKEY SSLCERTMODE
  SSLROOTCERT SSLCRL SSLCRLDIR SSLSNI REQUIREPEER SSLMINPROTOCOLVERSION
  SSLMAXPROTOCOLVERSION GSSENCMODE KRBSRVNAME GSSLIB GSSDELEGATION
  CONNECT_TIMEOUT CLIENTENCODING TARGETSESSIONATTRS LOADBALANCEHOSTS
  MINPROTOCOLVERSION MAXPROTOCOLVERSION DATESTYLE TZ GEQO`.split(/\s+/))
  delete process.env[`PG${name}`];

/** A connection that `await using` closes, once every query sent is answered. */
export type Connection = Sql & AsyncDisposable;

const GOODBYE_MS = 1000;
/** How many times, and at what interval, to retry while a database is swapped. */
const SWAP_ATTEMPTS = 20;
const SWAP_MS = 50;
/**
 * SQL that turns off the timeouts of a session, and sets lock_timeout to a
 * minute, whatever the database or the role has set.
 */
export const liftTimeouts = `
  select set_config(name, case name when 'lock_timeout' then '60s' else '0' end, false)
  from pg_settings
  where name in ('statement_timeout', 'transaction_timeout', 'lock_timeout',
    'idle_session_timeout', 'idle_in_transaction_session_timeout')`;

/**
 * The server that this process reached for each list of hosts. Later connections
 * go to the same one: one command works on one server.
 */
const reached = new Map<string, Way>();

/**
 * Returns the address of the one server that this process has reached; before
 * that, `address` itself.
 */
export function reachedAddress(address: DatabaseAddress): DatabaseAddress {
  const way = reached.get(nameServer(address));
  if (!way) return address;
  return { ...address, host: way.host, port: way.port, otherHosts: [] };
}

/**
 * Returns `reachedAddress` with the sslmode that was used in the end: `require`
 * or `disable` in place of `prefer` or `allow`.
 */
export function settledAddress(address: DatabaseAddress): DatabaseAddress {
  const settled = reachedAddress(address);
  if (!["allow", "prefer"].includes(address.sslmode)) return settled;
  const isEncrypted = reached.get(nameServer(address))?.tls;
  return { ...settled, sslmode: isEncrypted ? "require" : "disable" };
}

/**
 * Connects and waits for the server's first answer.
 *
 * @param name the application name in pg_stat_activity.
 * @param wanted which of several servers, unless the address says so. A primary
 * is one that takes writes.
 * @throws an error that says what is wrong, and how to fix it.
 */
export async function openConnection(
  address: DatabaseAddress,
  name: string,
  wanted: Wanted = "primary",
): Promise<Connection> {
  warnOfChannelBinding(address);
  for (let attempt = 1; ; attempt += 1)
    try {
      const sql = await reach(address, name, wanted);
      try {
        await requireOwnServer(sql, address);
      } catch (error) {
        await sql.end({ timeout: 0 }); // an open one would keep the process
        throw error;
      }
      return sql;
    } catch (error) {
      const isLast = attempt === SWAP_ATTEMPTS || !isBeingSwapped(error);
      if (isLast) throw explainConnectionError(error as Error, address);
      await sleep(SWAP_MS);
    }
}

/** Loaded at the first connection: it takes longer than the rest of a command's help. */
let driver: Awaited<ReturnType<typeof loadDriver>> | undefined;

async function loadDriver() {
  const [{ openSession, openSocket, ROLE }, { default: postgres }] =
    await Promise.all([
      import("../../src/database-socket"),
      import("postgres"),
    ]);
  return { openSession, openSocket, ROLE, postgres };
}

type Driver = NonNullable<typeof driver>;

/** Connects like `openConnection`; throws the driver's own error. */
export async function reach(
  address: DatabaseAddress,
  name: string,
  wanted: Wanted,
): Promise<Connection> {
  const loaded = (driver ??= await loadDriver());
  const { openSession } = loaded;
  const login = {
    logIn: (socket: Socket) => logIn(loaded, address, name, socket),
    close: ({ sql }: { sql: Sql; role: Role }) => sql.end({ timeout: 5 }),
  };
  const known = reachedAddress(address);
  const { session, way } = await openSession(known, login, wanted).catch(
    (error: Error & { code?: string }) => {
      if (known === address || error.code !== "UNSUITABLE") throw error;
      return openSession(address, login, wanted);
    },
  );
  reached.set(nameServer(address), way);
  const { sql } = session;
  const close = () => sql.end({ timeout: 5 });
  return Object.assign(sql, { [Symbol.asyncDispose]: close });
}

/** True when the database was renamed, and another one is about to get its name. */
function isBeingSwapped(error: unknown): boolean {
  const { code, detail = "" } = error as { code?: string; detail?: string };
  return code === "3D000" && detail !== "";
}

async function logIn(
  loaded: Driver,
  address: DatabaseAddress,
  name: string,
  socket: Socket,
) {
  const sql = makeClient(loaded, address, name, async () => socket);
  try {
    const [role] = await sql.unsafe<Role[]>(loaded.ROLE);
    if (!role) throw new Error("the server answered nothing");
    return { sql, role };
  } catch (error) {
    await sql.end({ timeout: 0 });
    throw error;
  }
}

/**
 * Returns a client with a single connection, opened by its first query, to the
 * server that `openConnection` has reached before.
 *
 * @param name the application name in pg_stat_activity.
 */
export function connect(address: DatabaseAddress, name: string): Sql {
  const way = reached.get(nameServer(address));
  if (!way || !driver)
    throw new Error(`${nameServer(address)} was not reached before`);
  const { openSocket } = driver;
  return makeClient(driver, address, name, () => openSocket(way, address));
}

function makeClient(
  { postgres }: Driver,
  address: DatabaseAddress,
  name: string,
  open: () => Promise<Socket>,
): Sql {
  let isOpened = false;
  // Without this, later queries and `end` would never be answered.
  const giveUp = () => void sql.end({ timeout: 0 });
  const sql = postgres({
    // Only for messages: the socket is ours. postgres.js misreads a list of hosts
    // and an address in brackets.
    host: "server",
    port: address.port,
    user: address.user,
    password: address.password,
    database: address.database,
    ssl: false,
    max: 1,
    // Behind a transaction pooler, prepared statements are lost.
    prepare: false,
    fetch_types: false,
    connect_timeout: connectSeconds(address),
    idle_timeout: null,
    // By default postgres.js closes a session after half an hour, even a busy one.
    max_lifetime: null,
    keep_alive: null,
    connection: { application_name: name, ...address.parameters },
    onnotice: (notice: Notice) => listeners.get(sql)?.(notice),
    // postgres.js calls this again to reconnect.
    socket: async () => {
      try {
        if (isOpened) throw connectionClosed();
        isOpened = true;
        const socket = await open();
        // Does not wait long for a server that leaves the socket open.
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
  } as unknown as Options<{}>);
  return sql;
}

/** The listener for the notices of each connection; without one they are ignored. */
const listeners = new WeakMap<Sql, (notice: Notice) => void>();

/** Calls `listener` with each notice of the server, until disposed. */
export function onNotice(
  sql: Sql,
  listener: (notice: Notice) => void,
): Disposable {
  listeners.set(sql, listener);
  return { [Symbol.dispose]: () => void listeners.delete(sql) };
}

function connectionClosed(): Error {
  return Object.assign(new Error("the server closed the connection"), {
    code: "CONNECTION_CLOSED",
  });
}

let isWarned = false;

/** postgres.js does not support channel binding; psql and pg_dump do. */
function warnOfChannelBinding({ settings, variable }: DatabaseAddress): void {
  if (isWarned || settings?.channel_binding !== "require") return;
  isWarned = true;
  note(
    `Warning: this command connects without the channel binding that channel_binding=require in ${variable} asks for`,
  );
}
