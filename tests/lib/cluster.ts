import { existsSync, mkdirSync, mkdtempSync, renameSync } from "node:fs";
import { join } from "node:path";
import { $ } from "bun";
import { createCluster } from "../../scripts/server/embedded";
import type { DatabaseAddress } from "../../src/database-url";
import { runFolder } from "./run";

/** Its data need not survive a crash. */
export const fastSettings = [
  "fsync=off",
  "synchronous_commit=off",
  "full_page_writes=off",
  "autovacuum=off",
];

let original: Promise<string> | undefined;

/** Returns the address of a server that runs on a copy of the cluster. */
export function clusterAddress(port: number): DatabaseAddress {
  return {
    variable: "DATABASE_URL",
    host: "127.0.0.1",
    port,
    user: "postgres",
    password: "postgres",
    database: "postgres",
    sslmode: "prefer",
    sslrootcert: undefined,
    parameters: {},
  };
}

/** Copies a new cluster into a folder; creating one would take a second. */
export async function copyCluster(dataDir: string): Promise<void> {
  mkdirSync(dataDir, { recursive: true });
  original ??= makeCluster();
  await $`cp -R ${await original}/. ${dataDir}`;
}

/** Creates the cluster to copy, unless another process of the run has created it. */
async function makeCluster(): Promise<string> {
  const cluster = join(runFolder, "cluster");
  if (existsSync(cluster)) return cluster;
  const dataDir = mkdtempSync(join(runFolder, "cluster-"));
  const settings = [
    ...fastSettings,
    "scram_iterations=1", // 4,096 take longer than a small command
  ];
  await createCluster(dataDir, clusterAddress(0), [
    "--no-sync",
    ...settings.map((setting) => `--set=${setting}`),
  ]);
  if (!existsSync(cluster)) renameSync(dataDir, cluster);
  return cluster;
}
