// Everything that drizzle-orm/pg-core can express: into and out of a schema that
// has the same tables with other columns, up, down, up; pushed, out and in again;
// and pulled. A push also compares with what is made from nothing.
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sql as S } from "drizzle-orm";
import * as pg from "drizzle-orm/pg-core";
import type { Sql } from "postgres";
import { openConnection } from "../../scripts/lib/connection";
import { compareCatalogs, readCatalog } from "../../scripts/migrations/catalog";
import { splitStatements } from "../../scripts/migrations/statements";
import { describeExports } from "../../scripts/schema/describe-schema";
import { diffSchema } from "../../scripts/schema/diff-database";
import {
  BREAKPOINT,
  diffRenamed,
  printDown,
} from "../../scripts/schema/down-file";
import { introspect } from "../../scripts/schema/introspect";
import { drawDiagram } from "../../scripts/schema/mermaid";
import { writeOnline } from "../../scripts/schema/online";
import { printRelations, printSchema } from "../../scripts/schema/print-schema";
import { emptySnapshot, type Snapshot } from "../../scripts/schema/snapshots";
import { root } from "../../src/env";
import { withDatabase } from "../lib/database";
import { bareEntries, everyEntry, needed, role } from "../lib/every-entry";

const SCHEMAS = ["public", "other", "a-b", 'o;d"d'];
const answers = { renames: [], isComplete: true, asked: undefined };

test("every entry of drizzle-orm/pg-core goes up, down and up, is pushed once, and comes back by a pull", async () => {
  await withDatabase("empty", async ({ address }) => {
    await using sql = await openConnection(address, "tests");
    const all = await describeExports(everyEntry, "");
    const bare = await describeExports(bareEntries, "");
    const up = (await diffRenamed(bare, all, [])).join(BREAKPOINT);
    const down = await printDown(bare, all, up);
    const first = (await diffRenamed(emptySnapshot, bare, [])).join(BREAKPOINT);

    await sql.unsafe(needed);
    await run(sql, first);
    const before = await readCatalog(sql);
    await run(sql, up);
    const after = await readCatalog(sql);
    await run(sql, down);
    const back = await readCatalog(sql);
    await run(sql, up);
    const again = await readCatalog(sql);
    const push = (schema: Snapshot) =>
      diffSchema(sql, address, undefined, schema, answers, () => [all]);
    const unchanged = await push(all);
    const printed = await print(sql);
    const same = await push(await load(printed));
    const emptied = await push(bare);
    await run(sql, `begin; ${emptied.statements.join(BREAKPOINT)}; commit`);
    const still = await push(bare);
    const filled = await push(all);
    await run(sql, `begin; ${filled.statements.join(BREAKPOINT)}; commit`);
    const full = await readCatalog(sql);
    await sql.unsafe(`drop owned by "${role}"; drop role "${role}"`);

    const [version] = await sql`
      select current_setting('server_version_num')::int / 10000 as major`;
    // Another version describes a few things in other words.
    if (version?.major === 18)
      for (const lines of [
        [...after].map(([object, { sql }]) => `${object}: ${sql}`).sort(),
        [printed],
        emptied.statements,
        filled.statements,
      ])
        expect(lines.join("\n").replaceAll(role, "role")).toMatchSnapshot();
    expect(compareCatalogs(before, back)).toEqual([]);
    expect(compareCatalogs(after, again)).toEqual([]);
    expect(unchanged).toEqual({ statements: [], losses: [], left: [] });
    expect(same).toEqual({ statements: [], losses: [], left: [] });
    expect(still).toEqual({ statements: [], losses: [], left: [] });
    expect(compareCatalogs(after, full)).toEqual([]);
  });
}, 300_000);

test("the SQL of every entry, and its diagram, are as they were", async () => {
  const all = await describeExports(everyEntry, "");
  const bare = await describeExports(bareEntries, "");
  const up = (await diffRenamed(bare, all, [])).join(BREAKPOINT);
  const down = await printDown(bare, all, up);
  const online = await writeOnline(bare, all, []);

  const schema = printSchema(all, SCHEMAS);
  const relations = printRelations(all, ["public", "other"]) ?? "";
  for (const text of [up, down, online, schema, relations, drawDiagram(all)])
    expect(
      text.replaceAll(BREAKPOINT, "\n").replaceAll(role, "role"),
    ).toMatchSnapshot();
}, 300_000);

test("db:push renames what PostgreSQL has named after a table, and leaves what an earlier rename has not, and loses no count", async () => {
  await withDatabase("empty", async ({ address }) => {
    await using sql = await openConnection(address, "tests");
    const serial = {
      id: pg.serial().primaryKey(),
      number: pg.integer().notNull().generatedAlwaysAsIdentity(),
    };
    const turned = {
      id: pg.integer().primaryKey().generatedAlwaysAsIdentity(),
      number: pg.serial().notNull(),
    };
    const diff = async (
      table: string,
      renames: string[],
      columns: Record<string, pg.PgColumnBuilderBase> = serial,
    ) =>
      await diffSchema(
        sql,
        address,
        undefined,
        await describeExports({ table: pg.pgTable(table, columns) }, ""),
        { ...answers, renames, isComplete: false },
        () => [],
      );
    const isCurrent = { statements: [], losses: [], left: [] };

    await sql.unsafe(`create table tenants (
      id serial primary key, number int not null generated always as identity)`);
    const renamed = await diff("teams", ["tenants=teams"]);
    await run(sql, renamed.statements.join(BREAKPOINT));
    const same = await diff("teams", []);
    await sql.unsafe("alter table teams rename to crews");
    const older = await diff("crews", []);
    // PostgreSQL cuts them at 63 bytes.
    const long = "ü".repeat(40);
    const longIndex = "é".repeat(40);
    const index = await describeExports(
      {
        t: pg.pgTable(long, { x: pg.text() }, (t) => [
          pg.index(longIndex).on(t.x),
        ]),
      },
      "",
    );
    const pushIndex = () =>
      diffSchema(sql, address, undefined, index, { ...answers }, () => []);
    await sql.unsafe(`create table ${long} (x text)`);
    await run(
      sql,
      (await pushIndex()).statements
        .filter((text) => text.startsWith("CREATE"))
        .join(BREAKPOINT),
    );
    const cut = await pushIndex();
    await sql.unsafe(`drop table ${long}`);
    const adviseOn = async (part: (t: { x: pg.AnyPgColumn }) => object) => {
      const t = pg.pgTable("t", { x: pg.text() }, (t) => [part(t) as never]);
      const schema = await describeExports({ t }, "");
      return await diffSchema(
        sql,
        address,
        undefined,
        schema,
        answers,
        () => [],
      )
        .then(() => undefined)
        .catch(({ hint }) => hint);
    };
    const hints = [
      await adviseOn(() => pg.pgPolicy("p", { to: "nobody_at_all" })),
      await adviseOn(({ x }) => pg.index("i").using("gin", S`${x} no_ops`)),
      await adviseOn(({ x }) => pg.check("c", S`nowhere(${x})`)),
      await adviseOn(({ x }) => pg.index("i").using("nowhere", x as never)),
      await adviseOn(({ x }) => pg.check("c", S`${x}::nowhere is null`)),
      await adviseOn(({ x }) => pg.check("c", S`${x} + 1 = 2`)),
    ];
    await sql.unsafe("insert into crews default values");
    const { losses } = await diff("crews", [], turned);

    expect(cut.statements).toEqual([]);
    expect(renamed.statements).toHaveLength(4);
    expect([same, older]).toEqual([isCurrent, isCurrent]);
    expect(losses).toEqual([]);
    expect(hints).toEqual([
      "create the role first, in `bun run db:shell`",
      ...Array(3).fill(
        "where an extension has it, create the extension first, in `bun run db:shell`",
      ),
      "export the enum `nowhere` from schema.ts; where an extension has this type, create it first, in `bun run db:shell`",
      undefined,
    ]);
  });
}, 300_000);

test("db:push changes each part where it is, and a change of text that the server does not see is none", async () => {
  const pushed = `pushed_${process.pid}`;
  const long = (word: string) => word.repeat(70);
  const made = (isNew: boolean) => {
    const pick = <T>(one: T, other: T) => (isNew ? other : one);
    const lab = pg.pgSchema("lab");
    const mood = pg.pgEnum("mood", isNew ? ["a", "b", "c"] : ["a", "b"]);
    const feeling = lab.enum("mood", ["a", "b", "c"]); // of the same name
    const parent = pg.pgTable("parent", { id: pg.integer().primaryKey() });
    const t = lab.table(
      "t",
      {
        old: pick(pg.integer().primaryKey(), pg.integer().notNull()),
        key: pick(pg.integer().notNull(), pg.integer().primaryKey()),
        retyped: pick(pg.integer(), pg.bigint({ mode: "number" }) as never),
        optional: pick(pg.text().notNull(), pg.text() as never),
        preset: pg.text().default(pick("a", "b")),
        unset: pick(pg.text().default("a"), pg.text() as never),
        counted: pg
          .integer()
          .generatedByDefaultAsIdentity({ increment: pick(1, 2) }),
        sum: pg.integer().generatedAlwaysAs(pick(S`1 + 1`, S`1 + 2`)),
        to: pg.integer(),
        cased: pg
          .integer()
          .generatedAlwaysAs(S`case when same in ('a', 'b') then 1 end`),
        mood: mood().default(pick("a", "c") as "a"),
        feeling: pick(mood(), feeling() as never),
        same: pg.varchar({ length: 9 }).default("a").notNull(),
      },
      (t) => [
        pg
          .index("changed")
          .on(t.same)
          .where(pick(S`same = ${long("w")}`, S`same <> ${long("w")}`)),
        pg
          .index("same")
          .on(S`lower(${t.same} || ${long("x")})`)
          .where(S`${t.same} in ('a', 'b')`),
        pg
          .unique("changed_key")
          .on(...(pick([t.same], [t.same, t.to]) as [typeof t.same])),
        pg.unique("same_key").on(t.to),
        pg.check(
          "changed_check",
          pick(S`same = ${long("c")}`, S`same <> ${long("c")}`),
        ),
        pg.check("same_check", S`${t.same} in ('a', ${long("d")})`),
        pg
          .foreignKey({
            name: "changed_fk",
            columns: [t.to],
            foreignColumns: [parent.id],
          })
          .onDelete(pick("cascade", "set null")),
        pg
          .foreignKey({
            name: "same_fk",
            columns: [t.old],
            foreignColumns: [parent.id],
          })
          .onUpdate("cascade"),
        pg.pgPolicy("changed", {
          using: pick(S`same = ${long("u")}`, S`same <> ${long("u")}`),
        }),
        pg.pgPolicy("same", {
          for: "update",
          using: S`same in (${long("v")}, 'b')`,
          withCheck: S`same in (${long("w")}, 'b')`,
        }),
      ],
    );
    const opened = pg.pgTable("opened", { id: pg.integer() });
    return {
      lab,
      mood,
      feeling,
      parent,
      t,
      opened: pick(
        opened.enableRLS(),
        pg.pgTable("opened", { id: pg.integer() }) as never,
      ),
      named: pg.pgTable("named", { a: pg.integer() }, (t) => [
        pg.primaryKey({ columns: [t.a], name: pick("one", "two") }),
      ]),
      role: pg.pgRole(pushed),
      counter: pg.pgSequence("counter", { increment: pick(1, 2) }),
      steady: pg.pgSequence("steady", { increment: 3 }),
      v: pg
        .pgView("v", { x: pg.text() })
        .as(pick(S`select ${long("v")} as x`, S`select ${long("w")} as x`)),
      m: pg
        .pgMaterializedView("m", { x: pg.integer() })
        .as(pick(S`select 1 as x`, S`select 2 as x`)),
      stays: pg
        .pgView("stays", { x: pg.text() })
        .as(S`select same as x from lab.t where same in (${long("y")}, 'b')`),
    };
  };
  await withDatabase("empty", async ({ address }) => {
    await using sql = await openConnection(address, "tests");
    const push = async (entries: Record<string, unknown>) => {
      const schema = await describeExports(entries, "");
      return await diffSchema(
        sql,
        address,
        undefined,
        schema,
        answers,
        () => [],
      );
    };
    const first = await push(made(false));
    await run(sql, first.statements.join(BREAKPOINT));
    // As a dump does, in the words of the server.
    const [row] = await sql`
      select pg_get_expr(adbin, adrelid) as cased from pg_attrdef join pg_attribute on attrelid = adrelid and attnum = adnum
      where attrelid = 'lab.t'::regclass and attname = 'cased'`;
    await sql.unsafe(`
      alter table lab.t drop column cased;
      alter table lab.t add column cased int generated always as (${row?.cased}) stored`);
    const none = await push(made(false));
    const second = await push(made(true));
    await run(sql, second.statements.join(BREAKPOINT));
    const again = await push(made(true));

    await sql.unsafe(`drop role ${pushed}`);

    const isCurrent = { statements: [], losses: [], left: [] };
    expect([none, again]).toEqual([isCurrent, isCurrent]);
    for (const { statements, losses, left } of [first, second]) {
      expect({ losses, left }).toEqual({ losses: [], left: [] });
      expect(
        statements.join("\n").replaceAll(pushed, "pushed"),
      ).toMatchSnapshot();
    }
  });
}, 300_000);

async function print(sql: Sql): Promise<string> {
  return printSchema(await introspect(sql, SCHEMAS, true), SCHEMAS);
}

async function load(text: string): Promise<Snapshot> {
  const folder = mkdtempSync(join(root, "pulled.partial-"));
  try {
    const file = join(folder, "schema.ts");
    writeFileSync(file, text);
    return await describeExports(await import(file), "");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function run(sql: Sql, text: string): Promise<void> {
  for (const statement of splitStatements(text))
    await sql.unsafe(statement.text).catch((error: Error) => {
      throw new Error(`${error.message}: ${statement.text}`);
    });
}
