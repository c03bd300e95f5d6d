import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { root } from "../../src/env";
import { type Outcome, run } from "./command";

/** What the commands are tested on: a schema, migrations and seeds of its own. */
export const fixture = join(root, "tests/fixture");

/** A project in a folder of its own. */
export interface Project {
  folder: string;
  /** Runs a command there, with nothing set but what is given. */
  run(
    command: string,
    variables?: Record<string, string>,
    stdin?: string,
  ): Promise<Outcome>;
  /** Reads a file there. */
  read(file: string): string;
  /** Writes a file there. */
  write(file: string, text: string): void;
  /** Replaces a piece of a file there, which has to be in it. */
  replace(file: string, from: string, to: string): void;
  /** Removes the folder, at the end of the block that has it with `using`. */
  [Symbol.dispose](): void;
}

/**
 * Makes a project of the commands and of the fixture, as a clone would be after
 * `bun install`. Nothing of the application's schema, migrations and seeds is in
 * it.
 */
export function copyProject(name = "clone"): Project {
  const project = makeFolder(name);
  const { folder } = project;
  for (const file of [
    "package.json",
    "bunfig.toml",
    "tsconfig.json",
    "docker-compose.dev.yml",
    "scripts",
  ])
    cpSync(join(root, file), join(folder, file), { recursive: true });
  for (const part of ["src", "src/infrastructure/database"])
    for (const file of readdirSync(join(root, part)))
      if (file.endsWith(".ts"))
        project.write(
          join(part, file),
          readFileSync(join(root, part, file), "utf8"),
        );
  rmSync(join(folder, "scripts/seeds"), { recursive: true });
  cpSync(fixture, folder, { recursive: true });
  return project;
}

/** Copies the application as it is. */
export function copyApplication(name = "clone"): Project {
  const project = makeFolder(name);
  for (const file of [
    "package.json",
    "bunfig.toml",
    "tsconfig.json",
    "drizzle.config.ts",
    ".env.example",
    "src",
    "scripts",
  ])
    cpSync(join(root, file), join(project.folder, file), { recursive: true });
  return project;
}

function makeFolder(name: string): Project {
  const parent = mkdtempSync(join(tmpdir(), "starter-clone-"));
  const folder = join(parent, name);
  mkdirSync(folder);
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
  const read: Project["read"] = (file) =>
    readFileSync(join(folder, file), "utf8");
  const write: Project["write"] = (file, text) => {
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    writeFileSync(join(folder, file), text);
  };
  return {
    folder,
    run: (command, variables = {}, stdin) =>
      run(command, { DB_DATA_DIR: "", ...variables }, folder, stdin),
    read,
    write,
    replace: (file, from, to) => {
      const text = read(file);
      if (!text.includes(from)) throw new Error(`${file} has no "${from}"`);
      write(file, text.replace(from, to));
    },
    [Symbol.dispose]: () => rmSync(parent, { recursive: true, force: true }),
  };
}
