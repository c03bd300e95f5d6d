// The locale and tablespace of a database, to create another with the same.
import type { Sql } from "postgres";
import { quoteIdentifier, quoteLiteral } from "./quote";
import { note } from "./report";

/**
 * Returns the options for CREATE DATABASE that copy the locale and tablespace of
 * another database. A tablespace that this role may not use is left out with a
 * warning. Where the server waits for no disk, files are copied, which is half the
 * work; elsewhere its two checkpoints would cost more.
 */
export async function readDatabaseOptions(
  server: Sql,
  database: string,
): Promise<string> {
  const [row] = await server<
    {
      encoding: string;
      collate: string;
      ctype: string;
      provider: string | null;
      locale: string | null;
      rules: string | null;
      tablespace: string;
      isDenied: boolean;
      isCopied: boolean;
    }[]
  >`
    select pg_encoding_to_char(encoding) as encoding,
      datcollate as collate, datctype as ctype,
      to_jsonb(d) ->> 'datlocprovider' as provider,
      coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') as locale,
      to_jsonb(d) ->> 'daticurules' as rules, spcname as tablespace,
      not has_tablespace_privilege(dattablespace, 'create') as "isDenied",
      current_setting('fsync') = 'off'
        and current_setting('server_version_num')::int >= 150000 as "isCopied"
    from pg_database as d join pg_tablespace as t on t.oid = dattablespace
    where datname = ${database}`;
  if (!row) return "";
  const words = [
    "template template0",
    `encoding ${quoteLiteral(row.encoding)}`,
    `lc_collate ${quoteLiteral(row.collate)}`,
    `lc_ctype ${quoteLiteral(row.ctype)}`,
  ];
  const locale = quoteLiteral(row.locale ?? "");
  if (row.provider === "c") words.push("locale_provider libc");
  if (row.provider === "i")
    words.push("locale_provider icu", `icu_locale ${locale}`);
  if (row.rules !== null) words.push(`icu_rules ${quoteLiteral(row.rules)}`);
  if (row.provider === "b")
    words.push("locale_provider builtin", `builtin_locale ${locale}`);
  if (row.isCopied) words.push("strategy file_copy");
  const { tablespace } = row;
  if (tablespace === "pg_default") return words.join(" ");
  if (!row.isDenied) words.push(`tablespace ${quoteIdentifier(tablespace)}`);
  else
    note(
      `Warning: not carried over: the tablespace ${tablespace} (this role may not use it)`,
    );
  return words.join(" ");
}
