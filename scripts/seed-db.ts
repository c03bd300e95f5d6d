// bun run db:seed: puts the development rows into the database; db:seed rbac the
// permissions of each role, in production too. Safe to run again. Exits 2 where
// the schema is behind, or for development rows the database is production's.
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
import { describeSeed, seedDevelopment } from "./seeds/development";
import { seedRbac } from "./seeds/rbac";

const usage = `bun run db:seed [dev|rbac] [flags]

dev (the default) puts a user, a tenant and a few builds into the database, and
leaves what is there; rbac gives each role its permissions, and no others.`;

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
if (!["dev", "rbac"].includes(name) || others.length > 0)
  throw refusal(`there is no seed "${positionals.join(" ")}"`, {
    hint: "the seeds are `bun run db:seed dev` and `bun run db:seed rbac`",
  });

const env = readEnv();
await using sql = await openConnection(env.database, "db:seed");
if (name === "dev") await seekConsent();
await requireCurrentSchema(sql);
const seed = name === "dev" ? seedDevelopment : seedRbac;
const seeded = await seed(sql, waitSeconds);
print(describeSeed(seeded));
printJson(seeded);

async function seekConsent(): Promise<void> {
  const { database: address } = env;
  const protection = await readProtection(sql, env, address);
  const consent: Consent = {
    command: "db:seed",
    address,
    confirmed: values.confirm,
    agreed: [],
  };
  await askBetween(async () => requireDevelopment(consent, protection));
}
