// bun run db:migrate: applies the pending migrations, each in a transaction with its
// record. Exits 1 when one fails: it is rolled back, and those before it stay.
import "./command";
import {
  applyMigration,
  createTables,
  readFolder,
  readState,
} from "./migrations";

const migrations = readFolder();
const { pending, edited } = await readState(migrations);
if (edited.length > 0)
  throw new Error(
    `edited since they were applied: ${edited.map(({ tag }) => tag).join(", ")}`,
  );
await createTables();
for (const migration of pending) {
  const start = performance.now();
  if (await applyMigration(migration))
    console.log(
      `Applied: ${migration.tag} (${Math.round(performance.now() - start)} ms)`,
    );
}
if (pending.length === 0) console.log("Nothing to migrate");
