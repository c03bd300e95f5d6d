// Builds in a scratch database what migrations make, to compare with it.
import type { Sql } from "postgres";
import { applyPending } from "./apply";
import type { Migration } from "./journal";
import { planMigrations } from "./plan";
import { readWords, splitStatements } from "./statements";

const SHARED = "ROLE USER GROUP TABLESPACE DATABASE SUBSCRIPTION SYSTEM";

/**
 * Applies the migrations to an empty database, but for what they do to the
 * server as a whole, such as its roles: there that is done already.
 *
 * @throws for a statement that fails, with its place in the file.
 */
export async function replayMigrations(
  sql: Sql,
  migrations: Migration[],
): Promise<void> {
  await applyPending(sql, planMigrations(migrations.map(keepToDatabase), []));
}

/** Lines and columns stay. */
function keepToDatabase(migration: Migration): Migration {
  let { text } = migration;
  for (const { tokens, offset, text: statement } of splitStatements(text)) {
    const [verb = "", kind = "", next] = readWords(tokens, 3);
    const isShared =
      ["CREATE", "ALTER", "DROP"].includes(verb) &&
      SHARED.split(" ").includes(kind) &&
      next !== "MAPPING";
    if (!isShared) continue;
    const end = offset + statement.length;
    const blank = statement.replace(/[^\n]/g, " ");
    text = text.slice(0, offset) + blank + text.slice(end);
  }
  return { ...migration, text };
}

/**
 * Gives the scratch database the default privileges of the other one: what the
 * migrations make there gets them too, and is no drift for it.
 */
export async function copyDefaultPrivileges(
  from: Sql,
  scratch: Sql,
): Promise<void> {
  const rows = await from.unsafe<{ statement: string }[]>(`
    with defaults as (
      select pg_default_acl.*, case when nspname is null then '' else 'in schema public' end as place,
        case defaclobjtype when 'r' then 'tables' when 'S' then 'sequences'
          when 'f' then 'functions' when 'T' then 'types' else 'schemas' end as kind
      from pg_default_acl left join pg_namespace on pg_namespace.oid = defaclnamespace
      where defaclrole = current_user::regrole and coalesce(nspname, 'public') = 'public'
    )
    select format('alter default privileges %s revoke all on %s from public', place, kind) as statement
    from defaults where place = '' and kind in ('functions', 'types')
    union all
    select format('alter default privileges %s grant %s on %s to %s%s', place, privilege_type, kind,
      case when grantee = 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end,
      case when is_grantable then ' with grant option' else '' end)
    from defaults cross join lateral aclexplode(defaclacl) where grantee <> defaclrole
    order by statement desc`);
  for (const { statement } of rows)
    await scratch.unsafe(statement).catch((error: { code?: string }) => {
      if (error.code !== "42704") throw error; // a role of the one server only
    });
}
