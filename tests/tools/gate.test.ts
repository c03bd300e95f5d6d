// The gate that listens in production, in front of two versions: here they are servers on
// addresses of this machine, and the gate has a port and names of its own.
import { expect, test } from "bun:test";
import { connect } from "node:net";
import { join } from "node:path";
import { spawn } from "bun";
import { findFreePort } from "../lib/ports";
import { copyProject } from "../lib/project";

const ADDRESSES = { a: "127.0.0.2", b: "127.0.0.3" };

/** Starts a version that says its name, and, where asked for, never. */
function serve(name: keyof typeof ADDRESSES, port: number) {
  const version = {
    isHealthy: true,
    /** Resolves once a request that is not answered was made, and has ended. */
    hangs: Promise.withResolvers<void>(),
    ended: Promise.withResolvers<void>(),
    stop: () => server.stop(true),
  };
  const server = Bun.serve({
    hostname: ADDRESSES[name],
    port,
    fetch: async ({ url, signal }) => {
      const { pathname } = new URL(url);
      const status = version.isHealthy ? 200 : 503;
      if (pathname === "/health") return new Response("", { status });
      if (pathname === "/") return new Response(name);
      signal.addEventListener("abort", () => version.ended.resolve());
      version.hangs.resolve();
      await version.ended.promise;
      return new Response("");
    },
  });
  return version;
}

// Only Linux has more than one address of its own without being told.
if (process.platform === "linux")
  test("the gate passes each connection to a healthy version in turn, and lets it wait until there is one", async () => {
    using project = copyProject();
    const port = await findFreePort();
    const url = `http://127.0.0.1:${port}`;
    project.replace("src/gate.ts", '"node:dns/promises"', '"./names"');
    project.replace("src/gate.ts", "PORT = 3000", `PORT = ${port}`);
    project.replace("src/gate.ts", "listen(PORT,", 'listen(PORT, "127.0.0.1",');
    project.write(
      "src/names.ts",
      `export async function lookup(name, { all, family }) {
        const found = await Bun.file("names.json").json();
        const addresses = found[name].map((address) => ({ address }));
        if (family !== 4) addresses.push({ address: "::1" });
        return all ? addresses : addresses[0];
      }`,
    );
    const resolve = (...names: (keyof typeof ADDRESSES)[]) =>
      project.write(
        "names.json",
        JSON.stringify({ app: names.map((name) => ADDRESSES[name]) }),
      );
    const gate = spawn(
      [process.execPath, join(project.folder, "src/gate.ts")],
      { cwd: project.folder, stdout: "pipe", stderr: "inherit" },
    );
    const output = gate.stdout.getReader();
    const { value } = await output.read();
    const ask = async () =>
      await (await fetch(url, { keepalive: false })).text();
    /** Which versions answer four requests, once these do. */
    const askUntil = async (versions: string) => {
      let answers = "";
      const deadline = Date.now() + 20_000;
      do
        answers = [await ask(), await ask(), await ask(), await ask()]
          .sort()
          .join("");
      while (answers !== versions && Date.now() < deadline);
      return answers;
    };
    const seen: string[] = [];

    const waiting = ask(); // nothing has the name yet
    const a = serve("a", port);
    resolve("a");
    seen.push(await waiting);
    const b = serve("b", port);
    resolve("a", "b");
    seen.push(await askUntil("aabb"));
    a.isHealthy = false;
    seen.push(await askUntil("bbbb"));
    b.isHealthy = false; // none is: their answers say why
    seen.push(await askUntil("aabb"));
    b.stop(); // it is still named, and accepts nothing
    seen.push(await askUntil("aaaa"));
    const client = connect(port, "127.0.0.1").on("error", () => {});
    client.write("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    await a.hangs.promise;
    client.resetAndDestroy();
    await a.ended.promise; // the version is told when a client has left
    seen.push(await ask());
    gate.kill();

    expect(new TextDecoder().decode(value)).toBe(
      `Listening: port ${port}, for app\n`,
    );
    expect(seen).toEqual(["a", "aabb", "bbbb", "aabb", "aaaa", "a"]);
    expect(await gate.exited).toBe(0);
    a.stop();
  }, 60_000);
