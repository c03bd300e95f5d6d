// A clone whose `docker` writes down how it is called, and answers as it is told: what
// the commands make of an answer is tested without Docker.
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { $ } from "bun";
import { copyProject, type Project } from "./project";

/**
 * What docker answers: for a pattern of the arguments, as in `case` and without blanks,
 * a command of the shell. Without one it does nothing, and succeeds.
 */
type Answers = Record<string, string>;

/** A function of the commands, with its arguments, and what docker answers it. */
interface Call {
  call: [name: string, ...args: unknown[]];
  answers?: Answers;
  /** What differs from the clone's own environment: its only argument, if none is
   * given, and that which is "env". */
  env?: object;
}

export interface ToldDocker extends Project {
  /** The environment in which programs find that docker. */
  variables: Record<string, string>;
  /** Calls functions in one process of the clone. */
  callAll(calls: Call[]): Promise<
    {
      /** What it returned, or the message of its error and its hint. */
      outcome?: unknown;
      /** How it called docker. */
      calls: string[];
      /** The project that the clone notes as its own. */
      note?: string;
    }[]
  >;
  /** Runs a command, with more variables, and returns how it called docker. */
  runTold(
    command: string,
    answers?: Answers,
    more?: Record<string, string>,
  ): Promise<{
    exitCode: number;
    stdout: string;
    stderr: string;
    calls: string[];
  }>;
}

/** Prints a text, with its escapes, on stdout. */
export const say = (text: string) => `printf '%b' '${text}'`;
/** Prints a text on stderr, and fails. */
export const fail = (text: string) => `${say(text)} >&2; exit 1`;

const write = (answers: Answers = {}) =>
  `case "$*" in\n${Object.entries(answers)
    .map(([pattern, answer]) => `${pattern}) ${answer};;\n`)
    .join("")}esac\n`;

const caller = `
  import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
  import * as compose from "./scripts/server/compose";
  import * as release from "./scripts/server/release";
  import * as server from "./scripts/server/server";
  import { readEnv } from "./src/env";
  const { DOCKER, CALLS } = process.env;
  const read = (file) => existsSync(file) ? readFileSync(file, "utf8") : undefined;
  const outcomes = [];
  for (const { call: [name, ...given], answers, env: own } of JSON.parse(CALLS)) {
    writeFileSync(DOCKER + ".answers", answers);
    rmSync(DOCKER + ".calls", { force: true });
    const env = { ...readEnv(), ...own };
    const work = { ...release, ...compose, ...server }[name];
    const args = given.length > 0 ? given.map((one) => one === "env" ? env : one) : [env];
    const outcome = await (async () => work(...args))().catch(({ message, hint }) =>
      hint ? message + "\\nHint: " + hint : message);
    const calls = (read(DOCKER + ".calls") ?? "").split("\\n").filter(Boolean);
    outcomes.push({ outcome, calls, note: read(env.dataDir + "/project") });
    rmSync(env.dataDir + "/project", { force: true });
  }
  console.log(JSON.stringify(outcomes));`;

export function copyWithDocker(): ToldDocker {
  const project = copyProject("_Our Clone");
  const docker = join(project.folder, "bin/docker");
  project.write(
    "bin/docker",
    '#!/bin/sh\necho "$@" >>"$0.calls"\n. "$0.answers"\n',
  );
  chmodSync(docker, 0o755);
  const variables = {
    PATH: `${dirname(docker)}:${dirname(process.execPath)}:/usr/bin:/bin`,
    TMPDIR: project.folder,
  };
  return {
    ...project,
    variables,
    callAll: async (calls) => {
      const told = calls.map((one) => ({
        ...one,
        answers: write(one.answers),
      }));
      const output = await $`${process.execPath} -e ${caller}`
        .cwd(project.folder)
        .env({ ...variables, DOCKER: docker, CALLS: JSON.stringify(told) })
        .text();
      return JSON.parse(output);
    },
    runTold: async (command, answers, more) => {
      writeFileSync(`${docker}.answers`, write(answers));
      writeFileSync(`${docker}.calls`, "");
      const outcome = await project.run(command, { ...variables, ...more });
      const calls = readFileSync(`${docker}.calls`, "utf8")
        .split("\n")
        .filter(Boolean);
      return { ...outcome, calls };
    },
  };
}
