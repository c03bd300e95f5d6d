// src/server.ts as a deploy needs it: its /health, and how it ends.
import { expect } from "bun:test";
import { testDatabase as test } from "../lib/database";

test(
  "/health follows the migrations, and says that the server ends before it does",
  "migrated",
  async ({ sql, start }) => {
    const server = start("src/server.ts", { PORT: "0" });
    const lines = server.stdout
      .pipeThrough(new TextDecoderStream())
      .getReader();
    const { value = "" } = await lines.read();
    const url = value.replace("Listening: ", "").trim();
    const ask = async () => {
      const answer = await fetch(`${url}health`, { keepalive: false });
      const body = await answer.json();
      return { status: answer.status, ...(body as { problem?: string }) };
    };

    const current = await ask();
    await sql`insert into drizzle.__drizzle_migrations (hash, created_at) values ('newer', 9)`;
    const newer = await ask();
    await sql`update drizzle.__drizzle_migrations set hash = 'edited'`;
    const edited = await ask();
    await sql`delete from drizzle.__drizzle_migrations`;
    const behind = await ask();
    await sql`drop schema drizzle cascade`;
    const unreadable = await ask();
    server.kill();
    let ending = await ask();
    while (ending.problem !== "this one ends") ending = await ask();
    const exitCode = await server.exited;

    expect([current, newer, edited]).toEqual(
      Array(3).fill({ status: 200, healthy: true }),
    );
    expect(behind).toMatchObject({
      status: 503,
      healthy: false,
      problem: expect.stringMatching(/^\d+ migrations are pending$/),
    });
    expect(unreadable).toMatchObject({
      status: 503,
      problem: "the records of the migrations cannot be read",
    });
    expect(ending.status).toBe(503);
    expect(exitCode).toBe(0);
  },
);
