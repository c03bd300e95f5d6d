// Tells whether a server is this clone's. On a port of this machine another
// clone's server may answer. db:start records the server that it started; here a
// connection is compared with that record.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { root } from "../../src/env";
import { nameServer } from "./explain-connection";
import { refusal } from "./report";

/** The record that db:start writes of the server that this clone started. */
export interface OwnServer {
  /** The clone's folder: a copy of the clone copies the record as well. */
  folder: string;
  port: number;
  /** The result of `readIdentity`. */
  identity: string;
}

/** Returns the path of the record in DB_DATA_DIR. */
export const ownServerFile = (dataDir: string) => join(dataDir, "server.json");

/** Reads the record; undefined when this clone has started no server. */
export function readOwnServer(dataDir: string): OwnServer | undefined {
  try {
    return JSON.parse(readFileSync(ownServerFile(dataDir), "utf8"));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

/**
 * True when the server at an address has to be checked: the address is the default
 * one, or this clone's own server had that port.
 */
export function isGuarded({ guard, port }: DatabaseAddress): boolean {
  if (!guard) return false;
  return !guard.isChosen || readOwnServer(guard.dataDir)?.port === port;
}

/**
 * Reads what identifies a server: the cluster's system identifier, followed by
 * its cluster name. A copied cluster keeps the identifier; the embedded server
 * has a cluster name made from its folder.
 */
export async function readIdentity(sql: Sql): Promise<string> {
  const [row] = await sql<{ identity: string }[]>`
    select system_identifier || current_setting('cluster_name') as identity
    from pg_control_system()`;
  return row?.identity ?? "";
}

/** True when the record is of the server with this identity. */
export function isOwnServer(
  { guard, port }: DatabaseAddress,
  identity: string,
): boolean {
  const own = guard && readOwnServer(guard.dataDir);
  if (own?.folder !== root) return false;
  return own.port === port && own.identity === identity;
}

/**
 * True when a server that is not this clone's has the cluster name of an embedded
 * one, and a port alone leads to it: who names it with a URL means it.
 */
export function isAnotherClones(
  { guard }: DatabaseAddress,
  identity: string,
): boolean {
  return guard?.isUrl === false && /clone-[0-9a-f]{12}$/.test(identity);
}

/** True when the server is this clone's, or nothing says that it is another's. */
export function mayUse(address: DatabaseAddress, identity: string): boolean {
  if (!address.guard || isOwnServer(address, identity)) return true;
  return !isGuarded(address) && !isAnotherClones(address, identity);
}

/**
 * Compares the server that `sql` is connected to with the record.
 *
 * @throws with exit code 2 when the server may be another clone's.
 */
export async function requireOwnServer(
  sql: Sql,
  address: DatabaseAddress,
): Promise<void> {
  if (!address.guard || mayUse(address, await readIdentity(sql))) return;
  throw refuseServer(address);
}

function refuseServer(address: DatabaseAddress): Error {
  const isChosen = address.guard?.isChosen;
  return refusal(
    `this clone did not start the server on ${nameServer(address)}: it may be another clone's`,
    {
      code: "OTHER_SERVER",
      hint: isChosen
        ? "run `bun run db:start`, which checks again; or set another `POSTGRES_PORT` in `.env.local`; or, if you mean that server, set `DB_ENGINE=external`"
        : "run `bun run db:setup`, which gives this clone its own server; or, if you mean that server, name it with `DATABASE_URL`",
    },
  );
}
