// The client. It opens the file at once, and creates it where there is none.
import { createClient } from "@libsql/client";
import { drizzle } from "drizzle-orm/libsql";
import { address } from "./address";
import * as schema from "./schema";

// Without a timeout, a statement fails at once when another process is writing.
// Foreign keys are on: libSQL's default, unlike SQLite's.
export const client = createClient({ ...address, timeout: 5000 });
export const db = drizzle({ client, schema });
