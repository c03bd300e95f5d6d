import { spawn } from "bun";
import { root } from "../../src/env";
import { emptyDataDir } from "./command";

/** A command that is running on a terminal. */
export interface Attended extends AsyncDisposable {
  /**
   * Resolves when the text is on the screen, after the text of the last call; rejects
   * when the command ends without it.
   */
  shows: (text: string) => Promise<void>;
  /** Types the keys; `\r` is the Enter key. */
  types: (keys: string) => void;
  /** Resolves with the command's exit code and everything that it has shown. */
  ends: () => Promise<{ exitCode: number; screen: string }>;
}

/** Runs a command on a terminal, as a person does. */
export function attend(
  command: string,
  variables: Record<string, string> = {},
  cwd = root,
): Attended {
  const { PATH, HOME } = process.env;
  const decoder = new TextDecoder();
  let screen = "";
  let seen = 0;
  let look = () => {};
  const child = spawn([process.execPath, "run", ...command.split(" ")], {
    cwd,
    env: { PATH, HOME, DB_DATA_DIR: emptyDataDir, ...variables },
    terminal: {
      cols: 200,
      rows: 50,
      data: (_terminal, bytes) => {
        screen += decoder.decode(bytes, { stream: true });
        look();
      },
    },
  });
  return {
    shows: (text) => {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      look = () => {
        const at = screen.indexOf(text, seen);
        if (at === -1) return;
        seen = at + text.length;
        look = () => {};
        resolve();
      };
      look();
      void child.exited.then(() =>
        reject(new Error(`it ended without "${text}": ${screen}`)),
      );
      return promise;
    },
    types: (keys) => void child.terminal?.write(keys),
    ends: async () => ({ exitCode: await child.exited, screen }),
    [Symbol.asyncDispose]: async () => {
      child.kill();
      await child.exited;
      child.terminal?.close();
    },
  };
}
