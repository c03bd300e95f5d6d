// Listens on the published port in production, and passes each connection to a
// healthy container of the application. While a new version replaces an old one,
// no connection is refused: it waits until one of them accepts it.
import { lookup } from "node:dns/promises";
import { connect, createServer, type Socket } from "node:net";

/** Compose's name for every container of the application. */
const APP = "app";
const PORT = 3000;
const LOOKUP_MS = 500;
/** How long to wait for a container: one that was just removed does not answer. */
const CONNECT_MS = 500;
/** How long a connection waits for a container that accepts it. */
const WAIT_MS = 10_000;

let addresses: string[] = [];
let turn = 0;

createServer({ pauseOnConnect: true }, pass).listen(PORT, () =>
  console.log(`Listening: port ${PORT}, for ${APP}`),
);
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => process.exit());

while (true) {
  addresses = await findAddresses();
  await Bun.sleep(LOOKUP_MS);
}

/** Finds the healthy containers; all of them when none is, so that /health says why. */
async function findAddresses(): Promise<string[]> {
  const found = await lookup(APP, { all: true, family: 4 }).catch(() => []);
  const all = found.map(({ address }) => address);
  const areHealthy = await Promise.all(all.map(isHealthy));
  const healthy = all.filter((_, index) => areHealthy[index]);
  return healthy.length > 0 ? healthy : all;
}

async function isHealthy(address: string): Promise<boolean> {
  try {
    const signal = AbortSignal.timeout(5000);
    const url = `http://${address}:${PORT}/health`;
    return (await fetch(url, { signal, keepalive: false })).ok;
  } catch {
    return false; // it has just ended, or is starting
  }
}

async function pass(client: Socket): Promise<void> {
  client.on("error", () => client.destroy());
  const deadline = Date.now() + WAIT_MS;
  while (!client.destroyed && Date.now() < deadline) {
    turn += 1;
    const address = addresses[turn % addresses.length];
    const server = address && (await open(address));
    if (server) {
      server.on("error", () => client.destroy());
      client.on("close", () => server.destroy());
      client.pipe(server).pipe(client);
      return;
    }
    await Bun.sleep(20);
  }
  client.destroy();
}

/** Returns a connection; undefined when the container does not accept it at once. */
function open(address: string): Promise<Socket | undefined> {
  const { promise, resolve } = Promise.withResolvers<Socket | undefined>();
  const socket = connect(PORT, address);
  const timer = setTimeout(() => socket.destroy(new Error()), CONNECT_MS);
  socket.once("connect", () => resolve(socket));
  socket.once("error", () => resolve(undefined));
  return promise.finally(() => clearTimeout(timer));
}
