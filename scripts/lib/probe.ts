// Tests what answers at an address.
import type { DatabaseAddress } from "../../src/database-url";
import { reach } from "./connection";
import {
  explainConnectionError,
  type Obstacle,
  readObstacle,
} from "./explain-connection";
import { readIdentity } from "./own-server";

/** A server that answered, or why connecting failed. */
export type Probe =
  | { state: "ready"; version: string; identity: string }
  | { state: Obstacle; error: Error };

/** Opens a connection to an address, and returns what answered. Never throws. */
export async function probe(address: DatabaseAddress): Promise<Probe> {
  try {
    await using sql = await reach(address, "db:probe", "prefer-primary");
    const [row] = await sql<{ version: string }[]>`
      select split_part(current_setting('server_version'), ' ', 1) as version`;
    const identity = await readIdentity(sql);
    return { state: "ready", version: row?.version ?? "", identity };
  } catch (error) {
    return {
      state: readObstacle(error as Error),
      error: explainConnectionError(error as Error, address),
    };
  }
}
