// Reads a command's flags and prints its usage from one table. An unknown flag is
// refused.
import { parseArgs, type ParseArgsOptionDescriptor } from "node:util";
import { type FailureFields, refusal, showJson } from "./report";

/** A flag as `parseArgs` takes it, with its text for `--help`. */
export interface Flag extends ParseArgsOptionDescriptor {
  help: string;
  /** The placeholder for its value in the usage, such as `<seconds>`. */
  value?: string;
}

export const jsonFlag = {
  json: { type: "boolean", help: "one JSON document on stdout" },
} as const;

export const waitFlag = {
  wait: {
    type: "string",
    value: "<seconds>",
    default: "60",
    help: "how long to wait for another command",
  },
} as const;

export const lockTimeoutFlag = {
  "lock-timeout": {
    type: "string",
    value: "<ms>",
    default: "5000",
    help: "how long a statement waits for a table",
  },
} as const;

export const verboseFlag = {
  verbose: { type: "boolean", help: "show notices, not only warnings" },
} as const;

/** @param subject what the database's name confirms. */
export const confirmFlag = (subject: string) =>
  ({
    confirm: {
      type: "string",
      value: "<database>",
      help: `confirms ${subject}`,
    },
  }) as const;

/**
 * Reads a command's flags, and adds `--help`.
 *
 * @param usage the text of `--help` above the flags; its first line is the call.
 * @throws the usage on `--help`, and an error on a wrong flag; report.ts prints
 * both.
 */
export function readOptions<T extends Record<string, Flag>>(
  usage: string,
  flags: T,
  options: { allowPositionals?: boolean; strict?: boolean } = {},
): ReturnType<typeof parseArgs<{ options: T; allowPositionals: true }>> {
  const args = process.argv.slice(2);
  if ("json" in flags && args.includes("--json")) showJson();
  if (args.includes("--help") || args.includes("-h"))
    throw Object.assign(new Error(), {
      usage: [usage, ...listFlags(flags)].join("\n"),
      exitCode: 0,
    });
  try {
    return parseArgs<{ options: T; allowPositionals: true }>({
      args,
      ...options,
      options: flags,
    } as never);
  } catch (error) {
    const [message = ""] = (error as Error).message.split(/\.(?:\s|$)/);
    const call = usage.replace(/ *[[<|\n][^]*/, "");
    throw usageError(message.charAt(0).toLowerCase() + message.slice(1), {
      hint: `\`${call} --help\` lists the flags`,
    });
  }
}

/** Lists flags in two columns: `  -n, --lines <n>   how many lines (100)`. */
function listFlags(flags: Record<string, Flag>): string[] {
  const rows = Object.entries(flags).map(([name, flag]) => {
    const short = flag.short ? `-${flag.short}, ` : "";
    const { default: value } = flag;
    const usual = typeof value === "string" && value ? ` (${value})` : "";
    return [
      `  ${short}--${name} ${flag.value ?? ""}`.trimEnd(),
      flag.help + usual,
    ] as const;
  });
  const width = Math.max(0, ...rows.map(([flag]) => flag.length)) + 3;
  const indent = `\n${" ".repeat(width)}`;
  return rows.map(
    ([flag, help]) => flag.padEnd(width) + help.replaceAll("\n", indent),
  );
}

/**
 * Reads a whole number from a flag.
 *
 * @throws with exit code 2 when it is not one, or is more than `most`.
 */
export function readWhole(
  text: string,
  flag: string,
  most = 999_999_999,
): number {
  if (/^\d+$/.test(text) && Number(text) <= most) return Number(text);
  throw usageError(
    `${flag} takes a whole number of at most ${most}, not "${text}"`,
  );
}

/** Reads `--lock-timeout`: milliseconds, at most PostgreSQL's own maximum. */
export const readLockTimeout = (text: string) =>
  readWhole(text, "--lock-timeout", 2 ** 31 - 1);

/** Returns the error for a command that was called with wrong arguments. */
export function usageError(message: string, fields: FailureFields = {}): Error {
  return refusal(message, { code: "USAGE", ...fields });
}
