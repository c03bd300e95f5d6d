import { defineConfig } from "drizzle-kit";
import { connectionOptions } from "./src/database-url";
import { readEnv } from "./src/env";

export default defineConfig({
  dialect: "postgresql",
  schema: "./src/infrastructure/database/schema.ts",
  out: "./src/infrastructure/database/migrations",
  dbCredentials: connectionOptions(readEnv().direct),
});
