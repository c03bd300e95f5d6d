-- Not concurrent: drizzle's own migrator runs migrations in a transaction. For a
-- large table docs/MIGRATIONS.md has another way.
-- squawk-ignore require-concurrent-index-creation -- as said above
CREATE INDEX "builds_queued_idx" ON "builds" USING btree ("created_at") WHERE "builds"."status" = 'queued';--> statement-breakpoint
-- squawk-ignore require-concurrent-index-creation -- as said above
CREATE INDEX "users_email_idx" ON "users" USING btree ("email");
