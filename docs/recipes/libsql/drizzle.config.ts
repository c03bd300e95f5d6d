import type { Config } from "drizzle-kit";
import { address } from "./src/address";

export default {
  dialect: "turso",
  schema: "./src/schema.ts",
  out: "./drizzle",
  dbCredentials: address,
} satisfies Config;
