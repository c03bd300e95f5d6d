// better-auth and its organization plugin on the tables of schema.ts.
import { betterAuth } from "better-auth";
import { drizzleAdapter } from "better-auth/adapters/drizzle";
import { organization } from "better-auth/plugins";
import { readVariables } from "./env";
import { db } from "./infrastructure/database";
import * as tables from "./infrastructure/database/schema";

/** Sends an email. Replace it: this one only prints. */
const send = (to: string, text: string) => console.log(`To ${to}: ${text}`);

/** Returns better-auth on a database; its `handler` answers requests to /api/auth. */
export function makeAuth(database: typeof db, sendEmail = send) {
  const { BETTER_AUTH_SECRET, BETTER_AUTH_URL } = readVariables();
  return betterAuth({
    secret: BETTER_AUTH_SECRET,
    baseURL: BETTER_AUTH_URL ?? "http://localhost:3000",
    database: drizzleAdapter(database, {
      provider: "pg",
      transaction: true,
      schema: {
        user: tables.users,
        session: tables.sessions,
        account: tables.accounts,
        verification: tables.verificationTokens,
        organization: tables.tenants,
        member: tables.tenantMembers,
        invitation: tables.invitations,
      },
    }),
    advanced: { database: { generateId: "uuid" } }, // the database makes them
    telemetry: { enabled: false },
    emailAndPassword: {
      enabled: true,
      // As db:bootstrap:admin hashes, so that the administrator can sign in.
      password: {
        hash: (password) => Bun.password.hash(password, "argon2id"),
        verify: ({ password, hash }) => Bun.password.verify(password, hash),
      },
      sendResetPassword: async ({ user, url }) => sendEmail(user.email, url),
    },
    user: { deleteUser: { enabled: true } },
    plugins: [
      organization({
        schema: {
          session: { fields: { activeOrganizationId: "activeTenantId" } },
          member: { fields: { organizationId: "tenantId" } },
          invitation: { fields: { organizationId: "tenantId" } },
        },
        sendInvitationEmail: async ({ email, id }) => sendEmail(email, id),
      }),
    ],
  });
}

export const auth = makeAuth(db);
