// Finds the files of a command: its program, and what that imports.
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { root } from "../../src/env";
import { refusal } from "../lib/report";

/** A command of package.json that runs a program in `scripts/`. */
export interface Command {
  name: string;
  /** The program's path from the project's root. */
  program: string;
  /** The arguments after the program in package.json. */
  args: string;
}

/** Finds commands by name. @throws with exit code 2 for an unknown name. */
export function findCommands(names: string[]): Command[] {
  const { scripts } = readPackage(root);
  const commands = Object.entries(scripts).flatMap(([name, script]) => {
    const [, program = "", args = ""] =
      /^bun (scripts\/\S+)(.*)$/.exec(script) ?? [];
    return program ? [{ name, program, args }] : [];
  });
  return names.map((name) => {
    const found = commands.find((command) => command.name === name);
    if (found) return found;
    throw refusal(`there is no command ${name}`, {
      hint: `the commands are ${commands.map((command) => command.name).join(", ")}`,
    });
  });
}

/** The files that programs need, including themselves, and the packages. */
export interface Needs {
  /** Paths from the project's root, sorted. */
  files: string[];
  /** Packages with the version of package.json, sorted. */
  packages: { name: string; version: string; isForDevelopment: boolean }[];
}

/** Follows the imports of programs, including types and dynamic imports. */
export function findNeeds(programs: string[]): Needs {
  const files = new Set<string>();
  const names = new Set<string>();
  const visit = (file: string): void => {
    if (files.has(file)) return;
    files.add(file);
    if (!file.endsWith(".ts")) return;
    const text = readFileSync(join(root, file), "utf8");
    for (const [, path = ""] of text.matchAll(
      /\b(?:from|import\(?)\s*"([^"]+)"/g,
    ))
      if (path.startsWith(".")) resolveImport(file, path).forEach(visit);
      else names.add(/^(@[^/]+\/)?[^/]+/.exec(path)?.[0] ?? path);
    for (const other of listNamed(file, text)) visit(other);
  };
  for (const program of programs) visit(program);

  const { dependencies, devDependencies } = readPackage(root);
  return {
    files: [...files].sort(),
    packages: [...names].sort().flatMap((name) => {
      const version = dependencies[name] ?? devDependencies[name];
      return version
        ? [{ name, version, isForDevelopment: !(name in dependencies) }]
        : [];
    }),
  };
}

/**
 * Returns the file of an import, as a list. It is empty for an import in a text that a
 * program writes.
 */
function resolveImport(from: string, path: string): string[] {
  const target = normalize(join(dirname(from), path));
  return [`${target}.ts`, `${target}/index.ts`].filter((file) =>
    existsSync(join(root, file)),
  );
}

/** Lists files that a program names in a string: those it starts, reads or loads. */
function listNamed(from: string, text: string): string[] {
  const named = [
    ...text.matchAll(/"([\w./-]+\.(?:ts|yml)|\.env\.example|\.\.\/[\w-]+)"/g),
  ].map(([, path = ""]) => path);
  return named.flatMap((path) => {
    const isCompose = path.endsWith(".yml") || path === ".env.example";
    const file = isCompose ? path : normalize(join(dirname(from), path));
    if (!from.startsWith("scripts/") || !existsSync(join(root, file)))
      return [];
    if (isCompose || file.endsWith(".ts")) return [file];
    if (!statSync(join(root, file)).isDirectory()) return [];
    return readdirSync(join(root, file)).map((name) => `${file}/${name}`);
  });
}

type Names = Record<string, string>;

/** Reads the package.json of a folder; a missing list of names is empty. */
export function readPackage(folder: string): {
  text: string;
  type: string | undefined;
  version: string | undefined;
  scripts: Names;
  dependencies: Names;
  devDependencies: Names;
} {
  const file = join(folder, "package.json");
  let text: string;
  try {
    text = readFileSync(file, "utf8");
    return {
      scripts: {},
      dependencies: {},
      devDependencies: {},
      ...JSON.parse(text),
      text,
    };
  } catch (error) {
    throw refusal(`${file} cannot be read: ${(error as Error).message}`, {
      hint: "name the folder that has the application's package.json",
    });
  }
}
