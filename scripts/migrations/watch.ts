// Watches what a session is doing and which sessions block it, from a second
// connection, which is opened only when something takes long. Ends the session when
// a signal ends the command.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { connect } from "../lib/connection";
import { onInterrupt } from "../lib/interrupt";
import { advise, note, showProgress } from "../lib/report";
import { readPlan, stateOf } from "./plan";

const POLL_MS = 500;
const NOTE_MS = 5000;
const STOP_MS = 1000;
const END_MS = 5000;

/** A running watch; `await using` ends it. */
export interface Watch extends AsyncDisposable {
  /** Returns who blocked the session at the last look. */
  nameBlockers(): string | undefined;
  /** Sets the beginning of the line on the terminal. */
  setTitle(title: string): void;
}

interface Look {
  /** Such as `pid 123, psql, 127.0.0.1`, with others after a semicolon. */
  blockers: string | null;
  /** How long the statement has been running, in seconds. */
  waited: number;
  index: string | null;
  phase: string | null;
  /** How much of the table is read, 0 to 100. */
  percent: number | null;
}

/**
 * Watches the session of `sql` after a quarter of a second. On a terminal it shows
 * what the session is doing; elsewhere it prints who blocks it.
 */
export async function watchSession(
  sql: Sql,
  address: DatabaseAddress,
): Promise<Watch> {
  const [session] = await sql.unsafe<{ pid: number }[]>(
    "select pg_backend_pid() as pid",
  );
  const stopped = Promise.withResolvers<void>();
  let isStopped = false;
  let title = "";
  let blockers: string | undefined;
  let noted = { blockers: "", at: 0 };
  let second: Sql | undefined;
  const forget = onInterrupt(() =>
    endSession(address, session?.pid ?? 0, title),
  );

  const watching = (async () => {
    await sleep(POLL_MS / 2, stopped.promise);
    if (isStopped) return;
    const watcher = connect(address, "db:watch");
    second = watcher;
    try {
      while (!isStopped) {
        const look = await lookAt(watcher, session?.pid ?? 0);
        if (isStopped) break;
        blockers = look?.blockers ?? undefined;
        const news = look && describeLook(look);
        const isShown = showProgress(news ? `${title}: ${news}` : title);
        if (
          !isShown &&
          blockers &&
          (blockers !== noted.blockers || Date.now() - noted.at > NOTE_MS)
        ) {
          noted = { blockers, at: Date.now() };
          note(`Waiting: ${title} for ${blockers}`);
        }
        await sleep(POLL_MS, stopped.promise);
      }
    } catch {
      // Watching must not fail a command; the watched session reports its errors.
    } finally {
      showProgress("");
    }
  })();
  return {
    nameBlockers: () => blockers,
    setTitle: (text) => {
      title = text;
    },
    [Symbol.asyncDispose]: async () => {
      forget();
      isStopped = true;
      stopped.resolve();
      // Do not wait for a look that gets no answer.
      await sleep(STOP_MS, watching);
      await second?.end({ timeout: 0 });
    },
  };
}

/**
 * Ends a session, and says in what state its migration is then: without its client,
 * the server would go on with what it was sent.
 */
async function endSession(
  address: DatabaseAddress,
  pid: number,
  tag: string,
): Promise<void> {
  advise("`bun run db:migrate:status` shows what is applied");
  const sql = connect(address, "db:watch");
  try {
    const [row] = await sql<{ isEnded: boolean }[]>`
      select pg_terminate_backend(${pid}, ${END_MS}) as "isEnded"`;
    if (!row?.isEnded) return;
    const plan = await readPlan(sql);
    const migration = plan.migrations.find((one) => one.tag === tag);
    note(
      migration
        ? `Left: ${tag} is ${stateOf(plan, migration)}`
        : "Left: no migration was started",
    );
  } catch {
    // The server cannot be asked, and the hint says where to look.
  } finally {
    await sql.end({ timeout: 0 });
  }
}

/** Waits, or ends early with `until`. It clears its timer, or the process would
 * wait for it. */
async function sleep(ms: number, until: Promise<void>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const over = new Promise((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([over, until]);
  clearTimeout(timer);
}

async function lookAt(sql: Sql, pid: number): Promise<Look | undefined> {
  const [look] = await sql.unsafe<Look[]>(`
    select (
        select string_agg(concat_ws(', ', 'pid ' || pid,
          nullif(application_name, ''), coalesce(host(client_addr), 'local')), '; ' order by pid)
        from pg_stat_activity
        where pid = any(pg_blocking_pids(${pid})) and pid <> pg_backend_pid()
      ) as blockers,
      extract(epoch from clock_timestamp() - query_start)::int as waited,
      coalesce(nullif(index_relid, 0)::regclass::text, 'an index') as index,
      phase, (100 * blocks_done / nullif(blocks_total, 0))::int as percent
    from pg_stat_activity as session
      left join pg_stat_progress_create_index using (pid)
    where session.pid = ${pid}`);
  return look;
}

/** Returns `building users_email_idx, 41 %` or `waiting for pid 123, psql, 12 s`. */
function describeLook({
  blockers,
  waited,
  index,
  phase,
  percent,
}: Look): string {
  if (blockers) return `waiting for ${blockers}, ${waited} s`;
  if (!phase) return `${waited} s`;
  return [`building ${index}`, percent === null ? phase : `${percent} %`].join(
    ", ",
  );
}
