// bun run db:bootstrap: creates what a first deploy needs besides the schema: the
// permissions of each role, and an administrator. bun run db:bootstrap:admin
// creates the administrator only. Exits 2 when the schema is behind.
import { readEnv } from "../src/env";
import { openConnection } from "./lib/connection";
import { jsonFlag, readOptions, readWhole, waitFlag } from "./lib/options";
import { advise, note, print, printJson, refusal } from "./lib/report";
import { requireCurrentSchema } from "./migrations/schema-state";

const usage = `bun run db:bootstrap --email <email> [flags]

Gives each role its permissions, and creates the administrator, with a random
password that is printed once. db:bootstrap:admin creates the administrator only.`;

const { values, positionals } = readOptions(
  usage,
  {
    email: {
      type: "string",
      value: "<email>",
      help: "the administrator's email",
    },
    name: {
      type: "string",
      default: "Administrator",
      value: "<name>",
      help: "the administrator's name",
    },
    "reset-password": {
      type: "boolean",
      default: false,
      help: "give an existing user a new password, and end its sessions",
    },
    ...waitFlag,
    ...jsonFlag,
  },
  { allowPositionals: true },
);
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

// Imported only now: --help needs no drizzle-orm.
const { describeSeed, explainImport, loadSeed, insertSeed } =
  await import("./lib/seed");
const { bootstrapAdmin } = await import("./lib/administrator").catch(
  (error) => {
    throw explainImport("", "scripts/lib/administrator.ts", error);
  },
);
const { direct } = readEnv();
await using sql = await openConnection(direct, "db:bootstrap");
await requireCurrentSchema(sql);
if (!part)
  print(
    describeSeed(await insertSeed(sql, await loadSeed("rbac"), waitSeconds)),
  );
const { name } = values;
const isReset = values["reset-password"];
const admin = await bootstrapAdmin(
  sql,
  waitSeconds,
  { email, name },
  isReset,
  (password) => Bun.password.hash(password, "argon2id"),
);
const { created, password } = admin;
if (created) print(`Created: the administrator ${email}`);
else if (password) print(`Reset: the password of ${email}`);
else {
  print(`Nothing to create: ${email} already exists`);
  advise("to set a new password, add `--reset-password`");
}
if (password) {
  print(`Password: ${password}`);
  note("The password is not shown again: save it now");
}
printJson(admin);
