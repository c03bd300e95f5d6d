// db:generate --online: what it writes, and what db:migrate makes of it while others write.
import { expect, test as bunTest } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { sql as S } from "drizzle-orm";
import * as pg from "drizzle-orm/pg-core";
import { describeExports } from "../../scripts/schema/describe-schema";
import { printBackFill } from "../../scripts/schema/back-fill";
import { BREAKPOINT } from "../../scripts/schema/down-file";
import { writeOnline } from "../../scripts/schema/online";
import { until } from "../lib/database";
import { migrations, ownMigrations } from "../lib/migrations";
import { image } from "../lib/schema-file";
import { test } from "../lib/test";

const next = `${String(ownMigrations.length).padStart(4, "0")}_next`;
const file = `${migrations}/${next}.sql`;
const emailKey =
  'uniqueIndex("users_email_key").on(sql`lower(${table.email})`)';

test(
  "db:generate --online writes the forms that block nobody, and the lint has nothing to say",
  "seeded",
  async ({ run, change, read, project }) => {
    change(image, 'image: text("image").notNull().default("none"),');
    change(
      emailKey,
      `${emailKey}, index("users_name_idx").on(table.name), unique("users_image_key").on(table.image), check("users_name_check", sql\`\${table.name} <> ''\`)`,
    );
    change('onDelete: "set null"', 'onDelete: "cascade"');
    const plain = await run("db:generate next");
    const down = read(`${migrations}/${next}.down.sql`);
    const journal = `${migrations}/meta/_journal.json`;
    const { entries, ...rest } = JSON.parse(read(journal));
    entries.pop();
    project.write(journal, JSON.stringify({ ...rest, entries }));
    const snapshot = `meta/${next.slice(0, 4)}_snapshot.json`;
    for (const name of [`${next}.sql`, `${next}.down.sql`, snapshot])
      rmSync(join(project.folder, migrations, name));
    const online = await run("db:generate next --online");

    expect(plain.stderr).toContain("adding-not-nullable-field");
    expect(online).toMatchObject({ exitCode: 0, stderr: "" });
    expect(read(`${migrations}/${next}.down.sql`)).toBe(down);
    expect(read(file).replaceAll("--> statement-breakpoint", "")).toBe(
      `-- no-transaction
-- Online: each statement commits by itself, and waits 200 ms for a lock; then db:migrate tries it again.
-- The last commit makes all of them durable. A lock is held while the disk is waited for only where files are removed.
SET lock_timeout = '200ms';
SET statement_timeout = 0;
SET synchronous_commit = off;
BEGIN;
SET LOCAL lock_timeout = '66ms';
ALTER TABLE "sessions" DROP CONSTRAINT "sessions_active_tenant_id_tenants_id_fk";
ALTER TABLE "users" ALTER COLUMN "image" SET DEFAULT 'none';
ALTER TABLE "users" ADD CONSTRAINT "users_name_check" CHECK ("users"."name" <> '') NOT VALID;
ALTER TABLE "sessions" ADD CONSTRAINT "sessions_active_tenant_id_tenants_id_fk" FOREIGN KEY ("active_tenant_id") REFERENCES "public"."tenants"("id") ON DELETE cascade ON UPDATE no action NOT VALID;
COMMIT;
ALTER TABLE "users" ADD CONSTRAINT "image_is_set" CHECK ("image" IS NOT NULL) NOT VALID;
ALTER TABLE "users" VALIDATE CONSTRAINT "image_is_set";
ALTER TABLE "users" ALTER COLUMN "image" SET NOT NULL;
ALTER TABLE "users" DROP CONSTRAINT "image_is_set";
CREATE INDEX CONCURRENTLY "users_name_idx" ON "users" USING btree ("name");
CREATE UNIQUE INDEX CONCURRENTLY "users_image_key" ON "users" ("image");
ALTER TABLE "users" ADD CONSTRAINT "users_image_key" UNIQUE USING INDEX "users_image_key";
ALTER TABLE "users" VALIDATE CONSTRAINT "users_name_check";
ALTER TABLE "sessions" VALIDATE CONSTRAINT "sessions_active_tenant_id_tenants_id_fk";
RESET synchronous_commit;`,
    );
  },
);

/** The lines that tell which form a change has. */
const SHOWN =
  /^(-- Not|ALTER (?!.*(_is_set";|SET NOT NULL;|AS IDENTITY .*;)$)|UPDATE|NEW|CREATE [UIS]|DROP [IV]|PERFORM setval|BEGIN;)/;

bunTest(
  "each change has the form that blocks least, and says where there is none",
  async () => {
    const long = "n".repeat(62);
    const b = pg.pgTable("b", { seen: pg.integer(), born: pg.text() });
    const nextB = pg.pgTable("b", {
      looked: pg.bigint({ mode: "number" }),
      born: pg.date(),
    });
    const [before, after] = await Promise.all([
      describeExports(
        {
          a: pg.pgTable(
            "a",
            {
              id: pg.integer().primaryKey().generatedAlwaysAsIdentity(),
              code: pg.varchar({ length: 20 }).notNull(),
              name: pg.varchar({ length: 9 }),
              paid: pg.numeric({ precision: 8, scale: 2 }),
              [long]: pg.integer(),
            },
            (t) => [
              pg.index("a_name").on(t.name),
              pg.unique("a_paid").on(t.paid).nullsNotDistinct(),
            ],
          ),
          b,
          o: pg.pgTable("o", { seen: pg.integer() }),
          d: pg.pgView("d").as((query) => query.select().from(b)),
          v: pg.pgView("v").as((query) => query.select().from(b)),
        },
        "",
      ),
      describeExports(
        {
          a: pg.pgTable(
            "a",
            {
              id: pg
                .bigint({ mode: "number" })
                .primaryKey()
                .generatedAlwaysAsIdentity(),
              code: pg.varchar({ length: 9 }).notNull().unique("a_code"),
              name: pg.varchar({ length: 20 }),
              paid: pg.numeric({ precision: 10, scale: 4 }),
              [long]: pg.bigint({ mode: "number" }),
              place: pg.serial(),
              key: pg.uuid().defaultRandom(),
              at: pg.timestamp().defaultNow(),
              day: pg.timestamp().default(S`date_trunc('day', now())`),
              said: pg.text().default("soon (x)"),
            },
            (t) => [
              pg.index("a_name").on(t.name, t.code),
              pg.unique("a_paid").on(t.paid).nullsNotDistinct(),
            ],
          ),
          b: nextB,
          d: pg.pgTable("d", { seen: pg.integer() }),
          v: pg.pgView("v").as((query) => query.select().from(nextB)),
          c: pg.pgTable("c", {
            code: pg
              .varchar({ length: 9 })
              .references(() => pg.pgTable("a", { code: pg.varchar() }).code),
          }),
        },
        "",
      ),
    ]);

    const text = await writeOnline(before, after, [
      { kind: "table", schema: "public", from: "o", to: "d" },
      {
        kind: "column",
        schema: "public",
        table: "b",
        from: "seen",
        to: "looked",
      },
    ]);
    const outline = text
      .replaceAll(BREAKPOINT.trim(), "")
      .replaceAll(long.slice(4), "~")
      .split("\n")
      .map((line) => line.trim())
      .filter((line) => SHOWN.test(line));

    expect(outline.join("\n")).toBe(
      `BEGIN;
DROP VIEW "public"."d";
ALTER TABLE "o" RENAME TO "d";
ALTER TABLE "b" RENAME COLUMN "seen" TO "looked";
ALTER TABLE "a" ADD COLUMN "id_new" bigint;
NEW."id_new" := NEW."id";
UPDATE "a" SET "id_new" = "id"
ALTER TABLE "a" ADD CONSTRAINT "id_new_is_set" CHECK ("id_new" IS NOT NULL) NOT VALID;
CREATE UNIQUE INDEX CONCURRENTLY "a_pkey_new" ON "a" ("id_new");
ALTER TABLE "a" DROP COLUMN "id";
PERFORM setval(pg_get_serial_sequence('"a"', 'id'), count, is_called);
ALTER TABLE "a" ADD COLUMN "code_new" varchar(9);
NEW."code_new" := NEW."code";
UPDATE "a" SET "code_new" = "code"
ALTER TABLE "a" ADD CONSTRAINT "code_new_is_set" CHECK ("code_new" IS NOT NULL) NOT VALID;
ALTER TABLE "a" DROP COLUMN "code";
ALTER TABLE "a" ADD COLUMN "paid_new" numeric(10, 4);
NEW."paid_new" := NEW."paid";
UPDATE "a" SET "paid_new" = "paid"
CREATE UNIQUE INDEX CONCURRENTLY "a_paid_new" ON "a" ("paid_new") NULLS NOT DISTINCT;
ALTER TABLE "a" DROP COLUMN "paid";
ALTER TABLE "a" ADD CONSTRAINT "a_paid" UNIQUE USING INDEX "a_paid_new";
ALTER TABLE "a" ADD COLUMN "~n_new" bigint;
NEW."~n_new" := NEW."~nnnn";
UPDATE "a" SET "~n_new" = "~nnnn"
ALTER TABLE "a" DROP COLUMN "~nnnn";
BEGIN;
DROP VIEW "public"."v";
ALTER INDEX "a_name" RENAME TO "a_name_old";
ALTER TABLE "a" ALTER COLUMN "name" SET DATA TYPE varchar(20);
-- Not online, for the view v reads it: it rewrites the table, and everybody waits.
ALTER TABLE "b" ALTER COLUMN "looked" SET DATA TYPE bigint USING "looked"::bigint;
-- Not online, for the cast may depend on the session: it rewrites the table, and everybody waits.
ALTER TABLE "b" ALTER COLUMN "born" SET DATA TYPE date USING "born"::date;
ALTER TABLE "a" ADD COLUMN "place" integer;
CREATE SEQUENCE "a_place_seq" AS integer OWNED BY "a"."place";
ALTER TABLE "a" ALTER COLUMN "place" SET DEFAULT nextval('"a_place_seq"');
ALTER TABLE "a" ADD COLUMN "key" uuid;
ALTER TABLE "a" ALTER COLUMN "key" SET DEFAULT gen_random_uuid();
ALTER TABLE "a" ADD COLUMN "at" timestamp DEFAULT now();
ALTER TABLE "a" ADD COLUMN "day" timestamp DEFAULT date_trunc('day', now());
ALTER TABLE "a" ADD COLUMN "said" text DEFAULT 'soon (x)';
UPDATE "a" SET "place" = coalesce("place", nextval('"a_place_seq"')), "key" = coalesce("key", gen_random_uuid())
ALTER TABLE "a" ADD CONSTRAINT "place_is_set" CHECK ("place" IS NOT NULL) NOT VALID;
CREATE INDEX CONCURRENTLY "a_name" ON "a" USING btree ("name","code");
CREATE UNIQUE INDEX CONCURRENTLY "a_code" ON "a" ("code");
ALTER TABLE "a" ADD CONSTRAINT "a_code" UNIQUE USING INDEX "a_code";
BEGIN;
ALTER TABLE "c" ADD CONSTRAINT "c_code_a_code_fk" FOREIGN KEY ("code") REFERENCES "public"."a"("code") ON DELETE no action ON UPDATE no action NOT VALID;
ALTER TABLE "c" VALIDATE CONSTRAINT "c_code_a_code_fk";
DROP INDEX CONCURRENTLY IF EXISTS "a_name_old";`,
    );
  },
);

test(
  "a migration online tries again where a writer is in its way, goes on after a kill, and loses nothing",
  "seeded",
  async ({ run, start, change, project, sql }) => {
    await sql`
      insert into builds (tenant_id, number, name, repository)
      select id, 1000 + i, 'many', 'r' from tenants, generate_series(1, 3000) as i`;
    await sql`comment on column builds.number is 'counted by tenant'`;
    await sql`
      alter table builds alter number set statistics 7, alter number set (n_distinct = 99)`;
    change("  boolean,\n", "  bigint,\n  boolean,\n");
    change(
      'number: integer("number").notNull(),',
      `number: bigint("number", { mode: "number" }).notNull(),
       token: uuid("token").notNull().defaultRandom(),`,
    );
    change(
      'unique("builds_tenant_id_number_key")',
      'unique("builds_token_key").on(table.token), unique("builds_tenant_id_number_key")',
    );
    const generated = await run("db:generate next --online");
    const checked = await run("db:check");
    const [before] = await sql`
      select count(*)::int, sum(number)::int from builds`;

    // A back-fill takes a while.
    await sql.unsafe(`
      create function slow() returns trigger language plpgsql as $$
        begin perform pg_sleep(0.002); return new; end $$;
      create trigger slow before update on builds for each row execute function slow()`);
    const holder = await sql.reserve();
    await holder`begin`;
    await holder`update builds set name = 'held' where number = 1001`;
    const first = start("scripts/migrate.ts", {}, project.folder);
    const waiting = await readUntil(first.stderr, "retry 1 of 5");
    const begun = performance.now();
    await sql`update builds set name = 'other' where number = 1002`;
    const waited = performance.now() - begun;
    await holder`commit`;
    holder.release();
    await until(
      sql,
      "datname = current_database() and application_name = 'db:migrate' and query like 'DO $$%'",
    );
    let filled = 0;
    while (filled === 0)
      filled = (
        await sql`select count(*)::int as filled from builds where number_new is not null`
      )[0]?.filled;
    first.kill(9);
    await first.exited;
    await sql`drop trigger slow on builds`;
    const second = await run("db:migrate");
    const [after] = await sql`
      select count(*)::int, sum(number)::int, count(distinct token)::int as tokens,
        pg_typeof(min(number))::text as type
      from builds`;
    const [column] = await sql`
      select col_description(attrelid, attnum) as comment, attstattarget as statistics, attoptions as options
      from pg_attribute where attrelid = 'builds'::regclass and attname = 'number'`;
    const [constraints] = await sql`
      select count(*) filter (where not convalidated)::int as invalid from pg_constraint`;

    expect(generated).toMatchObject({ exitCode: 0, stderr: "" });
    expect(checked.stdout).toContain("Checked: 0 errors");
    expect(checked.stdout).not.toContain("not_tried");
    expect(waiting).toContain(`Waiting: ${next} could not get a lock`);
    expect(waited).toBeLessThan(2000);
    expect(filled).toBeLessThan(before?.count);
    expect(second).toMatchObject({
      exitCode: 0,
      stdout: expect.stringContaining(`Applied: ${next} `),
    });
    expect(after).toEqual({
      ...before,
      tokens: before?.count,
      type: "bigint",
    });
    expect(column).toEqual({
      comment: "counted by tenant",
      statistics: 7,
      options: ["n_distinct=99"],
    });
    expect(constraints?.invalid).toBe(0);
    await sql`drop function slow()`;
    expect((await run("db:check --strict")).stdout).toContain(
      "Checked: 0 errors, 0 warnings",
    );
  },
);

test(
  "a back-fill goes past what is locked, and comes back to it",
  "empty",
  async ({ sql }) => {
    await sql.unsafe(
      'create table "t$$" (i int, j int); insert into "t$$" values (1), (2)',
    );
    const [holder, filler] = [await sql.reserve(), await sql.reserve()];
    const fill = printBackFill('"t$$"', "j = i", "j is null");
    await filler`set lock_timeout = 200`;
    await holder`begin`;
    await holder`update "t$$" set i = 1 where i = 1`;
    let isOver = false;
    const filling = filler.unsafe(fill).finally(() => (isOver = true));
    let filled: object[] = [];
    while (filled.length === 0 && !isOver)
      filled = await holder`select i from "t$$" where j = i`;
    await holder`commit`;
    await filling;
    const all = await holder`select from "t$$" where j = i`;
    holder.release();
    filler.release();

    expect([...filled]).toEqual([{ i: 2 }]);
    expect(all).toHaveLength(2);
    expect(fill).toContain("RAISE 'rows of % stay locked by others'"); // after five seconds
  },
);

test(
  "a swap of columns fails where it would lose what no snapshot has",
  "migrated",
  async ({ run, change, sql, read }) => {
    await sql`alter table builds add constraint by_hand_key unique (number, id)`;
    await sql`create index by_hand on builds (number, name)`;
    change("  boolean,\n", "  bigint,\n  boolean,\n");
    change('integer("number")', 'bigint("number", { mode: "number" })');
    await run("db:generate next --online");
    const constrained = await run("db:migrate");
    await sql`alter table builds drop constraint by_hand_key`;
    const refused = await run("db:migrate");
    const [type] = await sql`
      select data_type from information_schema.columns
      where table_name = 'builds' and column_name = 'number'`;
    await sql`drop index by_hand`;
    const again = await run("db:migrate");

    expect(constrained.stderr).toStartWith(
      `Error: ${next} failed: the constraint by_hand_key of builds has the column, and no snapshot has it\n`,
    );
    expect(refused).toMatchObject({ exitCode: 1, stdout: "" });
    expect(refused.stderr).toStartWith(
      `Error: ${next} failed: not in a snapshot, and would be lost with the column: index by_hand\n`,
    );
    expect(refused.stderr).toContain("drop it, migrate, and make it again\n");
    expect(type?.data_type).toBe("integer");
    expect(again.exitCode).toBe(0);
    expect(read(file)).toContain("-- resumable\n");
  },
);

/** Reads until a text has come; the rest is left unread. */
async function readUntil(
  stream: ReadableStream<Uint8Array>,
  text: string,
): Promise<string> {
  let read = "";
  for await (const chunk of stream) {
    read += Buffer.from(chunk).toString();
    if (read.includes(text)) return read;
  }
  throw new Error(`"${text}" did not come, but: ${read}`);
}
