// bun run db:bootstrap:roles: creates a role for the application that reads and
// writes rows and owns nothing, so that it cannot drop a table. The role that
// migrates grants it the existing tables and the future ones. Run it again after a
// change: it grants what is missing. Exits 2 for a role that could do more.
import { createHash, createHmac, pbkdf2Sync, randomBytes } from "node:crypto";
import { readEnv } from "../src/env";
import { readProject } from "../src/project";
import { openConnection } from "./lib/connection";
import { hasTable } from "./lib/has-table";
import { jsonFlag, readOptions } from "./lib/options";
import { quoteIdentifier, quoteLiteral } from "./lib/quote";
import { advise, note, print, printJson, refusal } from "./lib/report";

const usage = `bun run db:bootstrap:roles --app-role <name> [flags]

Creates a role for the application, with a random password that is printed once.
It may read and write rows, and owns no table.`;

const { values } = readOptions(usage, {
  "app-role": { type: "string", value: "<name>", help: "the role's name" },
  "reset-password": {
    type: "boolean",
    default: false,
    help: "give an existing role a new password",
  },
  ...jsonFlag,
});
const name = values["app-role"] ?? "";
if (!name)
  throw refusal("--app-role is missing", {
    code: "USAGE",
    hint: "name the role, such as `--app-role app_serve`",
  });
const role = quoteIdentifier(name);

const { direct } = readEnv();
const { records, schemaFilter = ["public"] } = readProject();
await using sql = await openConnection(direct, "db:bootstrap");
if (!(await hasTable(sql, records.sql)))
  throw refusal("no migration is recorded in this database", {
    hint: "run `bun run db:migrate` first",
  });
const isThere = await refusePowerful();
const isNew = !isThere || values["reset-password"];
const password = isNew ? randomBytes(20).toString("base64url") : undefined;

await sql.begin(async (transaction) => {
  const verb = isThere ? "alter" : "create";
  if (password)
    await transaction.unsafe(
      `${verb} role ${role} login password ${quoteLiteral(makeVerifier(password))}`,
    );
  await transaction.unsafe(listGrants().join(";\n"));
});

if (!isThere) print(`Created: the role ${name}`);
else if (password) print(`Reset: the password of ${name}`);
print(`Granted: rows of ${schemaFilter.join(", ")} to ${name}`);
if (password) {
  print(`Password: ${password}`);
  note("The password is not shown again: save it now");
} else advise("to set a new password, add `--reset-password`");
printJson({ role: name, created: !isThere, ...(password && { password }) });

/** @returns true when the role exists. @throws when it could drop tables. */
async function refusePowerful(): Promise<boolean> {
  const [found] = await sql<{ power: string | null }[]>`
    select case
      when rolname = current_user then 'is the role that migrates'
      when rolsuper then 'is a superuser'
      when pg_has_role(rolname, current_user, 'member') then 'is a member of the role that migrates'
      when exists (
        select from pg_class join pg_namespace on pg_namespace.oid = relnamespace
        where relowner = pg_roles.oid and nspname in ${sql(schemaFilter)})
        then 'owns tables of this database'
    end as power
    from pg_roles where rolname = ${name}`;
  if (found?.power)
    throw refusal(`the role ${name} ${found.power}: it could drop tables`, {
      hint: "name another role with `--app-role`",
    });
  return found !== undefined;
}

function listGrants(): string[] {
  const rows = "select, insert, update, delete";
  const own = schemaFilter
    .map(quoteIdentifier)
    .flatMap((schema) => [
      `grant usage on schema ${schema} to ${role}`,
      `grant ${rows} on all tables in schema ${schema} to ${role}`,
      `grant usage, select on all sequences in schema ${schema} to ${role}`,
      `alter default privileges in schema ${schema} grant ${rows} on tables to ${role}`,
      `alter default privileges in schema ${schema} grant usage, select on sequences to ${role}`,
    ]);
  return [
    `grant connect on database ${quoteIdentifier(direct.database)} to ${role}`,
    ...own,
    // For /health, which checks that every migration is applied.
    `grant usage on schema ${quoteIdentifier(records.schema)} to ${role}`,
    `grant select on ${records.sql} to ${role}`,
  ];
}

/**
 * Returns the hash that PostgreSQL stores for a password: SQL with the password
 * itself could be in the server's log
 * (https://www.postgresql.org/docs/current/catalog-pg-authid.html).
 */
function makeVerifier(password: string): string {
  const iterations = 4096;
  const salt = randomBytes(16);
  const salted = pbkdf2Sync(password, salt, iterations, 32, "sha256");
  const sign = (text: string) => createHmac("sha256", salted).update(text);
  const storedKey = createHash("sha256").update(sign("Client Key").digest());
  const keys = [storedKey, sign("Server Key")].map((key) =>
    key.digest("base64"),
  );
  return `SCRAM-SHA-256$${iterations}:${salt.toString("base64")}$${keys.join(":")}`;
}
