// A server of the PostgreSQL that is installed on this machine with its client programs,
// as by Debian's package: for backups, where the server for the other tests is newer.
import {
  chownSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { binariesIn } from "../../scripts/server/postgres-binaries";
import type { DatabaseAddress } from "../../src/database-url";
import { clusterAddress, fastSettings } from "./cluster";
import { findFreePort } from "./ports";
import { runFolder } from "./run";

const majorOf = (bin: string) => basename(dirname(bin));

/**
 * Starts it; the watcher of the run stops it.
 *
 * @returns its address; undefined when there is none.
 */
export async function startInstalled(): Promise<DatabaseAddress | undefined> {
  const [bin] = globSync("/usr/lib/postgresql/*/bin")
    .filter((folder) =>
      ["initdb", "pg_dump"].every((program) =>
        existsSync(join(folder, program)),
      ),
    )
    .sort((a, b) => Number(majorOf(b)) - Number(majorOf(a)));
  if (!bin) return undefined;
  const binaries = binariesIn(bin, majorOf(bin));
  const folder = mkdtempSync(join(runFolder, "installed-"));
  const cluster = join(folder, "postgres");
  const address = clusterAddress(await findFreePort());
  mkdirSync(cluster, { mode: 0o700 });
  if (binaries.owner !== undefined)
    for (const path of [folder, cluster])
      chownSync(path, binaries.owner, binaries.owner);
  const settings = [
    ...["listen_addresses=127.0.0.1", "unix_socket_directories="],
    ...[`port=${address.port}`, ...fastSettings],
  ];
  const flags = settings.flatMap((setting) => ["-c", setting]);
  const inCluster = ["-D", cluster];
  const log = join(folder, "postgres.log");
  for (const [program, args] of [
    [
      "initdb",
      ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
    ],
    ["pg_ctl", ["-l", log, "-w", "-o", flags.join(" "), "start"]],
  ] as const) {
    const { success, stderr } = await binaries.run(program, [
      ...inCluster,
      ...args,
    ]);
    if (!success) throw new Error(stderr);
  }
  return address;
}
