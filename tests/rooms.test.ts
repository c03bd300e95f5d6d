// The plan of the house, read from its imports: which room may need which; and its types.
import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { Glob, spawn } from "bun";
import { root } from "../src/env";

/** What each folder of `scripts/` may import, besides itself and `src/`. */
const needs: Record<string, string[]> = {
  lib: [],
  migrations: ["lib"],
  schema: ["lib", "migrations"],
  server: ["lib"],
  backups: ["lib", "server"],
  copying: ["lib", "migrations"],
  seeds: [],
};
const PROGRAM = "";

const files = [...new Glob("scripts/**/*.ts").scanSync(root)];
const imports = new Map(files.map((file) => [file, readImports(file)]));

test("a room imports only what it needs, and nothing imports a program", () => {
  const arrows = [...imports].flatMap(([file, others]) =>
    others.map((other) => ({
      file,
      other,
      from: roomOf(file),
      to: roomOf(other),
    })),
  );

  const wrong = arrows.filter(({ from, to }) => {
    if (to === undefined || to === from) return to === PROGRAM;
    if (from === PROGRAM) return false;
    return from === undefined || !needs[from]?.includes(to);
  });

  expect(wrong).toEqual([]);
  expect(arrows.length).toBeGreaterThan(files.length);
});

test("there is no circle", () => {
  const done = new Set<string>();
  const visit = (file: string, path: string[]): void => {
    expect(path).not.toContain(file);
    if (done.has(file) || !files.includes(file)) return;
    for (const other of imports.get(file) ?? []) visit(other, [...path, file]);
    done.add(file);
  };

  for (const file of files) visit(file, []);

  expect(done.size).toBe(files.length);
});

test("what db:migrate and its like import runs on Node as well", () => {
  const programs = ["migrate", "status-migrations", "rollback", "baseline"];
  const reached = new Set<string>();
  const visit = (file: string): void => {
    if (reached.has(file)) return;
    reached.add(file);
    for (const other of readImports(file)) visit(other);
  };
  for (const name of programs) visit(`scripts/${name}.ts`);
  const portable = files.filter((file) =>
    ["lib", "migrations"].includes(roomOf(file) ?? ""),
  );

  const bound = [...new Set([...reached, ...portable])].filter((file) => {
    const text = readFileSync(join(root, file), "utf8");
    // It asks before which of the two it is.
    if (text.includes("process.versions.bun")) return false;
    return /\bBun\.|from "bun|\bimport\.meta\.dir\b/.test(text);
  });

  expect(bound).toEqual([]);
  expect([...reached].filter((file) => /infrastructure/.test(file))).toEqual(
    [],
  );
});

test("the types of the commands and of the client hold", async () => {
  const check = spawn([process.execPath, "check", "--no-script", "--all"], {
    cwd: root,
    stdout: "pipe",
    stderr: "pipe",
  });
  const [errors, summary] = await Promise.all([
    new Response(check.stdout).text(),
    new Response(check.stderr).text(),
  ]);

  const ours = errors.split("\n").filter((line) => isOurs.test(line));

  expect(ours).toEqual([]);
  expect(errors + summary).toMatch(/No type errors|Found \d+ error/);
}, 60_000);

/** What does not depend on the schema and its seeds. */
const isOurs =
  /^(scripts\/(?!seeds\/)|src\/[^/]+\.ts|src\/infrastructure\/database\/(?!schema|counted))/;

/** The folder below `scripts/`; undefined elsewhere. */
function roomOf(file: string): string | undefined {
  const [top, room, ...rest] = file.split("/");
  if (top !== "scripts") return undefined;
  return rest.length === 0 ? PROGRAM : room;
}

/** The project's own files that a file imports, types included. */
function readImports(file: string): string[] {
  const text = readFileSync(join(root, file), "utf8");
  const paths = text.matchAll(/\b(?:from|import\(?)\s*"(\.[^"]+)"/g);
  return [...paths]
    .map(([, path = ""]) => normalize(join(dirname(file), path)))
    .flatMap((path) =>
      [`${path}.ts`, `${path}/index.ts`].filter((found) =>
        existsSync(join(root, found)),
      ),
    );
}
