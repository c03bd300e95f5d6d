// bun run db:seed: inserts the development rows; db:seed rbac inserts the
// permissions of each role, also in production; db:seed <name> inserts the rows of
// a file in scripts/seeds. Safe to run again. Exits 2 when the schema is behind, or
// when a seed for development meets a production database.
import { readEnv } from "../src/env";
import { openConnection } from "./lib/connection";
import { askBetween, type Consent, requireDevelopment } from "./lib/consent";
import {
  confirmFlag,
  jsonFlag,
  readOptions,
  readWhole,
  waitFlag,
} from "./lib/options";
import { readProtection } from "./lib/protection";
import { print, printJson, refusal } from "./lib/report";
import { requireCurrentSchema } from "./migrations/schema-state";

const usage = `bun run db:seed [name] [flags]

dev (the default) inserts a user, a tenant and a few builds, and keeps existing
rows; rbac gives each role exactly its permissions. Any other name is a file in
scripts/seeds.`;

const { values, positionals } = readOptions(
  usage,
  {
    ...confirmFlag("a database on another host"),
    ...waitFlag,
    ...jsonFlag,
  },
  { allowPositionals: true },
);
const waitSeconds = readWhole(values.wait, "--wait");
const [name = "dev", ...others] = positionals;
if (others.length > 0)
  throw refusal(`unexpected argument "${others[0]}"`, {
    code: "USAGE",
    hint: "name one seed at a time",
  });
// Imported only now: --help needs no drizzle-orm.
const { describeSeed, loadSeed, insertSeed } = await import("./lib/seed");
const seed = await loadSeed(name);

const env = readEnv();
await using sql = await openConnection(env.database, "db:seed");
if (!seed.isForProduction) await seekConsent();
await requireCurrentSchema(sql);
const seeded = await insertSeed(sql, seed, waitSeconds);
print(describeSeed(seeded));
printJson(seeded);

async function seekConsent(): Promise<void> {
  const { database: address } = env;
  const protection = await readProtection(sql, env, address);
  const consent: Consent = {
    command: "db:seed",
    address,
    confirmed: values.confirm,
    accepted: [],
  };
  await askBetween(async () => requireDevelopment(consent, protection));
}
