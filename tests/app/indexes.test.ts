// The questions that are asked all the time, at ten thousand rows: with more, an index
// is worth more.
import { expect } from "bun:test";
import { eq, type SQLWrapper, sql } from "drizzle-orm";
import { builds, users } from "../../src/infrastructure/database/schema";
import { openClient } from "../lib/client";
import { testDatabase as test } from "../lib/database";

test(
  "a user is found by email, and the oldest queued build, through an index",
  "migrated",
  async ({ address, sql: server }) => {
    await server`alter table builds disable trigger all`; // foreign keys are slow
    await server`insert into users (name, email)
      select 'User', 'user' || n || '@example.com' from generate_series(1, 10000) n`;
    await server`with team as (insert into tenants (name, slug) values ('T', 't') returning id)
      insert into builds (tenant_id, number, name, repository, status, created_at)
      select id, n, 'b', 'r', case when n % 1000 = 0 then 'queued' else 'succeeded' end,
        now() - n * interval '1 second' from team, generate_series(1, 10000) n`;
    await server`analyze users, builds`;
    const { db, closeDatabase } = openClient(address);
    const explain = async (query: SQLWrapper) => {
      const rows = await db.execute(sql`explain ${query}`);
      return rows.map((row) => row["QUERY PLAN"]).join("\n");
    };

    const byEmail = await explain(
      db.select().from(users).where(eq(users.email, "user7@example.com")),
    );
    const oldest = await explain(
      db
        .select()
        .from(builds)
        .where(eq(builds.status, "queued"))
        .orderBy(builds.createdAt)
        .limit(1)
        .for("update", { skipLocked: true }),
    );
    await closeDatabase();

    expect(byEmail).toContain("Index Scan using users_email_idx");
    expect(oldest).toContain("Index Scan using builds_queued_idx");
    expect(byEmail + oldest).not.toContain("Seq Scan");
  },
);
