// The problems that `db:check` reports.

/** One problem that `db:check` reports. */
export interface Problem {
  code: string;
  severity: "error" | "warning";
  tag?: string;
  /** The path from the project's root. */
  file?: string;
  line?: number;
  /** What is wrong, and the command that fixes it. */
  message: string;
}

const WARNINGS =
  "not_tried not_replayed pending out_of_order down_missing lint diagram_stale";

/** Returns a problem with the severity of its code. */
export function problem(
  code: string,
  message: string,
  place: Pick<Problem, "tag" | "file" | "line"> = {},
): Problem {
  const isWarning = WARNINGS.split(" ").includes(code);
  return { code, severity: isWarning ? "warning" : "error", ...place, message };
}
