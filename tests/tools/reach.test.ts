// How far statements reach: the database, the server, or what is outside of it.
import { expect, test } from "bun:test";
import {
  findCodeReach,
  followReach,
  type Reach,
  readReaches,
} from "../../scripts/migrations/reach";
import { splitStatements } from "../../scripts/migrations/statements";

/** Statements that need no other to tell how far they reach. */
const alone: Record<Reach, string> = {
  database: `drop user mapping for a server b; select lo_create(1);
    select pg_logical_emit_message(true, 'a', 'b'); comment on table t is 'role';
    alter table t drop role; grant select ("c") on t to "b"; grant select on "database" to b;
    alter default privileges for role x grant select on tables to y;
    insert into docs values ('create role x'), ('pg_promote()'), (E'lo_export()'); copy t from stdin;
    alter table users add column x int; create table database (role int); select copy_to from t; create language plperlu;
    insert into t ("grant") select a from b on conflict do nothing;
    create function mk() returns void language plpgsql as 'begin create role z; end';
    create table if not exists c (a int default pg_promote()); create foreign table f (id int) server s;
    do $$ begin execute format('grant select on %I to %I', a, b); execute format('drop table %I', b); end $$;
    do $$ begin
      -- create role x
      /* create role x */ perform a; end $$;
    do $$ declare s text; begin
      for s in select 'grant select on t to a with grant option' from b loop execute s; end loop; end $$`,
  server: `create role x; alter user a; drop group a; alter tablespace a rename to b; drop database a;
    revoke "a" from "b"; grant connect on database a to b; revoke create on tablespace a from b;
    grant set on parameter work_mem to a; reassign owned by a to b; drop owned by a;
    alter system set work_mem = '4MB'; prepare transaction 'a'; comment on role a is 'b';
    comment on database a is 'b'; security label on tablespace a is 'b';
    insert into pg_authid values (1); update pg_catalog.pg_database set datname = 'a';
    delete from pg_db_role_setting; delete from pg_auth_members; delete from pg_tablespace;
    delete from pg_shdescription; delete from pg_shseclabel; delete from pg_shdepend;
    delete from pg_parameter_acl; delete from pg_replication_origin; delete from pg_subscription;
    create extension if not exists pg_cron; create extension "pg_cron";
    select pg_terminate_backend(1); select pg_cancel_backend(1); select pg_reload_conf();
    select pg_rotate_logfile(); select pg_promote(); select "pg_switch_wal" ();
    select pg_create_restore_point('a'); select pg_backup_start('a'); select pg_backup_stop();
    select pg_wal_replay_pause(); select pg_replication_origin_create('a'); select pg_stat_reset();
    select pg_stat_statements_reset(); select pg_log_backend_memory_contexts(1);
    create table t as select pg_promote(); create table t as with a as (select 1) select pg_promote();
    create table t as values (pg_promote()); create table t as execute q(pg_promote());
    do $$ begin execute format('grant %I to %I', a, b); end $$;
    do $$ begin execute 'create ro' || 'le x'; end $$; do $$ begin execute 'alter ' || kind || ' x'; end $$;
    do $$ begin execute 'create' || kind; end $$; do $$ begin execute format('drop %s %I', a, b); end $$;
    do $$ begin execute format('alter %1$s x', a); end $$; do $$ begin execute format('drop %I x', a); end $$;
    do $$ begin perform run('grant a to b', 'log it on c'); end $$;
    do $$ /* a */ begin create
      role x; /* b */ end $$; do $$ begin perform "pg_promote"(); end $$`,
  outside: `create subscription s connection 'x' publication p; alter subscription a disable; drop subscription a;
    import foreign schema a from server b into c; copy t from program 'a'; copy t to '/tmp/x'; copy t to e'/a';
    do $$ begin copy t to E'/a'; end $$; do $$ begin execute format('copy t from %L', a); end $$;
    do $$ begin execute 'copy t to ' || a; end $$;
    select dblink('a', 'b'); select dblink.exec('a'); select pg_create_logical_replication_slot('a', 'b');
    select pg_create_physical_replication_slot('a'); select pg_copy_logical_replication_slot('a', 'b');
    select pg_drop_replication_slot('a'); select pg_sync_replication_slots();
    select pg_logical_slot_get_changes('a', null, null); select pg_replication_slot_advance('a', 'b');
    select lo_import('/a'); select lo_export(1, '/a');
    select pg_read_file('a'); select pg_read_binary_file('a'); select pg_file_write('a', 'b', true);
    select pg_ls_dir('a'); select pg_ls_logdir(); select pg_stat_file('a');
    select http(('GET', 'a', null, null, null)); select http_get('a'); select http_post('a');
    select http_put('a'); select http_delete('a'); select http_patch('a'); select http_head('a');
    select net.http_post('a'); select aws_s3.query_export_to_s3('a', 'b'); select "aws_lambda"."invoke"('a');
    select aws_commons_x('a'); select cron.unschedule(1); update cron.job set active = false;
    create materialized view m as select * from dblink('a', 'b'); create table t as select pg_read_file('a');
    do language plperlu $$ 1 $$; do language plpython3u $$ 1 $$; do language 'plpythonu' $$ 1 $$;
    do language pltclu $$ 1 $$; do language plsh $$ 1 $$`,
};

/** Reads the statements of one file. */
function read(text: string, foreign?: string[]) {
  const reaches = followReach(foreign)(splitStatements(text), text);
  return reaches.map(({ statement, reach, isNoSchema }) => [
    statement.text,
    reach,
    isNoSchema,
  ]);
}

test("a statement tells how far it reaches", () => {
  for (const [reach, text] of Object.entries(alone))
    for (const statement of splitStatements(text))
      expect(read(statement.text)).toEqual([
        [statement.text, reach, expect.anything()],
      ]);
});

test("what a statement uses and writes to tells how far it reaches, and whether the schema is the same without it", () => {
  const [same, changes] = [true, false];
  const file: [statement: string, Reach, isNoSchema?: boolean][] = [
    // What is defined does not run yet.
    [
      "create function mk() returns void language plpgsql as 'begin create role z; end'",
      "database",
    ],
    ["select my_mk(), mk2(), mk$()", "database"],
    ["select mk()", "server", changes],
    ["select my_mk(), mk()", "server", changes],
    [
      "create or replace procedure s.pr() language plpgsql as 'begin create role z; end'",
      "database",
    ],
    ["call pr()", "server", changes],
    [
      `create function "far"() returns text language plpython3u as ''`,
      "database",
    ],
    ["select far()", "outside", changes],
    [
      "create function far() returns void language plpgsql as 'begin create role z; end'",
      "database",
    ],
    ["select far()", "outside", changes],
    // What runs where something is written.
    [
      "create trigger tr after insert on users for each row execute function mk()",
      "database",
    ],
    ["alter table users add column x int", "database"],
    ["select * from users", "database"],
    ["insert into users values (1)", "server", same],
    ["update users set a = 1", "server", same],
    ["delete from users", "server", same],
    ["truncate users", "server", same],
    [
      "merge into users using a on true when matched then delete",
      "server",
      same,
    ],
    ["copy users from stdin", "server", same],
    [
      "create constraint trigger tr after insert on s.teams for each row execute function mk()",
      "database",
    ],
    ["insert into s.teams values (1)", "server", same],
    ["create rule r as on insert to notes do also select mk()", "database"],
    ["insert into notes values (1)", "server", same],
    ["create policy p on pages using (far() is null)", "database"],
    ["update pages set a = 1", "outside", same],
    ["create unlogged table logs (a text default far())", "database"],
    ["insert into logs default values", "outside", same],
    ["create table if not exists jobs (a text default mk())", "database"],
    ["insert into jobs default values", "server", same],
    ["create foreign table abroad (id int) server s", "database"],
    ["select * from abroad", "database"],
    ["create view near as select * from abroad", "database"],
    ["create view plain as select * from plains", "database"],
    ["select * from near", "database"],
    ["update near set id = 1", "outside", same],
    ["update plain set id = 1", "database"],
    [
      "create foreign table part partition of whole for values in (1) server s",
      "database",
    ],
    ["insert into part values (1)", "outside", same],
    ["insert into whole values (1)", "outside", same],
    ["create or replace recursive view w (a) as select mk()", "database"],
    ["select * from w", "server", changes],
    [`create view "o'w" as select mk()`, "database"],
    [`select * from "o'w"`, "server", changes],
    ["create table copied as table w", "server", changes],
    ["create materialized view m as select pg_promote()", "server", changes],
    ["create table made as select pg_promote()", "server", changes],
    ["import foreign schema a from server b into c", "outside", changes],
    ["call pg_promote()", "server", changes],
    // A block may do more than what reaches far.
    ["create role x", "server", same],
    ["grant call to import", "server", same],
    ["alter database a set work_mem = '1MB'", "server", same],
    ["do $$ begin create role x; end $$", "server", same],
    ["do $$ begin copy a to program 'b'; end $$", "outside", same],
    ["do $$ begin alter subscription a disable; end $$", "outside", same],
    [
      "do $$ begin import foreign schema a from server b into c; end $$",
      "outside",
      changes,
    ],
    ["do $$ begin create role x; create table t (); end $$", "server", changes],
    [
      "do $$ begin alter role x login; alter table t add a int; end $$",
      "server",
      changes,
    ],
    ["do $$ begin drop role x; drop table t; end $$", "server", changes],
    [
      "do $$ begin create role x; grant select on t to x; end $$",
      "server",
      changes,
    ],
    [
      "do $$ begin drop role x; revoke select on t from x; end $$",
      "server",
      changes,
    ],
    [
      "do $$ begin create role x; comment on table t is 'a'; end $$",
      "server",
      changes,
    ],
  ];
  const text = file.map(([statement]) => statement).join(";\n");

  expect(read(text)).toEqual(
    file.map(([statement, reach, isNoSchema = false]) => [
      statement,
      reach,
      isNoSchema,
    ]),
  );
});

test("foreign tables that exist, and what an earlier migration has defined, count as well", () => {
  const write = "insert into far_away values (1)";
  const migrations = [
    "create function mk() returns void language sql as 'select pg_promote()'",
    "select mk()",
  ].map((text) => ({ text }) as never);

  const found = readReaches(migrations);

  expect(read(write)).toEqual([[write, "database", false]]);
  expect(read(write, ["Far_away"])).toEqual([[write, "outside", true]]);
  expect(
    migrations.map((one) => found.get(one)?.map(({ reach }) => reach)),
  ).toEqual([["database"], ["server"]]);
});

test("the code of a function tells how far it reaches", () => {
  const define = (body: string) =>
    `CREATE OR REPLACE FUNCTION public.f()\n RETURNS void\n LANGUAGE plpgsql\nAS $function$${body}$function$\n`;

  expect(
    ["select 1", "create role x", "copy a to program 'b'"].map((body) =>
      findCodeReach(define(body)),
    ),
  ).toEqual(["database", "server", "outside"]);
});
