import { urlOf } from "./command";
import type { TestDatabase } from "./database";

/** A temporary role that may log in, and the variables to run a command as it. */
export interface TestRole {
  name: string;
  variables: Record<string, string>;
}

/**
 * Creates roles with random names that may log in, and drops them at the end.
 * Objects that they own stay.
 */
export async function withRoles(
  { address, sql }: TestDatabase,
  count: number,
  work: (...roles: TestRole[]) => Promise<void>,
): Promise<void> {
  const roles = Array.from({ length: count }, () => {
    const name = `role_${crypto.randomUUID().slice(0, 8)}`;
    const url = urlOf({ ...address, user: name, password: name });
    const variables = { DATABASE_URL: url, DATABASE_URL_UNPOOLED: url };
    return { name, variables };
  });
  for (const { name } of roles)
    await sql.unsafe(`create role ${name} login password '${name}'`);
  try {
    await work(...roles);
  } finally {
    for (const { name } of roles)
      await sql.unsafe(
        `reassign owned by ${name} to current_user; drop owned by ${name}; drop role ${name}`,
      );
  }
}
