// Lints migrations with squawk. It finds what is harmful while an application uses
// the database: long locks, and the removal of what its running version needs.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, relative } from "node:path";
import { spawn } from "bun";
import { root } from "../../src/env";
import { note } from "../lib/report";
import { isWithoutTransaction } from "../migrations/steps";

/** A remark about a line. */
export interface Finding {
  /** The path from the project's root. */
  file: string;
  line: number;
  rule: string;
  message: string;
}

/** The rules that are used. Most others are about style: https://squawkhq.com/docs/rules */
const RULES = [
  "adding-field-with-default",
  "adding-foreign-key-constraint",
  "adding-not-nullable-field",
  "adding-required-field",
  "adding-serial-primary-key-field",
  "ban-alter-domain-with-add-constraint",
  "ban-drop-column",
  "ban-drop-database",
  "ban-drop-table",
  "ban-truncate-cascade",
  "changing-column-type",
  "constraint-missing-not-valid",
  "disallowed-unique-constraint",
  "identifier-too-long",
  "renaming-column",
  "renaming-table",
  "require-concurrent-index-creation",
  "require-concurrent-index-deletion",
  "require-concurrent-partition-detach",
  "require-concurrent-reindex",
];

/**
 * Lints the files. `-- squawk-ignore <rule> -- <reason>` on the line before
 * suppresses a finding; without a reason the comment is itself a finding.
 *
 * @param files paths from the project's root.
 */
export async function lintMigrations(files: string[]): Promise<Finding[]> {
  if (files.length === 0) return [];
  const squawk = findSquawk();
  if (!squawk) {
    note("Not linted: the package squawk-cli is not installed");
    return [];
  }
  const paths = files.map((file) => join(root, file));
  const alone = paths.filter((path) =>
    isWithoutTransaction(readFileSync(path, "utf8")),
  );
  const others = paths.filter((path) => !alone.includes(path));
  const found = [
    ...(await runSquawk(squawk, others, ["--assume-in-transaction"])),
    ...(await runSquawk(squawk, alone)),
  ];
  const findings = found
    .filter(({ rule_name: rule }) => RULES.includes(rule))
    .map(({ file, line, rule_name: rule, message }) => ({
      file: relative(root, file),
      line: line + 1,
      rule,
      message,
    }));
  return [...findings, ...(await listNotes(files))];
}

/** A finding, as squawk prints it. */
interface Reported {
  file: string;
  /** From 0. */
  line: number;
  rule_name: string;
  message: string;
}

async function runSquawk(
  squawk: string,
  paths: string[],
  flags: string[] = [],
): Promise<Reported[]> {
  if (paths.length === 0) return [];
  const child = spawn([squawk, ...flags, "--reporter", "json", ...paths], {
    cwd: root,
    stderr: "pipe",
  });
  const [output, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  try {
    return JSON.parse(output);
  } catch {
    // It crashes on some files, and then reports nothing about the others either.
    if (paths.length > 1)
      return (
        await Promise.all(paths.map((path) => runSquawk(squawk, [path], flags)))
      ).flat();
    const said = (errors.trim() || output.trim()).split("\n").slice(0, 2);
    note(
      `Not linted: ${relative(root, paths[0] ?? "")}: squawk failed: ${said.join(" ")}`,
    );
    return [];
  }
}

/** The reason follows a second `--`. */
const UNREASONED = /^\s*--\s*squawk-ignore(?!.*--\s*\S)(?:-file)?\s*(.*)$/;

/** The comment that db:generate writes above a statement with a hidden loss. */
const LOSS = /^-- Loses: (.*)$/;

async function listNotes(files: string[]): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const file of files) {
    const text = await Bun.file(join(root, file)).text();
    for (const [index, line] of text.split("\n").entries()) {
      const [, lost] = LOSS.exec(line) ?? [];
      const [, rules] = UNREASONED.exec(line) ?? [];
      const place = { file, line: index + 1 };
      if (lost !== undefined)
        findings.push({
          ...place,
          rule: "loses",
          message: `This loses ${lost} Remove the comment once you have read it.`,
        });
      if (rules !== undefined)
        findings.push({
          ...place,
          rule: "squawk-ignore",
          message: `This ignores ${rules.trim() || "every rule"} without a reason: add \`-- <reason>\` to it.`,
        });
    }
  }
  return findings;
}

function findSquawk(): string | undefined {
  const require = createRequire(join(root, "package.json"));
  const program = `@squawk-cli/${process.platform}-${process.arch}/bin/squawk`;
  try {
    const squawk = createRequire(require.resolve("squawk-cli/package.json"));
    return squawk.resolve(
      process.platform === "win32" ? `${program}.exe` : program,
    );
  } catch {
    return undefined;
  }
}
