// Connects a script to the database. Where postgres.js would try again for
// ever, a script's connection gives up: after a deadline while connecting, and
// at once when an established connection is lost.
import { connect as dial, type Socket } from "node:net";
import postgres, { type Sql } from "postgres";
import { connectionOptions } from "../../src/database-tls";
import type { DatabaseAddress } from "../../src/database-url";
import { CONNECT_SECONDS, explainConnectionError } from "./explain-connection";

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

/** A connection that `await using` closes, and what is sent is answered first. */
export type Connection = Sql & AsyncDisposable;

/**
 * Connects and waits for the server's first answer.
 *
 * @throws what is wrong with the server or the address, and its mend.
 */
export async function openConnection(
  address: DatabaseAddress,
  name: string,
): Promise<Connection> {
  for (let attempt = 1; ; attempt += 1) {
    const sql = connect(address, name);
    try {
      await sql`select 1`;
      const close = () => sql.end({ timeout: 5 });
      return Object.assign(sql, { [Symbol.asyncDispose]: close });
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
