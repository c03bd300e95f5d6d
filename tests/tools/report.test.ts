// What every command says of an error and of its progress, and what it does at a signal:
// small programs that use the same files.
import { afterAll, expect, spyOn, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { annotate } from "../../scripts/lib/annotate";
import { type Problem, problem } from "../../scripts/lib/problem";
import { root } from "../../src/env";
import { start } from "../lib/command";
import { attend } from "../lib/terminal";

const folder = mkdtempSync(join(tmpdir(), "starter-report-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Writes a program that has what a command has for its output. */
function writeProgram(name: string, text: string): string {
  const lib = (file: string) => JSON.stringify(join(root, "scripts/lib", file));
  writeFileSync(
    join(folder, name),
    `import { setTimeout as sleep } from "node:timers/promises";
    import { holdInterrupt, onInterrupt } from ${lib("interrupt")};
    import ${lib("report")};
    import * as report from ${lib("report")};
    const signal = (name) => process.kill(process.pid, name);
    ${text}`,
  );
  return name;
}

async function runProgram(name: string, text: string) {
  const child = start(writeProgram(`${name}.ts`, text), {}, folder);
  const [stdout, stderr, exitCode] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { stdout, stderr, exitCode };
}

const interrupted = "Error: interrupted\n";

/** Programs that get signals, with what they print and their exit code. */
const signals: Record<
  string,
  [text: string, stdout: string, stderr: string, exitCode: number]
> = {
  "what is registered is cleaned up, and said, and errors of what it closed are not":
    [
      `const closed = Promise.withResolvers();
    onInterrupt(async () => console.log("never"), "Left: nothing")();
    onInterrupt(async () => { closed.reject(new Error("closed")); throw new Error("failed"); });
    onInterrupt(async () => { await sleep(20); console.log("cleaned up"); }, "Left: a copy");
    setTimeout(() => console.log("it goes on"), 20_000);
    signal("SIGTERM");
    await closed.promise;`,
      "cleaned up\n",
      `${interrupted}Left: a copy\n`,
      130,
    ],
  "a second signal does not wait for that, unless it is the echo of the first":
    [
      `onInterrupt(async () => {
      await sleep(20);
      console.log("cleaning up");
      setTimeout(signal, 600, "SIGINT");
      await sleep(20_000);
    });
    const { write } = process.stderr; // on a machine that is busy
    process.stderr.write = (...args) => (Bun.sleepSync(350), write.apply(process.stderr, args));
    process.emit("SIGINT");
    process.emit("SIGTERM");
    await sleep(20_000);`,
      "cleaning up\n",
      interrupted,
      130,
    ],
  "without anything to clean up it ends at once, with --json in its document": [
    `report.showJson();
    await holdInterrupt(async () => {});
    signal("SIGINT");
    await sleep(20_000);`,
    '{"error":{"code":"INTERRUPTED","message":"interrupted"}}\n',
    "",
    130,
  ],
  "a signal waits for what must not be interrupted": [
    `await holdInterrupt(async () => { signal("SIGINT"); await sleep(50); console.log("swapped"); });
    console.log("done");`,
    "swapped\ndone\n",
    "",
    0,
  ],
  "and a second one does not": [
    `await holdInterrupt(async () => {
      signal("SIGINT");
      setTimeout(signal, 600, "SIGTERM");
      await sleep(20_000);
    });`,
    "",
    interrupted,
    130,
  ],
  "what was done when the signal came stays so": [
    `report.printJson({});
    process.exitCode = 3;
    signal("SIGINT");
    await sleep(600);
    console.log("ended");
    signal("SIGINT");
    await sleep(20_000);`,
    "ended\n",
    "",
    3,
  ],
};

for (const [sentence, [text, ...expected]] of Object.entries(signals))
  test.concurrent(
    `at a signal: ${sentence}`,
    async () => {
      const name = sentence.slice(0, 20).replace(/\W/g, "-");

      const { stdout, stderr, exitCode } = await runProgram(name, text);

      expect([stdout, stderr, exitCode]).toEqual(expected);
    },
    60_000,
  );

test.concurrent(
  "an error is printed with its lines and its hint, or those of its cause",
  async () => {
    const { stdout, stderr } = await runProgram(
      "errors",
      `const { failure, refusal } = report;
    const fail = (message, fields, error = new Error(message)) => Object.assign(error, fields);
    const errors = {
      failure: failure("it failed", { hint: "do \`this\`", lines: ["one", "two"] }),
      refusal: refusal("it is refused"),
      usage: Object.assign(new Error(), { usage: "bun run it", exitCode: 0 }),
      cause: fail("Failed query: select", { cause: fail("why", { code: "42601" }) }),
      closed: fail("write", { code: "CONNECTION_CLOSED" }),
      ended: fail("write", { code: "CONNECTION_ENDED", hint: "its own" }),
      destroyed: fail("write", { code: "CONNECTION_DESTROYED" }),
      reset: fail("read", { code: "ECONNRESET" }),
      pipe: fail("write", { code: "EPIPE" }),
      "read-only": fail("cannot write", { code: "25006" }),
      suppressed: new SuppressedError(new Error("at the end"), failure("at first")),
      socket: new TypeError("null is not an object (evaluating 'socket.write')"),
    };
    for (const [name, error] of Object.entries(errors)) {
      process.exitCode = 0;
      console.error("# " + name);
      process.emit(name === "cause" ? "unhandledRejection" : "uncaughtException", error);
      console.log(name + " " + process.exitCode);
    }
    process.exitCode = 3;
    process.emit("uncaughtException", errors.socket);
    console.log(process.exitCode);
    report.showJson();
    report.print("a line");
    report.announce("a line of the result");
    process.emit("uncaughtException", failure("it failed", {
      code: "BAD", hint: "do \`this\`", details: { tag: "a" }, document: { head: null },
    }));
    process.emit("uncaughtException", new Error("unexpected"));`,
    );

    expect(stdout).toBe(
      `failure 1
refusal 2
bun run it
usage 0
cause 1
closed 1
ended 1
destroyed 1
reset 1
pipe 1
read-only 1
suppressed 1
socket 1
3
{"head":null,"error":{"code":"BAD","message":"it failed","hint":"do \`this\`","tag":"a"}}
{"error":{"code":"UNEXPECTED","message":"unexpected"}}
`,
    );
    const lost = "Error: the connection to the server was lost\n";
    const again =
      "Hint: run it again once `bun run db:status` reaches the server\n";
    expect(stderr).toBe(
      `# failure
Error: it failed
one
two
Hint: do \`this\`
# refusal
Error: it is refused
# usage
# cause
Error: why
# closed
${lost}${again}# ended
${lost}Hint: its own
# destroyed
${lost}${again}# reset
${lost}${again}# pipe
${lost}${again}# read-only
Error: cannot write
Hint: let the session write: \`select source from pg_settings where name = 'default_transaction_read_only'\` in \`bun run db:shell\` says what sets it (user, database, or the server)
# suppressed
Error: at first
# socket
a line of the result
`,
    );
  },
);

test.concurrent("an unexpected error is printed with its stack", async () => {
  const { stderr, exitCode } = await runProgram(
    "unexpected",
    'throw new Error("unexpected");',
  );

  expect(stderr).toMatch(
    /^Error: unexpected\nError: unexpected\n +at .*unexpected\.ts:/,
  );
  expect(exitCode).toBe(1);
});

test.concurrent(
  "progress is shown on a terminal, within its width, and is gone when something is printed",
  async () => {
    const program = writeProgram(
      "progress.ts",
      `await report.withProgress(() => "working " + "x".repeat(300), async () => await sleep(300));
    report.showProgress("once");
    report.showProgress("once");
    report.print("result");
    report.showProgress("more");
    report.note("warning");`,
    );
    const shown = await Promise.all(
      ["", "NO_COLOR", "CI"].map(async (name) => {
        await using terminal = attend(program, { [name || "X"]: "1" }, folder);
        return (await terminal.ends()).screen;
      }),
    );

    const at = (line: string) => `\r\x1b[K${line}`;
    const working = `working ${"x".repeat(191)}`;
    expect(shown).toEqual([
      `${at(working)}${at("")}${at("once")}${at("")}result\r\n${at("more")}${at("")}warning\r\n`,
      "result\r\nwarning\r\n",
      "result\r\nwarning\r\n",
    ]);
  },
);

test.concurrent(
  "a name is asked for on a terminal, and what is typed instead is no confirmation",
  async () => {
    const program = writeProgram(
      "question.ts",
      `import { askBetween, requireName } from ${JSON.stringify(join(root, "scripts/lib/consent"))};
      const consent = { command: "db:it", address: { database: "app" }, accepted: [] };
      await askBetween(async () => requireName(consent, ["one", "two"], ["rows"]));
      report.print("confirmed: " + consent.accepted.join());`,
    );
    const question =
      "db:it on app: one; two. Type the database's name to go on: ";
    const answer = async (keys: string) => {
      await using terminal = attend(program, {}, folder);
      await terminal.shows(question);
      terminal.types(keys);
      const { exitCode, screen } = await terminal.ends();
      return [
        exitCode,
        ...screen
          .replaceAll(/\x1b\[\d*[A-Z]/g, "")
          .split(/[\r\n]+/)
          .filter((line) => line && !line.startsWith("db:it on")),
      ];
    };

    const answers = await Promise.all(
      [" app \r", "other\r", "\r", "\x04", "\x03"].map(answer),
    );

    const hint = "Hint: to go ahead, add `--confirm app`";
    const refused = "Error: db:it needs confirmation: one; two";
    expect(answers).toEqual([
      [0, "confirmed: one,two,rows"],
      [2, 'Error: "other" is not the name of the database', hint],
      [2, refused, hint],
      [2, refused, hint],
      [130, "Error: interrupted"],
    ]);
  },
  60_000,
);

test("findings are written for GitHub Actions, with all that it reads as its own escaped", () => {
  const summary = join(folder, "summary.md");
  const problems: Problem[] = [
    problem("lint", "50% | done\r\n at  once", {
      file: "db/a,b:c.sql",
      line: 3,
    }),
    problem("drift", "it differs", { file: "db/a.sql" }),
    problem("pending", "not applied"),
  ];
  const written = (variables: Record<string, string>, found = problems) => {
    const notes = spyOn(process.stderr, "write").mockReturnValue(true);
    Object.assign(process.env, variables);
    annotate("db:check: 3", found);
    for (const name of Object.keys(variables)) delete process.env[name];
    const lines = notes.mock.calls.flat().map(String);
    notes.mockRestore();
    return lines;
  };
  const GITHUB_ACTIONS = "true";

  const outside = written({ GITHUB_STEP_SUMMARY: summary });
  const own = written({ GITHUB_ACTIONS });
  const inside = written({
    GITHUB_ACTIONS,
    GITHUB_WORKSPACE: join(root, ".."),
    GITHUB_STEP_SUMMARY: summary,
  });
  written({ GITHUB_ACTIONS, GITHUB_STEP_SUMMARY: summary }, []);
  const [failed] = written({ GITHUB_ACTIONS, GITHUB_STEP_SUMMARY: folder }, []);

  expect(outside).toEqual([]);
  expect(own).toEqual([
    "::warning file=db/a%2Cb%3Ac.sql,line=3,title=lint::50%25 | done%0D%0A at  once\n",
    "::error file=db/a.sql,title=drift::it differs\n",
    "::warning title=pending::not applied\n",
  ]);
  const name = root.split("/").at(-1);
  expect(inside[1]).toBe(
    `::error file=${name}/db/a.sql,title=drift::it differs\n`,
  );
  expect(readFileSync(summary, "utf8")).toBe(`### db:check: 3

| | Code | Where | What |
| --- | --- | --- | --- |
| warning | \`lint\` | \`${name}/db/a,b:c.sql:3\` | 50% \\| done at once |
| error | \`drift\` | \`${name}/db/a.sql\` | it differs |
| warning | \`pending\` |  | not applied |

### db:check: 3

`);
  expect(failed).toStartWith("Warning: the summary was not written: EISDIR");
});

test("what db:check only warns of is what may be so for a while", () => {
  const codes =
    "not_tried not_replayed pending out_of_order down_missing lint diagram_stale";
  const severities = [...codes.split(" "), "drift", "modified"].map(
    (code) => problem(code, "").severity,
  );

  expect(severities).toEqual([...Array(7).fill("warning"), "error", "error"]);
});
