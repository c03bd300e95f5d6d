// bun run db:push: for development: brings the database to schema.ts without a
// migration, in one transaction. Exits 2 without consent, where it does not only add.
import "./command";
import { pushSQLiteSchema } from "drizzle-kit/api";
import { name } from "../src/address";
import { db } from "../src/database";
import * as schema from "../src/schema";
import { requireConsent } from "./command";
import { log, runTransaction } from "./migrations";

const adds = /^\s*(create |alter table \S+ add )/i;

const push = await pushSQLiteSchema({ ...schema, log }, db);
const statements = push.statementsToExecute;
for (const statement of statements) console.log(statement);
for (const warning of push.warnings) console.log(Bun.stripANSI(warning));
if (!statements.every((statement) => adds.test(statement)))
  requireConsent("tables are changed, and rows may be lost");
await runTransaction(statements);
console.log(`Pushed: ${statements.length} statements to ${name}`);
