// bun run db:pull: writes the schema.ts of a database into pulled/. The file is
// loaded once before it is put in place. Names the objects that drizzle cannot
// describe. Exits 1 when it fails.
import {
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { readEnv, root } from "../src/env";
import { readProject } from "../src/project";
import { openConnection } from "./lib/connection";
import { jsonFlag, readOptions } from "./lib/options";
import { failure, note, print, printJson } from "./lib/report";
import { readCatalog } from "./migrations/catalog";
import { isInFilter } from "./migrations/ours";
import { introspect } from "./schema/introspect";
import { printRelations, printSchema } from "./schema/print-schema";
import type { Snapshot } from "./schema/snapshots";

const usage = `bun run db:pull [flags]

Writes the schema.ts of the database into pulled/.`;

/** What drizzle cannot describe of an object, by its kind. */
const DETAILS: Record<string, RegExp> = {
  column: / (COLLATE \S+|VIRTUAL$)/g,
  constraint:
    / (MATCH FULL|DEFERRABLE( INITIALLY DEFERRED)?|NOT VALID|NO INHERIT|NOT ENFORCED)(?= |$)/g,
  index: / (INCLUDE \([^)]*\)|NULLS NOT DISTINCT)/g,
  row: / FORCE ROW LEVEL SECURITY/g,
  table: / UNLOGGED /g,
};

readOptions(usage, { ...jsonFlag });

await using sql = await openConnection(
  readEnv().direct,
  "db:pull",
  "prefer-primary",
);
const schemas = readProject().schemaFilter ?? (await listSchemas());
const snapshot = await readWithTargets();
const catalog = await readCatalog(sql);
const files = {
  "schema.ts": printSchema(snapshot, schemas),
  "relations.ts": printRelations(snapshot, schemas),
};
await write();
for (const line of await listLeftOut()) note(`Not pulled: ${line}`);
const others = (await listSchemas()).filter((name) => !schemas.includes(name));
if (others.length > 0)
  note(
    `Not pulled, except what others refer to: ${others.join(", ")}: not in \`schemaFilter\` of drizzle.config.ts`,
  );

/** Lists all schemas but PostgreSQL's own, extensions' and that of the records. */
async function listSchemas(): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    select nspname as name from pg_namespace
    where nspname !~ '^(pg_|information_schema$)' and nspname not in ('drizzle', ${readProject().records.schema})
      and not exists (select from pg_depend where classid = 'pg_namespace'::regclass
        and objid = pg_namespace.oid and deptype = 'e')
    order by nspname`;
  return rows.map(({ name }) => name);
}

/** Reads these schemas, and the tables and types of others that they refer to. */
async function readWithTargets(): Promise<Snapshot> {
  const own = await introspect(sql, schemas, true);
  const isOwn = (table: { schema: string }) =>
    schemas.includes(table.schema || "public");
  const tables = Object.values(own.tables).filter(({ name }) =>
    isInFilter(name),
  );
  const keys = tables.flatMap(({ foreignKeys }) =>
    Object.values(foreignKeys).map(
      ({ schemaTo, tableTo }) => `${schemaTo || "public"}.${tableTo}`,
    ),
  );
  const types = tables.flatMap(({ columns }) =>
    Object.values(columns).flatMap(({ typeSchema }) => typeSchema ?? []),
  );
  const places = [...keys.map((key) => key.split(".")[0] ?? ""), ...types];
  const all = await introspect(
    sql,
    [...new Set([...schemas, ...places])],
    true,
  );
  const withoutDetails = (table: Snapshot["tables"][string]) =>
    isOwn(table)
      ? table
      : {
          ...table,
          foreignKeys: {},
          indexes: {},
          policies: {},
          checkConstraints: {},
        };
  const pick = <T extends { schema: string; name: string }>(
    parts: Record<string, T>,
    isPicked: (key: string) => boolean,
  ) =>
    Object.fromEntries(
      Object.entries(parts).filter(
        ([key, part]) =>
          (isOwn(part) && isInFilter(part.name)) || isPicked(key),
      ),
    );
  return {
    ...all,
    schemas: Object.fromEntries(
      Object.entries(all.schemas).filter(([key]) => schemas.includes(key)),
    ),
    tables: Object.fromEntries(
      Object.entries(pick(all.tables, (key) => keys.includes(key))).map(
        ([key, table]) => [key, withoutDetails(table)],
      ),
    ),
    enums: pick(all.enums, (key) => types.includes(key.split(".")[0] ?? "")),
    sequences: pick(all.sequences, () => false),
    views: pick(all.views, () => false),
  };
}

/** Writes the files into a temporary folder, loads them, then moves them in place. */
async function write(): Promise<void> {
  const partial = mkdtempSync(join(root, "pulled.partial-"));
  const pulled = join(root, "pulled");
  try {
    for (const [name, text] of Object.entries(files))
      if (text !== undefined) writeFileSync(join(partial, name), text);
    const { describeExports } = await import("./schema/describe-schema");
    try {
      await describeExports(await import(join(partial, "schema.ts")), "");
    } catch (error) {
      throw failure(
        `the schema of this database cannot be described: ${(error as Error).message}`,
      );
    }
    mkdirSync(pulled, { recursive: true });
    const written: string[] = [];
    for (const [name, text] of Object.entries(files)) {
      if (text === undefined) {
        rmSync(join(pulled, name), { force: true });
        continue;
      }
      renameSync(join(partial, name), join(pulled, name));
      written.push(`pulled/${name}`);
      print(`Pulled: pulled/${name}`);
    }
    printJson({ files: written });
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
}

/** Lists the objects of the database that drizzle cannot describe. */
async function listLeftOut(): Promise<string[]> {
  const isPulled = (schema: string | null) =>
    schema !== null && schemas.includes(schema);
  const entries = [...catalog].filter(([, entry]) => isPulled(entry.schema));
  const named = entries
    .filter(([object]) =>
      /^(function|procedure|trigger|rule|domain|composite type|range|collation) /.test(
        object,
      ),
    )
    .map(([object]) => object);
  const parts = entries.flatMap(([object, { sql: text, isPartition }]) => {
    if (isPartition || !/^(table|constraint) /.test(object)) return [];
    if (/ PARTITION BY /.test(text)) return [`the partitions of ${object}`];
    return / EXCLUDE /.test(text) ? [object] : [];
  });
  const details = entries.flatMap(([object, { sql: text }]) => {
    const [kind = ""] = object.split(" ");
    const pattern = DETAILS[kind];
    const found = (pattern && text.match(pattern)) ?? [];
    const list = found.map((detail) => detail.trim()).join(", ");
    const whole = object.replace(/^row security of/, "table");
    return list ? [`${list} of ${whole}`] : [];
  });
  return [...parts, ...details, ...(await listTraits()), ...named];
}

/** Lists what neither drizzle nor the catalog has a word for. */
async function listTraits(): Promise<string[]> {
  const rows = await sql<{ trait: string }[]>`
    with named as (
      select pg_class.oid, format('%I.%I', nspname, relname) as name
      from pg_class join pg_namespace on pg_namespace.oid = relnamespace
      where nspname in ${sql(schemas)} and not relispartition
    )
    select format('COLLATE %s of index %s', used::regcollation, name) as trait
    from named join pg_index on indexrelid = named.oid
      cross join unnest(indcollation::oid[], indkey::int2[]) as part (used, number)
      join pg_attribute on attrelid = indrelid and attnum = number
    where used not in (0, attcollation)
    union all
    select format('INHERITS (%s) of table %s', string_agg(inhparent::regclass::text, ', ' order by inhseqno), name)
    from named join pg_inherits on inhrelid = oid group by name
    order by trait`;
  return rows.map(({ trait }) => trait);
}
