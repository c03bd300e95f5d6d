// Imported before the client, which would create the file.
import { existsSync } from "node:fs";
import { file } from "../src/address";
import { refusal } from "./command";

if (file && !existsSync(file))
  throw refusal(
    `there is no file ${file}`,
    "create it with `bun run db:migrate`, or set `DATABASE_URL` in `.env`",
  );
