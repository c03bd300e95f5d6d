import { createServer, type Server, type Socket } from "node:net";

const handedOut = new Set<number>();

/** A port of 127.0.0.1 on which nothing listens, and no other test will. */
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
 * A port below those that the system hands out to others by itself, so that the
 * one after it stays free as well.
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

/** Listens on a port of 127.0.0.1 and does with each connection as told. */
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
