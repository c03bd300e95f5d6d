// The rows for development: `bun run db:seed`. Existing rows are kept. A row refers
// to another by a query, because ids are not known here.
import { sql } from "drizzle-orm";
import type { PgInsertValue } from "drizzle-orm/pg-core";
import {
  builds,
  tenantMembers,
  tenants,
  users,
} from "../../src/infrastructure/database/schema";

const developer = sql`(select ${users.id} from ${users} where lower(${users.email}) = 'dev@example.com')`;
const team = sql`(select ${tenants.id} from ${tenants} where ${tenants.slug} = 'development-team')`;

const newUsers: PgInsertValue<typeof users>[] = [
  { name: "Developer", email: "dev@example.com", emailVerified: true },
];

const newTenants: PgInsertValue<typeof tenants>[] = [
  { name: "Development Team", slug: "development-team" },
];

const newMembers: PgInsertValue<typeof tenantMembers>[] = [
  { tenantId: team, userId: developer, role: "owner" },
];

const newBuilds: PgInsertValue<typeof builds>[] = [
  {
    tenantId: team,
    createdBy: developer,
    number: 1,
    name: "Build the API",
    status: "succeeded",
    repository: "example/api",
  },
  {
    tenantId: team,
    createdBy: developer,
    number: 2,
    name: "Build the website",
    status: "failed",
    repository: "example/website",
  },
  {
    tenantId: team,
    createdBy: developer,
    number: 3,
    name: "Build the API",
    status: "running",
    repository: "example/api",
  },
];

/** Inserted in this order. */
export const rows = [
  { table: users, rows: newUsers },
  { table: tenants, rows: newTenants },
  { table: tenantMembers, rows: newMembers },
  { table: builds, rows: newBuilds },
];
