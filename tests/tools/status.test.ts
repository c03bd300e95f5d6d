// What db:status shows of a server, its database, and the backups of that.
import { expect } from "bun:test";
import { mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stampProduction } from "../../scripts/lib/protection";
import { ownHead } from "../lib/migrations";
import { test } from "../lib/test";

test(
  "db:status shows a server and a database on one screen, with the newest backup that may be of it, and how many problems there are",
  "migrated",
  async ({ run, sql, name, address }) => {
    const [server] = await sql<
      { id: string; version: string; max: string; tls: boolean }[]
    >`
      select system_identifier::text as id, current_setting('max_connections') as max,
        split_part(current_setting('server_version'), ' ', 1) as version,
        (select ssl from pg_stat_ssl where pid = pg_backend_pid()) as tls
      from pg_control_system()`;
    const { id, version, max, tls } = server ?? {};
    const folder = mkdtempSync(join(tmpdir(), "starter-status-"));
    const write = (file: string, day: number, manifest?: object) => {
      const path = join(folder, file);
      const createdAt = `2026-01-0${day}T00:00:00.000Z`;
      writeFileSync(path, "");
      utimesSync(path, new Date(createdAt), new Date(createdAt));
      if (!manifest) return;
      const whole = { createdAt, ...manifest };
      const digest = new Bun.CryptoHasher("sha256")
        .update(JSON.stringify(whole))
        .digest("hex");
      writeFileSync(`${path}.json`, JSON.stringify({ ...whole, digest }));
    };
    write("old.dump", 1, { database: name, systemIdentifier: id });
    write("own.dump", 3, { database: name, systemIdentifier: id });
    write("elsewhere.dump", 5, { database: name, systemIdentifier: "1" });
    write("other.dump", 4, { database: "other", systemIdentifier: id });
    await stampProduction(sql);
    await sql`update drizzle.__drizzle_migrations set hash = 'edited'`;

    const screen = await run("db:status", { BACKUP_DIR: folder });
    write("bare.dump", 6);
    const bare = await run("db:status --json", { BACKUP_DIR: folder });
    const file = join(folder, "own.dump");
    const unread = await run("db:status --json", { BACKUP_DIR: file });
    rmSync(folder, { recursive: true });

    expect(screen.stdout.replace(/, [\d.]+ MB|\d+ of/g, "…")).toBe(
      `Engine       external
Server       PostgreSQL ${version} on ${address.host}:${address.port}
Role         primary
Database     ${name}…
User         ${address.user}
TLS          ${tls ? "on" : "off"}
Pooler       none seen
Connections  … ${max}
Stamp        production
Migrations   ${ownHead}, 1 applied, 0 pending, 1 problem
Lock         free
Backup       own.dump, 2026-01-03T00:00:00.000Z
`,
    );
    expect(screen.stderr).toBe(
      "Hint: `bun run db:migrate:status` names the problems\n",
    );
    const { connections, sizeBytes, lastBackup } = JSON.parse(bare.stdout);
    expect(lastBackup).toEqual({
      file: "bare.dump",
      at: "2026-01-06T00:00:00.000Z",
    });
    expect(connections.used).toBeGreaterThan(1);
    expect(sizeBytes).toBeGreaterThan(5_000_000);
    expect(JSON.parse(unread.stdout)).toMatchObject({ lastBackup: null });
    expect(unread.stderr).toStartWith("Warning: ");
  },
);
