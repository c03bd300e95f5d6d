import { connect, createServer, type Socket } from "node:net";

/** A proxy that passes everything on to a server, one query at a time. */
export interface SeveringProxy {
  port: number;
  /** Returns how many queries the server has answered. */
  count(): number;
  close(): Promise<void>;
}

/**
 * Listens for clients of a PostgreSQL server without TLS.
 *
 * @param onAnswer called with the number of each answered query, before the answer is
 * passed on. When it returns true, nothing more is passed on.
 */
export async function proxyTo(
  port: number,
  onAnswer: (count: number) => boolean,
): Promise<SeveringProxy> {
  let count = 0;
  let isSevered = false;
  const sockets = new Set<Socket>();
  const proxy = createServer((client) => {
    const server = connect(port, "127.0.0.1");
    for (const socket of [client, server]) {
      sockets.add(socket);
      socket.on("error", () => {});
    }
    let waiting = Buffer.alloc(0);
    let isStarted = false;
    let isAnswering = false;
    // A client may send many queries at once; the server gets them one at a time.
    const passOn = () => {
      while (!isSevered && !isAnswering) {
        const start = isStarted ? 1 : 0; // the first message has no type
        if (waiting.length < start + 4) return;
        const length = start + waiting.readUInt32BE(start);
        if (waiting.length < length) return;
        isAnswering =
          isStarted && "QS".includes(String.fromCharCode(waiting[0] ?? 0));
        isStarted = true;
        server.write(waiting.subarray(0, length));
        waiting = waiting.subarray(length);
      }
    };
    client.on("data", (chunk: Buffer) => {
      waiting = Buffer.concat([waiting, chunk]);
      passOn();
    });
    server.on("data", (chunk: Buffer) => {
      if (isAnswering && chunk.subarray(-6, -1).equals(READY)) {
        isAnswering = false;
        count += 1;
        if (!isSevered && onAnswer(count)) isSevered = true;
      }
      if (isSevered) return;
      client.write(chunk);
      passOn();
    });
    client.on("close", () => server.destroy());
    server.on("close", () => client.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  const address = proxy.address();
  if (!address || typeof address === "string") throw new Error("no port");
  return {
    port: address.port,
    count: () => count,
    close: () =>
      new Promise((resolve) => {
        for (const socket of sockets) socket.destroy();
        proxy.close(() => resolve());
      }),
  };
}

/** ReadyForQuery: https://www.postgresql.org/docs/current/protocol-message-formats.html */
const READY = Buffer.from([0x5a, 0, 0, 0, 5]);
