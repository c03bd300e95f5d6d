// What is read from where, and what a malformed value is answered with.
import { describe, expect, test } from "bun:test";
import { parseDatabaseUrl } from "../../src/database-url";
import { copyProject, type Project } from "../lib/project";

function catchError(body: () => unknown): Error & { hint?: string } {
  try {
    body();
  } catch (error) {
    return error as Error;
  }
  throw new Error("nothing was thrown");
}

/** What `db:status` says that it was going to connect to. Port 9 is silent. */
async function readAddress(
  project: Project,
  variables: Record<string, string> = {},
) {
  const { stdout } = await project.run("db:status --json", variables);
  const { host, port, database, user, engine } = JSON.parse(stdout);
  return { host, port, database, user, engine };
}

describe.concurrent("where variables come from", () => {
  test("without any file the example's values hold", async () => {
    using project = copyProject();
    expect(
      await readAddress(project, { POSTGRES_PORT: "9", DB_ENGINE: "embedded" }),
    ).toEqual({
      host: "localhost",
      port: 9,
      database: "app",
      user: "postgres",
      engine: "embedded",
    });
  });

  test("the process wins over .env.local, which wins over .env", async () => {
    using project = copyProject();
    project.write(
      ".env",
      "DATABASE_URL=postgres://env@127.0.0.1:9/env\nDB_ENGINE=external\n",
    );
    expect(await readAddress(project)).toMatchObject({
      database: "env",
      user: "env",
    });

    project.write(
      ".env.local",
      "DATABASE_URL=postgres://local@127.0.0.1:9/local\n",
    );
    expect(await readAddress(project)).toMatchObject({
      database: "local",
      engine: "external",
    });

    const DATABASE_URL = "postgres://own@127.0.0.1:9/own";
    expect(await readAddress(project, { DATABASE_URL })).toMatchObject({
      database: "own",
    });
  });

  test("DATABASE_URL wins over its parts, and an empty one counts as unset", async () => {
    using project = copyProject();
    project.write(
      ".env.local",
      "POSTGRES_DB=parts\nPOSTGRES_USER=u\nPOSTGRES_PASSWORD=p\nPOSTGRES_PORT=9\nDB_ENGINE=external\n",
    );
    const DATABASE_URL = "postgres://u@127.0.0.1:9/whole";

    expect(await readAddress(project, { DATABASE_URL })).toMatchObject({
      database: "whole",
    });
    expect(await readAddress(project, { DATABASE_URL: "" })).toMatchObject({
      database: "parts",
    });
  });

  test("a direct connection is taken, but not a file's for the process's own URL", async () => {
    using project = copyProject();
    project.write(
      ".env.local",
      "DATABASE_URL=postgres://u@127.0.0.1:9/a\nDATABASE_URL_UNPOOLED=postgres://u@127.0.0.1:9/direct\nDB_ENGINE=external\n",
    );
    const DATABASE_URL = "postgres://u@127.0.0.1:9/b";

    expect(await readAddress(project)).toMatchObject({ database: "direct" });
    expect(await readAddress(project, { DATABASE_URL })).toMatchObject({
      database: "b",
    });
    expect(
      await readAddress(project, {
        DATABASE_URL,
        DIRECT_URL: "postgres://u@127.0.0.1:9/c",
      }),
    ).toMatchObject({ database: "c" });
  });

  test("a $ in a value stays as it is, and libpq's variables are ignored", async () => {
    using project = copyProject();
    project.write(
      ".env.local",
      "DATABASE_URL='postgres://$HOME:x@127.0.0.1:9/$USER'\nDB_ENGINE=external\n",
    );

    expect(
      await readAddress(project, { PGHOST: "elsewhere", PGDATABASE: "other" }),
    ).toMatchObject({
      host: "127.0.0.1",
      database: "$USER",
      user: "$HOME",
    });
  });

  test("with NODE_ENV=production there are no defaults", async () => {
    using project = copyProject();
    const { exitCode, stdout, stderr } = await project.run("db:migrate", {
      NODE_ENV: "production",
    });

    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: "" });
    expect(stderr).toBe(
      "Error: DATABASE_URL is not set\nHint: set `DATABASE_URL` in the environment: with NODE_ENV=production there is no default\n",
    );
  });

  test("a part that is missing is named, with the file to put it in", async () => {
    using project = copyProject();
    project.write(".env.local", "POSTGRES_DB=app\nPOSTGRES_USER=postgres\n");

    const { exitCode, stderr } = await project.run("db:status");

    expect(exitCode).toBe(2);
    expect(stderr).toBe(
      "Error: POSTGRES_PASSWORD is not set\nHint: set `POSTGRES_PASSWORD` in `.env.local`, as `.env.example` shows\n",
    );
  });
});

describe.concurrent("connection strings", () => {
  const refused: [what: string, url: string, message: string][] = [
    [
      "a # in the password",
      "postgres://u:se#cret@127.0.0.1:9/app",
      "is not a valid URL",
    ],
    [
      "a # after digits",
      "postgres://u:1#secret@127.0.0.1:9/app",
      "is not a valid URL",
    ],
    [
      "a stray %",
      "postgres://u:se%cret@127.0.0.1:9/app",
      "has a % that encodes nothing",
    ],
    [
      "a / in the password",
      "postgres://u:se/cret@127.0.0.1:9/app",
      "is not a valid URL",
    ],
    [
      "a / after digits",
      "postgres://u:1/secret@127.0.0.1:9/app",
      "is not a valid URL",
    ],
    [
      "another scheme",
      "mysql://u:secret@127.0.0.1/app",
      "is not a PostgreSQL connection string",
    ],
    [
      "quotes that were kept",
      '"postgres://u:secret@127.0.0.1/app"',
      "is not a PostgreSQL connection string",
    ],
    ["no user", "postgres://127.0.0.1:9/app", "names no user"],
    ["no database", "postgres://u:secret@127.0.0.1:9", "names no database"],
    [
      "two hosts",
      "postgres://u:secret@one:5432,two:5432/app",
      "names more than one host",
    ],
    [
      "an unknown sslmode",
      "postgres://u:secret@127.0.0.1:9/app?sslmode=on",
      "has an unknown sslmode",
    ],
    [
      "a port of letters",
      "postgres://u:secret@127.0.0.1:port/app",
      "is not a valid URL",
    ],
  ];

  for (const [what, url, message] of refused)
    test(`${what} is refused, with the mend and without the password`, async () => {
      const error = catchError(() => parseDatabaseUrl(url, "DATABASE_URL"));

      expect(error).toMatchObject({ exitCode: 2, hint: expect.any(String) });
      expect(error.message).toBe(`DATABASE_URL in the environment ${message}`);
      expect(error.message + error.hint).not.toContain("cret");
    });

  test("a malformed one is an error of two lines, and exit code 2", async () => {
    using project = copyProject();
    const DATABASE_URL = "postgres://u:se#cret@127.0.0.1:9/app";

    const { exitCode, stdout, stderr } = await project.run("db:migrate", {
      DATABASE_URL,
    });

    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: "" });
    expect(stderr).toMatch(
      /^Error: DATABASE_URL in the environment is not a valid URL\nHint: percent-encode .*\n$/,
    );
    expect(stderr).not.toContain("cret");
  });

  test("special characters are read when they are percent-encoded", async () => {
    using project = copyProject();
    const DATABASE_URL = "postgres://us%40er:p%23%25%2F@[::1]:9/my%20app";

    expect(
      await readAddress(project, { DATABASE_URL, DB_ENGINE: "external" }),
    ).toMatchObject({
      host: "::1",
      port: 9,
      user: "us@er",
      database: "my app",
    });
  });

  test("a file is named where a malformed value stands in it", async () => {
    using project = copyProject();
    project.write(
      ".env.local",
      "DATABASE_URL=postgres://u:1#secret@127.0.0.1:9/app\n",
    );

    const { exitCode, stderr } = await project.run("db:start");

    expect(exitCode).toBe(2);
    expect(stderr).toStartWith(
      "Error: DATABASE_URL in .env.local names no user\n",
    );
    expect(stderr).toContain("# is `%23`");
  });

  test("a failure is JSON where JSON was asked for", async () => {
    using project = copyProject();
    const { exitCode, stdout, stderr } = await project.run(
      "db:migrate --json",
      { DATABASE_URL: "postgres://" },
    );

    expect({ exitCode, stderr }).toEqual({ exitCode: 2, stderr: "" });
    expect(JSON.parse(stdout).error).toMatchObject({ code: "CONFIGURATION" });
  });
});
