// Keeps what only the database knows of a view that is dropped and created again.
// The statements themselves save it, in a setting of the session, and restore it.
import { quoteIdentifier, quoteLiteral } from "../lib/quote";
import type { SnapshotView } from "./snapshots";

/** The start of the statement that saves them; the rest depends on earlier migrations. */
export const KEEP_START = "SELECT set_config('kept.views',";

/**
 * Adds statements that save and restore the indexes, privileges, comments, defaults,
 * rules, triggers and owners of these views. A view that they create WITH NO DATA is
 * refreshed if the one in its place was populated.
 *
 * @param views the views that the statements drop and create again.
 * @param history the SQL of earlier migrations. A privilege on an ordinary view that
 * none of them grants was granted by hand, and is not kept.
 */
export function keepExtras(
  statements: string[],
  views: SnapshotView[],
  history?: string,
): string[] {
  const made = views.filter(({ isExisting }) => !isExisting);
  const isGranted = ({ name, materialized }: SnapshotView) =>
    materialized ||
    history === undefined ||
    granted.some((text) => text.includes(name) || /\ball tables\b/i.test(text));
  const granted = history?.match(/\bgrant\b[^;]*/gi) ?? [];
  const names = made.map(printName);
  const ungranted = made.filter((view) => !isGranted(view)).map(printName);
  if (names.length === 0) return statements;
  const empty = names.filter((name) =>
    statements.some(
      (text) =>
        text.startsWith(`CREATE MATERIALIZED VIEW ${name} `) &&
        text.endsWith(" WITH NO DATA;"),
    ),
  );
  const first = statements.findIndex((text) =>
    /^DROP (MATERIALIZED )?VIEW /.test(text),
  );
  const last = statements.findLastIndex((text) =>
    /^CREATE (MATERIALIZED )?VIEW /.test(text),
  );
  return [
    ...statements.slice(0, first),
    printKeep(names, ungranted, empty),
    ...statements.slice(first, last + 1),
    GIVE_BACK,
    ...statements.slice(last + 1),
  ];
}

function printName({ schema, name }: SnapshotView): string {
  return `${quoteIdentifier(schema)}.${quoteIdentifier(name)}`;
}

function printKeep(
  names: string[],
  ungranted: string[],
  empty: string[],
): string {
  const list = (of: string[]) =>
    `ARRAY[${of.map((name) => quoteLiteral(name)).join(", ")}]::regclass[]`;
  const lost =
    ungranted.length > 0
      ? `-- Loses: privileges on ${ungranted.join(", ")}, which no migration granted.\n`
      : "";
  const isGranted =
    ungranted.length > 0 ? ` AND view <> ALL (${list(ungranted)})` : "";
  // Last, and in the order of their age: a view is older than those that read it.
  const isRefreshed =
    empty.length > 0
      ? `
  UNION ALL SELECT view::oid::bigint, format('REFRESH MATERIALIZED VIEW %s', view) WHERE relkind = 'm' AND relispopulated AND view = ANY (${list(empty)})`
      : "";
  return `${lost}-- Keeps indexes, privileges, comments, defaults, rules, triggers and owners of the views that are made again.
${KEEP_START} coalesce(jsonb_agg(statement ORDER BY place)::text, '[]'), false)
FROM unnest(${list(names)}) AS view JOIN pg_class ON pg_class.oid = view CROSS JOIN LATERAL (
  SELECT 1, format('ALTER TABLE %s OWNER TO %s', view, relowner::regrole) WHERE relowner <> current_user::regrole
  UNION ALL SELECT 2, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = view
  UNION ALL SELECT 3, format('ALTER VIEW %s ALTER COLUMN %I SET DEFAULT %s', view, attname, pg_get_expr(adbin, adrelid))
    FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum WHERE adrelid = view
  UNION ALL SELECT 3, pg_get_ruledef(oid) FROM pg_rewrite WHERE ev_class = view AND rulename <> '_RETURN'
  UNION ALL SELECT 3, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = view AND NOT tgisinternal
  UNION ALL SELECT 4, format('GRANT %s%s ON %s TO %s%s', privilege_type, ' (' || quote_ident(attname) || ')', view,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
    FROM (SELECT NULL, relacl UNION ALL SELECT attname, attacl FROM pg_attribute WHERE attrelid = view) AS granted (attname, acl),
      aclexplode(acl) WHERE grantee <> relowner${isGranted}
  UNION ALL SELECT 5, format('COMMENT ON %s%s IS %L', CASE WHEN attname IS NOT NULL THEN 'COLUMN ' WHEN relkind = 'm' THEN 'MATERIALIZED VIEW ' ELSE 'VIEW ' END,
    view || coalesce('.' || quote_ident(attname), ''), description)
    FROM pg_description LEFT JOIN pg_attribute ON attrelid = view AND attnum = objsubid AND objsubid > 0
    WHERE objoid = view AND classoid = 'pg_class'::regclass${isRefreshed}
) AS kept (place, statement);`;
}

const GIVE_BACK = `DO $$ DECLARE statement text; BEGIN
  FOR statement IN SELECT jsonb_array_elements_text(current_setting('kept.views')::jsonb) LOOP
    BEGIN
      EXECUTE statement;
    EXCEPTION WHEN undefined_column THEN
      RAISE WARNING 'the view has no such column any more, lost: %', statement;
    END;
  END LOOP;
END $$;`;
