// Tells whether a server is a primary or a standby, and how far a standby is behind.
import type { Sql } from "postgres";

/** The role of a server in replication. */
export interface Replication {
  role: "primary" | "standby";
  /** Seconds; null for a primary, and when unknown. */
  lagSeconds: number | null;
}

/**
 * Reads the role of the server that `sql` is connected to. A standby that is
 * connected and has replayed all that it received has a lag of 0; any other is
 * behind by the age of the last transaction that it replayed.
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

/** Returns `primary` or `standby, 3 s behind`. */
export function nameReplication({ role, lagSeconds }: Replication): string {
  if (role === "primary") return role;
  return `standby, ${lagSeconds === null ? "lag unknown" : `${lagSeconds} s behind`}`;
}
