// The tables of queries: through the application's client and others, and what one
// server carries with this schema.
import { spawnSync } from "bun";
import { eq, sql } from "drizzle-orm";
import { drizzle as onBun } from "drizzle-orm/bun-sql";
import { drizzle as onPg } from "drizzle-orm/node-postgres";
import { integer, pgTable, text } from "drizzle-orm/pg-core";
import { drizzle as onPostgres } from "drizzle-orm/postgres-js";
import { Pool } from "pg";
import postgres from "postgres";
import { parseDatabaseUrl } from "../src/database-url";
import { readEnv, root } from "../src/env";
import { makeClient } from "../src/infrastructure/database/client";
import { openPools } from "../src/infrastructure/database/pools";
import { openDatabases } from "./databases";
import type { Table } from "./measure";

const AT_ONCE = 10;
const things = pgTable("things", { id: integer().primaryKey(), name: text() });

/** One row by its key, ten at once, through drizzle on several drivers in turn. */
export async function measureClients(isQuick: boolean): Promise<Table> {
  await using databases = await openDatabases();
  const env = await databases.create();
  await databases.run(
    env,
    "create table things as select i as id, 'Thing ' || i as name from generate_series(1, 1000) i; alter table things add primary key (id); analyze",
  );
  const ours = env.DATABASE_URL ?? "";
  // The others do not have `prefer`, which is the default here.
  const url = ours.replace("sslmode=prefer", "sslmode=disable");
  const pool = new Pool({ connectionString: url, max: AT_ONCE });
  const js = postgres(url, { max: AT_ONCE });
  const own = openOwn(ours);
  const bun = onBun({ connection: { url, max: AT_ONCE } });
  const byKey = (db: Pick<typeof own.db, "select">) => () =>
    db
      .select()
      .from(things)
      .where(eq(things.id, random(1000)));
  const clients = {
    "drizzle on pg": byKey(onPg(pool) as never),
    "drizzle on postgres.js": byKey(onPostgres(js) as never),
    "drizzle on Bun's SQL": byKey(bun as never),
    "this project's client": byKey(own.db),
  };
  try {
    return await measure(clients, isQuick ? 1000 : 3000, isQuick ? 1 : 3);
  } finally {
    await Promise.all([
      pool.end(),
      js.end(),
      bun.$client.end(),
      own.closeDatabase(),
    ]);
  }
}

/** The questions and changes that such an application has most, on many rows. */
export async function measureWork(): Promise<Table> {
  const rows = 1_000_000;
  await using databases = await openDatabases();
  const env = await databases.create();
  const { success, stderr } = spawnSync(
    [process.execPath, "run", "db:migrate"],
    {
      cwd: root,
      env,
    },
  );
  if (!success) throw new Error(String(stderr));
  const own = openOwn(env.DATABASE_URL ?? "");
  const { db } = own;
  let number = rows;
  try {
    await load(databases, env, rows);
    const tenants = await db.execute<{ id: string }>(
      sql`select id from tenants`,
    );
    const users = await db.execute<{ id: string }>(
      sql`select id from users limit 10000`,
    );
    const anyOf = (all: { id: string }[]) => all[random(all.length) - 1]?.id;
    const work = {
      "select 1": () => db.execute(sql`select 1`),
      "a user by email": () =>
        db.execute(
          sql`select * from users where email = ${`user${random(rows / 10)}@example.com`}`,
        ),
      "the newest twenty builds of a tenant": () =>
        db.execute(
          sql`select * from builds where tenant_id = ${anyOf(tenants)} order by number desc limit 20`,
        ),
      "a member's role": () =>
        db.execute(
          sql`select role from tenant_members where tenant_id = ${anyOf(tenants)} and user_id = ${anyOf(users)}`,
        ),
      "a new session": () =>
        db.execute(
          sql`insert into sessions (user_id, token, expires_at) values (${anyOf(users)}, ${crypto.randomUUID()}, now() + interval '1 day')`,
        ),
      "a new build": () =>
        db.execute(
          sql`insert into builds (tenant_id, number, name, repository, status) values (${anyOf(tenants)}, ${(number += 1)}, 'Build', 'repository', 'queued')`,
        ),
      "taking the oldest queued build, in a transaction": () =>
        db.transaction(async (tx) => {
          const [build] = await tx.execute<{ id: string }>(
            sql`select id from builds where status = 'queued' order by created_at limit 1 for update skip locked`,
          );
          if (build)
            await tx.execute(
              sql`update builds set status = 'running' where id = ${build.id}`,
            );
        }),
    };
    return {
      ...(await measure(work, 5000, 1)),
      note: `${rows.toLocaleString("en")} builds, a tenth as many users, a thousand tenants; ten at once, all on one machine: client and server share its cores.`,
    };
  } finally {
    await own.closeDatabase();
  }
}

async function load(
  databases: Awaited<ReturnType<typeof openDatabases>>,
  env: Parameters<typeof databases.run>[0],
  rows: number,
): Promise<void> {
  await databases.run(
    env,
    `set session_replication_role = replica;
    insert into tenants (name, slug) select 'Tenant ' || i, 'tenant-' || i from generate_series(1, 1000) i;
    insert into users (name, email) select 'User', 'user' || i || '@example.com' from generate_series(1, ${rows / 10}) i;
    insert into tenant_members (tenant_id, user_id, role)
      select t.id, u.id, 'viewer' from (select id, row_number() over () as n from users) u
      join (select id, row_number() over () as n from tenants) t on t.n = 1 + u.n % 1000;
    insert into builds (tenant_id, number, name, repository, status, created_at)
      select t.id, i, 'Build ' || i, 'repository', case when i % 100 = 0 then 'queued' else 'succeeded' end, now() - i * interval '1 second'
      from generate_series(1, ${rows}) i join (select id, row_number() over () as n from tenants) t on t.n = 1 + i % 1000`,
  );
  await databases.run(env, "vacuum analyze");
}

function openOwn(url: string) {
  const client = { ...readEnv().client, isPooled: false, poolSize: AT_ONCE };
  const database = parseDatabaseUrl(url, "DATABASE_URL");
  return makeClient(openPools({ database, replicas: [], client }));
}

/** Runs each for so many milliseconds, ten at once, in turn. The last column is the
 * time of one beside that of the first. */
async function measure(
  work: Record<string, () => PromiseLike<unknown>>,
  ms: number,
  rounds: number,
): Promise<Table> {
  const times: Record<string, number[]> = {};
  const seconds: Record<string, number> = {};
  for (let round = 0; round < rounds; round += 1)
    for (const [name, run] of Object.entries(work)) {
      await Promise.all(Array.from({ length: AT_ONCE }, run)); // opens connections
      const all = (times[name] ??= []);
      const start = performance.now();
      await Promise.all(
        Array.from({ length: AT_ONCE }, async () => {
          while (performance.now() - start < ms) {
            const began = performance.now();
            await run();
            all.push(performance.now() - began);
          }
        }),
      );
      seconds[name] = (seconds[name] ?? 0) + (performance.now() - start) / 1000;
    }
  let first: number | undefined;
  const rows = Object.entries(times).map(([name, all]) => {
    const sorted = all.toSorted((a, b) => a - b);
    const at = (part: number) =>
      sorted[Math.floor(sorted.length * part)] ?? Number.NaN;
    const perSecond = all.length / (seconds[name] ?? Number.NaN);
    first ??= perSecond;
    return {
      name,
      cells: [
        Math.round(perSecond).toLocaleString("en"),
        at(0.5).toFixed(1),
        at(0.99).toFixed(1),
        (first / perSecond).toFixed(2),
      ],
    };
  });
  const columns = [
    "",
    "a second",
    "median ms",
    "99 of 100 within ms",
    "time of one, times the first",
  ];
  return { note: "Ten at once.", columns, rows };
}

const random = (count: number) => 1 + Math.floor(Math.random() * count);
