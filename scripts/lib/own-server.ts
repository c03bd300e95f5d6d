// Whose server is it? A port of this machine may answer with another clone's
// server. db:start records the one that it has started; here it is compared.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { root } from "../../src/env";
import { nameServer } from "./explain-connection";
import { refusal } from "./report";

/** The server that this clone has started, as db:start has recorded it. */
export interface OwnServer {
  /** The clone's folder: a copy of the clone copies the record as well. */
  folder: string;
  port: number;
  /** As `readIdentity` reads it. */
  identity: string;
}

/** The file of the record, in the folder of DB_DATA_DIR. */
export const ownServerFile = (dataDir: string) => join(dataDir, "server.json");

/** Reads the record; undefined in a clone that has started no server. */
export function readOwnServer(dataDir: string): OwnServer | undefined {
  try {
    return JSON.parse(readFileSync(ownServerFile(dataDir), "utf8"));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

/**
 * True where the address alone does not tell whose server answers there: nobody
 * has chosen it, or this clone's own server had that port.
 */
export function isGuarded({ guard, port }: DatabaseAddress): boolean {
  if (!guard) return false;
  return !guard.isChosen || readOwnServer(guard.dataDir)?.port === port;
}

/**
 * Reads what tells a server from others: the cluster's identifier, and the name
 * that the embedded server has from its folder, since a copied cluster keeps
 * the identifier.
 */
export async function readIdentity(sql: Sql): Promise<string> {
  const [row] = await sql<{ identity: string }[]>`
    select system_identifier || current_setting('cluster_name') as identity
    from pg_control_system()`;
  return row?.identity ?? "";
}

/** True where the record is of the server with this identity. */
export function isOwnServer(
  { guard, port }: DatabaseAddress,
  identity: string,
): boolean {
  const own = guard && readOwnServer(guard.dataDir);
  if (own?.folder !== root) return false;
  return own.port === port && own.identity === identity;
}

/**
 * Compares the server that `sql` is connected to with the record; closes the
 * connection where they differ.
 *
 * @throws with exit code 2 where it may be another clone's.
 */
export async function requireOwnServer(
  sql: Sql,
  address: DatabaseAddress,
): Promise<void> {
  if (!isGuarded(address)) return;
  if (isOwnServer(address, await readIdentity(sql))) return;
  await sql.end({ timeout: 5 });
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
        : "run `bun run db:setup`, which gives this clone a server of its own; or, if you mean that server, name it with `DATABASE_URL`",
    },
  );
}
