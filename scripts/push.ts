// bun run db:push: brings a development database to schema.ts, without a
// migration: all of it in one transaction, or none. Exits 1 when it fails, 2 for
// a production database or without consent to a loss, 75 when busy.
import { readEnv } from "../src/env";
import { openConnection } from "./lib/connection";
import {
  askBetween,
  type Consent,
  requireConsent,
  requireDevelopment,
} from "./lib/consent";
import { withLock } from "./lib/lock";
import {
  confirmFlag,
  jsonFlag,
  readOptions,
  readWhole,
  waitFlag,
} from "./lib/options";
import { requireDirect } from "./lib/pooler";
import { readProtection } from "./lib/protection";
import { advise, note, print, printJson } from "./lib/report";
import { readRecords } from "./migrations/plan";
import { startBeside } from "./migrations/trial";
import { type RenameAnswers, renameFlags } from "./schema/ask-renames";
import { diffSchema } from "./schema/diff-database";
import { startTemporaryServer } from "./server/temporary";

const usage = `bun run db:push [flags]

Brings a development database to schema.ts, without a migration.`;

const { values } = readOptions(usage, {
  "dry-run": { type: "boolean", help: "print the SQL and change nothing" },
  ...renameFlags,
  ...confirmFlag("a loss, or a database on another host"),
  ...waitFlag,
  ...jsonFlag,
});
const waitSeconds = readWhole(values.wait, "--wait");

const env = readEnv();
const address = env.direct;
const { database } = address;
const consent: Consent = {
  command: "db:push",
  address,
  confirmed: values.confirm,
  accepted: [],
};
const { isTTY } = process.stdin;
const isAttended = isTTY && process.stdout.isTTY && !values.json;
const answers: RenameAnswers = {
  renames: values.rename,
  isComplete: values["no-rename"] === true,
  asked: isAttended ? new Map() : undefined,
};
await using sql = await openConnection(address, "db:push");
const protection = await readProtection(sql, env, address);
await askBetween(async () => requireDevelopment(consent, protection));
await requireDirect(sql, address);
await askBetween(() => withLock(sql, waitSeconds, push));

async function push(): Promise<void> {
  // The database may have become production during the wait.
  const protection = await readProtection(sql, env, address);
  requireDevelopment(consent, protection);
  await using beside = await startBeside(sql, env.test, startTemporaryServer);
  const { describeSchema } = await import("./schema/describe-schema");
  const { statements, losses, left } = await diffSchema(
    sql,
    address,
    env.test ?? beside?.address,
    await describeSchema(""),
    answers,
  );
  const shown = [...statements, ...losses];
  const isShown = shown.every((line) => consent.accepted.includes(line));
  const isChange = statements.length > 0 && !values["dry-run"];
  const show = () => {
    if (!isShown) for (const statement of statements) print(statement);
  };
  if (isAttended) show(); // before it asks
  if (!isShown) for (const loss of losses) note(`Data would be lost: ${loss}`);
  if (isChange && losses.length > 0) requireConsent(consent, protection, shown);
  if (!isAttended) show();
  if (isChange) {
    await sql.begin(async (transaction) => {
      for (const statement of statements) await transaction.unsafe(statement);
    });
    print(
      `Pushed: schema.ts to ${database} (${statements.length} ${statements.length === 1 ? "statement" : "statements"})`,
    );
    if ((await readRecords(sql)).length > 0)
      advise(
        "also write the migration, with `bun run db:generate`, and record it here with `bun run db:baseline`",
      );
  }
  for (const difference of left) note(`Left unchanged: ${difference}`);
  if (statements.length === 0)
    print(
      left.length === 0
        ? `Nothing to push: ${database} is current`
        : `Nothing to push: what differs is left unchanged in ${database}`,
    );
  printJson({ database, statements, losses, left, pushed: isChange });
}
