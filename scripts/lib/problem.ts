// What `db:check` reports.

/** Something that `db:check` finds. */
export interface Problem {
  code: string;
  severity: "error" | "warning";
  tag?: string;
  /** The path from the project's root. */
  file?: string;
  line?: number;
  /** What it is, and the command that mends it. */
  message: string;
}

const WARNINGS =
  "not_tried not_replayed pending out_of_order down_missing lint diagram_stale";

/** A problem, of the severity that its code has. */
export function problem(
  code: string,
  message: string,
  place: Pick<Problem, "tag" | "file" | "line"> = {},
): Problem {
  const isWarning = WARNINGS.split(" ").includes(code);
  return { code, severity: isWarning ? "warning" : "error", ...place, message };
}
