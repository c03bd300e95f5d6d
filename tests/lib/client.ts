// Opens the application's client on a test's database, in the test's process.
import { connect, type Socket } from "node:net";
import { pgTable, text } from "drizzle-orm/pg-core";
import type { DatabaseAddress } from "../../src/database-url";
import { type ClientSettings, readEnv } from "../../src/env";
import { makeClient } from "../../src/infrastructure/database/client";
import { openPools } from "../../src/infrastructure/database/pools";
import { listen } from "./ports";

/** A table for the tests, independent of the application's tables. */
export const items = pgTable("items", {
  slug: text().notNull().unique(),
  name: text(),
});
export const CREATE_ITEMS =
  "create table items (slug text unique not null, name text)";

/** Opens a client with the given limits; the caller must close it. */
export function openClient(
  database: DatabaseAddress,
  limits: Partial<ClientSettings> = {},
  replicas: DatabaseAddress[] = [],
) {
  const client = { ...readEnv().client, isPooled: false, ...limits };
  return makeClient(openPools({ database, replicas, client }));
}

/** Returns the code and message of the error that a promise is rejected with. */
export async function rejection(promise: PromiseLike<unknown>) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("it was not rejected");
}

/**
 * Opens a network in front of a server; it can drop all data, and later pass data on
 * again. `swallow(true)` resolves once something has been dropped.
 */
export async function openNetwork({ port }: DatabaseAddress) {
  let isDown = false;
  let dialled = 0;
  let dropped = Promise.withResolvers<void>();
  const pass = (from: Socket, to: Socket) =>
    from
      .on("data", (chunk) => (isDown ? dropped.resolve() : to.write(chunk)))
      .on("error", () => {})
      .on("close", () => to.destroy());
  const { port: own, close } = await listen((client) => {
    dialled += 1;
    const server = connect(port, "127.0.0.1");
    pass(client, server);
    pass(server, client);
  });
  return {
    port: own,
    close,
    /** Returns how many connections there were. */
    count: () => dialled,
    swallow: async (yes: boolean) => {
      isDown = yes;
      dropped = Promise.withResolvers();
      if (yes) await dropped.promise;
    },
  };
}
