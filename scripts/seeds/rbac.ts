// The permissions of each role in a tenant: `bun run db:seed rbac`. Change them
// here; the application reads them from the table.
import { inArray } from "drizzle-orm";
import { rolePermissions } from "../../src/infrastructure/database/schema";

const member = ["tenant:read", "member:read", "build:read", "build:create"];
const admin = [
  ...member,
  "tenant:update",
  "member:create",
  "member:update",
  "member:delete",
  "invitation:create",
  "invitation:cancel",
  "build:cancel",
  "build:delete",
];
const permissions = { owner: [...admin, "tenant:delete"], admin, member };

/** Production needs these rows too, so no consent is required. */
export const isForProduction = true;

export const rows = [
  {
    table: rolePermissions,
    rows: Object.entries(permissions).flatMap(([role, names]) =>
      names.map((permission) => ({ role, permission })),
    ),
    // Removes permissions of these roles that are not listed; other roles are kept.
    removeOthers: inArray(rolePermissions.role, Object.keys(permissions)),
  },
];
