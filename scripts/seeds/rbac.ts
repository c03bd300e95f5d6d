// What each role of a tenant may do: `bun run db:seed rbac`. The application
// reads it from the table; this list is where it is decided.
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

/** Production needs these rows too: no consent is asked for. */
export const isForProduction = true;

export const rows = [
  {
    table: rolePermissions,
    rows: Object.entries(permissions).flatMap(([role, names]) =>
      names.map((permission) => ({ role, permission })),
    ),
    // Of these roles, what is not listed is removed; other roles are left alone.
    removeOthers: inArray(rolePermissions.role, Object.keys(permissions)),
  },
];
