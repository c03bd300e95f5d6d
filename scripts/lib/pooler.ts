// Detects a transaction pooler between a command and the server.
import type { Sql } from "postgres";
import { connectSeconds, type DatabaseAddress } from "../../src/database-url";
import { connect, reachedAddress } from "./connection";
import { explainConnectionError, nameServer } from "./explain-connection";
import { refusal } from "./report";

const DIRECT =
  "set `DATABASE_URL_UNPOOLED` to a direct connection to the server";

/**
 * True when the connection goes through a transaction pooler. A server's cancel
 * key has the process id of the session; a pooler makes its own keys. Where they
 * differ, a pooler is proven when a transaction on a second connection runs in
 * the server process of the first, or when the first one's next statement runs in
 * a process that does not hold its lock.
 *
 * @throws with exit code 2 when no second connection can be opened.
 */
export async function isPooled(
  sql: Sql,
  address: DatabaseAddress,
): Promise<boolean> {
  const key = await sql<{ pid: number }[]>`select pg_backend_pid() as pid`;
  if (key.state.pid === key[0]?.pid) return false;

  const seconds = connectSeconds(address);
  const second = connect(address, "db:probe");
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    void second.end({ timeout: 0 });
  }, seconds * 1000);
  const lockId = Math.floor(Math.random() * 2 ** 31);
  try {
    const [first] = await sql.unsafe<{ pid: number }[]>(
      `select pg_backend_pid() as pid, pg_advisory_lock(${lockId})`,
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
        where pid = pg_backend_pid() and locktype = 'advisory' and objid = ${lockId}
      ) as held, pg_advisory_unlock(${lockId})`);
    return isShared || !lock?.held;
  } catch (error) {
    const { code } = error as { code?: string };
    if (!isLate && code !== "CONNECT_TIMEOUT")
      throw explainConnectionError(error as Error, address);
    throw refusal(
      `${nameServer(reachedAddress(address))} did not open a second connection within ${seconds} seconds`,
      { code: "POOLED", hint: DIRECT },
    );
  } finally {
    clearTimeout(timer);
    await second.end({ timeout: 0 });
  }
}

/**
 * Requires a direct connection: the migration lock belongs to a session.
 *
 * @throws with exit code 2 behind a transaction pooler.
 */
export async function requireDirect(
  sql: Sql,
  address: DatabaseAddress,
): Promise<void> {
  if (!(await isPooled(sql, address))) return;
  throw refusal(
    `${nameServer(reachedAddress(address))} is a transaction pooler, where no session can hold a lock`,
    {
      code: "POOLED",
      hint: DIRECT,
    },
  );
}
