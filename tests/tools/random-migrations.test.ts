// Random changes of random schemas: up, down, up on a real server, in the SQL
// that db:generate writes, also with --online. Six from a random start; with ALL=1 a hundred.
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Sql } from "postgres";
import { compareCatalogs, readCatalog } from "../../scripts/migrations/catalog";
import { splitStatements } from "../../scripts/migrations/statements";
import {
  BREAKPOINT,
  diffRenamed,
  printDown,
} from "../../scripts/schema/down-file";
import { loadDrizzleKit } from "../../scripts/schema/drizzle-kit";
import { writeOnline } from "../../scripts/schema/online";
import { answerRenames } from "../../scripts/schema/renames";
import { emptySnapshot, type Snapshot } from "../../scripts/schema/snapshots";
import { root } from "../../src/env";
import { withDatabase } from "../lib/database";
import { makeChange, printSchema } from "../lib/random-schema";
import { isWhole, seed } from "../lib/sample";

const PAIRS = isWhole ? 100 : 6;

const folder = mkdtempSync(join(tmpdir(), "starter-random-"));
symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test(`every migration of ${PAIRS} random ones, from seed ${seed} on, can be taken back and made again`, async () => {
  const seeds = Array.from({ length: PAIRS }, (_, index) => seed + index);
  const next = async (sql: Sql) => {
    for (let seed = seeds.shift(); seed !== undefined; seed = seeds.shift())
      await goUpAndDown(sql, seed);
  };
  const workers = [1, 2].map(() =>
    withDatabase("empty", ({ sql }) => sql.reserve().then(next)),
  );
  await Promise.all(workers);

  expect(seeds).toHaveLength(0);
}, 300_000);

test("the SQL of the first ten is as it was", async () => {
  for (let seed = 1; seed <= 10; seed += 1) {
    const { before, after, renames, up, down } = await makeMigration(seed);
    const online = await writeOnline(before, after, renames);
    for (const text of [up, down, online])
      expect(text.replaceAll(BREAKPOINT, "\n")).toMatchSnapshot();
  }
}, 300_000);

async function makeMigration(seed: number) {
  const { before: model, after: changed, renames: answers } = makeChange(seed);
  const before = await describe(printSchema(model), `${seed}-before`);
  const after = await describe(printSchema(changed), `${seed}-after`);
  const { renames } = answerRenames(before, after, answers);
  const up = (await diffRenamed(before, after, renames)).join(BREAKPOINT);
  const down = await printDown(before, after, up);
  return { before, after, renames, up, down };
}

async function goUpAndDown(sql: Sql, seed: number): Promise<void> {
  const { before, after, renames, up, down } = await makeMigration(seed);
  const initial = await diffRenamed(emptySnapshot, before, []);

  await sql.unsafe("drop schema public cascade; create schema public");
  await run(sql, initial.join(BREAKPOINT), `seed ${seed}, before`);
  const first = await readCatalog(sql);
  await run(sql, up, `seed ${seed}, up`);
  const second = await readCatalog(sql);
  await run(sql, down, `seed ${seed}, down`);
  const third = await readCatalog(sql);
  await run(sql, up, `seed ${seed}, up again`);
  const fourth = await readCatalog(sql);
  await run(sql, down, `seed ${seed}, down again`);
  const online = await writeOnline(before, after, renames);
  await run(sql, online, `seed ${seed}, online`);
  const fifth = await readCatalog(sql);
  await sql.unsafe("drop schema public cascade; create schema public");
  const whole = await diffRenamed(emptySnapshot, after, []);
  await run(sql, whole.join(BREAKPOINT), `seed ${seed}, at once`);
  const atOnce = await readCatalog(sql);

  const seeded = (differences: object[]) => ({ seed, differences });
  expect(seeded(compareCatalogs(first, third))).toEqual(seeded([]));
  expect(seeded(compareCatalogs(second, fourth))).toEqual(seeded([]));
  expect(seeded(compareCatalogs(second, fifth))).toEqual(seeded([]));
  expect(seeded(compareCatalogs(atOnce, second))).toEqual(seeded([]));
}

/** As drizzle-kit reads a schema.ts. */
async function describe(text: string, name: string): Promise<Snapshot> {
  const file = join(folder, `${name}.ts`);
  writeFileSync(file, text);
  const { generateDrizzleJson } = await loadDrizzleKit();
  return JSON.parse(JSON.stringify(generateDrizzleJson(await import(file))));
}

/** Each statement by itself, for a new enum value has to be committed. */
async function run(sql: Sql, text: string, what: string): Promise<void> {
  for (const statement of splitStatements(text))
    await sql.unsafe(statement.text).catch((error: Error) => {
      throw new Error(`${what}: ${error.message}: ${statement.text}`);
    });
}
