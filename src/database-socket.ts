// Opens sessions as libpq does, for any driver: chooses one of several hosts, sets
// up TLS, and limits the time.
// https://www.postgresql.org/docs/current/libpq-connect.html
import { connect as dial, type Socket } from "node:net";
import { connect as startTls, type ConnectionOptions } from "node:tls";
import { tlsOptions } from "./database-tls";
import {
  connectSeconds,
  type DatabaseAddress,
  type Host,
  hostsOf,
} from "./database-url";

/** The role of a server in replication. */
export interface Role {
  /** It replays what another server writes. */
  isStandby: boolean;
  /** Its transactions may not write unless they say so. */
  isReadOnly: boolean;
}

/** The query that returns a `Role`. */
export const ROLE = `select pg_catalog.pg_is_in_recovery() as "isStandby",
  pg_catalog.current_setting('transaction_read_only') = 'on' as "isReadOnly"`;

/** Which server to use: libpq's values, and `prefer-primary`. */
export type Wanted =
  | "any"
  | "read-write"
  | "read-only"
  | "primary"
  | "standby"
  | "prefer-standby"
  | "prefer-primary";

/** A driver: logs in through a connected socket, which may be encrypted. */
export interface Driver<Session extends { role: Role }> {
  logIn(socket: Socket, host: Host): Promise<Session>;
  close(session: Session): Promise<void>;
}

/** A host that was not used, and why. */
export interface Refusal {
  host: Host;
  error: Error & { code?: string };
}

/** A host, and one of the ways to connect to it. */
export interface Way extends Host {
  tls: ConnectionOptions | false;
}

const KEEPALIVE_SECONDS = 30;
/** How long a driver has to say why a connection ended. In milliseconds. */
const REASON_MS = 200;

/**
 * Opens a session on the first suitable host, in the order of the address or, with
 * `load_balance_hosts=random`, in random order. As in libpq, the next host is tried
 * when one cannot be reached or is not suitable; not when one refuses the login or
 * has an untrusted certificate.
 *
 * @param wanted which server, if the address has no `target_session_attrs`.
 * @returns the session, and the way that it was opened.
 * @throws the last error, with the list `refusals` of each host's error. An error
 * of this file has a code: `CONNECT_TIMEOUT`, `NO_TLS`, `NOT_POSTGRES`,
 * `CONNECTION_CLOSED`, `UNSUITABLE`.
 */
export async function openSession<Session extends { role: Role }>(
  address: DatabaseAddress,
  driver: Driver<Session>,
  wanted: Wanted = "any",
): Promise<{ session: Session; way: Way }> {
  const { target_session_attrs, load_balance_hosts } = address.settings ?? {};
  const hosts = hostsOf(address);
  if (load_balance_hosts === "random") hosts.sort(() => Math.random() - 0.5);

  const refusals: Refusal[] = [];
  for (const wish of wishes(target_session_attrs ?? wanted)) {
    refusals.length = 0;
    for (const host of hosts) {
      const found = await openOn(host, wish);
      if (found) return found;
      const last = refusals.at(-1);
      if (last && !leadsOn(last.error)) break;
    }
    // A second round for `prefer-…` makes sense only if a server was unsuitable.
    if (!refusals.some(({ error }) => error.code === "UNSUITABLE")) break;
  }
  throw Object.assign(refusals.at(-1)?.error ?? new Error("no host"), {
    refusals,
  });

  async function openOn(host: Host, wish: Wanted) {
    for (const way of waysTo(host, address)) {
      try {
        const session = await logIn(way, address, driver);
        if (isSuited(session.role, wish)) return { session, way };
        await driver.close(session);
        refusals.push({ host, error: unsuited(session.role, wish) });
        return undefined;
      } catch (error) {
        refusals.push({ host, error: error as Error });
        if (!isAboutTls(error as Error)) return undefined;
      }
    }
  }
}

/** Returns the rounds: `prefer-…` tries all hosts a second time, for any server. */
function wishes(wanted: Wanted): Wanted[] {
  if (wanted === "prefer-standby") return ["standby", "any"];
  if (wanted === "prefer-primary") return ["primary", "any"];
  return [wanted];
}

function isSuited({ isStandby, isReadOnly }: Role, wish: Wanted): boolean {
  if (wish === "read-write") return !isStandby && !isReadOnly;
  if (wish === "read-only") return isStandby || isReadOnly;
  if (wish === "primary") return !isStandby;
  return wish !== "standby" || isStandby;
}

function unsuited({ isStandby, isReadOnly }: Role, wish: Wanted): Error {
  const role = isStandby ? "a standby" : isReadOnly ? "read-only" : "a primary";
  const needed = wish === "primary" || wish === "standby" ? `a ${wish}` : wish;
  return coded("UNSUITABLE", `is ${role}, and this requires ${needed}`);
}

/** Returns the ways to connect to a host: `prefer` and `allow` have two. */
function waysTo(host: Host, address: DatabaseAddress): Way[] {
  const tls = tlsOptions(address, host.host);
  const plain: Way = { ...host, tls: false };
  if (!tls) return [plain];
  if (address.sslmode === "prefer") return [{ ...host, tls }, plain];
  if (address.sslmode === "allow") return [plain, { ...host, tls }];
  return [{ ...host, tls }];
}

/** True for an error of TLS, or when the server refuses to connect with or without it. */
function isAboutTls(error: Refusal["error"]): boolean {
  return "isTls" in error || error.code === "28000";
}

/** True when the next host is tried: always, unless it would answer the same. */
function leadsOn(error: Refusal["error"]): boolean {
  if ("isTls" in error) return false;
  const isAnswer = /^(?=.*\d)[0-9A-Z]{5}$/.test(error.code ?? "");
  return !isAnswer || error.code === "57P03"; // cannot_connect_now
}

async function logIn<Session extends { role: Role }>(
  way: Way,
  address: DatabaseAddress,
  driver: Driver<Session>,
): Promise<Session> {
  return await inTime(address, async (keep) =>
    driver.logIn(await dialHost(way, address, keep), way),
  );
}

/**
 * Connects a socket to one host, and encrypts it if `way` has TLS.
 *
 * @throws like `openSession`.
 */
export async function openSocket(
  way: Way,
  address: DatabaseAddress,
): Promise<Socket> {
  return await inTime(address, (keep) => dialHost(way, address, keep));
}

/**
 * Runs `work` within the time limit of a host. Ends earlier when the host closes
 * the connection: a driver that gets a closed socket is not told of that.
 *
 * @param work passes on the sockets that it opens: they are destroyed when it
 * fails or is late.
 */
async function inTime<T>(
  address: DatabaseAddress,
  work: (keep: (socket: Socket) => void) => Promise<T>,
): Promise<T> {
  const opened: Socket[] = [];
  let isSettled = false;
  const late = Promise.withResolvers<never>();
  const close = () =>
    late.reject(coded("CONNECTION_CLOSED", "it closed the connection"));
  const keep = (socket: Socket) => {
    opened.push(socket);
    // If the driver reports an error in time, that one is thrown.
    socket.once("close", () => {
      if (!isSettled) setTimeout(close, REASON_MS);
    });
  };
  const timer = setTimeout(
    () => late.reject(coded("CONNECT_TIMEOUT", "it did not answer")),
    connectSeconds(address) * 1000,
  );
  try {
    return await Promise.race([work(keep), late.promise]);
  } catch (error) {
    for (const socket of opened) socket.destroy();
    throw error;
  } finally {
    isSettled = true;
    clearTimeout(timer);
  }
}

async function dialHost(
  way: Way,
  address: DatabaseAddress,
  keep: (socket: Socket) => void,
): Promise<Socket> {
  const { host, port, tls } = way;
  const socket = host.startsWith("/")
    ? dial(`${host}/.s.PGSQL.${port}`)
    : dial(port, host);
  keep(socket);
  await until(socket, "connect");
  const { keepalives, keepalives_idle, sslnegotiation } =
    address.settings ?? {};
  socket.setNoDelay(true);
  socket.setKeepAlive(
    keepalives !== "0",
    1000 * Number(keepalives_idle || KEEPALIVE_SECONDS),
  );
  if (!tls) return socket;

  if (sslnegotiation !== "direct" && !(await askForTls(socket))) {
    if (address.sslmode === "prefer") {
      way.tls = false; // the connection is not encrypted
      return socket;
    }
    throw Object.assign(coded("NO_TLS", "it has no TLS"), { isTls: true });
  }
  const encrypted = startTls({ socket, ...tls });
  keep(encrypted);
  try {
    await until(encrypted, "secureConnect");
  } catch (error) {
    throw Object.assign(error as Error, { isTls: true });
  }
  return encrypted;
}

/**
 * Asks the server for TLS; false when it has none.
 * https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL
 */
async function askForTls(socket: Socket): Promise<boolean> {
  const request = Buffer.alloc(8);
  request.writeInt32BE(8);
  request.writeInt32BE(80877103, 4);
  socket.write(request);
  const answer = String(await until(socket, "data"));
  // More than one byte may come from an attacker in between (CVE-2021-23222).
  if (answer === "S" || answer === "N") return answer === "S";
  throw coded("NOT_POSTGRES", "it does not answer as PostgreSQL");
}

/** Waits for an event of a socket. @throws its error, or when it is closed. */
async function until(socket: Socket, event: string): Promise<unknown> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const closed = () =>
    reject(coded("CONNECTION_CLOSED", "it closed the connection"));
  socket.once(event, resolve).once("close", closed).on("error", reject);
  try {
    return await promise;
  } finally {
    // The listener for errors stays: an error without a listener ends the process.
    socket.off(event, resolve).off("close", closed);
  }
}

function coded(code: string, message: string): Error {
  return Object.assign(new Error(message), { code });
}
