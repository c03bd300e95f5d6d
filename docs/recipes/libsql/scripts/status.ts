// bun run db:status: every migration and its state. Reads only. Exits 3 unless all
// are applied, as they stand in the folder.
import "./require-file";
import { name } from "../src/address";
import { readFolder, readState } from "./migrations";

const migrations = readFolder();
const { pending, edited, unknown } = await readState(migrations);
console.log(`Database: ${name}`);
for (const migration of migrations) {
  const state = pending.includes(migration) ? "pending" : "applied";
  console.log(
    `${migration.tag}: ${edited.includes(migration) ? "edited since" : state}`,
  );
}
if (unknown > 0) console.log(`Not in this checkout: ${unknown} migrations`);
if (pending.length + edited.length + unknown > 0) process.exitCode = 3;
