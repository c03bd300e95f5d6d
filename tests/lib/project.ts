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

/** The project that the commands are tested on, with its schema, migrations and seeds. */
export const fixture = join(root, "tests/fixture");

/** A copy of a project, in a temporary folder. */
export interface Project {
  folder: string;
  /** Runs a command there, with only the given variables. */
  run(
    command: string,
    variables?: Record<string, string>,
    stdin?: string,
  ): Promise<Outcome>;
  /** Reads a file there. */
  read(file: string): string;
  /** Writes a file there. */
  write(file: string, text: string): void;
  /** Replaces a text in a file there; throws when the file does not have it. */
  replace(file: string, from: string, to: string): void;
  /** Removes the folder, at the end of a block with `using`. */
  [Symbol.dispose](): void;
}

/**
 * Creates a project from the commands and the fixture, like a clone after
 * `bun install`. It has nothing of the application's schema, migrations and seeds.
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

/** Copies the whole application. */
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
