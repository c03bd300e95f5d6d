// A minimal application, to try a deploy with. Replace it with yours, and keep
// /health and the shutdown. It listens on PORT, or 3000.
import { sql } from "drizzle-orm";
import { readMigrationFiles } from "drizzle-orm/migrator";
import { closeDatabase, db } from "./infrastructure/database";
import { readProject } from "./project";

/** How long the database may take to answer /health. */
const HEALTH_MS = 2000;
/** How long requests still arrive after /health reports the shutdown. */
const DRAIN_MS = 1500;
/** How long requests may take to finish; Docker kills after ten seconds. */
const SHUTDOWN_MS = 6000;

const { migrationsFolder, records } = readProject();
const migrations = readMigrationFiles({ migrationsFolder });

let isEnding = false;
const server = Bun.serve({
  routes: {
    "/": new Response("It works.\n"),
    "/health": async () => {
      const problem = await Promise.race([findProblem(), timeOut()]);
      return Response.json(
        { healthy: problem === undefined, problem },
        { status: problem === undefined ? 200 : 503 },
      );
    },
  },
});
console.log(`Listening: ${server.url}`);

for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, async () => {
    isEnding = true;
    await Bun.sleep(DRAIN_MS);
    await Promise.race([server.stop(), Bun.sleep(SHUTDOWN_MS)]);
    await closeDatabase();
    process.exit();
  });

/**
 * Returns why this version cannot work: the database does not answer, or migrations
 * of this version are not applied. A newer database is not a problem: while a newer
 * version is deployed, this one keeps serving.
 */
async function findProblem(): Promise<string | undefined> {
  if (isEnding) return "this one ends";
  try {
    const rows = await db.execute<{ hash: string; when: string }>(
      sql`select hash, created_at::text as when from ${sql.raw(records.sql)}`,
    );
    const applied = new Set(rows.flatMap(({ hash, when }) => [hash, when]));
    const pending = migrations.filter(
      ({ hash, folderMillis }) =>
        !applied.has(hash) && !applied.has(String(folderMillis)),
    ).length;
    if (pending > 0) return `migrations are pending: ${pending}`;
  } catch (error) {
    const { code = "", message } = ((error as Error).cause ??
      error) as Error & {
      code?: string;
    };
    console.error(`Error: ${message}`);
    return /^(?=.*\d)[0-9A-Z]{5}$/.test(code) // SQLSTATE: the server's own answer
      ? "the records of the migrations cannot be read"
      : "the database does not answer";
  }
}

async function timeOut(): Promise<string> {
  await Bun.sleep(HEALTH_MS);
  return `the database did not answer within ${HEALTH_MS} ms`;
}
