// The tables that `bun run db:test` counts, each with the name that it prints. A
// table that schema.ts no longer exports is shown as "–".
import * as schema from "./schema";

export const counted = {
  users: schema.users,
  tenants: schema.tenants,
  memberships: schema.tenantMembers,
};
