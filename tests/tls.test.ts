// What each sslmode does, against a real server with a certificate of its own.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { $ } from "bun";
import { startEmbedded, stopEmbedded } from "../scripts/lib/embedded";
import { clusterAddress, copyCluster } from "./lib/cluster";
import { run } from "./lib/command";
import { findFreePort } from "./lib/ports";

const dataDir = mkdtempSync(join(tmpdir(), "starter-tls-"));
const authority = join(dataDir, "authority.pem");
let port: number;

if (!Bun.which("openssl"))
  console.warn("Left out: TLS, for there is no openssl to make certificates");
else
  describe.concurrent("sslmode", () => {
    beforeAll(async () => {
      for (const command of [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=Authority -keyout authority.key -out authority.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -days 2 -CA authority.pem -CAkey authority.key -CAcreateserial -copy_extensions copy -out server.pem",
      ])
        await $`openssl ${{ raw: command }}`.cwd(dataDir).quiet();
      chmodSync(join(dataDir, "server.key"), 0o600);
      port = await findFreePort();
      await copyCluster(dataDir);
      await startEmbedded(dataDir, clusterAddress(port), [
        "ssl=on",
        `ssl_cert_file=${dataDir}/server.pem`,
        `ssl_key_file=${dataDir}/server.key`,
      ]);
    }, 30_000);
    afterAll(async () => {
      await stopEmbedded(dataDir);
      rmSync(dataDir, { recursive: true, force: true });
    });

    const runWith = (command: string, query: string, host = "localhost") =>
      run(command, {
        DATABASE_URL: `postgres://postgres:postgres@${host}:${port}/postgres${query}`,
        DB_ENGINE: "external",
      });

    const encryption: [query: string, tls: boolean][] = [
      ["", true],
      ["?sslmode=disable", false],
      ["?sslmode=prefer", true],
      ["?sslmode=require", true],
      ["?ssl=true", true],
    ];
    for (const [query, tls] of encryption)
      test(`${query || "nothing"} ${tls ? "encrypts" : "does not encrypt"}`, async () => {
        const { stdout } = await runWith("db:status --json", query);

        expect(JSON.parse(stdout)).toMatchObject({ reachable: true, tls });
      });

    // db:test goes by the application's client as well as by the scripts' own.
    const root = `sslrootcert=${authority}`;
    const trust: [query: string, host: string, connected: boolean][] = [
      ["?sslmode=verify-ca", "localhost", false],
      ["?sslmode=verify-full", "localhost", false],
      [`?sslmode=verify-ca&${root}`, "localhost", true],
      [`?sslmode=verify-full&${root}`, "localhost", true],
      // The certificate is for localhost.
      [`?sslmode=verify-ca&${root}`, "127.0.0.1", true],
      [`?sslmode=verify-full&${root}`, "127.0.0.1", false],
    ];
    for (const [query, host, connected] of trust)
      test(`${query.replace(authority, "…")} ${connected ? "trusts" : "does not trust"} ${host}`, async () => {
        const { stdout } = await runWith("db:test --json", query, host);

        const document = JSON.parse(stdout);
        expect(document.connected).toBe(connected);
        if (!connected)
          expect(document.error.message).toContain("is not trusted");
      });

    test("a file of authorities that is not there is refused", async () => {
      const query = "?sslmode=verify-full&sslrootcert=/nowhere.pem";

      const { exitCode, stderr } = await runWith("db:migrate", query);

      expect(exitCode).toBe(2);
      expect(stderr).toStartWith(
        "Error: the sslrootcert of DATABASE_URL cannot be read",
      );
    });
  });
