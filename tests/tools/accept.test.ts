// db:check --accept: findings about applied history, which cannot change.
import { expect } from "bun:test";
import { migrations } from "../lib/migrations";
import { image, fixture } from "../lib/schema-file";
import { test } from "../lib/test";

test("a broken chain is accepted once, with a reason; what is not there, or can be put right, is not", async ({
  run,
  change,
  project,
}) => {
  change(image, fixture);
  await run("db:generate next");
  const [tag] =
    project.read(`${migrations}/meta/_journal.json`).match(/\w*_next/) ?? [];
  const file = `${migrations}/meta/${tag?.split("_")[0]}_snapshot.json`;
  const snapshot = JSON.parse(project.read(file));
  snapshot.prevId = crypto.randomUUID();
  project.write(file, JSON.stringify(snapshot));
  const broken = await run("db:check --offline");
  const rebase = await run("db:generate --rebase");
  const other = await run(
    `db:check --offline --accept drift ${tag} --reason old`,
  );
  const none = await run(
    `db:check --offline --accept lint ${tag} --reason old`,
  );
  const bare = await run(`db:check --offline --accept snapshot_chain ${tag}`);
  const alone = await run("db:check --offline --reason old");
  const accepted = await run(
    `db:check --offline --accept snapshot_chain ${tag} --reason old`,
  );
  const after = await run("db:check --offline --json");
  const list = project.read(`${migrations}/accepted.json`);
  const others = [
    { code: "snapshot_chain", tag: "0000_other", reason: "old" },
    { code: "lint", tag, reason: "old" },
  ];
  project.write(`${migrations}/accepted.json`, JSON.stringify(others));
  const elsewhere = await run("db:check --offline");
  await run(`db:check --offline --accept snapshot_chain ${tag} --reason new`);
  const both = JSON.parse(project.read(`${migrations}/accepted.json`));
  project.write(`${migrations}/accepted.json`, "{}");
  const invalid = await run("db:check --offline");

  expect(broken.exitCode).toBe(3);
  expect(broken.stdout).toEndWith("\nChecked: 1 error, 0 warnings\n");
  expect(broken.stdout).toContain(
    `--accept snapshot_chain ${tag} --reason <text>`,
  );
  expect(rebase.stdout).toStartWith("Nothing to rebase");
  const refused = [other, none, bare, alone];
  expect(refused.map(({ exitCode }) => exitCode)).toEqual([2, 2, 2, 2]);
  expect(accepted.stdout).toStartWith(
    `Accepted: snapshot_chain of ${tag} (${migrations}/accepted.json)\n`,
  );
  expect(accepted.exitCode).toBe(0);
  expect(after.exitCode).toBe(0);
  expect(other.stderr).toEndWith(
    "Error: drift cannot be accepted\n" +
      "Hint: these codes can be accepted: journal_unordered, journal_duplicate, snapshot_chain, snapshot_missing, modified, missing, down_missing, lint, not_replayed\n",
  );
  expect(none.stderr).toEndWith(
    `Error: there is no problem lint of ${tag}\n` +
      "Hint: `bun run db:check` lists the problems\n",
  );
  expect(elsewhere.exitCode).toBe(3);
  expect(both).toEqual([
    ...others,
    { code: "snapshot_chain", tag, reason: "new" },
  ]);
  expect(invalid.exitCode).toBe(1);
  expect(invalid.stderr).toContain(
    `Error: ${migrations}/accepted.json cannot be read: it is not a list\n` +
      `Hint: restore \`${migrations}/accepted.json\` from git\n`,
  );
  const [entry, end] = [{ code: "snapshot_chain", tag, reason: "old" }, "\n"];
  expect(list).toBe(JSON.stringify([entry], null, 2) + end);
});
