// Applies migrations in the process of a test, as db:migrate does under its lock.
import { openConnection } from "../../scripts/lib/connection";
import { withLock } from "../../scripts/lib/lock";
import { quoteIdentifier } from "../../scripts/lib/quote";
import type { FailureFields } from "../../scripts/lib/report";
import {
  type ApplyOptions,
  applyPending,
} from "../../scripts/migrations/apply";
import { hashText } from "../../scripts/migrations/journal";
import { readLog } from "../../scripts/migrations/log";
import { readPlan } from "../../scripts/migrations/plan";
import { parseDatabaseUrl } from "../../src/database-url";
import { readProject } from "../../src/project";
import { shareDatabase } from "./database";
import type { TestRole } from "./roles";
import { sharedProject } from "./test";

/** A migration whose table others change. */
export const users = "create table users (id int primary key, email text);";

/** What `apply` returns when all is well. */
export const done = (files: Record<string, string>) => ({
  applied: Object.keys(files),
  left: [],
  raised: [],
  error: undefined,
});

/** Creates a database for tests of a file that apply migrations, one after another. */
export function useApply() {
  const { database, test } = shareDatabase("empty", sharedProject().folder);
  const { sql } = database;
  return { database, testApply, apply, explain };

  /**
   * Registers a test of files that are applied in this process, in a database that
   * they share and that is empty at the start of each.
   */
  function testApply(sentence: string, body: () => Promise<void>): void {
    test(sentence, async () => {
      const records = quoteIdentifier(readProject().records.schema);
      await sql.unsafe(
        `drop schema if exists ${records}, public cascade;
          create schema public; grant usage on schema public to public`,
      );
      await body();
    });
  }

  /**
   * Applies files as db:migrate does under its lock, in a session of their own.
   *
   * @param files the text of each migration by its tag.
   * @param options `as` is the role that logs in.
   * @returns the tags that were applied and those that are not, or not all of it,
   * what they raised, and the error that it ended with.
   */
  async function apply(
    files: Record<string, string>,
    { as, ...options }: ApplyOptions & { as?: TestRole } = {},
  ) {
    const migrations = Object.entries(files).map(([tag, text], idx) => {
      const when = 2_000_000_000_000 + idx;
      return { tag, idx, when, file: `${tag}.sql`, text, hash: hashText(text) };
    });
    const applied: string[] = [];
    const raised: string[] = [];
    const url = as?.variables.DATABASE_URL ?? database.url;
    const address = parseDatabaseUrl(url, "DATABASE_URL");
    await using own = await openConnection(address, "db:migrate");
    const error = await withLock(own, 60, async () => {
      await applyPending(own, await readPlan(own, migrations), {
        ...options,
        onApplied: ({ tag }) => applied.push(tag),
        onRaised: ({ tag, message }) => raised.push(`${tag}: ${message}`),
      });
    }).then(
      () => undefined,
      (thrown: Error & FailureFields) => thrown,
    );
    await using after = await openConnection(database.address, "tests");
    const { pending } = await readPlan(after, migrations);
    const unfinished = await readLog(after, "ms is null");
    const left = [...pending, ...unfinished].map(({ tag }) => tag);
    return { applied, left, raised, error };
  }

  /** Returns the error of one file, as db:migrate prints it. */
  async function explain(
    text: string,
    options?: Parameters<typeof apply>[1],
  ): Promise<string> {
    const { error } = await apply({ "0000_a": text }, options);
    const { message = "none", lines = [], hint } = error ?? {};
    return [`Error: ${message}`, ...lines, `Hint: ${hint}`].join("\n");
  }
}
