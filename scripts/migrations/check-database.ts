// What is wrong with a database, measured by the migrations: its records, its
// schema, its indexes; and whether what is pending can be taken back.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { root } from "../../src/env";
import { readProject } from "../../src/project";
import { type Problem, problem } from "../lib/problem";
import { note } from "../lib/report";
import { withScratchDatabase } from "../lib/scratch-database";
import { toScript } from "./apply";
import {
  compareCatalogs,
  describeDifference,
  readCatalog,
  respell,
} from "./catalog";
import { refuseElsewhere } from "./elsewhere";
import { hashText, type Migration, nameDownFile } from "./journal";
import { listPartial, type Plan, readPlan } from "./plan";
import { copyDefaultPrivileges, replayMigrations } from "./replay";
import { runScript } from "./run";

/**
 * Compares a database with the migrations. Reads only; what has to be tried is
 * tried in a scratch database, which is dropped.
 *
 * @param scratchAddress the server for the scratch database.
 */
export async function checkDatabase(
  sql: Sql,
  scratchAddress: DatabaseAddress,
): Promise<Problem[]> {
  const plan = await readPlan(sql);
  await refuseElsewhere(sql, plan);
  const records = checkRecords(plan);
  const isComparable = plan.unknown.length === 0 && plan.partial.size === 0;
  const tried = await withScratchDatabase(
    scratchAddress,
    "db:check",
    async (scratch) => {
      const applied = plan.migrations.filter((m) => plan.applied.has(m));
      await copyDefaultPrivileges(sql, scratch);
      await replayMigrations(scratch, applied);
      const drift = isComparable ? await findDrift(sql, scratch, plan) : [];
      return [...drift, ...(await tryPending(scratch, plan))];
    },
  );
  return [...records, ...(await listInvalid(sql)), ...tried];
}

function checkRecords(plan: Plan): Problem[] {
  const modified = plan.modified.map(({ tag, file }) =>
    problem(
      "modified",
      `it was edited after it was applied: restore it from git, or take it over with \`bun run db:migrate:repair\``,
      { tag, file },
    ),
  );
  const missing = plan.unknown.map(({ id }) =>
    problem(
      "missing",
      `record ${id} of the database is of no migration in this checkout: pull the newer one, or forget it with \`bun run db:migrate:repair\``,
    ),
  );
  const partial = listPartial(plan).map(({ message, hint, tag, file }) =>
    problem("partial", `${message}: ${hint}`, { tag, file }),
  );
  const pending = plan.pending.map(({ tag, file }) =>
    problem("pending", "it is not applied: `bun run db:migrate`", {
      tag,
      file,
    }),
  );
  const outOfOrder = plan.outOfOrder.map(({ tag, file }) =>
    problem(
      "out_of_order",
      `it is older than ${plan.head?.tag}, which is applied: \`bun run db:migrate\` applies it all the same`,
      { tag, file },
    ),
  );
  return [...modified, ...missing, ...partial, ...pending, ...outOfOrder];
}

async function listInvalid(sql: Sql): Promise<Problem[]> {
  const rows = await sql.unsafe<{ name: string }[]>(`
    select indexrelid::regclass::text as name
    from pg_index join pg_class on pg_class.oid = indexrelid
    where not indisvalid and relkind = 'i' and not exists (
      select from pg_stat_progress_create_index as building
      where building.datname = current_database() and index_relid = indexrelid)`);
  return rows.map(({ name }) =>
    problem(
      "invalid_index",
      `the index ${name} is invalid, and no query uses it: \`REINDEX INDEX CONCURRENTLY ${name}\` in \`bun run db:shell\``,
    ),
  );
}

/** What the migrations did not make, or somebody changed since. */
async function findDrift(
  sql: Sql,
  scratch: Sql,
  plan: Plan,
): Promise<Problem[]> {
  const [expected, found] = [
    await readCatalog(scratch),
    await readCatalog(sql),
  ];
  const differences = await respell(
    scratch,
    compareCatalogs(expected, found).filter(
      // An extension beside is the operator's: pg_stat_statements, say.
      (difference) =>
        difference.expected || !difference.object.startsWith("extension "),
    ),
    found,
  );
  const [first] = differences;
  if (first && plan.applied.size === 0)
    return [
      problem(
        "drift",
        `no migration is recorded, and the database is not empty, with ${describeDifference(first)}: \`bun run db:baseline\` adopts it`,
      ),
    ];
  return differences.map((difference) =>
    problem(
      "drift",
      `${describeDifference(difference)}; put it into a migration with \`bun run db:generate --custom\`, or undo it in \`bun run db:shell\``,
    ),
  );
}

/** Roles are the server's: a scratch database makes none. */
const MISSING_ROLE = /role ".*" does not exist/;

/** Up, down, up: the same schema at the end, and the one before in between. */
async function tryPending(scratch: Sql, plan: Plan): Promise<Problem[]> {
  const problems: Problem[] = [];
  for (const migration of plan.pending) {
    const { tag, file } = migration;
    const down = nameDownFile(tag);
    const mismatch = (message: string, of = down) =>
      problem("down_mismatch", message, { tag, file: of });
    try {
      const before = await readCatalog(scratch);
      await replayMigrations(scratch, [migration]);
      if (!existsSync(join(root, down))) continue;
      const after = await readCatalog(scratch);
      await runDown(scratch, migration, down);
      const left = compareCatalogs(before, await readCatalog(scratch));
      problems.push(
        ...left.map((difference) =>
          mismatch(
            `after it: ${describeDifference(difference)}; mend \`${down}\``,
          ),
        ),
      );
      if (left.length > 0) break; // the ones after it start from another schema
      await replayMigrations(scratch, [migration]);
      const again = compareCatalogs(after, await readCatalog(scratch));
      problems.push(
        ...again.map((difference) =>
          mismatch(
            `up again after it: ${describeDifference(difference)}; mend \`${down}\``,
          ),
        ),
      );
    } catch (error) {
      const { message, details } = error as Error & {
        details?: { file?: string };
      };
      if (MISSING_ROLE.test(message)) {
        note(`Not tried: ${tag}, for here ${message}`);
        break;
      }
      const failed = details?.file ?? file;
      problems.push(
        mismatch(
          `up, down, up fails on a scratch database: ${message}; mend \`${failed}\``,
          failed,
        ),
      );
      break;
    }
  }
  return problems;
}

async function runDown(
  scratch: Sql,
  { tag, hash, when }: Migration,
  file: string,
): Promise<void> {
  const text = readFileSync(join(root, file), "utf8");
  const script = toScript({ tag, file, text, hash: hashText(text) }, "down");
  await runScript(scratch, script, {
    record: `delete from ${readProject().records.sql} where created_at = ${when} and hash = '${hash}'`,
    unfinished: undefined,
    lockTimeout: 5000,
  });
}
