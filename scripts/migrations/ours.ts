// Decides which objects of a database belong to this project. A schema is ours when
// our migrations create something in it; other schemas are left alone. The filters
// of drizzle.config.ts, partitions and default privileges exclude more.
import { readProject } from "../../src/project";
import { note } from "../lib/report";
import {
  type Catalog,
  type CatalogEntry,
  compareCatalogs,
  type Difference,
  readCatalog,
  dropSpellingDifferences,
} from "./catalog";
import type { Migration } from "./journal";
import type { LeftOut } from "./replay";
import { readWords, splitStatements } from "./statements";
import {
  foldName,
  isTaken,
  isTakenOver,
  readMentions,
  type Trial,
} from "./take-over";

/** What our migrations create. */
export interface Made {
  /** Schemas that they create, or create tables in; "" is the default schema. */
  schemas: Set<string>;
  /** Schemas that they create. */
  ownSchemas: Set<string>;
  /** Objects as `schema.name`; as `.name` when the SQL names no schema. */
  objects: Set<string>;
}

const KINDS =
  /^(TABLE|VIEW|TYPE|DOMAIN|FUNCTION|PROCEDURE|AGGREGATE|SEQUENCE|COLLATION|SCHEMA)$/;

/** What may stand before the kind; what is temporary is not ours to keep. */
const MODIFIERS = /^(OR|REPLACE|UNLOGGED|FOREIGN|MATERIALIZED|RECURSIVE)$/;

/** Reads from the text of migrations what they create. */
export function listMade(migrations: Pick<Migration, "text">[]): Made {
  const made: Made = {
    schemas: new Set(),
    ownSchemas: new Set(),
    objects: new Set(),
  };
  for (const { text } of migrations)
    for (const { tokens } of splitStatements(text)) {
      const words = readWords(tokens, 12);
      const renamed = words[0] === "ALTER" ? words.indexOf("RENAME") : -1;
      const isRename = renamed > 0 && words[renamed + 1] === "TO";
      if (words[0] !== "CREATE" && !isRename) continue;
      let at = 1;
      while (MODIFIERS.test(words[at] ?? "")) at += 1;
      if (!KINDS.test(words[at] ?? "")) continue;
      let from = at + 1;
      while (/^(IF|NOT|EXISTS|ONLY)$/.test(words[from] ?? "")) from += 1;
      const read = (index: number) => foldName(tokens[index]?.text ?? "");
      const isQualified = words[from + 1] === ".";
      const schema = isQualified ? read(from) : "";
      if (words[at] === "SCHEMA") {
        const name =
          words[from] === "AUTHORIZATION" ? read(from + 1) : read(from);
        made.schemas.add(name);
        made.ownSchemas.add(name);
        continue;
      }
      const last = isRename ? renamed + 2 : isQualified ? from + 2 : from;
      made.objects.add(`${schema}.${read(last)}`);
      if (/^(TABLE|VIEW)$/.test(words[at] ?? "")) made.schemas.add(schema);
    }
  return made;
}

/** Lists what is never copied from the real database, because our migrations
 * create it: `own` of `Trial`. */
export function listOwn(made: Made, path: string[]): Set<string> {
  const own = new Set(made.ownSchemas);
  for (const object of made.objects)
    for (const schema of object.startsWith(".") ? path : [""])
      own.add(`${schema}${object}`);
  return own;
}

/** Lists the schemas that are ours, by their names in the database. */
function listOurSchemas(
  made: Made,
  { path, taken }: Pick<Trial, "path" | "taken">,
  expected: Catalog,
): Set<string> {
  const home = path.find((schema) => schema !== "pg_catalog") ?? "public";
  const { schemaFilter } = readProject();
  const isFiltered = (schema: string) =>
    schemaFilter !== undefined && !matchesAny(schemaFilter, schema);
  const ours = new Set([...made.schemas].map((schema) => schema || home));
  for (const [object, { schema }] of expected)
    if (schema && /^(table|schema) /.test(object) && !taken.has(object))
      ours.add(schema);
  if (ours.size === 0) ours.add(home);
  return new Set(
    [...ours].filter(
      (schema) => made.ownSchemas.has(schema) || !isFiltered(schema),
    ),
  );
}

/** Prints which schemas are not ours. */
export function noteTheirs(found: Catalog, ours: Set<string>): void {
  const theirs = [...found.keys()]
    .filter((object) => object.startsWith("schema "))
    .map((object) => object.slice("schema ".length))
    .filter((name) => !ours.has(foldName(name)));
  const [first, ...more] = theirs;
  if (!first) return;
  const names = [first, ...more.slice(0, 4), ...(more.length > 4 ? ["…"] : [])];
  note(
    `Left alone: ${theirs.length} ${more.length > 0 ? "schemas" : "schema"} in which nothing is ours: ${names.join(", ")}`,
  );
}

/**
 * Returns the differences between the real database and the scratch database, in
 * which our migrations ran. It leaves out what is not ours, and prints which
 * schemas are not.
 *
 * @param leftOut statements that did not run in the scratch database.
 * @param pending migrations that may need objects of the real database.
 */
export async function findDifferences(
  trial: Trial,
  made: Made,
  leftOut: LeftOut[],
  pending: Migration[] = [],
): Promise<Difference[]> {
  const { found } = trial;
  const expected = await readCatalog(trial.scratch);
  const ours = listOurSchemas(made, trial, expected);
  noteTheirs(found, ours);
  const unknown = new Set(
    leftOut
      .filter(({ changesSchema }) => changesSchema)
      .flatMap(({ statement }) => readMentions(statement.text))
      .map(({ name }) => name),
  );
  const needed = listNeeded(trial, pending);
  const defaults = await readDefaults(trial);
  const differences = compareCatalogs(expected, found).flatMap((difference) => {
    const { object } = difference;
    const [one, other] = [expected.get(object), found.get(object)];
    const entry = one ?? other;
    if (!entry) return [];
    if (entry.isPartition || one?.isPartition || other?.isPartition) return [];
    if (isTaken(trial, object, entry)) return [];
    // A part of an object that is not ours counts only if our migrations create it.
    const isTheirs = !one || object.startsWith("grants ");
    if (isTheirs && isTakenOver(trial, object, entry)) return [];
    // An extension that is not in our migrations belongs to the operator.
    if (!one && needed.has(`${entry.schema}.${entry.name}`)) return [];
    if (!one && (!entry.schema || !isOurs(entry, expected, ours))) return [];
    if (unknown.has(entry.name)) return [];
    if (!object.startsWith("grants ")) return [difference];
    return compareGrants(difference, one, other, defaults);
  });
  return await dropSpellingDifferences(trial.scratch, differences, found);
}

/** Lists what migrations mention and none of them creates, as `schema.name`. */
function listNeeded({ path, own }: Trial, migrations: Migration[]) {
  const names = migrations.flatMap(({ text }) =>
    readMentions(text.replace(/--.*$/gm, "")).flatMap(({ schema, name }) =>
      (schema ? [schema] : path).map((home) => `${home}.${name}`),
    ),
  );
  return new Set(names.filter((name) => !own.has(name)));
}

/** True when an object that only the real database has is ours. */
function isOurs(
  { schema, name, parent }: CatalogEntry,
  expected: Catalog,
  ours: Set<string>,
): boolean {
  if (parent !== null && expected.has(parent)) return true;
  return ours.has(schema ?? "") && isInFilter(name);
}

type Filters = Pick<
  ReturnType<typeof readProject>,
  "tablesFilter" | "extensionsFilters"
>;

/** True when the filters of drizzle.config.ts include the name of an object. */
export function isInFilter(
  name: string,
  { tablesFilter, extensionsFilters }: Filters = readProject(),
): boolean {
  const isPostgis =
    extensionsFilters.includes("postgis") &&
    /^(spatial_ref_sys|geometry_columns|geography_columns)$/.test(name);
  return !isPostgis && matchesAny(tablesFilter, name);
}

/** True when the globs include the name. As in drizzle-kit, `!` excludes. */
function matchesAny(globs: string[], name: string): boolean {
  const [out, some] = [
    globs.filter((glob) => glob.startsWith("!")),
    globs.filter((glob) => !glob.startsWith("!")),
  ];
  if (out.some((glob) => matches(glob.slice(1), name))) return false;
  return some.length === 0 || some.some((glob) => matches(glob, name));
}

function matches(glob: string, name: string): boolean {
  const pattern = glob
    .replace(/[.+^$()|\\]/g, "\\$&")
    .replace(/\*+/g, ".*")
    .replaceAll("?", ".")
    .replace(
      /\{([^}]*)\}/g,
      (_, words: string) => `(${words.replaceAll(",", "|")})`,
    )
    .replaceAll("[!", "[^");
  return new RegExp(`^${pattern}$`).test(name);
}

/** Reads the owners in the real database, and the kinds of object with global
 * default privileges. */
async function readDefaults({ real }: Trial) {
  const [row] = await real<{ owners: string[]; types: string[] }[]>`
    select to_json(array[current_user, pg_get_userbyid(datdba)]) as owners,
      (select coalesce(json_agg(defaclobjtype), '[]') from pg_default_acl where defaclnamespace = 0) as types
    from pg_database where datname = current_database()`;
  return row ?? { owners: [], types: [] };
}

/**
 * Compares the grants to one role. Grants from default privileges are not a
 * difference on either side: the table may be older than the defaults.
 */
export function compareGrants(
  difference: Difference,
  one: CatalogEntry | undefined,
  other: CatalogEntry | undefined,
  { owners, types }: { owners: string[]; types: string[] },
): Difference[] {
  const grantee = (one ?? other)?.grantee ?? null;
  const without = (
    all: CatalogEntry["privileges"],
    ...less: (string[] | null | undefined)[]
  ) => (all ?? []).filter((privilege) => !less.flat().includes(privilege));
  const surplus = without(
    other?.privileges ?? null,
    one?.privileges,
    other?.defaults,
  );
  const missing = without(
    one?.privileges ?? null,
    other?.privileges,
    one?.defaults,
  );
  if (surplus.length > 0) return [difference];
  if (missing.length === 0)
    return one && other && !one.defaults && !other.defaults ? [difference] : [];
  if (grantee !== null) return owners.includes(grantee) ? [] : [difference];
  const type = /^grants on (function|procedure) /.test(difference.object)
    ? "f"
    : "T";
  return types.includes(type) ? [] : [difference];
}
