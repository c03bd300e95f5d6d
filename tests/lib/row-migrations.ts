// Migrations that all pass on empty tables: those that fail on the rows below, and
// those that do not.

export const schema = `
create table people (id int generated always as identity primary key, mail text, age int,
  "Note" text default 'x', born text);
create table posts (id serial primary key, author int not null references people (id), editor int, title text);
create type mood as enum ('sad', 'ok', 'happy');
alter table people add mood mood;
create table quiet (id int);
create table prices (code text not null, day date not null, amount numeric, valid daterange, seen timestamp,
  status text not null default 'new' check (status in ('new', 'paid', 'void')), data jsonb, flags text[]);
create function shout() returns trigger language plpgsql as $$ begin raise exception 'a trigger'; end $$;
create trigger loud before insert on people for each row execute function shout();`;

/** Two of 5,000 rows are wrong in each way, and none of the first hundred. */
export const rows = `
alter table people disable trigger user;
insert into people (mail, age, born) select 'm' || n, n, '2000-01-01' from generate_series(1, 5000) as n;
alter table people enable trigger user;
update people set mail = 'm1', mood = 'sad' where id = 4000;
update people set mail = null, age = -1, born = 'never' where id = 4500;
insert into posts (author, editor, title) select n, n, repeat('t', n % 20) from generate_series(1, 2000) as n;
update posts set editor = 99999, title = repeat('t', 300) where id = 1500;
insert into prices (code, day, amount, valid, seen, data, flags) select 'c' || n, '2020-01-01'::date + n, n,
  daterange('2020-01-01'::date + n, '2020-01-02'::date + n), '2020-01-01', '{"a": 1}', '{1}' from generate_series(1, 2000) as n;
update prices set code = 'c1', day = '2020-01-02', amount = 9e9, status = 'void', valid = '[2020-01-03,2020-01-06)',
  data = '{"a": "b"}', flags = '{x}', seen = 'infinity' where code = 'c1500';`;

/** Those that fail in every sample: only the end of the transaction shows it. */
export const alwaysFails = [
  `alter table people add column required text not null`,
  `alter table posts alter constraint posts_author_fkey deferrable initially deferred; update posts set author = -author`,
  `alter type mood add value if not exists 'calm'; update people set mood = 'calm' where id = 1; alter table people alter mail set not null`,
];

export const fails = [
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
  `alter table prices add primary key (code, day)`,
  `alter table prices add unique (code) include (day)`,
  `create unique index on prices (day) where status <> 'paid'`,
  `create unique index on prices (upper(code), day)`,
  `alter table prices alter amount type int`,
  `alter table prices alter amount type numeric(6,2)`,
  `alter table prices add constraint s check (status in ('new', 'paid'))`,
  `alter table prices drop constraint prices_status_check; alter table prices add constraint prices_status_check check (status in ('new', 'paid'))`,
  `alter table prices alter status drop default; create type status as enum ('new', 'paid'); alter table prices drop constraint prices_status_check; alter table prices alter status type status using status::status`,
  `alter table prices add constraint e exclude using gist (valid with &&)`,
  `alter table prices alter flags type int[] using flags::int[]`,
  `alter table prices add column a int generated always as ((data ->> 'a')::int) stored`,
  `alter table prices add column a int; update prices set a = (data ->> 'a')::int`,
  `create domain positive as int check (value > 0); alter table people alter age type positive`,
  `alter table prices alter code type char(4)`,
  `alter table prices alter seen type date, add check (seen < '2100-01-01')`,
  `alter table prices add column kind text not null default 'x' unique`,
  `alter table prices add column kind text default 'x' check (kind = 'y')`,
  `alter table prices add column owner int not null default 0 references people (id)`,
  `alter table prices add column position int not null, add unique (position)`,
  `create table totals (code text primary key, amount numeric); insert into totals select code, amount from prices`,
  `create unique index concurrently on prices (code); drop index prices_code_idx`,
  `alter table people alter mail set not null; alter type mood add value 'calm'; update people set mood = 'calm'`,
  `create schema old; alter table prices set schema old; alter table old.prices add unique (code)`,
];

/** Those that pass, and need the most not to be called failing: in every sample. */
export const alwaysPasses = [
  `alter table posts add constraint again foreign key (author) references people (id) on delete cascade`,
  `insert into posts (author, title) select id, 'new' from people where id = 1`,
  `alter table prices rename to costs; alter table costs rename code to sku; alter table costs add check (sku like 'c%')`,
  `create table codes (code text check (code !~ '^\\d')); insert into codes select code from prices`,
];

export const passes = [
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
  `alter type mood add value 'calm'; alter table people alter mood set default 'calm'; update people set mood = 'calm' where id = 1`,
  `create table other (id int primary key references people (id))`,
  `alter table prices add unique (code, amount)`,
  `alter table prices add unique nulls not distinct (code, amount)`,
  `create unique index on prices (code) where status = 'new'`,
  `alter table prices alter amount type numeric(12,2)`,
  `alter table prices alter amount type double precision`,
  `alter table prices alter day type timestamptz`,
  `alter table prices alter code type varchar(5)`,
  `alter table prices alter data type json using data::json`,
  `alter table prices add constraint s check (status in ('new', 'paid', 'void', 'open'))`,
  `alter table prices drop constraint prices_status_check; alter table prices alter status drop default; create type status as enum ('new', 'paid', 'void'); alter table prices alter status type status using status::status`,
  `alter table prices add check (amount > 0 and day > '2020-01-01')`,
  `alter table prices add column a text generated always as (data ->> 'a') stored`,
  `alter table prices add column a int; update prices set a = (data ->> 'a')::int where data @> '{"a": 1}'`,
  `alter table prices add column a int; update prices set a = 1; alter table prices alter a set not null`,
  `alter table prices add column kind text not null default 'x' check (kind = 'x')`,
  `alter table prices add column kind text unique`,
  `alter table prices add column owner int references people (id)`,
  `alter table prices add column id int generated always as identity primary key`,
  `alter table prices add column id uuid default gen_random_uuid() not null unique`,
  `create table totals (code text, amount numeric); insert into totals select code, amount from prices`,
  `create domain words as text check (length(value) < 400); alter table posts alter title type words`,
  `alter table posts drop constraint posts_author_fkey; drop table people`,
  `delete from prices where code = 'c1' and status = 'void'; alter table prices add primary key (code)`,
  `update prices set status = 'paid' where status = 'void'; alter table prices add constraint s check (status in ('new', 'paid'))`,
  `alter table people enable row level security; create policy own on people using (age > 0)`,
];

/** Of the failing ones, those that only a run with the real rows can show. */
export const foundHereOnly = [
  ...alwaysFails.slice(1), // made rows show the first as well
  `do $$ begin execute 'alter table people alter mail set not null'; end $$`,
  `alter table prices add column a int; update prices set a = (data ->> 'a')::int`,
  `alter table prices add column owner int not null default 0 references people (id)`,
  `create table totals (code text primary key, amount numeric); insert into totals select code, amount from prices`,
  `create unique index concurrently on prices (code); drop index prices_code_idx`,
];
