// Says why a connection failed, and how to fix it.
import { type DatabaseAddress, isLocal } from "../../src/database-url";
import { failure } from "./report";

/** How long a command waits for a server to answer. */
export const CONNECT_SECONDS = 4;

/**
 * `silent`: nothing listens. `starting`: PostgreSQL, on its way up or down.
 * `no-database`: PostgreSQL without that database. `denied`: PostgreSQL that
 * does not let this user in. `foreign`: not PostgreSQL. `failed`: the rest.
 */
export type Obstacle =
  "silent" | "starting" | "no-database" | "denied" | "foreign" | "failed";

/** Reads what stands in the way from the error of a connection. */
export function readObstacle({ code }: Error & { code?: string }): Obstacle {
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
