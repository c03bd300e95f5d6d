// What db:pull writes of the database in tests/tools/drizzle.test.ts.
export const pulledSchema = `import { sql } from "drizzle-orm";
import {
  type PgTableExtraConfigValue,
  bigserial,
  check,
  customType,
  foreignKey,
  index,
  integer,
  pgMaterializedView,
  pgPolicy,
  pgSchema,
  pgSequence,
  pgTable,
  pgView,
  serial,
  smallserial,
  text,
  uniqueIndex,
} from "drizzle-orm/pg-core";

const tsvectorType = customType<{ data: string }>({ dataType: () => "tsvector" });
const int4rangeType = customType<{ data: string }>({ dataType: () => "int4range" });

const platform = pgSchema("platform");

const moodInPlatform = platform.enum("mood", ["sad"]);

export const numbers = pgSequence("numbers", {"startWith":"5","increment":"-2","minValue":"-9","maxValue":"9","cache":"3","cycle":true});

const accountsInPlatform = platform.table("accounts", {
  id: integer().primaryKey(),
  mail: text(),
  owner: integer(),
});

export const _2fa = pgTable("2fa", {
  id: integer(),
});

export const teams = pgTable("Teams", {
  id: integer().primaryKey(),
  bossId: integer(),
  lead: integer(),
  grid: integer().array().array(),
}, (table): PgTableExtraConfigValue[] => [
  foreignKey({ columns: [table.bossId], foreignColumns: [table.id], name: "Teams_bossId_fkey" }),
  foreignKey({ columns: [table.lead], foreignColumns: [people.id], name: "Teams_lead_fkey" }),
]);

export const class2 = pgTable("class", {
  id: integer().primaryKey(),
  tags: text().array().default([]),
  raw: tsvectorType(),
  account: integer(),
  note: text().default("O'Brien \\\\ \`\${x}"),
}, (table) => [
  foreignKey({ columns: [table.account], foreignColumns: [accountsInPlatform.id], name: "class_account_fkey" }),
  index("by_note").on(table.note),
]);

export const counted = pgTable("counted", {
  id: serial().notNull(),
  small: smallserial().notNull(),
  big: bigserial({"mode":"number"}).notNull(),
  n: integer().default(sql\`nextval('numbers'::regclass)\`),
  own: integer().generatedByDefaultAsIdentity({"name":"counted_own_seq","startWith":"5","increment":"1","minValue":"1","maxValue":"2147483647","cache":"1","cycle":false}),
  kinds: moodInPlatform().array(),
}, (table) => [
  uniqueIndex("counted_n_lower_idx").on(table.n.desc().nullsFirst(), sql\`lower(own::text) text_pattern_ops nulls first\`).with({"fillfactor":50}).where(sql\`n > 1\`),
  pgPolicy("gone", { as: "restrictive", for: "delete", to: ["pg_monitor","pg_signal_backend"], using: sql\`(id > 1)\` }),
]);

export const moods = pgTable("moods", {
  mood: moodInPlatform(),
});

export const other = pgTable("other", {
  id: integer().primaryKey(),
});

export const parts = pgTable("parts", {
  id: integer().primaryKey(),
  whole: integer(),
}, (table) => [
  foreignKey({ columns: [table.whole], foreignColumns: [class2.id], name: "parts_whole_fkey" }),
]);

export const people = pgTable("people", {
  id: integer().primaryKey(),
  teamId: integer("team_id"),
}, (table): PgTableExtraConfigValue[] => [
  foreignKey({ columns: [table.teamId], foreignColumns: [teams.id], name: "people_team_id_fkey" }),
]);

export const slots = pgTable("slots", {
  during: int4rangeType(),
  number: integer(),
}, (table) => [
  check("later", sql\`number < 9\`),
  check("slots_number_check", sql\`number > 0\`),
]);

export const few = pgView("few", {
  id: integer(),
}).with({"securityBarrier":true,"checkOption":"local"}).as(sql\`SELECT id
   FROM counted
  WHERE n > 0\`);

export const many2 = pgMaterializedView("many", {
  id: integer(),
}).with({"fillfactor":70,"autovacuumEnabled":false}).as(sql\`SELECT id
   FROM counted\`);
`;

export const pulledRelations = `import { relations } from "drizzle-orm/relations";
import { teams, people, parts, class2 } from "./schema";

export const teamsRelations = relations(teams, ({ one, many }) => ({
  boss: one(teams, {
    fields: [teams.bossId],
    references: [teams.id],
    relationName: "Teams_bossId_fkey",
  }),
  lead: one(people, {
    fields: [teams.lead],
    references: [people.id],
    relationName: "Teams_lead_fkey",
  }),
  teams: many(teams, { relationName: "Teams_bossId_fkey" }),
  people: many(people, { relationName: "people_team_id_fkey" }),
}));

export const peopleRelations = relations(people, ({ one, many }) => ({
  team: one(teams, {
    fields: [people.teamId],
    references: [teams.id],
    relationName: "people_team_id_fkey",
  }),
  teams: many(teams, { relationName: "Teams_lead_fkey" }),
}));

export const partsRelations = relations(parts, ({ one }) => ({
  whole: one(class2, {
    fields: [parts.whole],
    references: [class2.id],
    relationName: "parts_whole_fkey",
  }),
}));

export const class2Relations = relations(class2, ({ many }) => ({
  parts: many(parts, { relationName: "parts_whole_fkey" }),
}));
`;
