// Handles SIGINT and SIGTERM: waits while a command prints its result, runs the
// registered clean-ups, and ends the process with exit code 130.
import { setTimeout as sleep } from "node:timers/promises";

const INTERRUPTED = 130;
/** How long a signal waits for the clean-up; a second signal does not wait. */
const CLEAN_UP_MS = 8000;
/** On a terminal Ctrl-C arrives twice: `bun run` passes its own on. */
const ECHO_MS = 300;

/** The clean-ups, each with a line that says what state it leaves. */
const cleanUps = new Map<() => Promise<unknown>, string>();
let isInterrupted = false;
/** The command has printed its result: a signal no longer changes it. */
let isDone = false;
let isHeld = false;
let isDelayed = false;
let signalledAt = -ECHO_MS;

/**
 * Registers `cleanUp` to run when a signal ends the command.
 *
 * @param state a line to print that says what state the clean-up leaves.
 * @returns a function that unregisters it, for when there is nothing to clean up.
 */
export function onInterrupt(
  cleanUp: () => Promise<unknown>,
  state = "",
): () => void {
  cleanUps.set(cleanUp, state);
  return () => cleanUps.delete(cleanUp);
}

/** Makes a signal wait until `work` has ended; a second signal does not wait. */
export async function holdInterrupt(work: () => Promise<void>): Promise<void> {
  isHeld = true;
  try {
    await work();
  } finally {
    isHeld = false;
  }
}

/** Records that the command has printed its result. */
export function settle(): void {
  isDone = true;
}

/** True once a signal has started the clean-ups: later errors come from them. */
export function isCleaningUp(): boolean {
  return isInterrupted;
}

/** Listens for SIGINT and SIGTERM; `report` prints the error "interrupted". */
export function listenForSignals(
  report: (error: Error & { code: string; exitCode: number }) => void,
): void {
  for (const signal of ["SIGINT", "SIGTERM"] as const)
    process.on(signal, async () => {
      if (performance.now() - signalledAt < ECHO_MS) return;
      signalledAt = performance.now();
      if ((isDone || isHeld) && !isDelayed) {
        isDelayed = true;
        return;
      }
      if (isDone) process.exit();
      const lines = [...cleanUps.values()].filter((state) => state !== "");
      const fields = { code: "INTERRUPTED", exitCode: INTERRUPTED, lines };
      report(Object.assign(new Error("interrupted"), fields));
      signalledAt = performance.now(); // on a busy machine, printing takes a while
      if (!isInterrupted && cleanUps.size > 0) {
        isInterrupted = true;
        const runs = [...cleanUps.keys()].map((run) => run());
        await Promise.race([Promise.allSettled(runs), sleep(CLEAN_UP_MS)]);
      }
      process.exit(INTERRUPTED);
    });
}
