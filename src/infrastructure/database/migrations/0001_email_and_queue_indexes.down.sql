DROP INDEX "builds_queued_idx";--> statement-breakpoint
DROP INDEX "users_email_idx";
