// bun run db:reset: drops everything and applies every migration, in one transaction.
// A file is backed up before; on a server that needs consent, as no copy is kept.
import "./require-file";
import { file, name } from "../src/address";
import { requireConsent } from "./command";
import {
  listDrops,
  readFolder,
  runTransaction,
  toStatements,
} from "./migrations";
import { writeBackup } from "./write-backup";

if (file) console.log(`Backed up: ${await writeBackup(file)}`);
else requireConsent("every table is dropped, and no copy is kept");
await runTransaction([
  ...(await listDrops()),
  ...readFolder().flatMap(toStatements),
]);
console.log(`Reset: ${name}`);
