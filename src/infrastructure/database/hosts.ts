// Which server of an address to connect to, and how: its hosts in turn, as
// libpq does. https://www.postgresql.org/docs/current/libpq-connect.html
import pg, { type ClientConfig } from "pg";
import { tlsOptions } from "../../database-tls";
import { type DatabaseAddress, hostsOf } from "../../database-url";
import type { Connection } from "./connection";
import { codeOf, databaseError } from "./errors";
import { makeTypes } from "./values";

/** A host, and one way to connect to it. */
export type Attempt = Pick<ClientConfig, "host" | "port" | "ssl">;

/** What is asked of a server, as `target_session_attrs` names it. */
export type Role = NonNullable<
  NonNullable<DatabaseAddress["settings"]>["target_session_attrs"]
>;

/**
 * Returns the ways to connect, the first first: `prefer` and `allow` leave two
 * for each host.
 *
 * @throws like `readEnv` where a file of certificates cannot be read.
 */
export function listAttempts(
  address: DatabaseAddress,
): [Attempt, ...Attempt[]] {
  const hosts = hostsOf(address);
  if (address.settings?.load_balance_hosts === "random")
    hosts.sort(() => Math.random() - 0.5);
  const [first, ...others] = hosts.flatMap(({ host, port }) => {
    const tls = tlsOptions(address, host);
    const ways =
      tls && address.sslmode === "prefer"
        ? [tls, false]
        : tls && address.sslmode === "allow"
          ? [false, tls]
          : [tls];
    return ways.map((ssl) => ({ host, port, ssl }));
  });
  if (!first) throw new Error(`${address.variable} names no host`);
  return [first, ...others];
}

/** Returns the attempt after one that failed; undefined where none can succeed. */
export function nextAttempt(
  attempts: Attempt[],
  failed: Attempt,
  error: unknown,
): Attempt | undefined {
  const after = (steps: number) =>
    attempts[(attempts.indexOf(failed) + steps) % attempts.length];
  const next = after(1);
  const isOtherWay = next?.host === failed.host && next?.port === failed.port;
  // A server that refuses the login refuses it everywhere; pg_hba.conf may
  // refuse one way only.
  if (isRefusal(error))
    return codeOf(error) === "28000" && isOtherWay ? next : undefined;
  return isOtherWay && isTimeout(error) ? after(2) : next;
}

/** True where the server answered, and will answer the same the next time. */
function isRefusal(error: unknown): boolean {
  return (
    error instanceof pg.DatabaseError && !/^(57P|53|08)/.test(error.code ?? "")
  );
}

function isTimeout(error: unknown): boolean {
  return error instanceof Error && error.message === "timeout expired";
}

/**
 * Returns the role that a server has to have; undefined where any will do.
 *
 * @param ofSeveral what holds where several hosts are named and no role is.
 */
export function wantedRole(
  address: DatabaseAddress,
  ofSeveral: Role,
): Role | undefined {
  const standard = hostsOf(address).length > 1 ? ofSeveral : "any";
  const wanted = address.settings?.target_session_attrs ?? standard;
  return wanted === "any" ? undefined : wanted;
}

/** @throws where the server has another role than the one that is wanted. */
export async function requireRole(
  connection: Connection,
  wanted: Role,
  limitMs: number,
): Promise<void> {
  const { rows } = await connection.ask(
    {
      text: "select pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'",
      rowMode: "array",
    },
    [],
    makeTypes([]),
    limitMs,
  );
  const [isStandby, isReadOnly] = rows[0] ?? [];
  const isRight = {
    any: true,
    "read-write": !isReadOnly,
    "read-only": isReadOnly,
    primary: !isStandby,
    standby: isStandby,
    "prefer-standby": isStandby,
  }[wanted];
  if (!isRight) throw new Error(`it is not ${wanted}`);
}

/** Returns why no connection could be opened, in the client's own words. */
export function explainRefusal(
  error: unknown,
  { host, port }: Attempt,
  connectMs: number,
): unknown {
  const { message } = error instanceof Error ? error : new Error(String(error));
  const parameter = /unsupported startup parameter(?: in options)?: (\w+)/.exec(
    message,
  );
  if (parameter)
    return databaseError(
      "CANNOT_CONNECT",
      `${host}:${port} is a pooler, which refuses the startup parameter ${parameter[1]}`,
      error,
      parameter[1] === "options"
        ? "leave `options` out of the URL: a pooler cannot keep it apart for each client"
        : "set `DATABASE_URL_UNPOOLED` to the server itself, or `DATABASE_PREPARE=false`",
    );
  if (isRefusal(error)) return error;
  const reason = isTimeout(error)
    ? `it did not answer within ${connectMs / 1000} s`
    : message;
  return databaseError(
    "CANNOT_CONNECT",
    `cannot connect to ${host}:${port}: ${reason}`,
    error,
  );
}
