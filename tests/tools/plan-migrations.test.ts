// The plan: what journal, files, records and log say together.
import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  findLeftDownFiles,
  nameInFolders,
} from "../../scripts/migrations/folders";
import {
  hashText,
  type Migration,
  readMigrations,
} from "../../scripts/migrations/journal";
import type { LogEntry } from "../../scripts/migrations/log";
import {
  listPartial,
  type MigrationRecord,
  planMigrations,
  stateOf,
} from "../../scripts/migrations/plan";
import {
  hashStatements,
  splitStatements,
} from "../../scripts/migrations/statements";

const migration = (idx: number, fields: Partial<Migration> = {}): Migration => {
  const text = fields.text ?? `create table t${idx} ();`;
  const tag = `000${idx}_t`;
  return {
    tag,
    idx,
    when: 100 + idx,
    file: `${tag}.sql`,
    text,
    hash: hashText(text),
    ...fields,
  };
};
const recordOf = ({ when, hash }: Migration, id: number): MigrationRecord => ({
  id,
  when,
  hash,
});
const a = migration(0);
const b = migration(1);
const c = migration(2);
const tagsOf = (migrations: Migration[]) => migrations.map(({ tag }) => tag);

test("a record with a name of Drizzle 1.0 is that migration's, whatever else it holds", () => {
  const when = Date.UTC(2033, 4, 18, 3, 33, 20, 123);
  const one = migration(1, { tag: "0001_one", when });
  const folder = { ...one, tag: "20330518033320_one", when: when - 123 };
  const record = { id: 1, hash: "edited", when: 5, name: folder.tag };

  for (const entry of [one, folder]) {
    const plan = planMigrations([entry, b], [record]);

    expect(stateOf(plan, entry)).toBe("modified");
    expect(tagsOf(plan.pending)).toEqual([b.tag]);
  }
  // `drizzle-kit up` has kept the seconds, and no name is there yet.
  const upped = planMigrations([folder], [recordOf(one, 1)]);
  expect(stateOf(upped, folder)).toBe("applied");
});

test("a folder of Drizzle 1.0 has the time and the title, and gets the down file that only it can own", () => {
  const when = Date.UTC(2033, 4, 18, 3, 33, 20, 123);
  const named = [
    { tag: "0001_one_two", when },
    { tag: "20330518033320_one", when: when - 123 }, // a folder already
    { tag: "20330518033320_one", when: when + 5000 }, // a tag with a time of its own
  ];
  const folder = mkdtempSync(join(tmpdir(), "starter-folders-"));
  const write = (name: string) => writeFileSync(join(folder, name), "");
  for (const name of ["01_one", "02_two", "03_two"]) {
    mkdirSync(join(folder, `203305180333${name}`));
    write(`203305180333${name}/migration.sql`);
  }
  for (const title of ["one", "two", "gone"]) write(`0000_${title}.down.sql`);
  const left = findLeftDownFiles(folder);
  rmSync(folder, { recursive: true });

  expect(named.map(nameInFolders)).toEqual([
    "20330518033320_one_two",
    "20330518033320_one",
    "20330518033325_one",
  ]);
  expect(left).toEqual([
    {
      tag: "20330518033301_one",
      from: "0000_one.down.sql",
      to: join("20330518033301_one", "down.sql"),
    },
  ]);
});

test("pending is what has no record, whatever the newest record is", () => {
  const plan = planMigrations([a, b, c], [recordOf(c, 1), recordOf(a, 2)]);

  expect(tagsOf(plan.pending)).toEqual(["0001_t"]);
  expect(tagsOf(plan.outOfOrder)).toEqual(["0001_t"]);
  expect(plan.head).toBe(c);
  expect(plan.warnings).toMatchObject([
    { code: "out_of_order", tag: "0001_t" },
  ]);
});

test("an entry that was stamped anew is known by its hash", () => {
  const plan = planMigrations([{ ...a, when: 999 }, b], [recordOf(a, 1)]);

  expect(tagsOf(plan.pending)).toEqual(["0001_t"]);
  expect(plan.modified).toEqual([]);
});

test("an edited file is known by its stamp", () => {
  const plan = planMigrations(
    [migration(0, { text: "select 1" })],
    [recordOf(a, 1)],
  );

  expect(tagsOf(plan.modified)).toEqual(["0000_t"]);
  expect(plan.pending).toEqual([]);
});

test("two migrations of one content, or one stamp, have a record each", () => {
  const twin = { ...b, text: a.text, hash: a.hash };
  const sameStamp = { ...c, when: twin.when };
  const one = planMigrations([a, twin, sameStamp], [recordOf(a, 1)]);
  const both = planMigrations(
    [a, twin, sameStamp],
    [recordOf(twin, 1), recordOf(a, 2), recordOf(sameStamp, 3)],
  );

  expect(tagsOf(one.pending)).toEqual(["0001_t", "0002_t"]);
  expect(both.pending).toEqual([]);
  expect(both.modified).toEqual([]);
  expect(both.warnings).toMatchObject([
    { code: "duplicate_when", tag: "0002_t" },
  ]);
});

test("line endings, a byte-order mark and trailing blanks are no edit", () => {
  for (const text of [
    "\uFEFFselect 1;\nselect 2;\n",
    "select 1;\r\nselect 2;\r\n",
    "select 1;\nselect 2;  \n\n",
  ]) {
    const plan = planMigrations(
      [migration(0, { text })],
      [recordOf(migration(0, { text: "select 1;\nselect 2;\n" }), 1)],
    );

    expect(plan.modified).toEqual([]);
    expect(plan.warnings).toMatchObject([{ code: "respaced" }]);
  }
});

test("comments and inner blanks are no edit where the log knows the statements", () => {
  const before = migration(0, { text: "select 1;" });
  const now = migration(0, { text: "-- one\nselect  1;" });
  const log = [
    {
      tag: "0000_t",
      hash: before.hash,
      bareHash: hashStatements(splitStatements(before.text)),
    },
  ] as LogEntry[];

  expect(planMigrations([now], [recordOf(before, 1)], log).modified).toEqual(
    [],
  );
  expect(tagsOf(planMigrations([now], [recordOf(before, 1)]).modified)).toEqual(
    ["0000_t"],
  );
});

test("an interrupted run counts for one that is not recorded, an interrupted rollback for any", () => {
  const entry = (tag: string, direction: string) =>
    ({ tag, direction, ms: null }) as LogEntry;
  const log = [
    entry(a.tag, "up"), // drizzle's own migrator has finished it
    entry(b.tag, "down"),
    entry(c.tag, "up"),
  ];
  const plan = planMigrations([a, b, c], [recordOf(a, 1), recordOf(b, 2)], log);
  const gone = planMigrations([b], [], [entry(b.tag, "down")]);

  expect([a, b, c].map((one) => stateOf(plan, one))).toEqual([
    "applied",
    "partial",
    "partial",
  ]);
  expect(listPartial(plan).map(({ command }) => command)).toEqual([
    "db:rollback",
    "db:migrate",
  ]);
  expect(listPartial(gone)).toMatchObject([{ command: "db:migrate:repair" }]);
});

test("a record without an entry is a warning, and a repeated idx another", () => {
  const plan = planMigrations(
    [a, { ...b, idx: 0 }],
    [recordOf(a, 1), recordOf(b, 2), recordOf(c, 3)],
  );

  expect(plan.unknown).toMatchObject([{ id: 3 }]);
  expect(plan.warnings.map(({ code }) => code)).toEqual([
    "duplicate_idx",
    "missing",
  ]);
});

test("hundreds of migrations are compared in a moment", () => {
  const many = Array.from({ length: 1000 }, (_, idx) => migration(idx));
  const records = many.slice(0, 999).map(recordOf).reverse();

  expect(tagsOf(planMigrations(many, records).pending)).toEqual(["000999_t"]);
});

const journals: [
  sentence: string,
  journal: string,
  code: string | undefined,
][] = [
  [
    "version 5",
    '{"version":"5","dialect":"pg","entries":[{"idx":0,"version":"5","when":1,"tag":"a","breakpoints":true}]}',
    undefined,
  ],
  [
    "version 7, with stamps for tags",
    '{"version":"7","entries":[{"idx":3,"when":1,"tag":"a"}]}',
    undefined,
  ],
  [
    "an entry without a tag",
    '{"entries":[{"idx":0,"when":1}]}',
    "JOURNAL_INVALID",
  ],
  [
    "an entry without a stamp",
    '{"entries":[{"idx":0,"tag":"a"}]}',
    "JOURNAL_INVALID",
  ],
  ["an entry that is null", '{"entries":[null]}', "JOURNAL_INVALID"],
  [
    "a tag twice",
    '{"entries":[{"tag":"a","when":1},{"tag":"a","when":2}]}',
    "JOURNAL_INVALID",
  ],
  ["no entries", "{}", "JOURNAL_INVALID"],
  [
    "another kind of database",
    '{"dialect":"mysql","entries":[]}',
    "JOURNAL_INVALID",
  ],
  ["a byte-order mark", '\uFEFF{"entries":[{"tag":"a","when":1}]}', undefined],
  ["a merge conflict", '<<<<<<< HEAD\n{"entries":[]}', "JOURNAL_INVALID"],
  [
    "a file that is not there",
    '{"entries":[{"tag":"b","when":1}]}',
    "FILE_MISSING",
  ],
];
for (const [sentence, journal, code] of journals)
  test(`${code ? "refuses" : "reads"} a journal of ${sentence}`, () => {
    const folder = mkdtempSync(join(tmpdir(), "starter-journal-"));
    mkdirSync(join(folder, "meta"));
    writeFileSync(join(folder, "meta/_journal.json"), journal);
    writeFileSync(join(folder, "a.sql"), "select 1;");
    let found: string | undefined;
    try {
      readMigrations(folder);
    } catch (error) {
      found = (error as { code: string }).code;
    } finally {
      rmSync(folder, { recursive: true });
    }

    expect(found).toBe(code);
  });
