// Times whole commands in turn, and prints tables of Markdown.
import { spawnSync } from "bun";

/** A command to time. What `before` and `after` do is not timed. */
export interface Step {
  command: string[];
  cwd: string;
  env?: Record<string, string | undefined>;
  before?: () => unknown;
  after?: () => unknown;
}

/** A table: what is measured, its columns, and a row for each. */
export interface Table {
  title?: string;
  /** What the reader has to know, in a sentence. */
  note?: string;
  columns: string[];
  /** The last cell is the ratio that `--compare` looks at. */
  rows: { name: string; cells: string[] }[];
}

/**
 * Times every step once, then all again, so that a busy moment meets them all.
 *
 * @returns the median of each in milliseconds.
 * @throws what a command printed, when it fails.
 */
export async function timeInTurn(
  steps: Record<string, Step>,
  runs: number,
): Promise<Record<string, number>> {
  const times: Record<string, number[]> = {};
  for (let run = 0; run < runs; run += 1)
    for (const [name, step] of Object.entries(steps))
      (times[name] ??= []).push(await time(step));
  return Object.fromEntries(
    Object.entries(times).map(([name, all]) => [name, medianOf(all)]),
  );
}

async function time(step: Step): Promise<number> {
  const { command, cwd, env = process.env } = step;
  await step.before?.();
  const start = performance.now();
  const { success, stdout, stderr } = spawnSync(command, { cwd, env });
  const ms = performance.now() - start;
  await step.after?.();
  if (!success) throw new Error(`${command.join(" ")}:\n${stdout}${stderr}`);
  return ms;
}

/** Makes a table of medians, with how many times the first each takes. */
export function compare(medians: Record<string, number>, note = ""): Table {
  const [base = Number.NaN] = Object.values(medians);
  const rows = Object.entries(medians).map(([name, ms]) => ({
    name,
    cells: [print1(ms), (ms / base).toFixed(2)],
  }));
  return { note, columns: ["", "ms", "times the first"], rows };
}

/** Makes a table of curves: the medians of each command by size, and how many times
 * the smallest size the largest takes. */
export function draw(curves: Map<number, Record<string, number>>): Table {
  const names = new Set([...curves.values()].flatMap(Object.keys));
  const rows = [...names].map((name) => {
    const all = [...curves.values()].map((medians) => medians[name]);
    const [first = Number.NaN] = all;
    const last = all.findLast((ms) => ms !== undefined) ?? Number.NaN;
    const cells = all.map((ms) => (ms === undefined ? "" : print1(ms)));
    return { name, cells: [...cells, (last / first).toFixed(2)] };
  });
  const sizes = [...curves.keys()].map((size) => size.toLocaleString("en"));
  return { columns: ["ms", ...sizes, "last to first"], rows };
}

/** Prints a table as Markdown. */
export function print({ title, note, columns, rows }: Table): string {
  const line = (cells: string[]) => `| ${cells.join(" | ")} |`;
  const rule = columns.map((_column, index) => (index === 0 ? "---" : "---:"));
  const lines = rows.map(({ name, cells }) => line([name, ...cells]));
  return `${[`## ${title}`, ...(note ? [note] : []), [line(columns), line(rule), ...lines].join("\n")].join("\n\n")}\n`;
}

/** Reads a ratio from tables of Markdown; undefined where there is no such row. */
export function ratioOf(
  text: string,
  title: string,
  name: string,
): number | undefined {
  const section = text.split("\n## ").find((part) => part.startsWith(title));
  const cells = section
    ?.split("\n")
    .map((line) => line.split("|").map((cell) => cell.trim()))
    .find(([, first]) => first === name);
  return cells && Number(cells.at(-2));
}

/** Returns the middle one of the values. */
function medianOf(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

function print1(ms: number): string {
  return ms < 10 ? ms.toFixed(1) : Math.round(ms).toLocaleString("en");
}
