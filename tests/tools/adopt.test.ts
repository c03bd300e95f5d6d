// An application that exists, with its own places and a history that drizzle's
// migrator has applied.
import { describe, expect } from "bun:test";
import { join } from "node:path";
import { drizzle } from "drizzle-orm/postgres-js";
import { migrate } from "drizzle-orm/postgres-js/migrator";
import { migrations, ownHead } from "../lib/migrations";
import { fixture } from "../lib/project";
import { test } from "../lib/test";

const migrationsFolder = join(fixture, migrations);

describe("records in a table of the application's own", () => {
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
      migrationsTable: "__drizzle_migrations",
    });
    const line =
      'migrations: { schema: "public", table: "__drizzle_migrations" }';
    const refusal = {
      exitCode: 2,
      stdout: "",
      stderr: expect.stringContaining(
        [
          "Error: public.__drizzle_migrations has records of 1 of these migrations, and drizzle.config.ts names drizzle.__drizzle_migrations",
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
    await migrate(drizzle({ client: sql }), {
      migrationsFolder,
      migrationsSchema: "public",
    });

    expect(status).toMatchObject({ exitCode: 3, stderr: "" });
    expect(status.stdout).toContain(
      `Problem: public.__drizzle_migrations has records`,
    );
    expect(current).toMatchObject({
      exitCode: 0,
      stdout: `applied   ${ownHead}\n`,
    });
    expect(back.stdout).toStartWith(`Rolled back: ${ownHead}`);
    expect(again.stdout).toStartWith(`Applied: ${ownHead}`);
    const [row] = await sql`
      select count(*)::int as records, to_regclass('drizzle.__drizzle_migrations') as other,
        (select array_agg(direction order by id) from drizzle.__migration_log) as log
      from public.__drizzle_migrations`;
    expect(row).toEqual({ records: 1, other: null, log: ["down", "up"] });
  });
});
