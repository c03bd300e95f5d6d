// The layout and the records of Drizzle 1.0, as its release candidate 5 makes
// them: `drizzle-kit up` for the folder, its first `migrate` for the table.
import { expect } from "bun:test";
import { readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { commit } from "../lib/git";
import { migrations, writeMigrations } from "../lib/migrations";
import { test } from "../lib/test";

test("Drizzle 1.0 and the commands take turns on one database, and nothing runs twice", async ({
  sql,
  project,
  run,
}) => {
  const files = {
    "0000_one": "create table one (id int);",
    "0000_one.down": "drop table one;",
    "0001_two": "create table two (id int);",
    "0001_two.down": "drop table two;",
  };
  writeMigrations(project, files, (index) => 2_000_000_000_123 + index * 1000);
  const names = () =>
    sql`select created_at::float8 as when, name from drizzle.__drizzle_migrations order by id`;
  const folder = join(project.folder, migrations);
  const left = (from: string, to: string) =>
    `Warning: \`drizzle-kit up\` has left ${from} behind: \`git mv ${migrations}/${from} ${migrations}/${to}\`\n`;

  await run("db:migrate");
  for (const [tag, name] of [
    ["0000_one", "20330518033320_one"],
    ["0001_two", "20330518033321_two"],
  ]) {
    project.write(
      `${migrations}/${name}/migration.sql`,
      project.read(`${migrations}/${tag}.sql`),
    );
    rmSync(join(folder, `${tag}.sql`));
  }
  rmSync(join(folder, "meta"), { recursive: true });
  const upped = await run("db:migrate");
  const leftBehind = await run("db:migrate:status");
  await commit(project.folder, "main");
  const first = `${migrations}/20330518033320_one/migration.sql`;
  const added = `${migrations}/20330518033399_new`;
  project.write(first, `${files["0000_one"]}\nselect 1;`);
  project.write(`${added}/migration.sql`, "drop table two;");
  const wrong = await run("db:check --offline --json");
  project.write(first, files["0000_one"]);
  rmSync(join(project.folder, added), { recursive: true });
  for (const [from, to] of [
    ["0000_one", "20330518033320_one"],
    ["0001_two", "20330518033321_two"],
  ])
    renameSync(
      join(folder, `${from}.down.sql`),
      join(folder, `${to}/down.sql`),
    );
  await sql.unsafe(`
    alter table drizzle.__drizzle_migrations add name text, add applied_at timestamptz default now();
    update drizzle.__drizzle_migrations set applied_at = null,
      name = case id when 1 then '20330518033320_one' else '20330518033321_two' end`);
  project.write(
    `${migrations}/20330518033322_three/migration.sql`,
    // What it takes of the records comes back, with the names.
    "delete from drizzle.__drizzle_migrations; create table three (id int);",
  );
  project.write(
    `${migrations}/20330518033322_three/down.sql`,
    "drop table three;",
  );
  const third = await run("db:migrate");
  const restored = await names();
  await sql`update drizzle.__drizzle_migrations set name = null where created_at = 2000000001123`;
  const named = await run("db:migrate");
  const applied = await names();
  const status = await run("db:migrate:status");
  const check = await run("db:check --offline");
  const back = await run("db:rollback --steps 2");
  const again = await run("db:migrate --to 20330518033321_two");
  const baseline = await sql
    .unsafe("create table three (id int)")
    .then(() => run("db:baseline"));
  const generated = await run("db:generate");

  expect(upped).toEqual({
    exitCode: 0,
    stdout: expect.stringMatching(
      /^Nothing to migrate: .* is at 20330518033321_two\n$/,
    ),
    stderr:
      left("0000_one.down.sql", "20330518033320_one/down.sql") +
      left("0001_two.down.sql", "20330518033321_two/down.sql"),
  });
  const cannot = (tag: string) =>
    `warning down_missing ${tag} ${migrations}/${tag}/down.sql ${tag} cannot be rolled back: write the SQL that undoes it`;
  const behind = (from: string, tag: string) =>
    `error file_orphan ${tag} ${migrations}/${from} \`drizzle-kit up\` has left it behind: \`git mv ${migrations}/${from} ${migrations}/${tag}/down.sql\``;
  expect(
    JSON.parse(wrong.stdout).problems.map(
      ({ severity, code, tag, file, line, message }: Record<string, string>) =>
        [severity, code, tag, file, line, message].filter(Boolean).join(" "),
    ),
  ).toEqual([
    behind("0000_one.down.sql", "20330518033320_one"),
    behind("0001_two.down.sql", "20330518033321_two"),
    cannot("20330518033320_one"),
    cannot("20330518033321_two"),
    cannot("20330518033399_new"),
    `error modified 20330518033320_one ${first} its SQL differs from the one on main: restore it with \`git checkout main -- ${first}\`, and put the change into a new migration`,
    `warning lint 20330518033399_new ${added}/migration.sql 1 ban-drop-table: Dropping a table may break existing clients. Fix it, or write \`-- squawk-ignore ban-drop-table -- <reason>\` above it`,
  ]);
  expect(wrong.stderr).toBe(
    "Not compared: snapshots of drizzle-kit 1.0 with schema.ts\n",
  );
  expect(third.stdout).toStartWith("Applied: 20330518033322_three (");
  expect(named.stdout).toStartWith("Nothing to migrate: ");
  expect(leftBehind).toEqual({
    exitCode: 0,
    stdout: "applied   20330518033320_one\napplied   20330518033321_two\n",
    stderr: upped.stderr,
  });
  expect([...restored]).toEqual([...applied]);
  expect([...applied]).toEqual([
    { when: 2_000_000_000_123, name: "20330518033320_one" },
    { when: 2_000_000_001_123, name: "20330518033321_two" },
    { when: 2_000_000_002_000, name: "20330518033322_three" },
  ]);
  expect(status).toMatchObject({ exitCode: 0, stderr: "" });
  expect(check).toMatchObject({
    exitCode: 0,
    stdout: "Checked: 0 errors, 0 warnings\n",
  });
  expect(back.stdout).toMatch(
    /^Rolled back: 20330518033322_three .*\nRolled back: 20330518033321_two /,
  );
  expect(again.stdout).toStartWith("Applied: 20330518033321_two (");
  expect(baseline.stdout).toBe("Recorded: 20330518033322_three\n");
  expect(generated).toMatchObject({ exitCode: 2, stdout: "" });
  expect((await names()).map(({ name }) => name)).toEqual([
    "20330518033320_one",
    "20330518033321_two",
    "20330518033322_three",
  ]);
  expect(readdirSync(folder).sort()).toEqual([
    "20330518033320_one",
    "20330518033321_two",
    "20330518033322_three",
  ]);
});
