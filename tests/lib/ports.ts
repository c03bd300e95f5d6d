import { createServer, type Server, type Socket } from "node:net";

const handedOut = new Set<number>();

/** Returns a port of 127.0.0.1 that is free and that no other test will use. */
export async function findFreePort(): Promise<number> {
  while (true) {
    const { port, close } = await listen(() => {});
    await close();
    if (handedOut.has(port)) continue;
    handedOut.add(port);
    return port;
  }
}

/**
 * Returns a free port below those that the system assigns by itself, so that the
 * next port also stays free.
 */
export async function findQuietPort(): Promise<number> {
  while (true) {
    const port = 20_000 + Math.floor(Math.random() * 10_000);
    const isFree = await listen(() => {}, port).then(
      ({ close }) => close().then(() => true),
      () => false,
    );
    if (isFree) return port;
  }
}

/** Listens on a port of 127.0.0.1 and calls the function for each connection. */
export async function listen(
  onConnection: (socket: Socket) => void,
  wanted = 0,
): Promise<{ port: number; close: () => Promise<void> }> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    onConnection(socket);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(wanted, "127.0.0.1", () => resolve());
  });
  const address = server.address();
  if (!address || typeof address === "string") throw new Error("no port");
  return {
    port: address.port,
    close: () =>
      new Promise((resolve) => {
        for (const socket of sockets) socket.destroy();
        server.close(() => resolve());
      }),
  };
}
