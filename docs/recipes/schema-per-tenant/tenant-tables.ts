// The tables that each tenant has in a schema of its own. What tenants share, such as
// users, is in schema.ts.
import { index, pgSchema, text, timestamp, uuid } from "drizzle-orm/pg-core";
import { users } from "./schema";

/** Returns the tables in the schema of a name. */
function tablesIn(name: string) {
  const schema = pgSchema(name);
  const projects = schema.table("projects", {
    id: uuid("id").primaryKey().defaultRandom(),
    name: text("name").notNull(),
  });
  const documents = schema.table(
    "documents",
    {
      id: uuid("id").primaryKey().defaultRandom(),
      projectId: uuid("project_id")
        .notNull()
        .references(() => projects.id, { onDelete: "cascade" }),
      createdBy: uuid("created_by").references(() => users.id, {
        onDelete: "set null",
      }),
      title: text("title").notNull(),
      createdAt: timestamp("created_at", { withTimezone: true })
        .notNull()
        .defaultNow(),
    },
    (table) => [
      index("documents_project_id_idx").on(table.projectId),
      index("documents_created_by_idx").on(table.createdBy),
    ],
  );
  return { schema, projects, documents };
}

/** The schema that the migrations of tenants are generated for. */
export const TEMPLATE = "tenant_template";
export const { schema, projects, documents } = tablesIn(TEMPLATE);

/** Returns the name of a tenant's schema: its id never changes, its slug may. */
export const schemaOf = (tenantId: string) => `tenant_${tenantId}`;

const known = new Map<string, ReturnType<typeof tablesIn>>();

/** Returns the tables of a tenant, for queries: `db.select().from(projects)`. */
export function tablesOf(tenantId: string): ReturnType<typeof tablesIn> {
  const tables = known.get(tenantId) ?? tablesIn(schemaOf(tenantId));
  known.set(tenantId, tables);
  return tables;
}
