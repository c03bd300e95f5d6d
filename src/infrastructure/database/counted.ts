// The tables that two commands know by name. One that schema.ts no longer exports is
// shown as "–" by db:test, and left out by db:bootstrap.
import type { PgTable } from "drizzle-orm/pg-core";
import * as schema from "./schema";

/** What `bun run db:test` counts, each with the name that it prints. */
export const counted = {
  users: schema.users,
  tenants: schema.tenants,
  memberships: schema.tenantMembers,
};

/** Where `bun run db:bootstrap` makes the administrator an owner; `{}` for nowhere. */
export const tenancy: { tenant?: PgTable; member?: PgTable } = {
  tenant: schema.tenants,
  member: schema.tenantMembers,
};
