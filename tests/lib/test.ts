// The `test` function for the commands. Each test has its own database, and a project
// with the schema, migrations and seeds of the fixture.
import type { DatabaseAddress } from "../../src/database-url";
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
  /** A copy of the project for this test only, created at first use. */
  project: Project;
  /** Reads a file of that copy. */
  read: Project["read"];
  /** Replaces a text in the copy's schema.ts. */
  change(from: string, to: string): void;
}

/** An address at which no server answers. */
const nowhere = "postgres://nobody@127.0.0.1:1/none";

/** Registers a test that gets a project of its own, and no database. */
export function testProject(
  sentence: string,
  body: (project: Project) => Promise<void>,
): void {
  testBeside(sentence, async () => {
    using project = copyProject();
    const own = {
      DATABASE_URL: nowhere,
      DATABASE_URL_UNPOOLED: nowhere,
      DB_ENGINE: "external",
    };
    await body({
      ...project,
      run: (command, variables, stdin) =>
        project.run(command, { ...own, ...variables }, stdin),
    });
  });
}

type Body = (given: Given) => Promise<void>;

let shared: Project | undefined;

/** Returns a copy of the project, for all tests that change no file of it. */
export function sharedProject(): Project {
  shared ??= copyProject();
  return shared;
}

/**
 * Registers a test of the commands, which runs at the same time as others of its file.
 * Its database is empty unless it asks for another state. At the end this database and
 * those that commands have created beside it are dropped. When the test fails, they
 * are kept and named, and the stderr of its commands is printed.
 */
export function test(sentence: string, body: Body): void;
export function test(sentence: string, state: State, body: Body): void;
export function test(sentence: string, ...rest: [Body] | [State, Body]): void {
  const [state, body] = rest.length === 1 ? ["empty" as const, ...rest] : rest;
  testOn(undefined, sentence, state, body);
}

/** Does the same on another server than that for the tests. */
export function testOn(
  server: DatabaseAddress | undefined,
  sentence: string,
  state: State,
  body: Body,
): void {
  testBeside(sentence, () => withProject(server, state, body));
}

async function withProject(
  server: DatabaseAddress | undefined,
  state: State,
  body: Body,
): Promise<void> {
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
    await withDatabase(state, work, common, server);
  } finally {
    own?.[Symbol.dispose]();
  }
}
