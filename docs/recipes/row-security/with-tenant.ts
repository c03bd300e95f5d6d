// Row security by tenant: the policy for a table with a tenant_id, and the
// transaction in which it lets the rows of one tenant through.
// https://www.postgresql.org/docs/current/ddl-rowsecurity.html
import { sql } from "drizzle-orm";
import { type AnyPgColumn, pgPolicy } from "drizzle-orm/pg-core";
import type { Transaction } from "./database";

/** Runs a transaction, as `db.transaction` and `transactWithRetry` do. */
type Transact = <T>(work: (tx: Transaction) => Promise<T>) => Promise<T>;

/**
 * Returns a policy that hides the rows of other tenants, and refuses to write them.
 * Outside `withTenant` it hides every row: the setting is then missing, or empty on a
 * connection that has had it before, and nothing equals NULL.
 */
export function onlyOwnTenant(tenantId: AnyPgColumn) {
  return pgPolicy("only_own_tenant", {
    using: sql`${tenantId} = nullif(current_setting('app.tenant_id', true), '')::uuid`,
  });
}

/**
 * Runs `work` in a transaction that sees the rows of one tenant. The setting ends with
 * the transaction, however that ends: the next user of the connection does not have it.
 *
 * @param transact such as `db.transaction`, or `transactWithRetry`.
 */
export function withTenant<T>(
  transact: Transact,
  tenantId: string,
  work: (tx: Transaction) => Promise<T>,
): Promise<T> {
  return transact(async (tx) => {
    await tx.execute(
      sql`select set_config('app.tenant_id', ${tenantId}, true)`,
    );
    return await work(tx);
  });
}
