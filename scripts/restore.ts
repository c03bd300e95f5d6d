// bun run db:restore <file>: replaces the database with a backup, and keeps the old
// one; --undo swaps back. The file is verified before anything is changed, and its
// rows are counted before anything is swapped. Needs an owner with CREATEDB. Exits
// 1 with the old one in place when it fails, 2 without consent, 75 when busy.
import { basename } from "node:path";
import type { Sql } from "postgres";
import { readEnv } from "../src/env";
import { compareRows, countRows, type RowCounts } from "./backups/count-rows";
import { locateArchive, type Manifest, verifyBackup } from "./backups/folder";
import { previousOf } from "./backups/databases";
import { planRestore, restoreInto } from "./backups/obstacles";
import { replaceDatabase } from "./backups/replace";
import { makeNext } from "./backups/successor";
import { swapIn } from "./backups/swap";
import { openConnection, liftTimeouts } from "./lib/connection";
import { holdInterrupt } from "./lib/interrupt";
import {
  confirmFlag,
  jsonFlag,
  readOptions,
  readWhole,
  waitFlag,
} from "./lib/options";
import {
  isProductionDatabase,
  type Protection,
  stampProduction,
} from "./lib/protection";
import {
  announce,
  failure,
  note,
  print,
  printJson,
  refusal,
  withProgress,
} from "./lib/report";
import { readHead, tryReadPlan } from "./migrations/plan";
import { findPostgresTools, type PostgresTool } from "./server/client-programs";

const usage = `bun run db:restore <file> [flags] | db:restore --undo

Replaces the database with a backup. The old one is kept as <database>__previous.`;

const { values, positionals } = readOptions(
  usage,
  {
    undo: { type: "boolean", help: "swap back to <database>__previous" },
    "no-owner": {
      type: "boolean",
      help: "make this role the owner of everything",
    },
    ...confirmFlag("a protected database"),
    "drop-previous": {
      type: "boolean",
      help: "drop an older <database>__previous of a protected one",
    },
    ...waitFlag,
    ...jsonFlag,
  },
  { allowPositionals: true },
);
const waitSeconds = readWhole(values.wait, "--wait");
const [file, ...surplus] = positionals;
if (surplus.length > 0 || (file === undefined) !== (values.undo === true))
  throw refusal("name one file, or add --undo", {
    code: "USAGE",
    hint: "`bun run db:backup --list` lists the backups",
  });

const env = readEnv();
const address = env.direct;
const { database } = address;
const previous = previousOf(database);
const path = file === undefined ? "" : locateArchive(env.backupDir, file);

await replaceDatabase(
  "db:restore",
  env,
  values,
  waitSeconds,
  [],
  readHead,
  restore,
);

async function restore(server: Sql, protection: Protection): Promise<void> {
  const { tools, serverVersion } = await findPostgresTools(
    ["pg_restore", "psql"],
    env,
  );
  const { pg_restore: tool, psql } = tools;
  const manifest = await requireWhole(tool);
  const isWithoutOwner = values["no-owner"] === true;
  const options = await planRestore(tool, psql, path, server, isWithoutOwner);
  let head: string | null = null;
  let tables: RowCounts = {};
  await makeNext(server, address, async (next) => {
    const start = performance.now();
    await using sql = await openConnection(next, "db:restore");
    await sql.unsafe(liftTimeouts);
    await withProgress(
      () =>
        `restoring into ${next.database}, ${Math.round((performance.now() - start) / 1000)} s`,
      () => restoreInto(sql, tool, path, next, options, serverVersion),
    );
    tables = await countRows(sql);
    if (manifest) requireSame(manifest.tables, tables);
    head = await compareHead(sql);
    if (isProductionDatabase(protection)) await stampProduction(sql);
  });
  await holdInterrupt(async () => {
    const hasDropped = await swapIn(server, address);
    if (hasDropped) announce(`Dropped: the older ${previous}`);
    print(
      `Restored: ${database} from ${basename(path)}, at ${head ?? "no migration"}`,
    );
    print(`Kept: ${previous}, which \`bun run db:restore --undo\` brings back`);
    printJson({ database, previous, file: path, head, tables });
  });
}

async function requireWhole(tool: PostgresTool): Promise<Manifest | undefined> {
  const { problem, manifest } = await verifyBackup(tool, path, false);
  if (problem !== undefined)
    throw failure(`${path} is bad: ${problem}`, {
      code: "BACKUP_BAD",
      hint: "`bun run db:backup --list` lists the backups",
    });
  if (!manifest)
    note(
      "It has no manifest: neither its checksum nor its rows can be compared",
    );
  return manifest;
}

function requireSame(original: RowCounts, copy: RowCounts): void {
  const differences = compareRows(original, copy);
  if (differences.length === 0) return;
  throw failure(`the rows restored from ${path} differ from its manifest`, {
    code: "BACKUP_BAD",
    lines: differences.map((difference) => `  ${difference}`),
  });
}

/** Warns when the backup is older or newer than this checkout. @returns its head. */
async function compareHead(sql: Sql): Promise<string | null> {
  const plan = await tryReadPlan(sql);
  if (!plan) return null;
  const { head, pending, unknown } = plan;
  if (pending.length > 0)
    note(
      `Warning: the backup is older than this checkout: ${pending.length} pending, for \`bun run db:migrate\``,
    );
  if (unknown.length > 0)
    note(
      `Warning: the backup is newer than this checkout: ${unknown.length} of its migrations are not in it`,
    );
  return head?.tag ?? null;
}
