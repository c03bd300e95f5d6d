// What holds for every table, whatever it is called. A column or an index that
// is changed on purpose shows in the snapshot: read the difference, and then
// bun test --update-snapshots tests/app
import { expect } from "bun:test";
import { users } from "../../src/infrastructure/database/schema";
import { useDatabase } from "../lib/database";

const { database, test } = useDatabase("migrated");
const { sql } = database;

test("each column is null, has its default and its type as the schema says", async () => {
  const columns = await sql`
    select table_name || '.' || column_name || ' ' || udt_name
      || case is_nullable when 'NO' then ' not null' else '' end
      || coalesce(' = ' || column_default, '') as column
    from information_schema.columns where table_schema = 'public'
    order by table_name, ordinal_position`;

  expect(columns.map(({ column }) => column)).toMatchSnapshot();
});

test("every foreign key is the start of an index", async () => {
  const unindexed = await sql`
    select conname from pg_constraint
    where contype = 'f' and connamespace = 'public'::regnamespace
      and not exists (
        select from pg_index
        where indrelid = conrelid and indisvalid and indpred is null
          and (indkey::int2[])[0:cardinality(conkey) - 1] operator(pg_catalog.@>) conkey)`;

  expect(unindexed.map(({ conname }) => conname)).toEqual([]);
});

test("the indexes are the ones that the schema names", async () => {
  const indexes = await sql`
    select indexdef from pg_indexes where schemaname = 'public' order by indexname`;

  expect(indexes.map(({ indexdef }) => indexdef)).toMatchSnapshot();
});

test("updated_at moves when the application changes a row", async () => {
  await sql`
    insert into users (name, email, created_at, updated_at)
    values ('Ada', 'ada@example.com', '2020-01-01', '2020-01-01')`;

  const [user] = await database.db
    .update(users)
    .set({ name: "Ada L." })
    .returning();

  expect(user?.createdAt.getFullYear()).toBe(2020);
  expect(user?.updatedAt.getFullYear()).toBeGreaterThan(2020);
});
