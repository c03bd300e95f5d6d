// Is a server the one that takes writes, and how far behind is it if not?
import type { Sql } from "postgres";

/** A server's part in a cluster. */
export interface Replication {
  role: "primary" | "standby";
  /** Seconds; null for a primary, and where nothing tells. */
  lagSeconds: number | null;
}

/**
 * Reads the part of the server that `sql` is connected to. A standby that has
 * replayed all that it was sent is not behind, however long ago that was; one
 * that is sent nothing is behind since the last transaction that it replayed.
 * https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-RECOVERY-CONTROL
 */
export async function readReplication(sql: Sql): Promise<Replication> {
  const [row] = await sql<{ isStandby: boolean; lag: number | null }[]>`
    select pg_is_in_recovery() as "isStandby",
      case
        when not pg_is_in_recovery() then null
        when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()
          and exists (select from pg_stat_get_wal_receiver() where pid is not null)
        then 0
        else extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())
      end::float8 as lag`;
  const lagSeconds = row?.lag == null ? null : Math.round(row.lag * 10) / 10;
  return { role: row?.isStandby ? "standby" : "primary", lagSeconds };
}

/** `primary`, `standby, 3 s behind`. */
export function nameReplication({ role, lagSeconds }: Replication): string {
  if (role === "primary") return role;
  return `standby, ${lagSeconds === null ? "of unknown lag" : `${lagSeconds} s behind`}`;
}
