// The server that db:check starts for itself, when db:check is killed.
import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawn } from "bun";
import { startTemporaryServer } from "../../scripts/server/temporary";
import { root } from "../../src/env";

test("a temporary server ends with the process that started it, also after kill -9", async () => {
  const folder = mkdtempSync(join(tmpdir(), "starter-temporary-"));
  const program = join(root, "scripts/server/temporary.ts");
  const child = spawn(
    [
      process.execPath,
      "--eval",
      `const { startTemporaryServer } = await import(${JSON.stringify(program)});
      const server = await startTemporaryServer(18);
      console.log(server.address.port);
      await new Promise(() => setInterval(() => {}, 1000));`,
    ],
    { env: { ...process.env, TMPDIR: folder }, stdout: "pipe" },
  );
  for await (const chunk of child.stdout) {
    const port = Number(new TextDecoder().decode(chunk));
    const isOpen = () =>
      Bun.connect({ hostname: "127.0.0.1", port, socket: { data() {} } }).then(
        (socket) => (socket.end(), true),
        () => false,
      );
    const before = await isOpen();

    child.kill("SIGKILL");
    while (readdirSync(folder).length > 0) await Bun.sleep(20);

    expect(before).toBe(true);
    expect(await isOpen()).toBe(false);
    break;
  }
  rmSync(folder, { recursive: true });
}, 300_000);

test("there is no temporary server of another version", async () => {
  expect(await startTemporaryServer(17)).toBeUndefined();
});
