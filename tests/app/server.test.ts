// src/server.ts as a deploy needs it: its /health, and how it ends.
import { expect } from "bun:test";
import { type TestDatabase, testDatabase as test } from "../lib/database";
import { listen } from "../lib/ports";

/** Starts the server, and returns how to ask it. */
async function serve(
  { start }: TestDatabase,
  variables?: Record<string, string>,
) {
  const server = start("src/server.ts", { PORT: "0", ...variables });
  const lines = server.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const { value = "" } = await lines.read();
  const url = value.replace("Listening: ", "").trim();
  const ask = async () => {
    const answer = await fetch(`${url}health`, { keepalive: false });
    const body = await answer.json();
    return {
      status: answer.status,
      ...(body as { healthy: boolean; problem?: string }),
    };
  };
  return { server, url, ask };
}

test(
  "/health follows the migrations, and says that the server ends before it does",
  "migrated",
  async (database) => {
    const { sql } = database;
    const { server, url, ask } = await serve(database);

    const page = await (await fetch(url)).text();
    const current = await ask();
    await sql`insert into drizzle.__drizzle_migrations (hash, created_at) values ('newer', 9)`;
    const newer = await ask();
    const turn = () =>
      sql`update drizzle.__drizzle_migrations set created_at = -created_at`;
    await turn();
    const moved = await ask();
    await turn();
    await sql`update drizzle.__drizzle_migrations set hash = 'edited'`;
    const edited = await ask();
    await sql`update drizzle.__drizzle_migrations set hash = id, created_at = 1
      where id = (select min(id) from drizzle.__drizzle_migrations)`;
    const behind = await ask();
    await sql`drop schema drizzle cascade`;
    const unreadable = await ask();
    server.kill();
    let ending = await ask();
    while (ending.problem !== "this one ends") ending = await ask();
    const exitCode = await server.exited;

    expect([current, newer, moved, edited]).toEqual(
      Array(4).fill({ status: 200, healthy: true }),
    );
    expect(page).toBe("It works.\n");
    expect(behind).toEqual({
      status: 503,
      healthy: false,
      problem: "migrations are pending: 1",
    });
    expect(unreadable).toMatchObject({
      healthy: false,
      status: 503,
      problem: "the records of the migrations cannot be read",
    });
    expect(ending.status).toBe(503);
    expect(exitCode).toBe(0);
  },
);

test(
  "/health says that the database does not answer, and the server ends without it",
  "empty",
  async (database) => {
    let isSilent = false;
    const { port, close } = await listen((socket) => {
      if (!isSilent) socket.resetAndDestroy();
    });
    const DATABASE_URL = `postgres://u:secret@127.0.0.1:${port}/a?sslmode=disable`;
    const { server, ask } = await serve(database, {
      DATABASE_URL,
      DATABASE_CONNECT_TIMEOUT: "3s",
    });

    const refused = await ask();
    isSilent = true;
    const unanswered = await ask();
    server.kill("SIGINT");
    const exitCode = await server.exited;
    const printed = await new Response(server.stderr).text();
    await close();

    expect(refused).toEqual({
      status: 503,
      healthy: false,
      problem: "the database does not answer",
    });
    expect(unanswered).toEqual({
      status: 503,
      healthy: false,
      problem: "the database did not answer within 2000 ms",
    });
    expect(printed).toStartWith(`Error: cannot connect to 127.0.0.1:${port}: `);
    expect(printed).not.toContain("secret");
    expect(exitCode).toBe(0);
  },
);
