// Runs commands for the tests, one after another in one process. Packages of
// node_modules stay loaded; the project's own files are loaded again each time.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { Socket } from "node:net";
import { join } from "node:path";
import { format } from "node:util";

/** A command to run. */
export interface Job {
  folder: string;
  /** The command and its flags. */
  args: string[];
  /** The whole environment of the command. */
  variables: Record<string, string | undefined>;
}

/** The events that a command may listen to; listeners are removed after each one. */
const EVENTS = [
  ...["exit", "beforeExit", "uncaughtException", "unhandledRejection"],
  ...["SIGINT", "SIGTERM", "SIGHUP"],
];
const STREAMS = ["stdout", "stderr"] as const;
/** How long a finished command may take to close its connections. */
const CLOSE_MS = 20_000;

/** Thrown instead of ending the process. */
class Exit extends Error {}

const sockets = new Set<Socket>();
const { connect } = Socket.prototype;
Socket.prototype.connect = function (this: Socket, ...args: unknown[]) {
  sockets.add(this);
  this.once("close", () => sockets.delete(this));
  return Reflect.apply(connect, this, args);
} as typeof connect;

// A program that a command starts gets the environment of the command.
for (const name of ["spawn", "spawnSync"] as const) {
  const original = Bun[name] as (command: string[], options?: object) => object;
  Object.assign(Bun, {
    [name]: (command: string[], options?: object) =>
      original(command, { env: process.env, ...options }),
  });
}

const leave = process.exit.bind(process);
process.on("disconnect", () => leave(0));
const globals = new Set(Object.keys(globalThis));

process.on("message", async (job: Job) => process.send?.(await work(job)));

async function work({ folder, args, variables }: Job) {
  const output = { stdout: "", stderr: "" };
  begin(variables, output);
  process.chdir(folder);
  const { scripts } = JSON.parse(readFileSync("package.json", "utf8"));
  const [command = "", ...flags] = args;
  const [, program = "", ...more] = (scripts[command] ?? "").split(" ");
  const file = join(folder, program);
  process.argv = [process.execPath, file, ...more, ...flags];
  forgetFiles(folder);
  try {
    await import(file);
  } catch (error) {
    if (!(error instanceof Exit)) fail(error as Error, output);
  }
  await untilClosed(output);
  process.emit("exit", Number(process.exitCode));
  for (const name of Object.keys(globalThis))
    if (!globals.has(name)) Reflect.deleteProperty(globalThis, name);
  for (const event of EVENTS) process.removeAllListeners(event);
  for (const name of STREAMS) process[name].removeAllListeners("error");
  return { exitCode: Number(process.exitCode), ...output };
}

/** Makes the process look new: its environment, exit code and output. */
function begin(
  variables: Job["variables"],
  output: Record<"stdout" | "stderr", string>,
): void {
  for (const name of Object.keys(process.env)) delete process.env[name];
  Object.assign(process.env, variables);
  process.exitCode = 0;
  process.exit = ((code?: number) => {
    if (code !== undefined) process.exitCode = code;
    throw new Exit();
  }) as typeof process.exit;
  for (const name of STREAMS)
    process[name].write = (text: string | Uint8Array) => {
      output[name] +=
        typeof text === "string" ? text : new TextDecoder().decode(text);
      return true;
    };
  console.log = (...values) => process.stdout.write(`${format(...values)}\n`);
  console.error = (...values) => process.stderr.write(`${format(...values)}\n`);
}

/** Passes an error to the command's handler, or prints it as Bun does. */
function fail(error: Error, output: { stderr: string }): void {
  if (process.emit("uncaughtException", error)) return;
  output.stderr += `${error.stack ?? error}\n`;
  process.exitCode = 1;
}

/** Waits until the command has closed everything, as the end of a process does. */
async function untilClosed(output: { stderr: string }): Promise<void> {
  const deadline = performance.now() + CLOSE_MS;
  const isOpen = () => [...sockets].some((socket) => !socket.destroyed);
  while (isOpen() && performance.now() < deadline) await Bun.sleep(1);
  if (isOpen()) output.stderr += "it left a connection open\n";
}

/** Removes a project's files from the cache of modules, also a file that could not be
 * loaded and is not in the list of the cache. */
function forgetFiles(folder: string): void {
  const files = ["scripts", "src", "pulled"].flatMap((part) =>
    existsSync(join(folder, part))
      ? readdirSync(join(folder, part), { recursive: true }).map((file) =>
          join(part, String(file)),
        )
      : [],
  );
  for (const file of [...readdirSync(folder), ...files])
    if (/\.(ts|js|json)$/.test(file)) delete require.cache[join(folder, file)];
}
