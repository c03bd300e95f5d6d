import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../../src/env";
import { type Outcome, run } from "./command";

/** A copy of the project in a folder of its own. */
export interface Project {
  folder: string;
  /** Runs a command there, with nothing set but what is given. */
  run(
    command: string,
    variables?: Record<string, string>,
    stdin?: string,
  ): Promise<Outcome>;
  /** Writes a file there. */
  write(file: string, text: string): void;
  /** Removes the folder, at the end of the block that has it with `using`. */
  [Symbol.dispose](): void;
}

/** Copies the project, as a clone of it would be after `bun install`. */
export function copyProject(name = "clone"): Project {
  const parent = mkdtempSync(join(tmpdir(), "starter-clone-"));
  const folder = join(parent, name);
  mkdirSync(folder);
  for (const file of [
    "package.json",
    "bunfig.toml",
    "tsconfig.json",
    "drizzle.config.ts",
    "docker-compose.dev.yml",
    ".env.example",
    "src",
    "scripts",
  ])
    cpSync(join(root, file), join(folder, file), { recursive: true });
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
  return {
    folder,
    run: (command, variables = {}, stdin) =>
      run(command, { DB_DATA_DIR: "", ...variables }, folder, stdin),
    write: (file, text) => {
      mkdirSync(join(folder, file, ".."), { recursive: true });
      writeFileSync(join(folder, file), text);
    },
    [Symbol.dispose]: () => rmSync(parent, { recursive: true, force: true }),
  };
}
