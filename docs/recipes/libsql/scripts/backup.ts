// bun run db:backup: a copy of the database's file that was read back. Exits 2 where
// the database is on a server.
import "./require-file";
import { file } from "../src/address";
import { refusal } from "./command";
import { writeBackup } from "./write-backup";

if (!file)
  throw refusal(
    "the database is on a server, and so are its backups",
    "`turso db shell <name> .dump` writes its SQL",
  );
console.log(`Backed up: ${await writeBackup(file)}`);
