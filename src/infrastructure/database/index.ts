export { closeDatabase, db } from "./client";
export * from "./schema";
