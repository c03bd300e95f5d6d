// bun run db:check: the check for CI. Are the migrations complete, does the
// database have their schema, and can the pending ones be undone? Writes only
// scratch databases, which it drops. Exits 3 when it finds an error. In GitHub
// Actions, findings are also annotations.
import type { DatabaseAddress } from "../src/database-url";
import { checkEnv, readEnv } from "../src/env";
import { annotate } from "./lib/annotate";
import { liftTimeouts, openConnection } from "./lib/connection";
import { jsonFlag, usageError, readOptions, readWhole } from "./lib/options";
import { requireDirect } from "./lib/pooler";
import type { Problem } from "./lib/problem";
import { FINDINGS, isLost, note, print, printJson } from "./lib/report";
import { accept, leaveOutAccepted } from "./schema/accepted";
import type { Watched } from "./migrations/check-database";
import type { Migration } from "./migrations/journal";
import { checkFolder } from "./schema/check-folder";
import { describeBreaks, readDeployed, requireRef } from "./schema/deployed";
import { startTemporaryServer } from "./server/temporary";

const usage = `bun run db:check [flags]

Checks the migrations, and the database against them.`;

const { values, positionals } = readOptions(
  usage,
  {
    offline: { type: "boolean", help: "check without a database" },
    strict: { type: "boolean", help: "count warnings as errors" },
    rows: {
      type: "string",
      value: "<n>",
      default: "1000",
      help: "rows of each table to try pending migrations with; 0 for none",
    },
    deployed: {
      type: "string",
      value: "<git ref>",
      help: "the deployed version, which must work on the new schema\n(the default branch, as a warning)",
    },
    accept: {
      type: "string",
      value: "<code> <tag>",
      help: "accept a finding about an applied migration from now on",
    },
    reason: { type: "string", value: "<text>", help: "why it is accepted" },
    ...jsonFlag,
  },
  { allowPositionals: true },
);
const rows = readWhole(values.rows, "--rows");
const [tag, ...surplus] = positionals;
if (surplus.length > 0 || (tag && !values.accept))
  throw usageError(`unexpected argument "${surplus[0] ?? tag}"`);
if (values.accept ? !tag || !values.reason : values.reason !== undefined)
  throw usageError("--accept, its tag and --reason go together", {
    hint: 'write it such as `--accept lint 0012_merge --reason "before we had a gate"`',
  });

if (values.offline && values.deployed)
  throw usageError("--deployed needs a database, and --offline leaves it out");
if (values.deployed) requireRef(values.deployed);

if (values.offline) checkEnv();
else readEnv();
let problems = await checkFolder();
const isReadable = !problems.some(({ code }) =>
  ["journal_invalid", "file_missing"].includes(code),
);
try {
  if (!values.offline && isReadable) await checkServer();
} catch (error) {
  for (const problem of problems) print(describe(problem));
  annotate("db:check failed", problems);
  throw Object.assign(error as Error, { document: { problems } });
}
problems = leaveOutAccepted(problems);
if (values.accept && tag && values.reason) {
  const { accept: code, reason } = values;
  const file = accept(problems, { code, tag, reason });
  print(`Accepted: ${code} of ${tag} (${file})`);
  problems = leaveOutAccepted(problems);
}
for (const problem of problems) print(describe(problem));
const errors = problems.filter(({ severity }) => severity === "error").length;
const warnings = problems.length - errors;
const figure = `${errors} ${errors === 1 ? "error" : "errors"}, ${warnings} ${warnings === 1 ? "warning" : "warnings"}`;
annotate(`db:check: ${figure}`, problems);
print(`Checked: ${figure}`);
printJson({ problems });
if (errors > 0 || (values.strict && warnings > 0)) process.exitCode = FINDINGS;

async function checkServer(): Promise<void> {
  const { checkDatabase } = await import("./migrations/check-database");
  const env = readEnv();
  await using sql = await openConnection(
    env.direct,
    "db:check",
    "prefer-primary",
  );
  await requireDirect(sql, env.direct);
  await sql.unsafe(liftTimeouts); // it waits while migrations are tried elsewhere
  problems.push(
    ...(await checkDatabase(
      sql,
      env.direct,
      env.test,
      startTemporaryServer,
      rows,
      watchDeployed,
    )),
  );
}

/** Checks whether the deployed version still works after the pending migrations. */
async function watchDeployed(
  scratch: DatabaseAddress,
  pending: Migration[],
): Promise<Watched | undefined> {
  const deployed =
    pending.length > 0 ? await readDeployed(values.deployed) : undefined;
  if (!deployed) return undefined;
  const { prepareQueries } = await import("./schema/old-queries");
  const sql = await openConnection(scratch, "db:check");
  const close = () => sql[Symbol.asyncDispose]();
  try {
    const run = await prepareQueries(sql, deployed.exported, deployed.casing);
    return {
      finish: async () => describeBreaks(await run(), pending, deployed),
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await close();
    if ((error as { code?: string }).code && isLost(error)) throw error;
    note(
      `Not compared: the queries of ${deployed.ref} cannot be made: ${(error as Error).message}`,
    );
    return undefined;
  }
}

function describe({ code, severity, file, line, message }: Problem): string {
  const place = file ? `${file}${line ? `:${line}` : ""}: ` : "";
  return `${severity === "error" ? "Error" : "Warning"}: ${code}: ${place}${message}`;
}
