// bun run db:seed: puts the development rows into the database. Safe to run
// again. Needs the schema to be current. Exits 2 where the schema is behind or
// the database is production's, 75 when another command held the lock.
import { readEnv } from "../src/env";
import { openConnection } from "./lib/connection";
import { readProtection, requireDevelopment } from "./lib/protection";
import {
  print,
  printJson,
  readOptions,
  readWhole,
  refusal,
} from "./lib/report";
import { findPending } from "./lib/schema-state";
import { describeSeed, seedDevelopment } from "./lib/seed-dev";

const usage = `bun run db:seed [dev] [flags]

Puts a user, a tenant and a few builds into the database; leaves what is there.
  --confirm <database>   answers for a database on another host
  --wait <seconds>       how long to wait for another command (60)
  --json                 one JSON document on stdout`;

const { values, positionals } = readOptions(usage, {
  allowPositionals: true,
  options: {
    confirm: { type: "string" },
    wait: { type: "string", default: "60" },
    json: { type: "boolean" },
  },
});
const waitSeconds = readWhole(values.wait, "--wait");
const [name = "dev", ...others] = positionals;
if (name !== "dev" || others.length > 0)
  throw refusal(`there is no seed "${positionals.join(" ")}"`, {
    hint: "the one seed is `bun run db:seed dev`",
  });

const env = readEnv();
const sql = await openConnection(env.database, "db:seed");
try {
  const protection = await readProtection(sql, env, env.database);
  await requireDevelopment("db:seed", protection, env.database, values.confirm);
  await requireCurrentSchema();
  const seeded = await seedDevelopment(sql, waitSeconds);
  print(describeSeed(seeded));
  printJson(seeded);
} finally {
  await sql.end({ timeout: 5 });
}

async function requireCurrentSchema(): Promise<void> {
  const pending = await findPending(sql);
  if (pending.length === 0) return;
  throw refusal(`the schema is behind: ${pending.join(", ")} pending`, {
    code: "SCHEMA_BEHIND",
    hint: "run `bun run db:migrate` first",
  });
}
