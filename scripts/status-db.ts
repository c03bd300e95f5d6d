// bun run db:status: which server is this, and in what state are it and its
// migrations? Reads only. Exits 1 when the server cannot be reached.
import type { Sql } from "postgres";
import { readEnv } from "../src/env";
import { formatBytes, listBackups } from "./backups/folder";
import { openConnection, reachedAddress } from "./lib/connection";
import { nameServer } from "./lib/explain-connection";
import { nameHolder, readLockHolder } from "./lib/lock";
import { jsonFlag, readOptions } from "./lib/options";
import { readIdentity } from "./lib/own-server";
import { isPooled } from "./lib/pooler";
import { isStamped } from "./lib/protection";
import { nameReplication, readReplication } from "./lib/replication";
import {
  advise,
  type FailureFields,
  note,
  print,
  printJson,
} from "./lib/report";
import { readPlan } from "./migrations/plan";
import { chooseEngine, findEngine, isEngineRunning } from "./server/server";

const usage = `bun run db:status [--json]

Shows the server, the database and its migrations on one screen.`;

readOptions(usage, {
  ...jsonFlag,
});

const env = readEnv();
const address = env.direct;
// Without the guard: this command also describes another clone's server.
await using sql = await openConnection(
  { ...address, guard: undefined },
  "db:status",
  "any",
).catch(reportUnreachable);
const { host, port } = reachedAddress(address);
const server = await readServer(sql);
const engine = await findEngine(
  env,
  reachedAddress(address),
  await readIdentity(sql),
);
const replication = await readReplication(sql);
const pooled = await isPooled(sql, address);
const environment = (await isStamped(sql)) ? "production" : null;
const migrations = await countMigrations(sql);
const lockHolder = await readLockHolder(sql);
const lastBackup = findLastBackup(server.systemIdentifier);

const { serverVersion, tls, sizeBytes, connections } = server;
printRows({
  Engine: engine,
  Server: `PostgreSQL ${serverVersion} on ${nameServer(reachedAddress(address))}`,
  Role: nameReplication(replication),
  Database: `${address.database}, ${formatBytes(sizeBytes)}`,
  User: address.user,
  TLS: nameTls(tls),
  Pooler: pooled ? "a transaction pooler" : "none seen",
  Connections: `${connections.used} of ${connections.max}`,
  Stamp: environment ?? "none",
  Migrations: nameMigrations(migrations),
  Lock: lockHolder ? nameHolder(lockHolder) : "free",
  Backup: lastBackup ? `${lastBackup.file}, ${lastBackup.at}` : "none",
});
if (migrations.problems > 0)
  advise("`bun run db:migrate:status` names the problems");
if (pooled && address.parameters.options)
  note(
    `Warning: a transaction pooler does not keep the options in ${address.variable}: set them for the role, with \`alter role … set …\``,
  );
printJson({
  engine,
  running: true,
  reachable: true,
  host,
  port,
  ...replication,
  database: address.database,
  user: address.user,
  serverVersion,
  tls,
  pooled,
  environment,
  sizeBytes,
  connections,
  migrations,
  lockHolder,
  lastBackup,
});

async function reportUnreachable(error: Error): Promise<never> {
  // A server that refuses is there, and may be another than this clone's.
  const { details } = error as FailureFields & {
    details?: { sqlstate?: string };
  };
  const refuses = details?.sqlstate !== undefined;
  const engine = await (refuses ? findEngine(env) : chooseEngine(env));
  const running = refuses || (await isEngineRunning(env, engine));
  const { host, port, database, user } = address;
  printRows({
    Engine: `${engine}, ${running ? "running" : "not running"}`,
    Server: `none reached on ${nameServer(address)}`,
    Database: database,
    User: user,
  });
  throw Object.assign(error, {
    document: {
      engine,
      running,
      reachable: false,
      host,
      port,
      database,
      user,
      role: null,
      lagSeconds: null,
      serverVersion: null,
      tls: null,
      pooled: null,
      environment: null,
      sizeBytes: null,
      connections: null,
      migrations: null,
      lockHolder: null,
      lastBackup: findLastBackup(),
    },
  });
}

async function readServer(sql: Sql) {
  const [row] = await sql<
    {
      serverVersion: string;
      tls: boolean;
      sizeBytes: string;
      used: number;
      max: number;
      systemIdentifier: string;
    }[]
  >`
    select split_part(current_setting('server_version'), ' ', 1) as "serverVersion",
      coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) as tls,
      pg_database_size(current_database()) as "sizeBytes",
      (select count(*) from pg_stat_activity where backend_type = 'client backend')::int as used,
      current_setting('max_connections')::int as max,
      (select system_identifier::text from pg_control_system()) as "systemIdentifier"`;
  if (!row) throw new Error("the server answered nothing");
  const { serverVersion, tls, sizeBytes, used, max, systemIdentifier } = row;
  return {
    serverVersion,
    tls,
    sizeBytes: Number(sizeBytes),
    connections: { used, max },
    systemIdentifier,
  };
}

/** Returns the state of TLS; postgres.js does not support channel binding. */
function nameTls(tls: boolean): string {
  const isAsked = address.settings?.channel_binding === "require";
  return `${tls ? "on" : "off"}${isAsked ? ", without the channel binding that is required" : ""}`;
}

/** Counts the migrations; files that cannot be read count as one problem. */
async function countMigrations(sql: Sql) {
  try {
    const plan = await readPlan(sql);
    return {
      head: plan.head?.tag ?? null,
      applied: plan.applied.size,
      pending: plan.pending.length,
      problems: plan.modified.length + plan.partial.size + plan.warnings.length,
    };
  } catch (error) {
    if (!("hint" in (error as Error))) throw error;
    note(`Warning: ${(error as Error).message}`);
    return { head: null, applied: null, pending: null, problems: 1 };
  }
}

function nameMigrations(counts: Awaited<ReturnType<typeof countMigrations>>) {
  const { head, applied, pending, problems } = counts;
  if (applied === null) return "unknown: the files cannot be read";
  return `${head ?? "none"}, ${applied} applied, ${pending} pending, ${problems} ${problems === 1 ? "problem" : "problems"}`;
}

/**
 * Finds the newest backup in BACKUP_DIR, without those whose manifest names another
 * database; null when there is none.
 */
function findLastBackup(
  systemIdentifier?: string,
): { file: string; at: string } | null {
  const { database } = address;
  const own = { database, systemIdentifier };
  try {
    const newest = listBackups(env.backupDir)
      .map((backup) => ({ ...own, ...backup }))
      .find(
        (backup) =>
          backup.database === database &&
          [backup.systemIdentifier, undefined].includes(systemIdentifier),
      );
    return newest ? { file: newest.file, at: newest.createdAt } : null;
  } catch (error) {
    note(`Warning: ${(error as Error).message}`);
    return null;
  }
}

function printRows(rows: Record<string, string>): void {
  for (const [name, value] of Object.entries(rows))
    print(`${name.padEnd(12)} ${value}`);
}
