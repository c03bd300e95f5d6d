// Which objects of a database are ours? The unit is the schema: one in which no
// file of ours makes anything is somebody else's. The filters of
// drizzle.config.ts, partitions and default privileges take away more.
import { readProject } from "../../src/project";
import { note } from "../lib/report";
import {
  type Catalog,
  type CatalogEntry,
  compareCatalogs,
  type Difference,
  readCatalog,
  respell,
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

/** What files of ours make. */
export interface Made {
  /** Schemas that they make, or make tables in; "" is the default one. */
  schemas: Set<string>;
  /** Schemas that they make themselves. */
  ownSchemas: Set<string>;
  /** Objects, as `schema.name`, and without a schema as `.name`. */
  objects: Set<string>;
}

const KINDS =
  /^(TABLE|VIEW|TYPE|DOMAIN|FUNCTION|PROCEDURE|AGGREGATE|SEQUENCE|COLLATION|SCHEMA)$/;

/** Reads from the text of migrations what they make. */
export function listMade(migrations: Pick<Migration, "text">[]): Made {
  const made: Made = {
    schemas: new Set(),
    ownSchemas: new Set(),
    objects: new Set(),
  };
  for (const { text } of migrations)
    for (const { tokens } of splitStatements(text)) {
      const words = readWords(tokens, 9);
      const renamed = words[0] === "ALTER" ? words.indexOf("RENAME") : -1;
      const isRename = renamed > 0 && words[renamed + 1] === "TO";
      if (words[0] !== "CREATE" && !isRename) continue;
      if (/^(TEMP|TEMPORARY)$/.test(words[1] ?? "")) continue;
      const at = words.findIndex((word) => KINDS.test(word));
      if (at === -1) continue;
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

/** What is never taken over, since files of ours make it: see `Trial`. */
export function listOwn(made: Made, path: string[]): Set<string> {
  const own = new Set(made.ownSchemas);
  for (const object of made.objects)
    for (const schema of object.startsWith(".") ? path : [""])
      own.add(`${schema}${object}`);
  return own;
}

/** The schemas that are ours, as the database calls them. */
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

/** Says how many schemas are somebody else's. */
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
 * The differences between the real database and the scratch one, in which our
 * files were run, as far as they are ours. Says how many schemas are not.
 *
 * @param leftOut what was not run there, and may have made something.
 * @param pending migrations that may need what is in the real one only.
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
    // What belongs to something of theirs is ours only where our files make it.
    const isTheirs = !one || object.startsWith("grants ");
    if (isTheirs && isTakenOver(trial, object, entry)) return [];
    // An extension beside ours is the operator's.
    if (!one && needed.has(`${entry.schema}.${entry.name}`)) return [];
    if (!one && (!entry.schema || !isOurs(entry, expected, ours))) return [];
    if (unknown.has(entry.name)) return [];
    if (!object.startsWith("grants ")) return [difference];
    return compareGrants(difference, one, other, defaults);
  });
  return await respell(trial.scratch, differences, found);
}

/** What migrations mention and none of ours makes, as `schema.name`. */
function listNeeded({ path, own }: Trial, migrations: Migration[]) {
  const names = migrations.flatMap(({ text }) =>
    readMentions(text.replace(/--.*$/gm, "")).flatMap(({ schema, name }) =>
      (schema ? [schema] : path).map((home) => `${home}.${name}`),
    ),
  );
  return new Set(names.filter((name) => !own.has(name)));
}

/** Of what is in the real database only. */
function isOurs(
  { schema, name, parent }: CatalogEntry,
  expected: Catalog,
  ours: Set<string>,
): boolean {
  if (parent !== null && expected.has(parent)) return true;
  return ours.has(schema ?? "") && isInFilter(name);
}

/** Whether the filters of drizzle.config.ts let a table, or the like, in. */
export function isInFilter(name: string): boolean {
  const { tablesFilter, extensionsFilters } = readProject();
  const isPostgis =
    extensionsFilters.includes("postgis") &&
    /^(spatial_ref_sys|geometry_columns|geography_columns)$/.test(name);
  return !isPostgis && matchesAny(tablesFilter, name);
}

/** As drizzle-kit takes its filters: globs, `!` before those that are left out. */
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

/** Who owns the real database's objects, and what everybody is not granted there. */
async function readDefaults({ real }: Trial) {
  const [row] = await real<{ owners: string[]; types: string[] }[]>`
    select to_json(array[current_user, pg_get_userbyid(datdba)]) as owners,
      (select coalesce(json_agg(defaclobjtype), '[]') from pg_default_acl where defaclnamespace = 0) as types
    from pg_database where datname = current_database()`;
  return row ?? { owners: [], types: [] };
}

/**
 * Grants that came by default privileges are no difference, on either side: a
 * table may be older than they are.
 */
function compareGrants(
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
