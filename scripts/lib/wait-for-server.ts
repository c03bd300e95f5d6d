// Waits for a server that is still starting, as in a container beside this one.
import type { DatabaseAddress } from "../../src/database-url";
import { mayUse } from "./own-server";
import { probe } from "./probe";
import { note, withProgress } from "./report";

const PAUSE_MS = 250;
const NEWS_MS = 5000;

/**
 * Waits until the server accepts a connection to the database; where another clone's
 * answers, as long as it may. Says every five seconds why it still waits.
 *
 * @throws the last error after `seconds`; at once when the server refuses the
 * user, since waiting does not help then.
 */
export async function waitForServer(
  address: DatabaseAddress,
  seconds: number,
): Promise<void> {
  const start = performance.now();
  let news = start;
  let state = "waiting for the server";
  await withProgress(
    () => state,
    async () => {
      while (true) {
        const found = await probe(address);
        const now = performance.now();
        const isOver = now - start >= seconds * 1000;
        if (found.state === "ready") {
          // db:start records a server as this clone's a moment after it answers.
          if (isOver || mayUse(address, found.identity)) return;
        } else if (isOver || found.state === "denied") throw found.error;
        const passed = Math.round((now - start) / 1000);
        const reason =
          found.state === "ready"
            ? "this clone did not start the server that answers"
            : found.error.message;
        state = `Waiting: ${reason} (${passed} of ${seconds} s)`;
        if (now - news >= NEWS_MS) {
          note(state);
          news = now;
        }
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
    },
  );
}
