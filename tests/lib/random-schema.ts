// Makes random schemas, as the text of a schema.ts, and random changes of them. The
// same seed gives the same schemas.

/** The content of a schema. References are names, and always valid. */
export interface Model {
  enums: { name: string; values: string[] }[];
  sequences: { name: string; increment: number; cycle: boolean }[];
  tables: ModelTable[];
  views: ModelView[];
}

interface ModelTable {
  name: string;
  /** The type of `id`, which is the primary key unless `key` has columns. */
  id: "uuid" | "integer" | "serial" | "identity";
  /** Columns of a composite primary key. */
  key: string[];
  columns: ModelColumn[];
  indexes: ModelIndex[];
  checks: { name: string; column: string; minimum: number }[];
  uniques: { name: string; columns: string[]; nullsNotDistinct: boolean }[];
  references: ModelReference[];
  policy: { name: string; column: string; command: string } | null;
}

interface ModelColumn {
  name: string;
  type: string;
  notNull: boolean;
  default: string | null;
  /** The column that this one is generated from. */
  from: string | null;
}

interface ModelIndex {
  name: string;
  columns: string[];
  isUnique: boolean;
  isLower: boolean;
  isDescending: boolean;
  condition: string | null;
}

interface ModelReference {
  name: string;
  column: string;
  table: string;
  onDelete: string;
  onUpdate: string;
}

interface ModelView {
  name: string;
  table: string;
  columns: string[];
  isMaterialized: boolean;
  /** A view that reads this one instead of its table. */
  above: string | null;
}

/** A schema, a change of it, and the renames in the change. */
export interface Change {
  before: Model;
  after: Model;
  /** The values for `--rename`. */
  renames: string[];
}

const TYPES: Record<string, { code: string; defaults: string[] }> = {
  text: { code: "text(NAME)", defaults: ['"a"', '"it\'s"', "sql`upper('b')`"] },
  varchar: { code: "varchar(NAME, { length: 40 })", defaults: ['"v"'] },
  char: { code: "char(NAME, { length: 4 })", defaults: ['"abcd"'] },
  integer: { code: "integer(NAME)", defaults: ["7", "-1", "sql`1 + 1`"] },
  smallint: { code: "smallint(NAME)", defaults: ["3"] },
  bigint: { code: 'bigint(NAME, { mode: "number" })', defaults: ["9"] },
  numeric: {
    code: "numeric(NAME, { precision: 10, scale: 2 })",
    defaults: ['"1.50"'],
  },
  double: { code: "doublePrecision(NAME)", defaults: ["0.5"] },
  boolean: { code: "boolean(NAME)", defaults: ["true", "false"] },
  timestamptz: {
    code: "timestamp(NAME, { withTimezone: true })",
    defaults: ["sql`now()`"],
  },
  timestamp: { code: "timestamp(NAME)", defaults: ["sql`now()`"] },
  date: { code: "date(NAME)", defaults: ['"2020-01-01"', "sql`current_date`"] },
  uuid: { code: "uuid(NAME)", defaults: ["sql`gen_random_uuid()`"] },
  jsonb: { code: "jsonb(NAME)", defaults: ["{ a: 1 }", "[]"] },
  texts: { code: "text(NAME).array()", defaults: ['["a", "b"]', "[]"] },
  integers: { code: "integer(NAME).array()", defaults: ["[1, 2]"] },
  time: { code: "time(NAME)", defaults: ['"12:30"'] },
  inet: { code: "inet(NAME)", defaults: ['"10.0.0.1"'] },
};

/** The types to which a column can be changed while its table is empty. */
const CASTS: Record<string, string[]> = {
  text: ["varchar", "integer", "boolean", "uuid", "jsonb", "ENUM"],
  varchar: ["text", "char", "integer"],
  char: ["text", "varchar"],
  integer: ["bigint", "text", "numeric", "smallint", "boolean"],
  smallint: ["integer", "bigint"],
  bigint: ["integer", "numeric", "text"],
  numeric: ["double", "integer", "text"],
  double: ["numeric"],
  boolean: ["text", "integer"],
  timestamptz: ["timestamp", "date", "text"],
  timestamp: ["timestamptz", "date"],
  date: ["timestamp", "text"],
  uuid: ["text"],
  jsonb: ["text"],
  texts: ["text"],
  integers: ["texts"],
  time: ["text"],
  inet: ["text"],
};

const ACTIONS = ["no action", "restrict", "cascade", "set null", "set default"];

/** Gives evenly distributed numbers from a seed (mulberry32). */
export class Random {
  constructor(private state: number) {}

  /** Returns an integer from 0 up to, but not including, `end`. */
  below(end: number): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * end);
  }

  chance(share: number): boolean {
    return this.below(1000) < share * 1000;
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new Error("there is nothing to pick from");
    return item;
  }
}

/** Makes a schema and a change of it. */
export function makeChange(seed: number): Change {
  const random = new Random(seed);
  const maker = new Maker(random);
  const before = maker.makeModel();
  const after = structuredClone(before);
  const renames: string[] = [];
  for (let count = 1 + random.below(9); count > 0; count -= 1)
    maker.change(after, renames);
  return { before, after, renames };
}

class Maker {
  private count = 0;
  private readonly retyped = new Set<string>();

  constructor(private random: Random) {}

  makeModel(): Model {
    const { random } = this;
    const model: Model = { enums: [], sequences: [], tables: [], views: [] };
    for (let n = random.below(3); n > 0; n -= 1) this.addEnum(model);
    for (let n = random.below(2); n > 0; n -= 1) this.addSequence(model);
    for (let n = 1 + random.below(3); n > 0; n -= 1) this.addTable(model);
    for (let n = random.below(3); n > 0; n -= 1) this.addView(model);
    return model;
  }

  /** Makes one random change, if it is possible. */
  change(model: Model, renames: string[]): void {
    const { random } = this;
    const table = random.pick(model.tables);
    const column = random.pick(table.columns);
    const isKey = table.key.includes(column.name);
    const changes: Record<string, () => void> = {
      addTable: () => this.addTable(model),
      addView: () => this.addView(model),
      addEnum: () => this.addEnum(model),
      addSequence: () => this.addSequence(model),
      addColumn: () => this.addColumn(model, table),
      addIndex: () => this.addIndex(table),
      addCheck: () => this.addCheck(table),
      addUnique: () => this.addUnique(table),
      addReference: () => this.addReference(model, table),
      addPolicy: () => this.addPolicy(table),
      dropTable: () => {
        if (model.tables.length > 1) this.dropTable(model, table);
      },
      dropColumn: () => {
        if (table.columns.length > 1) this.dropColumn(model, table, column);
      },
      dropIndex: () => void table.indexes.pop(),
      dropCheck: () => void table.checks.pop(),
      dropUnique: () => void table.uniques.pop(),
      dropReference: () => void table.references.pop(),
      dropPolicy: () => void (table.policy = null),
      dropView: () => void model.views.pop(),
      dropSequence: () => void model.sequences.pop(),
      dropEnum: () => {
        const last = model.enums.at(-1);
        const isUsed = model.tables.some(({ columns }) =>
          columns.some(({ type }) => type === last?.name),
        );
        if (!isUsed) model.enums.pop();
      },
      renameTable: () => {
        if (renames.length > 0) return;
        const name = this.name("renamed");
        renames.push(`${table.name}=${name}`);
        for (const other of model.tables)
          for (const reference of other.references)
            if (reference.table === table.name) reference.table = name;
        for (const view of model.views)
          if (view.table === table.name) view.table = name;
        table.name = name;
      },
      renameColumn: () => {
        if (renames.length > 0) return;
        const name = this.name("moved");
        renames.push(`${table.name}.${column.name}=${name}`);
        this.renameColumn(model, table, column, name);
      },
      changeType: () => {
        if (isKey || column.from || this.retyped.has(column.name)) return;
        this.retyped.add(column.name);
        if (table.references.some((other) => other.column === column.name))
          return;
        if (table.columns.some((other) => other.from === column.name)) return;
        this.changeType(model, table, column);
      },
      changeDefault: () => {
        if (column.from) return;
        const defaults = this.defaultsOf(model, column.type);
        column.default = random.chance(0.5) ? null : random.pick(defaults);
      },
      changeNull: () => void (column.notNull = isKey || !column.notNull),
      changeCheck: () => {
        for (const check of table.checks) check.minimum += 1;
      },
      changeIndex: () => {
        const index = table.indexes[0];
        if (index) index.isDescending = !index.isDescending;
      },
      changeReference: () => {
        for (const reference of table.references)
          reference.onDelete = random.pick(ACTIONS);
      },
      changeView: () => {
        const view = model.views[0];
        if (view && view.columns.length > 1) view.columns.pop();
      },
      changeSequence: () => {
        for (const sequence of model.sequences) sequence.increment += 1;
      },
      addValue: () => {
        const { values } = model.enums[0] ?? { values: [] };
        values.splice(random.below(values.length + 1), 0, this.name("value"));
      },
      dropValue: () => {
        for (const { name, values } of model.enums.slice(0, 1)) {
          if (values.length < 2) continue;
          const value = values.pop();
          for (const { columns } of model.tables)
            for (const other of columns)
              if (other.type === name && other.default === `"${value}"`)
                other.default = null;
        }
      },
      changeKey: () => {
        if (model.tables.some((t) => this.refersTo(t, table))) return;
        table.key = table.key.length > 0 ? [] : this.pickKey(table);
      },
      changeIdentity: () => {
        if (table.id === "integer") table.id = "identity";
        else if (table.id === "identity") table.id = "integer";
      },
    };
    random.pick(Object.values(changes))();
  }

  private name(word: string): string {
    this.count += 1;
    const odd = ["", "", "", "Camel", " blank"];
    return `${word}${this.count}${this.random.pick(odd)}`;
  }

  private addEnum(model: Model): void {
    const values = ["draft", "it's done", "Published"].slice(
      0,
      1 + this.random.below(3),
    );
    model.enums.push({ name: this.name("kind"), values });
  }

  private addSequence(model: Model): void {
    const increment = 1 + this.random.below(5);
    const cycle = this.random.chance(0.5);
    model.sequences.push({ name: this.name("numbers"), increment, cycle });
  }

  private addTable(model: Model): void {
    const { random } = this;
    const table: ModelTable = {
      name: this.name("table"),
      id: random.pick(["uuid", "integer", "serial", "identity"]),
      key: [],
      columns: [],
      indexes: [],
      checks: [],
      uniques: [],
      references: [],
      policy: null,
    };
    for (let n = 1 + random.below(5); n > 0; n -= 1)
      this.addColumn(model, table);
    if (random.chance(0.15)) table.key = this.pickKey(table);
    model.tables.push(table);
    for (let n = random.below(3); n > 0; n -= 1) this.addIndex(table);
    if (random.chance(0.4)) this.addCheck(table);
    if (random.chance(0.4)) this.addUnique(table);
    if (random.chance(0.5)) this.addReference(model, table);
    if (random.chance(0.15)) this.addPolicy(table);
  }

  private pickKey(table: ModelTable): string[] {
    const fit = table.columns.filter(
      ({ type, from }) => !from && ["text", "integer", "uuid"].includes(type),
    );
    for (const column of fit.slice(0, 2)) column.notNull = true;
    return fit.length > 1 ? fit.slice(0, 2).map(({ name }) => name) : [];
  }

  private addColumn(model: Model, table: ModelTable): void {
    const { random } = this;
    const enums = model.enums.map(({ name }) => name);
    const type =
      enums.length > 0 && random.chance(0.25)
        ? random.pick(enums)
        : random.pick(Object.keys(TYPES));
    const base = table.columns.find(
      (column) => column.type === "integer" && !column.from,
    );
    if (base && random.chance(0.2)) {
      table.columns.push({
        name: this.name("total"),
        type: "integer",
        notNull: false,
        default: null,
        from: base.name,
      });
      return;
    }
    const defaults = this.defaultsOf(model, type);
    table.columns.push({
      name: this.name("column"),
      type,
      notNull: random.chance(0.3),
      default: random.chance(0.4) ? random.pick(defaults) : null,
      from: null,
    });
  }

  private defaultsOf(model: Model, type: string): string[] {
    const own = model.enums.find(({ name }) => name === type);
    if (own) return own.values.map((value) => JSON.stringify(value));
    return TYPES[type]?.defaults ?? [];
  }

  private addIndex(table: ModelTable): void {
    const { random } = this;
    const fit = table.columns.filter(({ type }) => type !== "jsonb");
    if (fit.length === 0) return;
    const column = random.pick(fit);
    const isLower = column.type === "text" && random.chance(0.5);
    const other = random.pick(fit).name;
    const columns = [...new Set([column.name, ...(isLower ? [] : [other])])];
    table.indexes.push({
      name: this.name("index"),
      columns,
      isUnique: random.chance(0.3),
      isLower,
      isDescending: random.chance(0.3),
      condition: random.chance(0.3) ? random.pick(fit).name : null,
    });
  }

  private addCheck(table: ModelTable): void {
    const fit = table.columns.filter(({ type }) => type === "integer");
    if (fit.length === 0) return;
    const column = this.random.pick(fit).name;
    table.checks.push({ name: this.name("check"), column, minimum: 0 });
  }

  private addUnique(table: ModelTable): void {
    const fit = table.columns.filter(({ type }) => type !== "jsonb");
    if (fit.length === 0) return;
    const columns = [
      ...new Set([this.random.pick(fit).name, this.random.pick(fit).name]),
    ];
    // PostgreSQL creates only one of two equal constraints.
    if (table.uniques.some((unique) => `${unique.columns}` === `${columns}`))
      return;
    const nullsNotDistinct = this.random.chance(0.3);
    table.uniques.push({
      name: this.name("unique"),
      columns,
      nullsNotDistinct,
    });
  }

  private addReference(model: Model, table: ModelTable): void {
    const { random } = this;
    const target = random.pick(model.tables);
    if (target.key.length > 0) return;
    const column: ModelColumn = {
      name: this.name("reference"),
      type: target.id === "uuid" ? "uuid" : "integer",
      notNull: false,
      default: null,
      from: null,
    };
    table.columns.push(column);
    table.references.push({
      name: this.name("fk"),
      column: column.name,
      table: target.name,
      onDelete: random.pick(ACTIONS),
      onUpdate: random.pick(ACTIONS),
    });
  }

  private addPolicy(table: ModelTable): void {
    const { random } = this;
    table.policy = {
      name: this.name("policy"),
      column: random.pick(table.columns).name,
      command: random.pick(["all", "select", "delete"]),
    };
  }

  private addView(model: Model): void {
    const table = this.random.pick(model.tables);
    const columns = table.columns.map(({ name }) => name);
    model.views.push({
      name: this.name("view"),
      table: table.name,
      columns: columns.slice(0, 1 + this.random.below(columns.length)),
      isMaterialized: this.random.chance(0.3),
      above: this.random.chance(0.3) ? this.name("above") : null,
    });
  }

  private refersTo(table: ModelTable, target: ModelTable): boolean {
    return table.references.some((other) => other.table === target.name);
  }

  private dropTable(model: Model, table: ModelTable): void {
    model.tables = model.tables.filter((other) => other !== table);
    model.views = model.views.filter((view) => view.table !== table.name);
    for (const other of model.tables)
      other.references = other.references.filter(
        (reference) => reference.table !== table.name,
      );
  }

  private dropColumn(
    model: Model,
    table: ModelTable,
    { name }: ModelColumn,
  ): void {
    if (table.columns.filter((other) => other.from !== name).length < 2) return;
    table.columns = table.columns.filter((other) => other.name !== name);
    table.key = table.key.includes(name) ? [] : table.key;
    this.forget(model, table, name);
    for (const other of table.columns.filter((o) => o.from === name))
      this.dropColumn(model, table, other);
  }

  /** Removes everything that refers to a column. */
  private forget(model: Model, table: ModelTable, name: string): void {
    table.indexes = table.indexes.filter(
      (index) => !index.columns.includes(name) && index.condition !== name,
    );
    table.checks = table.checks.filter((check) => check.column !== name);
    table.uniques = table.uniques.filter((u) => !u.columns.includes(name));
    table.references = table.references.filter((r) => r.column !== name);
    if (table.policy?.column === name) table.policy = null;
    for (const view of model.views)
      if (view.table === table.name)
        view.columns = view.columns.filter((column) => column !== name);
    model.views = model.views.filter((view) => view.columns.length > 0);
  }

  private renameColumn(
    model: Model,
    table: ModelTable,
    column: ModelColumn,
    name: string,
  ): void {
    const old = column.name;
    const renamed = (other: string) => (other === old ? name : other);
    column.name = name;
    for (const other of table.columns)
      if (other.from) other.from = renamed(other.from);
    table.key = table.key.map(renamed);
    for (const index of table.indexes) {
      index.columns = index.columns.map(renamed);
      if (index.condition) index.condition = renamed(index.condition);
    }
    for (const check of table.checks) check.column = renamed(check.column);
    for (const unique of table.uniques)
      unique.columns = unique.columns.map(renamed);
    for (const reference of table.references)
      reference.column = renamed(reference.column);
    if (table.policy) table.policy.column = renamed(table.policy.column);
    for (const view of model.views)
      if (view.table === table.name) view.columns = view.columns.map(renamed);
  }

  private changeType(
    model: Model,
    table: ModelTable,
    column: ModelColumn,
  ): void {
    const { random } = this;
    const enums = model.enums.map(({ name }) => name);
    const isEnum = enums.includes(column.type);
    let type = isEnum ? "text" : random.pick(CASTS[column.type] ?? ["text"]);
    if (type === "ENUM") {
      if (enums.length === 0) return;
      type = random.pick(enums);
    }
    table.indexes = table.indexes.filter(
      (index) => !(index.isLower && index.columns.includes(column.name)),
    );
    table.checks = table.checks.filter((check) => check.column !== column.name);
    if (type === "jsonb") this.forget(model, table, column.name);
    column.type = type;
    const defaults = this.defaultsOf(model, type);
    column.default = random.chance(0.5) ? random.pick(defaults) : null;
  }
}

/** Prints the model as a schema.ts. */
export function printSchema(model: Model): string {
  const lines = [
    'import { sql } from "drizzle-orm";',
    'import * as pg from "drizzle-orm/pg-core";',
    "const { bigint, boolean, char, date, doublePrecision, inet, integer, jsonb, numeric, serial, smallint, text, time, timestamp, uuid, varchar } = pg;",
  ];
  const nameOf = (kind: string, name: string) =>
    `${kind}_${name.replaceAll(" ", "_")}`;
  const quote = (name: string) => `"${name}"`;
  for (const { name, values } of model.enums)
    lines.push(
      `export const ${nameOf("e", name)} = pg.pgEnum(${quote(name)}, ${JSON.stringify(values)});`,
    );
  for (const { name, increment, cycle } of model.sequences)
    lines.push(
      `export const ${nameOf("s", name)} = pg.pgSequence(${quote(name)}, { increment: ${increment}, cycle: ${cycle} });`,
    );
  for (const table of model.tables) {
    const columns = [printId(table)];
    for (const column of table.columns) {
      const own = model.enums.find(({ name }) => name === column.type);
      const code = own
        ? `${nameOf("e", own.name)}(NAME)`
        : (TYPES[column.type]?.code ?? "");
      const parts = [code.replace("NAME", quote(column.name))];
      if (column.from)
        parts.push(`generatedAlwaysAs(sql.raw('"${column.from}" * 2'))`);
      if (column.notNull && !column.from) parts.push("notNull()");
      if (column.default !== null) parts.push(`default(${column.default})`);
      columns.push(`  ${nameOf("c", column.name)}: ${parts.join(".")},`);
    }
    const extras = printExtras(table, nameOf);
    lines.push(
      `export const ${nameOf("t", table.name)} = pg.pgTable(${quote(table.name)}, {`,
      ...columns,
      `}, (t): pg.PgTableExtraConfigValue[] => [`,
      ...extras,
      "]);",
    );
  }
  for (const view of model.views) {
    const columns = view.columns.map((name) => `"${name}"`).join(", ");
    const kind = view.isMaterialized ? "pgMaterializedView" : "pgView";
    lines.push(
      `export const ${nameOf("v", view.name)} = pg.${kind}(${quote(view.name)}, {}).as(sql.raw('select ${columns} from "${view.table}"'));`,
    );
    if (view.above)
      lines.splice(
        3,
        0,
        `export const ${nameOf("v", view.above)} = pg.pgView(${quote(view.above)}, {}).as(sql.raw('select * from "${view.name}"'));`,
      );
  }
  return `${lines.join("\n")}\n`;
}

function printId({ id, key }: ModelTable): string {
  const codes = {
    uuid: 'uuid("id").defaultRandom()',
    integer: 'integer("id")',
    serial: 'serial("id")',
    identity: 'integer("id").generatedAlwaysAsIdentity({ startWith: 10 })',
  };
  return `  id: ${codes[id]}${key.length > 0 ? ".notNull()" : ".primaryKey()"},`;
}

function printExtras(
  table: ModelTable,
  nameOf: (kind: string, name: string) => string,
): string[] {
  const column = (name: string) => `t.${nameOf("c", name)}`;
  const extras: string[] = [];
  if (table.key.length > 0)
    extras.push(
      `  pg.primaryKey({ columns: [${table.key.map(column).join(", ")}] as never }),`,
    );
  for (const index of table.indexes) {
    const on = index.columns.map((name) => {
      if (index.isLower) return `sql\`lower(\${${column(name)}})\``;
      return index.isDescending ? `${column(name)}.desc()` : column(name);
    });
    const kind = index.isUnique ? "uniqueIndex" : "index";
    const where = index.condition
      ? `.where(sql\`\${${column(index.condition)}} is not null\`)`
      : "";
    extras.push(`  pg.${kind}("${index.name}").on(${on.join(", ")})${where},`);
  }
  for (const { name, column: of, minimum } of table.checks)
    extras.push(
      `  pg.check("${name}", sql\`\${${column(of)}} > \${sql.raw("${minimum}")}\`),`,
    );
  // CREATE TABLE makes no unique constraint of what the primary key has.
  const uniques = table.uniques.filter(
    (unique) => `${unique.columns}` !== `${table.key}`,
  );
  for (const { name, columns, nullsNotDistinct } of uniques)
    extras.push(
      `  pg.unique("${name}").on(${columns.map(column).join(", ")})${nullsNotDistinct ? ".nullsNotDistinct()" : ""},`,
    );
  for (const {
    name,
    column: of,
    table: to,
    onDelete,
    onUpdate,
  } of table.references)
    extras.push(
      `  pg.foreignKey({ name: "${name}", columns: [${column(of)}], foreignColumns: [${nameOf("t", to)}.id] }).onDelete("${onDelete}").onUpdate("${onUpdate}"),`,
    );
  if (table.policy)
    extras.push(
      `  pg.pgPolicy("${table.policy.name}", { for: "${table.policy.command}", to: "public", using: sql\`\${${column(table.policy.column)}} is not null\` }),`,
    );
  return extras;
}
