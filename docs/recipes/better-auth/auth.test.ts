// better-auth on this schema, over HTTP as a browser uses it.
import { expect } from "bun:test";
import { makeAuth } from "../../src/auth";
import {
  type ApplicationDatabase,
  testDatabase as test,
} from "../lib/database";

process.env.BETTER_AUTH_SECRET ??= crypto.randomUUID();

/** What the tests read of an answer. */
interface Body {
  id?: string;
  user?: unknown;
}

const password = "correct horse battery staple";

/** A browser: sends JSON to /api/auth with the cookies that it was given. */
function openBrowser(auth: ReturnType<typeof makeAuth>) {
  const cookies = new Map<string, string>();
  return async (path: string, body?: object) => {
    const response = await auth.handler(
      new Request(`http://localhost:3000/api/auth${path}`, {
        method: body ? "POST" : "GET",
        headers: {
          "content-type": "application/json",
          origin: "http://localhost:3000",
          cookie: [...cookies].map((pair) => pair.join("=")).join("; "),
        },
        body: body && JSON.stringify(body),
      }),
    );
    for (const cookie of response.headers.getSetCookie()) {
      const [, name = "", value = ""] = /^([^=]+)=([^;]*)/.exec(cookie) ?? [];
      cookies.set(name, value);
    }
    const answer = (await response.json()) as Body | null;
    return { ...answer, status: response.status, isEmpty: answer === null };
  };
}

function start({ db }: ApplicationDatabase) {
  const emails: { to: string; text: string }[] = [];
  const auth = makeAuth(db, (to, text) => emails.push({ to, text }));
  return { emails, browser: () => openBrowser(auth) };
}

test("sign-up, session, sign-out and sign-in", "migrated", async (database) => {
  const ada = start(database).browser();
  const email = "ada@example.com";

  const signedUp = await ada("/sign-up/email", {
    name: "Ada",
    email,
    password,
  });
  const session = await ada("/get-session");
  const signedOut = await ada("/sign-out", {});
  const none = await ada("/get-session");
  const wrong = await ada("/sign-in/email", { email, password: "wrong" });
  const signedIn = await ada("/sign-in/email", {
    email: "Ada@Example.com",
    password,
  });
  const taken = await ada("/sign-up/email", { name: "Ada", email, password });

  const statuses = [signedUp, signedOut, wrong, signedIn, taken];
  expect(statuses.map(({ status }) => status)).toEqual([
    200, 200, 401, 200, 422,
  ]);
  expect(session.user).toMatchObject({ name: "Ada", email });
  expect(none.isEmpty).toBe(true);
  expect(
    await database.sql`
    select provider_id, left(password, 10) as hash, sessions.user_id = users.id as own
    from users join accounts on accounts.user_id = users.id
    join sessions on sessions.user_id = users.id`,
  ).toMatchObject([
    { provider_id: "credential", hash: "$argon2id$", own: true },
  ]);
});

test(
  "organization, invitation, membership and deletion",
  "migrated",
  async (database) => {
    const { emails, browser } = start(database);
    const { sql } = database;
    const [ada, bob] = [browser(), browser()];
    await ada("/sign-up/email", {
      name: "Ada",
      email: "ada@example.com",
      password,
    });
    await bob("/sign-up/email", {
      name: "Bob",
      email: "bob@example.com",
      password,
    });

    const created = await ada("/organization/create", {
      name: "Team",
      slug: "team",
    });
    const invited = await ada("/organization/invite-member", {
      email: "bob@example.com",
      role: "member",
    });
    const [email] = emails;
    const stranger = await ada("/organization/accept-invitation", {
      invitationId: email?.text,
    });
    const accepted = await bob("/organization/accept-invitation", {
      invitationId: email?.text,
    });
    const members = await sql`
    select users.name, role from tenant_members join users on users.id = user_id
    order by users.name`;
    const [active] = await sql`
    select count(*)::int as sessions from sessions join tenants on tenants.id = active_tenant_id`;
    const forbidden = await bob("/organization/delete", {
      organizationId: created.id,
    });
    const left = await bob("/delete-user", { password });
    const afterBob = await sql`select from tenant_members`;
    const deleted = await ada("/organization/delete", {
      organizationId: created.id,
    });

    expect(email?.to).toBe("bob@example.com");
    expect(
      [created, invited, stranger, accepted, forbidden, left, deleted].map(
        ({ status }) => status,
      ),
    ).toEqual([200, 200, 403, 200, 403, 200, 200]);
    expect([...members]).toEqual([
      { name: "Ada", role: "owner" },
      { name: "Bob", role: "member" },
    ]);
    expect(active).toEqual({ sessions: 2 });
    expect(afterBob).toHaveLength(1);
    expect(
      await sql`
    select name, (select count(*)::int from tenants) as tenants,
      (select count(*)::int from invitations) as invitations,
      (select count(*)::int from tenant_members) as members,
      (select count(*)::int from accounts) as accounts from users`,
    ).toMatchObject([
      { name: "Ada", tenants: 0, invitations: 0, members: 0, accounts: 1 },
    ]);
  },
);

test(
  "a forgotten password, and the administrator's",
  "migrated",
  async (database) => {
    const { emails, browser } = start(database);
    const visitor = browser();
    const { stdout } = await database.run(
      "db:bootstrap --email root@example.com --json",
    );
    const administrator = JSON.parse(stdout);

    const first = await visitor("/sign-in/email", {
      email: "root@example.com",
      password: administrator.password,
    });
    await visitor("/request-password-reset", {
      email: "root@example.com",
      redirectTo: "/reset",
    });
    const token = /reset-password\/([^?]+)/.exec(emails[0]?.text ?? "")?.[1];
    const reset = await visitor("/reset-password", {
      token,
      newPassword: password,
    });
    const again = await visitor("/reset-password", {
      token,
      newPassword: password,
    });
    const second = await visitor("/sign-in/email", {
      email: "root@example.com",
      password,
    });

    expect([first, reset, again, second].map(({ status }) => status)).toEqual([
      200, 200, 400, 200,
    ]);
  },
);
