import type { Config } from "drizzle-kit";
import { connectionOptions } from "./src/database-tls";
import { readEnv } from "./src/env";

// What is set here holds for the db:* commands, too (src/project.ts).
export default {
  dialect: "postgresql",
  schema: "./src/infrastructure/database/schema.ts",
  out: "./src/infrastructure/database/migrations",
  // Also a limit for drizzle-kit push, which would drop tables of the schema `drizzle`.
  schemaFilter: ["public"],
  // Only drizzle-kit asks for it.
  get dbCredentials() {
    return connectionOptions(readEnv().direct);
  },
} satisfies Config;
