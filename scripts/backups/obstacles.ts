// Checks that a server has what an archive needs, and that a role may read all that
// a dump needs.
import type { Sql } from "postgres";
import type { DatabaseAddress } from "../../src/database-url";
import { quoteIdentifier } from "../lib/quote";
import { note, refusal } from "../lib/report";
import type { PostgresTool } from "../server/client-programs";
import { readSchema, restoreArchive, type RestoreOptions } from "./archive";

const ROLE = '"(?:[^"]|"")+"|[^\\s",;]+';
const ROLES = `(?:${ROLE})(?:, (?:${ROLE}))*`;
/** Statements as pg_dump writes them, one a line. */
const DEFAULTS = [`^ALTER DEFAULT PRIVILEGES FOR ROLE (${ROLE}) `];
const OWNERS = [`^ALTER [^;\\n]* OWNER TO (${ROLE});$`, ...DEFAULTS];
const GRANTEES = [
  `^(?:GRANT|ALTER DEFAULT PRIVILEGES)\\b[^;\\n]* TO (${ROLES})(?: WITH GRANT OPTION)?(?: GRANTED BY [^;]*)?;$`,
  `^(?:REVOKE|ALTER DEFAULT PRIVILEGES)\\b[^;\\n]* FROM (${ROLES});$`,
];
const POLICIES = [
  `^CREATE POLICY [^;\\n]* TO (${ROLES})(?: USING| WITH CHECK|;)`,
];
const NO_ROLE = /^(PUBLIC|CURRENT_USER|SESSION_USER)$/;

/**
 * Finds roles that an archive names and that the server does not have, or that
 * this role may not act for.
 *
 * @param isWithoutOwner true when the restoring role is to own everything.
 * @returns how to restore it.
 * @throws with exit code 2 and the roles when it cannot be restored.
 */
export async function planRestore(
  tool: PostgresTool,
  psql: PostgresTool,
  path: string,
  server: Sql,
  isWithoutOwner: boolean,
): Promise<RestoreOptions> {
  // A function's body may contain such lines.
  const schema = (await readSchema(tool, path)).replace(
    /\$(\w*)\$[^]*?\$\1\$/g,
    "",
  );
  const roles = await server<
    { name: string; mine: boolean; super: boolean; self: string }[]
  >`
    select rolname as name, pg_has_role(rolname, 'MEMBER') as mine, rolsuper as super, quote_ident(current_user) as self
    from pg_roles`;
  const superusers = new Set(
    roles.flatMap((role) => (role.super ? [role.name] : [])),
  );
  const known = new Map(roles.map(({ name, mine }) => [name, mine]));
  const owners = listRoles(schema, OWNERS).filter((name) => !known.get(name));
  const [granted, allowed] = [GRANTEES, POLICIES].map((patterns) =>
    listRoles(schema, patterns).filter((name) => !known.has(name)),
  ) as [string[], string[]];
  const needed = isWithoutOwner
    ? allowed
    : [...new Set([...owners, ...granted, ...allowed])];
  if (needed.length > 0) {
    const absent = needed.filter((name) => !known.has(name));
    const foreign = needed.filter((name) => known.has(name));
    const make = absent.map((name) => `CREATE ROLE ${quoteIdentifier(name)}`);
    const join = foreign.map(
      (name) => `GRANT ${quoteIdentifier(name)} TO ${roles[0]?.self}`,
    );
    throw refusal(
      `the archive names roles that ${absent.length > 0 ? "this server does not have" : "this role may not act for"}: ${[...absent, ...foreign].join(", ")}`,
      {
        code: "ROLE_MISSING",
        // A member of a superuser can do all that it can.
        hint: foreign.some((name) => superusers.has(name))
          ? "add `--no-owner` to make this role own everything, or restore as a superuser"
          : `${isWithoutOwner ? "" : "add `--no-owner` to make this role own everything; or "}let an administrator run \`${[...make, ...join].join("; ")}\` first`,
      },
    );
  }
  const givers = listRoles(schema, DEFAULTS).filter((name) => !known.get(name));
  const isWithoutGrants = granted.length + givers.length > 0;
  if (isWithoutGrants)
    note(
      `Warning: not restored: all grants, because this role may not grant as, or to, ${[...granted, ...givers].join(", ")}`,
    );
  return {
    psql,
    isWithoutOwner,
    isWithoutGrants,
    extensions: listExtensions(schema),
  };
}

function listRoles(schema: string, patterns: string[]): string[] {
  const found = patterns.flatMap((pattern) =>
    [...schema.matchAll(new RegExp(pattern, "gm"))].flatMap(
      ([, names = ""]) => names.match(new RegExp(ROLE, "g")) ?? [],
    ),
  );
  const roles = found.filter((name) => !NO_ROLE.test(name)).map(unquote);
  return [...new Set(roles)];
}

function listExtensions(schema: string): RestoreOptions["extensions"] {
  const pattern =
    /^CREATE EXTENSION IF NOT EXISTS ("(?:[^"]|"")+"|\S+) WITH SCHEMA ("(?:[^"]|"")+"|[^\s;]+);$/gm;
  return [...schema.matchAll(pattern)].map(([, name = "", home = ""]) => ({
    name,
    home,
  }));
}

function unquote(name: string): string {
  return name.startsWith('"') ? name.slice(1, -1).replaceAll('""', '"') : name;
}

/**
 * Requires that the role may read everything that pg_dump reads.
 *
 * @throws with exit code 2 and the GRANT to ask for.
 */
export async function requireReadable(sql: Sql): Promise<void> {
  const rows = await sql.unsafe<
    { schema: string; name: string; kind: string; role: string }[]
  >(`
    select quote_ident(nspname) as schema, class.oid::regclass::text as name, quote_ident(current_user) as role,
      case when not has_schema_privilege(relnamespace, 'usage')
          or not has_table_privilege(class.oid, 'select') then 'grant' else 'policy' end as kind
    from pg_class as class join pg_namespace on pg_namespace.oid = relnamespace
    where relkind in ('r', 'p', 'S', 'm') and relpersistence <> 't'
      and nspname not in ('pg_catalog', 'information_schema')
      and not exists (select from pg_depend where classid = 'pg_class'::regclass
        and objid = class.oid and deptype = 'e')
      and (not has_schema_privilege(relnamespace, 'usage')
        or not has_table_privilege(class.oid, 'select')
        or row_security_active(class.oid))
    order by class.oid`);
  const [first] = rows;
  if (!first) return;
  const { role } = first;
  const schemas = new Set(
    rows.filter(({ kind }) => kind === "grant").map(({ schema }) => schema),
  );
  const grants = [...schemas].flatMap((schema) => [
    `GRANT USAGE ON SCHEMA ${schema} TO ${role}`,
    `GRANT SELECT ON ALL TABLES IN SCHEMA ${schema} TO ${role}`,
    `GRANT SELECT ON ALL SEQUENCES IN SCHEMA ${schema} TO ${role}`,
  ]);
  if (rows.some(({ kind }) => kind === "policy"))
    grants.push(`ALTER ROLE ${role} BYPASSRLS`);
  throw refusal(
    `the role ${role} may not read all of the database: ${first.name}${rows.length > 1 ? ` and ${rows.length - 1} more` : ""}`,
    {
      code: "NOT_READABLE",
      hint: `let an administrator run \`${grants.join("; ")}\``,
    },
  );
}

/**
 * Restores an archive into an empty database, to which `sql` is connected.
 * Extensions that this role may not create are left out with a warning.
 *
 * @throws the first error, with the names of the extensions that were left out.
 */
export async function restoreInto(
  sql: Sql,
  tool: PostgresTool,
  path: string,
  { database }: DatabaseAddress,
  options: RestoreOptions,
  serverVersion: string,
): Promise<void> {
  const leftOut: string[] = [];
  for (const { name, home } of options.extensions) {
    await sql.unsafe("begin");
    await sql
      .unsafe(
        `create schema if not exists ${home}; create extension if not exists ${name} schema ${home} cascade`,
      )
      .catch(({ message }: Error) => {
        leftOut.push(name);
        note(`Warning: not restored: the extension ${name}: ${message}`);
      });
    await sql.unsafe("rollback");
  }
  const major = Number.parseInt(serverVersion, 10);
  await restoreArchive(tool, path, database, options, leftOut, major).catch(
    (error: Error) => {
      if (leftOut.length > 0 && error.message.includes("does not exist"))
        Object.assign(error, {
          hint: `it may need ${leftOut.join(" or ")}, which this role may not create: let an administrator run this command`,
        });
      throw error;
    },
  );
}
