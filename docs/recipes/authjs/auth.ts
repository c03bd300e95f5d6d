// Auth.js on the tables of schema.ts, for a server without a framework. Sign-in is by a
// link in an email; add its other providers beside that one.
import { Auth, type AuthConfig } from "@auth/core";
import { DrizzleAdapter } from "@auth/drizzle-adapter";
import * as tables from "./auth-tables";
import { readVariables } from "./env";
import { db } from "./infrastructure/database";

/** Sends an email. Replace it: this one only prints. */
const send = (to: string, text: string) => console.log(`To ${to}: ${text}`);

/** Returns the function that answers requests to /api/auth. */
export function makeAuth(
  database: typeof db,
  sendEmail = send,
  providers: AuthConfig["providers"] = [],
) {
  const config: AuthConfig = {
    adapter: DrizzleAdapter(database, tables),
    secret: readVariables().AUTH_SECRET,
    basePath: "/api/auth",
    trustHost: true, // behind a proxy that sets the host; else set AUTH_URL
    session: { strategy: "database" },
    providers: [
      {
        id: "email",
        type: "email",
        name: "Email",
        sendVerificationRequest: ({ identifier, url }) =>
          sendEmail(identifier, url),
      },
      ...providers,
    ],
  };
  return (request: Request) => Auth(request, config);
}

export const auth = makeAuth(db);
