import { AsyncLocalStorage } from "node:async_hooks";
import type { FailureFields } from "../../scripts/lib/report";

/** How some work ended. */
interface Observed extends FailureFields {
  done?: unknown;
  /** The message of its error, beside the error's fields. */
  message?: string;
  /** What it printed on stderr. */
  notes: string;
}

/** Where the work that is observed prints; tests run at the same time. */
const printing = new AsyncLocalStorage<string[]>();

/** Returns how a function of the commands ended, and what it printed on stderr. */
export async function observe(
  work: () => unknown | Promise<unknown>,
): Promise<Observed> {
  redirect();
  const texts: string[] = [];
  const outcome = await printing.run(texts, async () => {
    try {
      return { done: await work() };
    } catch (error) {
      const { message } = error as Error;
      return { ...(error as FailureFields), message };
    }
  });
  return { ...outcome, notes: texts.join("") };
}

let isRedirected = false;

function redirect(): void {
  if (isRedirected) return;
  isRedirected = true;
  const { write } = process.stderr;
  process.stderr.write = ((...args: Parameters<typeof write>) => {
    const texts = printing.getStore();
    if (!texts) return Reflect.apply(write, process.stderr, args);
    texts.push(String(args[0]));
    return true;
  }) as typeof write;
}
