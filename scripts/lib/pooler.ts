// Tells whether a transaction pooler stands between a command and the server.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { connect } from "./connection";
import {
  CONNECT_SECONDS,
  explainConnectionError,
  nameServer,
} from "./explain-connection";
import { refusal } from "./report";

const DIRECT =
  "set `DATABASE_URL_UNPOOLED` to a direct connection to the server";

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
