// The tables that `bun run db:test` counts, each under the name that it prints.
// A table that schema.ts does not export any more is counted as "–".
import * as schema from "./schema";

export const counted = {
  users: schema.users,
  tenants: schema.tenants,
  memberships: schema.tenantMembers,
};
