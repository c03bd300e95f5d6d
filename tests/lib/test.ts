// The one kind of test of the commands: on a database of its own, and on a
// project of the fixture's schema, migrations and seeds.
import {
  type State,
  type TestDatabase,
  testBeside,
  withDatabase,
} from "./database";
import { copyProject, type Project } from "./project";
import { schemaFile } from "./schema-file";

/** What a test is given. */
export interface Given extends TestDatabase {
  database: TestDatabase;
  /** A copy of the project that is this test's own, made when it is asked for. */
  project: Project;
  /** Reads a file of that copy. */
  read: Project["read"];
  /** Replaces a piece of the copy's schema.ts. */
  change(from: string, to: string): void;
}

type Body = (given: Given) => Promise<void>;

let shared: Project | undefined;

/** A copy of the project for all tests that change no file of it. */
export function sharedProject(): Project {
  shared ??= copyProject();
  return shared;
}

/**
 * A test of the commands, beside others of its file. Its database is empty
 * unless it says otherwise; it and those that commands made beside it are
 * dropped at the end. Where the test fails they are kept and named, and what its
 * commands have said on stderr is printed.
 */
export function test(sentence: string, body: Body): void;
export function test(sentence: string, state: State, body: Body): void;
export function test(sentence: string, ...rest: [Body] | [State, Body]): void {
  const [state, body] = rest.length === 1 ? ["empty" as const, ...rest] : rest;
  testBeside(sentence, () => withProject(state, body));
}

async function withProject(state: State, body: Body): Promise<void> {
  const common = sharedProject().folder;
  let own: Project | undefined;
  const work = async (database: TestDatabase) => {
    const inProject = () => own?.folder ?? common;
    await body({
      ...database,
      database,
      get project() {
        return (own ??= copyProject());
      },
      get read() {
        return this.project.read;
      },
      get change() {
        const { replace } = this.project;
        return (from: string, to: string) => replace(schemaFile, from, to);
      },
      run: (command, variables, cwd = inProject()) =>
        database.run(command, variables, cwd),
      start: (script, variables, cwd = inProject()) =>
        database.start(script, variables, cwd),
      attend: (command, cwd = inProject()) => database.attend(command, cwd),
    });
  };
  try {
    await withDatabase(state, work, common);
  } finally {
    own?.[Symbol.dispose]();
  }
}
