// Auth.js on this schema, over HTTP as a browser uses it.
import { expect } from "bun:test";
import { DrizzleAdapter } from "@auth/drizzle-adapter";
import { makeAuth } from "../../src/auth";
import * as tables from "../../src/auth-tables";
import { testDatabase as test } from "../lib/database";

process.env.AUTH_SECRET ??= crypto.randomUUID();

const ORIGIN = "http://localhost:3000";

/** A browser: follows no redirect, and keeps the cookies that it was given. */
function openBrowser(auth: ReturnType<typeof makeAuth>) {
  const cookies = new Map<string, string>();
  const visit = async (url: string, form?: Record<string, string>) => {
    const response = await auth(
      new Request(new URL(url, ORIGIN), {
        method: form ? "POST" : "GET",
        headers: {
          cookie: [...cookies].map((pair) => pair.join("=")).join("; "),
        },
        body: form && new URLSearchParams(form),
      }),
    );
    for (const cookie of response.headers.getSetCookie()) {
      const [, name = "", value = ""] = /^([^=]+)=([^;]*)/.exec(cookie) ?? [];
      cookies.set(name, value);
    }
    return response;
  };
  return {
    visit,
    /** Begins to sign in; returns where the browser is sent. */
    async signIn(provider: string, form: Record<string, string> = {}) {
      const csrf = await (await visit("/api/auth/csrf")).json();
      const { csrfToken } = csrf as { csrfToken: string };
      const response = await visit(`/api/auth/signin/${provider}`, {
        csrfToken,
        ...form,
      });
      return response.headers.get("location") ?? "";
    },
    async signOut() {
      const csrf = await (await visit("/api/auth/csrf")).json();
      const { csrfToken } = csrf as { csrfToken: string };
      await visit("/api/auth/signout", { csrfToken });
    },
    async readSession() {
      return await (await visit("/api/auth/session")).json();
    },
  };
}

test(
  "sign-in by email makes a user, verifies it, and works once",
  "migrated",
  async ({ db, sql }) => {
    const links: string[] = [];
    const browser = openBrowser(makeAuth(db, (_, link) => links.push(link)));

    await browser.signIn("email", { email: "Ada@Example.com" });
    const [link = ""] = links;
    await browser.visit(link);
    const session = await browser.readSession();
    const sessions =
      await sql`select user_id from sessions where expires_at > now()`;
    const tokens = await sql`select from verification_tokens`;
    await browser.signOut();
    const none = await browser.readSession();
    const again = openBrowser(makeAuth(db));
    await again.visit(link);

    expect(session).toMatchObject({ user: { email: "ada@example.com" } });
    expect(
      await sql`
    select id, name, email_verified_at is not null as verified from users`,
    ).toMatchObject([{ id: sessions[0]?.user_id, name: null, verified: true }]);
    expect([sessions.length, tokens.length]).toEqual([1, 0]);
    expect([none, await again.readSession()]).toEqual([null, null]);
    expect(await sql`select from sessions`).toHaveLength(0);
  },
);

test(
  "an account at a provider is linked, and goes with its user",
  "migrated",
  async ({ db, sql }) => {
    using provider = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      routes: {
        "/token": Response.json({
          access_token: "access",
          refresh_token: "refresh",
          token_type: "bearer",
          scope: "profile",
          expires_in: 3600,
        }),
        "/user": Response.json({
          id: "7",
          name: "Bob",
          email: "bob@example.com",
        }),
      },
    });
    const auth = makeAuth(db, undefined, [
      {
        id: "example",
        name: "Example",
        type: "oauth",
        clientId: "id",
        clientSecret: "secret",
        authorization: `${provider.url}authorize`,
        token: `${provider.url}token`,
        userinfo: `${provider.url}user`,
        profile: (profile: { id: string; name: string; email: string }) =>
          profile,
      },
    ]);
    const signIn = async () => {
      const browser = openBrowser(auth);
      const target = new URL(await browser.signIn("example"));
      const state = target.searchParams.get("state");
      await browser.visit(
        `/api/auth/callback/example?code=code${state ? `&state=${state}` : ""}`,
      );
      return await browser.readSession();
    };

    const first = await signIn();
    const second = await signIn();
    const accounts = await sql`
    select name, provider_id, account_id, type, token_type, scope, refresh_token,
      expires_at - extract(epoch from now())::int between 3500 and 3600 as fresh
    from accounts join users on users.id = user_id`;
    const [user] = await sql`select id from users`;
    const adapter = DrizzleAdapter(db, tables);
    await adapter.updateUser?.({ id: user?.id, name: "Robert" });
    const [updated] =
      await sql`select name, updated_at > created_at as later from users`;
    await adapter.deleteUser?.(user?.id);

    expect([first, second]).toMatchObject([
      { user: { name: "Bob" } },
      { user: { name: "Bob" } },
    ]);
    expect([...accounts]).toEqual([
      {
        name: "Bob",
        provider_id: "example",
        account_id: "7",
        type: "oauth",
        token_type: "bearer",
        scope: "profile",
        refresh_token: "refresh",
        fresh: true,
      },
    ]);
    expect(updated).toEqual({ name: "Robert", later: true });
    expect(
      await sql`
    select (select count(*)::int from accounts) as accounts,
      (select count(*)::int from sessions) as sessions`,
    ).toMatchObject([{ accounts: 0, sessions: 0 }]);
  },
);
