// bun run db:bootstrap: what a first deploy needs besides the schema: the
// permissions of each role, and an administrator. bun run db:bootstrap:admin
// makes the administrator only. Exits 2 while the schema is behind.
import { readEnv } from "../src/env";
import { bootstrapAdmin } from "./lib/administrator";
import { openConnection } from "./lib/connection";
import {
  note,
  print,
  printJson,
  readOptions,
  readWhole,
  refusal,
} from "./lib/report";
import { describeSeed, loadSeed, plantSeed } from "./lib/seed";
import { requireCurrentSchema } from "./migrations/schema-state";

const usage = `bun run db:bootstrap --email <email> [flags]

Gives each role its permissions, and makes the administrator, with a random
password that is printed once; db:bootstrap:admin makes the administrator only.
  --email <email>    who it is
  --name <name>      what to call it (Administrator)
  --reset-password   a new password for one that is there; ends its sessions
  --wait <seconds>   how long to wait for another command (60)
  --json             one JSON document on stdout`;

const { values, positionals } = readOptions(usage, {
  allowPositionals: true,
  options: {
    email: { type: "string" },
    name: { type: "string", default: "Administrator" },
    "reset-password": { type: "boolean", default: false },
    wait: { type: "string", default: "60" },
    json: { type: "boolean" },
  },
});
const waitSeconds = readWhole(values.wait, "--wait");
const [part, ...surplus] = positionals;
if (surplus.length > 0 || (part !== undefined && part !== "admin"))
  throw refusal(`unexpected argument "${positionals.at(-1)}"`, {
    code: "USAGE",
    hint: "name the administrator with `--email <email>`",
  });
if (values.name.trim() === "")
  throw refusal("--name is empty", {
    code: "USAGE",
    hint: "leave it out for `Administrator`",
  });
const email = values.email?.trim() ?? "";
if (!/^[^\s@]+@[^\s@]+$/.test(email))
  throw refusal(
    values.email === undefined
      ? "--email is missing"
      : `"${values.email}" is not an email address`,
    {
      code: "USAGE",
      hint: "add `--email <email>`, such as `--email ada@example.com`",
    },
  );

const { direct } = readEnv();
const sql = await openConnection(direct, "db:bootstrap");
try {
  await requireCurrentSchema(sql);
  if (!part)
    print(
      describeSeed(await plantSeed(sql, await loadSeed("rbac"), waitSeconds)),
    );
  const { name } = values;
  const isReset = values["reset-password"];
  const admin = await bootstrapAdmin(
    sql,
    waitSeconds,
    { email, name },
    isReset,
  );
  const { created, password } = admin;
  if (created) print(`Created: the administrator ${email}`);
  else if (password) print(`Reset: the password of ${email}`);
  else {
    print(`Nothing to create: ${email} is there`);
    note("Hint: `--reset-password` gives it a new password");
  }
  if (password) {
    print(`Password: ${password}`);
    note("It is shown this once: keep it now");
  }
  printJson(admin);
} finally {
  await sql.end({ timeout: 5 });
}
