// Says why a connection failed, and how to fix it.
import type { Refusal } from "../../src/database-socket";
import {
  connectSeconds,
  type DatabaseAddress,
  type Host,
  hostsOf,
  isLocal,
} from "../../src/database-url";
import { readEnv } from "../../src/env";
import { failure } from "./report";

type ConnectionError = Refusal["error"] & {
  exitCode?: number;
  refusals?: Refusal[];
};

/**
 * Why a connection failed. `silent`: nothing listens. `slow`: no answer in time.
 * `starting`: PostgreSQL is starting up or shutting down. `no-database`: the
 * database does not exist. `denied`: PostgreSQL refuses this user. `foreign`: the
 * server is not PostgreSQL. `failed`: anything else.
 */
export type Obstacle =
  | "silent"
  | "slow"
  | "starting"
  | "no-database"
  | "denied"
  | "foreign"
  | "failed";

/** Classifies the error of a connection. */
export function readObstacle(error: ConnectionError): Obstacle {
  if ("isTls" in error) return "failed";
  switch (error.code) {
    case "ECONNREFUSED":
    case "ENOENT": // the Unix socket does not exist
      return "silent";
    case "CONNECT_TIMEOUT":
    case "ETIMEDOUT":
      return "slow";
    case "57P01": // admin_shutdown
    case "57P03": // cannot_connect_now
      return "starting";
    case "3D000": // invalid_catalog_name
      return "no-database";
    case "28P01": // invalid_password
    case "28000": // invalid_authorization_specification
      return "denied";
    case "CONNECTION_CLOSED":
    case "NOT_POSTGRES":
    case "ECONNRESET":
    case "EPIPE":
      return "foreign";
    default:
      return "failed";
  }
}

/** Returns `localhost:5432` or the path of a Unix socket; several, with commas. */
export function nameServer(address: DatabaseAddress): string {
  return hostsOf(address).map(nameHost).join(",");
}

function nameHost({ host, port }: Host): string {
  if (host.startsWith("/")) return `${host}/.s.PGSQL.${port}`;
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/**
 * Returns an error that says why connecting failed, and how to fix it. Where
 * several hosts, or several ways to connect to one, were tried, it says why each
 * failed.
 */
export function explainConnectionError(
  error: ConnectionError,
  address: DatabaseAddress,
): Error {
  // Already explained; or an established connection was lost, so the address is
  // right.
  if (error.exitCode !== undefined || error.code === "CONNECTION_ENDED")
    return error;
  const { refusals = [] } = error;
  const reasons = refusals.map(({ host, error }) =>
    explainRefusal(error, { ...address, ...host, otherHosts: [] }),
  );
  const last = reasons.at(-1) ?? explainRefusal(error, address);
  const messages = new Set(reasons.map(({ message }) => message));
  if (messages.size > 1) last.message = [...messages].join("; ");
  return last;
}

function explainRefusal(
  error: ConnectionError,
  address: DatabaseAddress,
): Error {
  const server = nameServer(address);
  const { database, user, sslmode, variable } = address;
  const explain = (message: string, hint?: string) =>
    failure(message, {
      code: "UNREACHABLE",
      hint,
      details: { sqlstate: sqlstate(error) },
    });

  const elsewhere = `check host and port in \`${variable}\``;
  switch (readObstacle(error)) {
    case "silent":
      return explain(
        `nothing listens on ${server}`,
        isOurs(address)
          ? "start it with `bun run db:start`"
          : `start that server, or ${elsewhere}`,
      );
    case "slow":
      return explain(
        `${server} did not answer within ${connectSeconds(address)} seconds`,
        `check that it runs, and check host and port in \`${variable}\`; to wait longer, add \`connect_timeout=30\` to the URL`,
      );
    case "starting":
      return explain(
        `the server on ${server} is starting up or shutting down`,
        "try again in a moment; `bun run db:logs` shows what it is doing",
      );
    case "no-database":
      return explain(
        `there is no database "${database}" on ${server}`,
        isLocal(address)
          ? "create it with `bun run db:start`"
          : `create it, or fix its name in \`${variable}\``,
      );
    case "denied":
      return explain(
        error.code === "28P01"
          ? `the server on ${server} does not accept this password for user "${user}"`
          : `the server on ${server} refuses: ${error.message}`,
        `fix user and password in \`${variable}\``,
      );
    case "foreign":
      if (address.settings?.sslcert)
        return explain(
          `${server} closed the connection: it may not trust the certificate of sslcert`,
          `check \`sslcert\` in \`${variable}\``,
        );
      return explain(
        `${server} closed the connection without answering as PostgreSQL`,
        elsewhere,
      );
    case "failed":
      break;
  }
  switch (error.code) {
    case "UNSUITABLE":
      return explain(
        `${server} ${error.message}`,
        `name a server that suits in \`${variable}\`, or several: \`…@one:5432,two:5432/${database}\``,
      );
    case "NO_TLS":
      return explain(
        `${server} has no TLS, which sslmode=${sslmode} requires`,
        `set \`sslmode=disable\` in \`${variable}\` if the network in between is safe`,
      );
    case "53300": // too_many_connections, of the server, a database or a role
      return explain(
        `the server on ${server} takes no more connections: ${error.message}`,
        error.message.includes("for role")
          ? `try again when its other sessions have ended, or raise its limit: \`ALTER ROLE "${user}" CONNECTION LIMIT 5\``
          : "try again when other sessions have ended; `bun run db:status` counts them",
      );
    case "08P01": // protocol_violation: how pgbouncer refuses
      if (!/unsupported startup parameter/.test(error.message)) break;
      return explain(
        `the pooler on ${server} refuses: ${error.message}`,
        `leave \`options\` out of \`${variable}\` and set it for the role: \`alter role … set …\``,
      );
    case "58P01": // undefined_file
      return explain(
        `the files of the server on ${server} were moved or deleted: ${error.message}`,
        isOurs(address)
          ? "run `bun run db:stop`, then `bun run db:start`; a server without its files ends by itself after about a minute"
          : "look into that server's data directory",
      );
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return explain(
        `the host name ${address.host} cannot be resolved`,
        elsewhere,
      );
  }
  if (/CERT|SIGNATURE/.test(error.code ?? ""))
    return explain(
      `the certificate of ${server} is not trusted: ${error.message}`,
      `name its authorities with \`sslrootcert\` in \`${variable}\``,
    );
  if ("isTls" in error)
    return explain(
      `TLS with ${server} failed: ${error.message.trim()}`,
      `check the TLS parameters in \`${variable}\``,
    );
  // With a SQLSTATE the server itself has answered: host and port are right.
  return explain(
    `cannot connect to ${server}: ${error.message}`,
    sqlstate(error) ? undefined : elsewhere,
  );
}

/** True when `db:start` starts the server of this address. */
function isOurs(address: DatabaseAddress): boolean {
  const { engine, database } = readEnv();
  if (!isLocal(address) || address.host.startsWith("/")) return false;
  return engine !== "external" && address.port === database.port;
}

function sqlstate({ code }: { code?: string }): string | undefined {
  return code && /^(?=.*\d)[0-9A-Z]{5}$/.test(code) ? code : undefined;
}
