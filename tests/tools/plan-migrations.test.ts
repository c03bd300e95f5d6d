// The plan: what journal, files, records and log say together.
import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { describeError, type FailureFields } from "../../scripts/lib/report";
import {
  findLeftDownFiles,
  listFolders,
  nameInFolders,
} from "../../scripts/migrations/folders";
import {
  hashText,
  type Migration,
  nameJournal,
  readMigrations,
  refuseOtherEncoding,
} from "../../scripts/migrations/journal";
import type { LogEntry } from "../../scripts/migrations/log";
import {
  listNameless,
  listPartial,
  type MigrationRecord,
  planMigrations,
  refuseModified,
  refusePartial,
  selectPending,
  stateOf,
} from "../../scripts/migrations/plan";
import {
  hashStatements,
  splitStatements,
} from "../../scripts/migrations/statements";
import { root } from "../../src/env";

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

/** Returns the error that a command would print. */
function refusalOf(work: () => void): object | undefined {
  try {
    work();
  } catch (thrown) {
    const error = thrown as Error & FailureFields;
    const { exitCode, lines = [] } = error;
    return { exitCode, lines, ...describeError(error) };
  }
}

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
  // The upgraded table lacks the name of one, and another is in no such table.
  const lists = [{ name: "" }, { name: null }, {}].map((field) =>
    listNameless(planMigrations([one], [{ ...recordOf(one, 1), ...field }])),
  );
  expect(lists).toEqual([[{ hash: one.hash, when, name: folder.tag }], [], []]);
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
  for (const title of ["one", "four_five", "two", "gone", "three"])
    write(`0000_${title}.down.sql`);
  for (const name of ["00_four_five", "04_three"]) {
    mkdirSync(join(folder, `203305180333${name}`));
    write(`203305180333${name}/migration.sql`);
  }
  mkdirSync(join(folder, "20330518033305_gone")); // without a migration
  mkdirSync(join(folder, "a20330518033306_gone"));
  write("a20330518033306_gone/migration.sql");
  const folders = listFolders(folder);
  const left = findLeftDownFiles(folder);
  rmSync(folder, { recursive: true });
  const none = [listFolders(folder), findLeftDownFiles(folder)];

  expect(named.map(nameInFolders)).toEqual([
    "20330518033320_one_two",
    "20330518033320_one",
    "20330518033325_one",
  ]);
  const names = ["00_four_five", "01_one", "02_two", "03_two", "04_three"];
  expect(folders).toEqual(names.map((name) => `203305180333${name}`));
  expect(left).toEqual(
    ["00_four_five", "01_one", "04_three"].map((name) => ({
      tag: `203305180333${name}`,
      from: `0000_${name.slice(3)}.down.sql`,
      to: join(`203305180333${name}`, "down.sql"),
    })),
  );
  expect(none).toEqual([[], []]);
});

test("pending is what has no record, whatever the newest record is", () => {
  const plan = planMigrations([a, b, c], [recordOf(c, 1), recordOf(a, 2)]);

  expect(tagsOf(plan.pending)).toEqual(["0001_t"]);
  expect(tagsOf(plan.outOfOrder)).toEqual(["0001_t"]);
  expect(plan.head).toBe(c);
  expect(plan.warnings).toEqual([
    {
      code: "out_of_order",
      tag: "0001_t",
      message: "0001_t is older than 0002_t, which is applied",
    },
  ]);
  const none = planMigrations([a, b], []);
  expect([none.pending, none.outOfOrder, none.head]).toEqual([
    [a, b],
    [],
    undefined,
  ]);
  const newest = planMigrations([a, b], [recordOf(a, 1)]);
  expect([newest.pending, newest.outOfOrder, newest.head]).toEqual([
    [b],
    [],
    a,
  ]);
});

test("what is pending ends with the migration that was asked for", () => {
  const plan = planMigrations([a, b, c], [recordOf(b, 1)]);
  const select = (to?: string) => tagsOf(selectPending(plan, to));

  expect([select(), select(a.tag), select(b.tag), select(c.tag)]).toEqual([
    ["0000_t", "0002_t"],
    ["0000_t"],
    ["0000_t"],
    ["0000_t", "0002_t"],
  ]);
  expect(refusalOf(() => select("0003_t"))).toMatchObject({
    exitCode: 2,
    message: "there is no migration 0003_t",
    hint: "`bun run db:migrate:status` lists them",
  });
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

test("all edited files are refused by name", () => {
  const records = [a, b, c].map(recordOf);
  const edited = [0, 1].map((idx) => migration(idx, { text: "edited" }));
  const plan = planMigrations([...edited, c], records);

  expect(refusalOf(() => refuseModified(plan))).toEqual({
    exitCode: 1,
    code: "MODIFIED",
    message: "0000_t.sql was edited after it was applied",
    lines: ["  so was 0001_t.sql"],
    hint: "restore it from git, and put the change into a new migration with `bun run db:generate`",
    tag: "0000_t",
    file: "0000_t.sql",
  });
  const current = planMigrations([a, b, c], records);
  expect(refusalOf(() => refuseModified(current))).toBeUndefined();
});

test("two migrations of one content, or one stamp, have a record each", () => {
  const twin = { ...b, text: a.text, hash: a.hash };
  const sameStamp = { ...c, when: twin.when };
  const one = planMigrations([a, twin, sameStamp], [recordOf(a, 1)]);
  const both = planMigrations(
    [a, twin, sameStamp],
    [recordOf(sameStamp, 1), recordOf(twin, 2), recordOf(a, 3)],
  );

  expect(tagsOf(one.pending)).toEqual(["0001_t", "0002_t"]);
  expect(both.pending).toEqual([]);
  expect(both.modified).toEqual([]);
  expect(both.warnings).toMatchObject([
    { code: "duplicate_when", tag: "0002_t" },
  ]);
});

test("line endings, a byte-order mark and trailing blanks are no edit", () => {
  const recorded = ["select 1;\nselect 2;", "select 1;\r\nselect 2;"].flatMap(
    (text) =>
      ["", "\n", "\r\n"].flatMap((end) => [text + end, `\uFEFF${text}${end}`]),
  );
  const edited = [...recorded, "select 1;\nselect 2;  \n\n"];
  const plan = (before: string, now: string) =>
    planMigrations(
      [migration(0, { text: now })],
      [recordOf(migration(0, { text: before }), 1)],
    );

  for (const before of recorded)
    for (const now of edited) {
      const { modified, warnings } = plan(before, now);

      expect([before, now, modified]).toEqual([before, now, []]);
      if (now !== before)
        expect(warnings).toEqual([
          {
            code: "respaced",
            tag: "0000_t",
            message:
              "0000_t was edited after it was applied, in comments or blanks only",
          },
        ]);
    }
  expect(
    plan("select 1; select 2;", "select 1;select 2;").modified,
  ).toHaveLength(1);
});

test("comments and inner blanks are no edit where the log knows the statements", () => {
  const before = migration(0, { text: "select 1;" });
  const now = migration(0, { text: "-- one\nselect  1;" });
  const entry = { tag: "0000_t", hash: before.hash } as LogEntry;
  const bareHash = hashStatements(splitStatements(before.text));
  const known = { ...entry, bareHash };
  const modified = (...log: LogEntry[]) =>
    tagsOf(planMigrations([now], [recordOf(before, 1)], log).modified);

  expect(modified(known)).toEqual([]);
  // The newest entry of this migration with this hash counts.
  expect(
    modified(
      { ...entry, bareHash: "older" },
      known,
      { ...entry, tag: "0001_t", bareHash: "another" },
      { ...entry, hash: "newer", bareHash: "another" },
    ),
  ).toEqual([]);
  for (const log of [
    [],
    [{ ...known, tag: "0001_t" }],
    [{ ...known, hash: "other" }],
    [known, { ...entry, bareHash: "newer" }],
  ])
    expect(modified(...log)).toEqual(["0000_t"]);
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
  expect(listPartial(plan)).toEqual([
    {
      tag: "0001_t",
      file: "0001_t.sql",
      command: "db:rollback",
      message:
        "the rollback of 0001_t was interrupted after part of it was undone",
      hint: "finish it with `bun run db:rollback`",
    },
    {
      tag: "0002_t",
      file: "0002_t.sql",
      command: "db:migrate",
      message: "0002_t was interrupted after part of it was committed",
      hint: "finish it with `bun run db:migrate`; or undo that part by hand and run `bun run db:migrate:repair`",
    },
  ]);
  expect(listPartial(gone)).toEqual([
    {
      tag: "0001_t",
      file: "0001_t.sql",
      command: "db:migrate:repair",
      message:
        "the rollback of 0001_t was interrupted after part of it was undone, and its record was removed since",
      hint: "undo the rest of it by hand and run `bun run db:migrate:repair`",
    },
  ]);
  const up = planMigrations([c], [], [entry(c.tag, "up")]);
  expect(refusalOf(() => refusePartial(up, "db:migrate"))).toBeUndefined();
  expect(refusalOf(() => refusePartial(plan, "db:migrate"))).toEqual({
    exitCode: 1,
    code: "PARTIAL",
    message:
      "the rollback of 0001_t was interrupted after part of it was undone, and nothing was changed",
    lines: [],
    hint: "finish it with `bun run db:rollback`",
    tag: "0001_t",
    file: "0001_t.sql",
  });
});

test("a record without an entry is a warning, and a repeated idx another", () => {
  const plan = planMigrations(
    [a, { ...b, idx: 0 }],
    [recordOf(a, 1), recordOf(b, 2), recordOf(c, 3)],
  );

  expect(plan.unknown).toMatchObject([{ id: 3 }]);
  expect(plan.warnings).toEqual([
    {
      code: "duplicate_idx",
      tag: "0001_t",
      message: "0001_t has the same idx as 0000_t: 0",
    },
    {
      code: "missing",
      message:
        "the database has a migration (record 3) that this checkout does not have",
    },
  ]);
});

test("hundreds of migrations are compared in a moment", () => {
  const many = Array.from({ length: 1000 }, (_, idx) => migration(idx));
  const records = many.slice(0, 999).map(recordOf).reverse();

  expect(tagsOf(planMigrations(many, records).pending)).toEqual(["000999_t"]);
});

/** A journal, and what is wrong with it; undefined where it is read. */
const journals: [
  sentence: string,
  journal: string | undefined,
  wrong: string | undefined,
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
    "has an entry without a tag or a stamp",
  ],
  [
    "an entry without a stamp",
    '{"entries":[{"idx":0,"tag":"a"}]}',
    "has an entry without a tag or a stamp",
  ],
  [
    "an entry that is null",
    '{"entries":[null]}',
    "has an entry without a tag or a stamp",
  ],
  [
    "a tag twice",
    '{"entries":[{"tag":"a","when":1},{"tag":"a","when":2}]}',
    "has the tag a twice",
  ],
  ["no entries", "{}", "has no entries"],
  ["null", "null", "has no entries"],
  [
    "another kind of database",
    '{"dialect":"mysql","entries":[]}',
    "is for mysql",
  ],
  ["a byte-order mark", '\uFEFF{"entries":[{"tag":"a","when":1}]}', undefined],
  ["no JSON", "{", "cannot be read: JSON Parse error: Expected '}'"],
  [
    "a file that is not there",
    undefined,
    "cannot be read: ENOENT: no such file or directory, open 'JOURNAL'",
  ],
];
for (const [sentence, journal, wrong] of journals)
  test(`${wrong ? "refuses" : "reads"} a journal of ${sentence}`, () => {
    const { found, file } = readOne(journal);

    expect(found).toEqual(
      wrong
        ? {
            exitCode: 1,
            lines: [],
            code: "JOURNAL_INVALID",
            message: `${file} ${wrong.replace("JOURNAL", join(root, file))}`,
            hint: `restore it from git: \`git log --all -- ${file}\` lists its commits; or make it with \`bun run db:generate\``,
          }
        : [
            {
              tag: "a",
              idx: journal?.includes('"idx":3') ? 3 : 0,
              when: 1,
              file: file.replace("meta/_journal.json", "a.sql"),
              text: "select 1;",
              hash: hashText("select 1;"),
            },
          ],
    );
  });

test("refuses a journal of a merge conflict, and of a file that is not there", () => {
  const conflict = readOne('{"entries":[]}\n<<<<<<< HEAD\n');
  const missing = readOne('{"entries":[{"tag":"b","when":1}]}');

  const file = missing.file.replace("meta/_journal.json", "b.sql");
  expect(conflict.found).toMatchObject({
    code: "JOURNAL_INVALID",
    message: `${conflict.file} contains merge conflict markers`,
    hint: "keep the entries of both sides, and then run `bun run db:generate --rebase`",
  });
  expect(missing.found).toMatchObject({
    code: "FILE_MISSING",
    message: `${file} is missing, and the journal names it`,
    hint: `restore it from git: \`git log --all -- ${file}\` lists its commits`,
    tag: "b",
    file,
  });
});

test("a file in another encoding is refused with the place of its first wrong byte", () => {
  const folder = mkdtempSync(join(tmpdir(), "starter-encoding-"));
  const file = relative(root, join(folder, "a.sql"));
  const refuse = (bytes: Uint8Array) => {
    writeFileSync(join(folder, "a.sql"), bytes);
    const text = Buffer.from(bytes).toString("utf8");
    return refusalOf(() => refuseOtherEncoding({ tag: "a", file, text }));
  };
  const latin1 = Buffer.from("--\n\nselect 'ü';\n", "latin1");
  const found = [
    refuse(Buffer.from("select 'ü';\n")),
    refuse(Buffer.from("-- \uFFFD\nselect 'ü';")),
    refuse(latin1),
    refuse(latin1.subarray(0, -1)),
    refuse(Buffer.from("select 'ü\0';")),
    refuse(Buffer.from("\n\n-- ü", "utf16le")),
  ];
  rmSync(folder, { recursive: true });

  const describe = (
    what: string,
    encoding: string,
    line: number,
    column: number,
  ) => ({
    exitCode: 1,
    code: "NOT_UTF8",
    message: `${file} ${what}`,
    lines: [`  at ${file}:${line}:${column}`],
    hint: `save it in UTF-8; \`iconv -f ${encoding} -t utf-8 ${file}\` prints it in UTF-8`,
    ...{ tag: "a", file, line, column },
  });
  expect(found).toEqual([
    undefined,
    undefined,
    describe("is not in UTF-8", "latin1", 3, 9),
    describe("is not in UTF-8", "latin1", 3, 9),
    describe("contains a NUL character", "utf-16", 1, 10),
    describe("contains a NUL character", "utf-16", 2, 1),
  ]);
});

/** Reads a folder with this journal; returns its migrations, or the error. */
function readOne(journal: string | undefined) {
  const folder = mkdtempSync(join(tmpdir(), "starter-journal-"));
  const file = nameJournal(folder);
  mkdirSync(join(folder, "meta"));
  if (journal !== undefined)
    writeFileSync(join(folder, "meta/_journal.json"), journal);
  writeFileSync(join(folder, "a.sql"), "select 1;");
  let migrations: Migration[] = [];
  const error = refusalOf(() => {
    migrations = readMigrations(folder);
  });
  rmSync(folder, { recursive: true });
  return { found: error ?? migrations, file };
}
