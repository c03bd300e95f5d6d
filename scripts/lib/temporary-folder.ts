// Names the folder for temporary files.
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { refusal } from "./report";

/** Returns the folder for temporary files. @throws with exit code 2 when it is missing. */
export function findTemporaryFolder(): string {
  const folder = tmpdir();
  if (existsSync(folder)) return folder;
  throw refusal(`the folder for temporary files is missing: ${folder}`, {
    hint: "create it, or set `TMPDIR` to a folder that exists",
  });
}
