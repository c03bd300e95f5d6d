// What db:check says of migrations that fail only where there are rows.
import { expect, test } from "bun:test";
import { openConnection } from "../../scripts/lib/connection";
import { readCatalog } from "../../scripts/migrations/catalog";
import { hashText } from "../../scripts/migrations/journal";
import { withTrial } from "../../scripts/migrations/trial";
import { makeRows } from "../../scripts/migrations/made-rows";
import { tryRows } from "../../scripts/migrations/try-rows";
import type { DatabaseAddress } from "../../src/database-url";
import { withDatabase } from "../lib/database";

import * as migrations from "../lib/row-migrations";
import { sampleOf } from "../lib/sample";

const { foundHereOnly, rows, schema } = migrations;
const fails = [...migrations.alwaysFails, ...sampleOf(migrations.fails, 8)];
const passes = [...migrations.alwaysPasses, ...sampleOf(migrations.passes, 8)];

test("a migration that fails on rows only is found before, and no other", async () => {
  await withDatabase("empty", async ({ address }) => {
    await using real = await openConnection(address, "tests");
    await real.unsafe(`${schema}${rows}`);
    const [found, elsewhere] = await Promise.all(
      [false, true].map((isElsewhere) => tryAll(address, isElsewhere)),
    );
    // An enum's new value can be used only when it is committed.
    await real.unsafe("alter type mood add value 'calm'");
    const failing = await collect(async (text) => {
      const failed = await real
        .begin(async (transaction) => {
          await transaction.unsafe(
            text
              .replaceAll(" concurrently", "")
              .replace("add value", "add value if not exists"),
          );
          await transaction.unsafe("set constraints all immediate; rollback");
        })
        .then(() => false)
        .catch(() => true);
      return failed;
    });

    expect(failing).toEqual(fails);
    expect(found).toEqual(fails);
    expect(elsewhere).toEqual(
      fails.filter((text: string) => !foundHereOnly.includes(text)),
    );
  });
}, 300_000);

const bystander = `test_bystander_${process.pid}`;

/** Returns the migrations that a scratch database shows to fail. */
async function tryAll(
  address: DatabaseAddress,
  isScratchServer: boolean,
): Promise<string[]> {
  await using real = await openConnection(address, "tests");
  const made = {
    schemas: new Set<string>(),
    ownSchemas: new Set<string>(),
    objects: new Set<string>(),
  };
  const place = { address, isScratchServer };
  const found = await withTrial(
    real,
    place,
    "tests",
    made,
    [],
    async (trial) => {
      await trial.scratch.unsafe(schema);
      const before = await readCatalog(trial.scratch);
      // Somebody else may use a scratch server, too.
      if (isScratchServer) await real.unsafe(`create role ${bystander}`);
      return await collect(async (text) => {
        const hash = hashText(text);
        const migration = {
          tag: "t",
          idx: 0,
          when: 0,
          file: "t.sql",
          text,
          hash,
        };
        const problems = await tryRows(
          trial,
          [migration as never],
          new Map(),
          100,
          before,
        );
        return problems.some(({ code }) => code === "fails_on_rows");
      });
    },
  );
  if (isScratchServer) await real.unsafe(`drop role ${bystander}`);
  return found;
}

async function collect(
  isFailing: (text: string) => Promise<boolean>,
): Promise<string[]> {
  const failing: string[] = [];
  for (const text of [...fails, ...passes])
    if (await isFailing(text)) failing.push(text);
  return failing;
}

test("made rows satisfy what a table asks of them, or the table is named", async () => {
  await withDatabase("empty", async ({ address }) => {
    await using sql = await openConnection(address, "tests");
    await sql.unsafe(
      `
      create type mood as enum ('sad', 'ok');
      create domain code as text check (value ~ '^[A-Z]$');
      create table orgs (id uuid primary key default gen_random_uuid(), slug varchar(3) unique not null, mood mood not null unique,
        check (slug = lower(slug) and length(slug) > 1));
      create table members (org uuid references orgs initially deferred, number int, role text not null check (role in ('owner', 'member')),
        boss int, primary key (org, number), foreign key (org, boss) references members, code code not null unique);
      create table notes (id bigint generated always as identity primary key, org uuid not null, number int not null,
        foreign key (org, number) references members, page uuid references orgs, word text,
        check ((page is null) <> (word is null)), span daterange not null, tags text[] not null, place point not null,
        address inet not null, data jsonb not null check (jsonb_typeof(data) = 'object'), amount numeric(4,2) not null check (amount between 5 and 7),
        secret text not null check (char_length(secret) >= 20), url text not null check (url like 'https://%'),
        twice int generated always as (number * 2) stored, at timestamptz not null default now(), exclude using gist (span with &&));
      create table never (id int check (id > 3 and id < 3) not null);
      create table knot (id int primary key);
      create table loop (id int primary key references loop, other int not null references knot);
      alter table knot add loop int not null references loop`,
    );
    await sql.unsafe("begin");
    const { made, refused } = await makeRows(
      sql,
      ["public.notes", "public.never", "public.loop"],
      0,
    );
    const [row] = await sql.unsafe<Record<string, string>[]>(
      "select (select count(*) from orgs) as orgs, (select count(*) from members) as members, (select count(*) from notes) as notes",
    );
    await sql.unsafe("rollback");

    expect({ made, refused: [...refused.keys()] }).toEqual({
      made: ["public.orgs", "public.members", "public.notes"],
      refused: ["public.never", "public.knot", "public.loop"],
    });
    expect(row).toEqual({ orgs: "2", members: "2", notes: "2" });
  });
}, 300_000);
