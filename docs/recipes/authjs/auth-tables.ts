// The tables of schema.ts by the names that Auth.js has for their columns. They are the
// same tables in the database, and no migration is made from this file.
import {
  integer,
  pgTable,
  primaryKey,
  text,
  timestamp,
  uuid,
} from "drizzle-orm/pg-core";

const time = (name: string) => timestamp(name, { withTimezone: true });
const updatedAt = () => time("updated_at").$onUpdate(() => new Date());

export const usersTable = pgTable("users", {
  id: uuid("id").primaryKey().defaultRandom(),
  name: text("name"),
  email: text("email").notNull(),
  emailVerified: time("email_verified_at"),
  image: text("image"),
  updatedAt: updatedAt(),
});

export const accountsTable = pgTable(
  "accounts",
  {
    userId: uuid("user_id").notNull(),
    type: text("type").notNull(),
    provider: text("provider_id").notNull(),
    providerAccountId: text("account_id").notNull(),
    refresh_token: text("refresh_token"),
    access_token: text("access_token"),
    expires_at: integer("expires_at"),
    token_type: text("token_type"),
    scope: text("scope"),
    id_token: text("id_token"),
    session_state: text("session_state"),
  },
  (table) => [
    primaryKey({ columns: [table.provider, table.providerAccountId] }),
  ],
);

export const sessionsTable = pgTable("sessions", {
  sessionToken: text("token").primaryKey(),
  userId: uuid("user_id").notNull(),
  expires: time("expires_at").notNull(),
  updatedAt: updatedAt(),
});

export const verificationTokensTable = pgTable("verification_tokens", {
  identifier: text("identifier").notNull(),
  token: text("value").notNull(),
  expires: time("expires_at").notNull(),
});
