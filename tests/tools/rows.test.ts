// What db:check says of migrations that fail only where there are rows.
import { expect, test } from "bun:test";
import { openConnection } from "../../scripts/lib/connection";
import { hashText } from "../../scripts/migrations/journal";
import { withTrial } from "../../scripts/migrations/trial";
import { tryRows } from "../../scripts/migrations/try-rows";
import { withDatabase } from "../lib/database";

const SCHEMA = `
create table people (id int generated always as identity primary key, mail text, age int,
  "Note" text default 'x', born text);
create table posts (id serial primary key, author int not null references people (id), editor int, title text);
create type mood as enum ('sad', 'ok', 'happy');
alter table people add mood mood;
create table quiet (id int);
create function shout() returns trigger language plpgsql as $$ begin raise exception 'a trigger'; end $$;
create trigger loud before insert on people for each row execute function shout();`;

/** Two of 5,000 rows are wrong in each way, and none of the first thousand. */
const ROWS = `
alter table people disable trigger user;
insert into people (mail, age, born) select 'm' || n, n, '2000-01-01' from generate_series(1, 5000) as n;
alter table people enable trigger user;
update people set mail = 'm1', mood = 'sad' where id = 4000;
update people set mail = null, age = -1, born = 'never' where id = 4500;
insert into posts (author, editor, title) select n, n, repeat('t', n % 20) from generate_series(1, 2000) as n;
update posts set editor = 99999, title = repeat('t', 300) where id = 1500;`;

const FAILS = [
  `alter table people alter mail set not null`,
  `alter table people add check (age > 0)`,
  `alter table people add constraint c check (age > 0) not valid; alter table people validate constraint c`,
  `alter table people add unique (mail)`,
  `create unique index on people (lower(mail)) where age > 0`,
  `create unique index concurrently mails on people (mail)`,
  `alter table people add constraint nulls unique nulls not distinct (mail)`,
  `alter table posts add foreign key (editor) references people (id)`,
  `alter table people alter born type date using born::date`,
  `alter table people alter born type date using (born || '')::date`,
  `alter table people add column required text not null`,
  `alter table posts alter title type varchar(200)`,
  `alter table people drop constraint people_pkey cascade; alter table people add primary key (mail)`,
  `alter table people rename mail to email; alter table people alter email set not null`,
  `alter table people alter mood type text; drop type mood; create type mood as enum ('ok', 'happy'); alter table people alter mood type mood using mood::mood`,
  `create type age as enum ('1', '2'); alter table people alter age type age using age::text::age`,
  `alter table people alter age type smallint; alter table people alter age type numeric(3,0)`,
  `do $$ begin execute 'alter table people alter mail set not null'; end $$`,
  `alter table people rename to persons; alter table persons add check (age > 0)`,
  `create table kinds (id int primary key); alter table posts add constraint k foreign key (editor) references kinds (id)`,
  `alter table people add column half int generated always as (10 / (age + 1)) stored`,
];

const PASSES = [
  `alter table people alter "Note" set not null`,
  `alter table people add check (age > 0) not valid`,
  `update people set mail = 'none' where mail is null; alter table people alter mail set not null`,
  `delete from people where id = 4000; alter table people add unique (mail)`,
  `create unique index on people (mail) where age < 4000`,
  `alter table posts add foreign key (editor) references people (id) not valid`,
  `update posts set editor = null where editor = 99999; alter table posts add foreign key (editor) references people (id)`,
  `alter table people alter born type date using case when born ~ '^\\d' then born::date end`,
  `alter table people add column required text not null default 'x'`,
  `alter table quiet add column required text not null`,
  `alter table posts alter title type varchar(300)`,
  `alter table people alter age type bigint`,
  `alter type mood rename value 'sad' to 'unhappy'`,
  `alter type mood add value 'calm'`,
  `insert into posts (author, title) values (1, 'new')`,
  `create table other (id int primary key references people (id))`,
  `alter table posts add constraint again foreign key (author) references people (id) on delete cascade`,
];

test("a migration that fails on rows only is found before, and no other", async () => {
  await withDatabase("empty", async ({ address }) => {
    await using real = await openConnection(address, "tests");
    await real.unsafe(`${SCHEMA}${ROWS}`);
    const made = {
      schemas: new Set<string>(),
      ownSchemas: new Set<string>(),
      objects: new Set<string>(),
    };
    const place = { address, isScratchServer: false };
    const found = await withTrial(
      real,
      place,
      "tests",
      made,
      [],
      async (trial) => {
        await trial.scratch.unsafe(SCHEMA);
        const codes: Record<string, string[]> = {};
        for (const text of [...FAILS, ...PASSES]) {
          const migration = {
            tag: "t",
            idx: 0,
            when: 0,
            file: "t.sql",
            text,
            hash: hashText(text),
          };
          const problems = await tryRows(
            trial,
            [migration as never],
            new Map(),
            1000,
          );
          codes[text] = problems.map(({ code }) => code);
        }
        return codes;
      },
    );

    const expected = Object.fromEntries([
      ...FAILS.map((text) => [text, ["fails_on_rows"]]),
      ...PASSES.map((text) => [text, []]),
    ]);
    expect(found).toEqual(expected);
  });
}, 120_000);
