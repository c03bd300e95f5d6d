// An application that exists, with its own places and a history that drizzle's
// migrator has applied.
import { describe, expect } from "bun:test";
import { join } from "node:path";
import { drizzle } from "drizzle-orm/postgres-js";
import { migrate } from "drizzle-orm/postgres-js/migrator";
import {
  findElsewhere,
  refuseElsewhere,
} from "../../scripts/migrations/elsewhere";
import type { Plan } from "../../scripts/migrations/plan";
import { addMigration, migrations, ownHead } from "../lib/migrations";
import { fixture } from "../lib/project";
import { image, schemaFile } from "../lib/schema-file";
import { test } from "../lib/test";

const migrationsFolder = join(fixture, migrations);

describe("records in a table of the application's own", () => {
  test("are found by their columns and hashes, where drizzle may have them", async ({
    sql,
  }) => {
    const find = (...hashes: string[]) =>
      findElsewhere(sql, { pending: hashes.map((hash) => ({ hash })) } as Plan);
    const columns = "(hash text, created_at bigint)";
    const tables = [
      'public."My records"',
      ...["drizzle.others", "drizzle.__drizzle_migrations", "other.records"],
      ...["public.short", "public.renamed"],
    ];
    await sql.unsafe(`
      create schema other; create schema drizzle;
      create table public."My records" ${columns} partition by list (hash);
      create table public.part partition of public."My records" default;
      create table drizzle.others ${columns};
      create table drizzle.__drizzle_migrations (id serial, hash text, created_at bigint);
      create table other.records ${columns};
      create table public.short (hash varchar, created_at bigint);
      create table public.renamed ${columns}; alter table public.renamed drop created_at;
      create view public.seen as select hash, 1::bigint as created_at from other.records;
      ${tables.map((table) => `insert into ${table} (hash) values ('a'), ('a'), ('b'), ('c');`).join("")}`);

    const first = await find("a");
    await sql`drop table drizzle.others`;
    const second = await find("a", "b", "it's new");
    const refused = await refuseElsewhere(sql, {
      pending: [{ hash: "a" }],
    } as Plan).catch((error) => ({ ...error }));
    await sql`drop table public."My records"`;
    const none = [await find("a"), await find()];
    await sql`truncate drizzle.__drizzle_migrations`;
    const anywhere = await find("a");

    const describe = (table: string, count: number) =>
      `${table} has records of ${count} of these migrations, and drizzle.config.ts names drizzle.__drizzle_migrations`;
    expect(first?.message).toBe(describe("drizzle.others", 1));
    expect(second).toEqual({
      message: describe('public."My records"', 2),
      hint: 'set `migrations: { schema: "public", table: "My records" }` in `drizzle.config.ts`',
    });
    expect(refused).toEqual({
      code: "RECORDS_ELSEWHERE",
      exitCode: 2,
      hint: second?.hint,
    });
    expect(none).toEqual([undefined, undefined]);
    expect(anywhere?.message).toBe(describe("other.records", 1));
  });

  test("have a schema that db:push does not touch, and that db:baseline does not miss", async ({
    name,
    sql,
    project,
    run,
    change,
  }) => {
    project.replace(
      "drizzle.config.ts",
      'schemaFilter: ["public"],',
      'schemaFilter: ["public", "sales"], migrations: { schema: "meta", table: "__migs" },',
    );
    await sql`create schema meta`;
    const pushed = await run("db:push --no-rename");
    const [kept] = await sql`select to_regnamespace('meta')::text as schema`;
    await sql`drop schema meta`;
    const recorded = await run("db:baseline");
    const checked = await run("db:check --json");
    change(image, `${image} more: text(),`);
    const again = await run("db:push --json");
    await sql`create schema sales`;
    change("  pgTable,", "  pgSchema,\n  pgTable,");
    const lines = `export const lines = pgSchema("sales").table("lines", { id: integer() });`;
    project.write(schemaFile, `${project.read(schemaFile)}${lines}\n`);
    const moved = await run("db:push --json");

    expect(pushed).toMatchObject({ exitCode: 0 });
    expect(kept).toEqual({ schema: "meta" });
    expect(pushed.stdout).not.toContain('SCHEMA "meta"');
    expect(recorded).toMatchObject({ exitCode: 0 });
    expect(
      JSON.parse(checked.stdout).problems.filter(
        ({ code }: { code: string }) => code === "drift",
      ),
    ).toEqual([]);
    expect(JSON.parse(again.stdout).statements).toEqual([
      'ALTER TABLE "users" ADD COLUMN "more" text;',
    ]);
    expect(JSON.parse(moved.stdout).statements).toEqual([
      'CREATE TABLE "sales"."lines" (\n\t"id" integer\n);',
    ]);
    expect(await sql`select from meta.__migs`).toHaveLength(1);
  });

  test("are used where the config names it, and are never run a second time where it does not", async ({
    name,
    sql,
    project,
    run,
  }) => {
    // Other tools' tables, as TypeORM makes one and as an audit may have one.
    await sql`create table public.migrations (id serial, timestamp bigint, name text)`;
    await sql`create table public.audit (hash text, created_at bigint)`;
    await sql`insert into public.audit values ('none of ours', 1)`;
    await migrate(drizzle({ client: sql }), {
      migrationsFolder,
      migrationsSchema: "public",
      migrationsTable: "history",
    });
    const line = 'migrations: { schema: "public", table: "history" }';
    const refusal = {
      exitCode: 2,
      stdout: "",
      stderr: expect.stringContaining(
        [
          "Error: public.history has records of 1 of these migrations, and drizzle.config.ts names drizzle.__drizzle_migrations",
          `Hint: set \`${line}\` in \`drizzle.config.ts\``,
          "",
        ].join("\n"),
      ),
    };

    for (const command of [
      "db:migrate",
      "db:migrate --dry-run",
      "db:baseline",
      "db:rollback",
      "db:check",
    ])
      expect(await run(command)).toEqual(refusal);
    const status = await run("db:migrate:status");
    project.replace(
      "drizzle.config.ts",
      'dialect: "postgresql",',
      `dialect: "postgresql", ${line},`,
    );
    const current = await run("db:migrate:status");
    const back = await run(`db:rollback --confirm ${name}`);
    const again = await run("db:migrate");
    // What it takes of them comes back.
    addMigration(project, "0001_meddles", "delete from history;");
    const meddled = await run("db:migrate");
    await migrate(drizzle({ client: sql }), {
      migrationsFolder,
      migrationsSchema: "public",
      migrationsTable: "history",
    });

    expect(status).toMatchObject({ exitCode: 3, stderr: "" });
    expect(status.stdout).toContain(`Problem: public.history has records`);
    expect(current).toMatchObject({
      exitCode: 0,
      stdout: `applied   ${ownHead}\n`,
    });
    expect(back.stdout).toStartWith(`Rolled back: ${ownHead}`);
    expect(again.stdout).toStartWith(`Applied: ${ownHead}`);
    expect(meddled.stdout).toStartWith("Applied: 0001_meddles ");
    const [row] = await sql`
      select count(*)::int as records, to_regclass('drizzle.__drizzle_migrations') as other,
        (select array_agg(direction order by id) from drizzle.__migration_log) as log
      from public.history`;
    expect(row).toEqual({
      records: 2,
      other: null,
      log: ["down", "up", "up"],
    });
  });
});
