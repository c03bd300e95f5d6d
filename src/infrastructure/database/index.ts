export { closeDatabase, db, transactWithRetry } from "./client";
export type { Database, Transaction } from "./database";
export { codeOf, type DatabaseErrorCode } from "./errors";
export * from "./schema";
