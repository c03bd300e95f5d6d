// Copies what a dump does not contain from one database to another: settings,
// grants, comment, connection limit and owner.
import type { Sql } from "postgres";
import { quoteIdentifier, quoteLiteral } from "../lib/quote";
import { note } from "../lib/report";

/** Settings whose value is a list of quoted names: those of pg_dump's list that a
 * database can have. */
const LISTS =
  /^(local_preload_libraries|search_path|session_preload_libraries|temp_tablespaces)$/;

/**
 * Gives a database the settings, grants, comment, connection limit and owner of
 * another. A warning names each statement that this role may not run.
 */
export async function carrySettings(
  server: Sql,
  from: string,
  to: string,
): Promise<void> {
  for (const left of await listLeft(server, from))
    note(`Warning: not carried over: ${left}`);
  for (const statement of await listStatements(server, from, to))
    await server.unsafe(statement).catch((error: Error) => {
      // A setting's value may be a secret: only its name is shown.
      const own = statement
        .replace(quoteIdentifier(to), quoteIdentifier(from))
        .replace(/( set \S+ to ).*$/s, "$1…");
      note(`Warning: not carried over: ${own}: ${error.message}`);
    });
}

async function listStatements(
  server: Sql,
  from: string,
  to: string,
): Promise<string[]> {
  const target = quoteIdentifier(to);
  const [own] = await server<
    {
      limit: number;
      owner: string;
      comment: string | null;
      hasGrants: boolean;
    }[]
  >`
    select datconnlimit as limit, rolname as owner,
      shobj_description(pg_database.oid, 'pg_database') as comment,
      datacl is not null as "hasGrants"
    from pg_database join pg_roles on pg_roles.oid = datdba
    where datname = ${from}`;
  if (!own) return [];
  const settings = await server<{ role: string | null; setting: string }[]>`
    select rolname as role, unnest(setconfig) as setting
    from pg_db_role_setting left join pg_roles on pg_roles.oid = setrole
    where setdatabase = (select oid from pg_database where datname = ${from})`;
  const grants = await server<
    { role: string | null; privilege: string; isGrantable: boolean }[]
  >`
    select rolname as role, privilege_type as privilege, is_grantable as "isGrantable"
    from pg_database cross join lateral aclexplode(datacl)
      left join pg_roles on pg_roles.oid = grantee
    where datname = ${from}
    order by 1, 2`;

  const statements = settings.map(({ role, setting }) => {
    const [name = "", ...rest] = setting.split("=");
    const value = rest.join("=");
    const written = LISTS.test(name) ? quoteList(value) : quoteLiteral(value);
    const parameter = name.split(".").map(quoteIdentifier).join(".");
    return role === null
      ? `alter database ${target} set ${parameter} to ${written}`
      : `alter role ${quoteIdentifier(role)} in database ${target} set ${parameter} to ${written}`;
  });
  if (own.hasGrants)
    statements.push(`revoke all on database ${target} from public`);
  for (const { role, privilege, isGrantable } of grants)
    statements.push(
      `grant ${privilege} on database ${target} to ${role === null ? "public" : quoteIdentifier(role)}${isGrantable ? " with grant option" : ""}`,
    );
  if (own.comment !== null)
    statements.push(
      `comment on database ${target} is ${quoteLiteral(own.comment)}`,
    );
  statements.push(
    `alter database ${target} connection limit ${own.limit}`,
    `alter database ${target} owner to ${quoteIdentifier(own.owner)}`,
  );
  return statements;
}

/** Quotes the list `public, "other one"` as literals for SET. */
function quoteList(value: string): string {
  const names = value.match(/"(?:[^"]|"")*"|[^",\s]+/g) ?? ['""'];
  return names
    .map((name) =>
      quoteLiteral(name.replace(/^"|"$/g, "").replaceAll('""', '"')),
    )
    .join(", ");
}

/** Lists what cannot be carried over. */
async function listLeft(server: Sql, database: string): Promise<string[]> {
  const rows = await server<{ left: string }[]>`
    select 'the replication slot ' || slot_name as left
    from pg_replication_slots where database = ${database}
    union all
    select 'the flag IS_TEMPLATE' from pg_database
    where datname = ${database} and datistemplate
    order by 1`;
  return rows.map(({ left }) => left);
}
