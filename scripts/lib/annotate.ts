// Annotations that GitHub Actions shows beside the lines of a pull request, and a
// summary on the page of the run:
// https://docs.github.com/actions/reference/workflow-commands-for-github-actions
import { appendFileSync } from "node:fs";
import { join, relative } from "node:path";
import { root } from "../../src/env";
import type { Problem } from "./problem";
import { note } from "./report";

/**
 * Writes problems as annotations, on stderr, and adds a table to the summary of
 * the run. Does nothing outside of GitHub Actions.
 *
 * @param title such as `db:check: 1 error, 2 warnings`.
 */
export function annotate(title: string, problems: Problem[]): void {
  const { GITHUB_ACTIONS, GITHUB_WORKSPACE, GITHUB_STEP_SUMMARY } = process.env;
  if (!GITHUB_ACTIONS) return;
  // Paths start at the repository's root; the project may be a folder in it.
  const locate = (file: string) =>
    relative(GITHUB_WORKSPACE ?? root, join(root, file));
  for (const { severity, code, file, line, message } of problems) {
    const place = { file: file && locate(file), line, title: code };
    const properties = Object.entries(place)
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => `${name}=${escapeProperty(String(value))}`);
    note(`::${severity} ${properties.join(",")}::${escapeMessage(message)}`);
  }
  if (!GITHUB_STEP_SUMMARY) return;
  const rows = problems.map(({ severity, code, file, line, message }) => {
    const place = file ? `\`${locate(file)}${line ? `:${line}` : ""}\`` : "";
    return `| ${severity} | \`${code}\` | ${place} | ${escapeCell(message)} |`;
  });
  const table = ["| | Code | Where | What |", "| --- | --- | --- | --- |"];
  const text = rows.length > 0 ? [...table, ...rows, ""] : [];
  try {
    appendFileSync(
      GITHUB_STEP_SUMMARY,
      [`### ${title}`, "", ...text, ""].join("\n"),
    );
  } catch (error) {
    note(`Warning: the summary was not written: ${(error as Error).message}`);
  }
}

function escapeMessage(text: string): string {
  return text
    .replaceAll("%", "%25")
    .replaceAll("\r", "%0D")
    .replaceAll("\n", "%0A");
}

function escapeProperty(text: string): string {
  return escapeMessage(text).replaceAll(":", "%3A").replaceAll(",", "%2C");
}

function escapeCell(text: string): string {
  return text.replace(/\s+/g, " ").replaceAll("|", "\\|");
}
