// Which psql, pg_dump and pg_restore are taken, and what they are told of the server:
// here they are programs that only say their version.
import { expect } from "bun:test";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { $ } from "bun";
import { startEmbedded, stopEmbedded } from "../../scripts/server/embedded";
import { clusterAddress, copyCluster } from "../lib/cluster";
import { urlOf } from "../lib/command";
import { findFreePort } from "../lib/ports";
import { test } from "../lib/test";
import { copyWithDocker, say } from "../lib/told-docker";

interface Case {
  /** The versions of the programs in each folder; `path` is on the PATH. */
  folders: Record<string, Partial<Record<string, number>>>;
  /** The programs that are asked for; without them, what reads an archive. */
  programs?: string[];
  url: string;
  /** What docker answers: without it there is no container. */
  docker?: Record<string, string>;
}

interface Found {
  command: string;
  major: number;
  login: string[];
  variables: Record<string, string>;
}

/** What libpq reads of its environment, without `PG`:
 * https://www.postgresql.org/docs/current/libpq-envars.html */
const LIBPQ = `HOST HOSTADDR PORT DATABASE USER PASSWORD
  PASSFILE SERVICE SERVICEFILE SYSCONFDIR REQUIREAUTH CHANNELBINDING
  OPTIONS APPNAME SSLMODE REQUIRESSL SSLNEGOTIATION SSLCOMPRESSION
  SSLCERT SSLKEY SSLCERTMODE SSLROOTCERT SSLCRL SSLCRLDIR
  SSLSNI REQUIREPEER SSLMINPROTOCOLVERSION SSLMAXPROTOCOLVERSION GSSENCMODE KRBSRVNAME
  GSSLIB GSSDELEGATION CONNECT_TIMEOUT CLIENTENCODING TARGETSESSIONATTRS LOADBALANCEHOSTS
  MINPROTOCOLVERSION MAXPROTOCOLVERSION DATESTYLE TZ GEQO`.split(/\s+/);

const finder = `
  import { writeFileSync } from "node:fs";
  const { spawnSync } = Bun;
  Bun.spawnSync = (command, options) => spawnSync(command, { env: process.env, ...options });
  const { findArchiveReader, findPostgresTools } = await import("./scripts/server/client-programs");
  const { readEnv } = await import("./src/env");
  const warnings = [];
  process.stderr.write = (text) => warnings.push(text);
  const outcomes = [];
  for (const { programs, variables, answers } of JSON.parse(process.env.CASES)) {
    Object.assign(process.env, variables);
    writeFileSync("bin/docker.answers", answers);
    const found = await (programs
      ? findPostgresTools(programs, readEnv(), "any").then(({ tools }) => tools)
      : findArchiveReader(readEnv()).then((tool) => ({ tool }))
    ).catch(({ message, hint, code, exitCode }) =>
      ({ refused: [code, exitCode, message, hint].join("\\n") }));
    for (const tool of Object.values(found).filter(({ command }) => command))
      Object.assign(tool, { command: tool.command.join(" "), login: tool.login("it's", "tests") });
    outcomes.push({ ...found, warned: warnings.splice(0).join("") });
  }
  console.log(JSON.stringify(outcomes));`;

/** Finds programs in a clone, where there are only the given ones. */
async function find<Name extends string>(
  cases: Record<Name, Case>,
): Promise<
  Record<Name, Record<string, Found> & { refused?: string; warned: string }>
> {
  using clone = copyWithDocker();
  clone.replace(
    "scripts/server/client-programs.ts",
    "FOLDERS.flatMap(",
    "[`${process.env.FOLDERS}/*/bin`].flatMap(",
  );
  const names = Object.keys(cases) as Name[];
  const given = names.map((name, index) => {
    const { folders, programs, url, docker } = cases[name];
    const base = join(clone.folder, String(index));
    for (const [folder, versions] of Object.entries(folders))
      for (const [program, major] of Object.entries(versions)) {
        const file = join(String(index), folder, "bin", program);
        const text = `#!/bin/sh\necho "${program} (PostgreSQL) ${major}.1"\n`;
        clone.write(file, text);
        chmodSync(join(clone.folder, file), 0o755);
      }
    const answers = Object.entries(docker ?? {}).map(
      ([pattern, answer]) => `${pattern}) ${answer};;\n`,
    );
    return {
      programs,
      variables: {
        DATABASE_URL: url,
        FOLDERS: `${base}/in`,
        PATH: `${join(clone.folder, "bin")}:${join(base, "path/bin")}`,
      },
      answers: `case "$*" in\n${answers.join("")}esac\n`,
    };
  });
  const output = await $`${process.execPath} -e ${finder}`
    .cwd(clone.folder)
    .env({
      PATH: join(clone.folder, "bin"),
      CASES: JSON.stringify(given),
      ...Object.fromEntries(LIBPQ.map((name) => [`PG${name}`, "x"])),
    })
    .text();
  const outcomes = JSON.parse(output.replaceAll(`${clone.folder}/`, ""));
  return Object.fromEntries(
    names.map((name, index) => [name, outcomes[index]]),
  ) as never;
}

test("programs of the server's version are taken, else newer ones, and older ones where that will do", async ({
  sql,
  url,
  address,
}) => {
  const [server] = await sql<{ major: number; id: string }[]>`
    select current_setting('server_version_num')::int / 10000 as major,
      system_identifier::text as id from pg_control_system()`;
  const { major: own = 0, id = "" } = server ?? {};
  const dataDir = mkdtempSync(join(tmpdir(), "starter-standby-"));
  await copyCluster(dataDir);
  writeFileSync(join(dataDir, "postgres/standby.signal"), "");
  const standby = clusterAddress(await findFreePort());
  await startEmbedded(dataDir, standby);
  const psql = (major: number) => ({ psql: major });
  const reader = (major: number) => ({ pg_restore: major });
  const both = (dump: number, restore: number) => ({
    pg_dump: dump,
    pg_restore: restore,
  });
  const archive = ["pg_dump", "pg_restore"];
  const shell = { url, programs: ["psql"] };
  const container = { "ps*": say("c1\\nc2\\n"), "exec*": say(id) };

  const found = await find({
    "its own on the PATH": {
      ...shell,
      folders: { path: psql(own), "in/a": psql(own + 1) },
    },
    "its own elsewhere": {
      ...shell,
      folders: {
        path: psql(own - 3),
        "in/a": psql(own + 1),
        "in/b": psql(own),
      },
    },
    "the next newer": {
      ...shell,
      folders: {
        path: psql(own - 3),
        "in/a": psql(own + 2),
        "in/b": psql(own + 1),
      },
    },
    "a newer on the PATH": {
      ...shell,
      folders: {
        path: psql(own + 1),
        "in/a": psql(own - 1),
        "in/b": psql(own + 2),
      },
    },
    "the newest of older": {
      ...shell,
      folders: {
        path: psql(own - 3),
        "in/a": psql(own - 1),
        "in/b": psql(own - 2),
      },
    },
    "an older pg_dump": {
      url,
      programs: archive,
      folders: { path: both(own - 1, own - 1), "in/a": both(own, own - 1) },
    },
    "both from one folder": {
      url,
      programs: archive,
      folders: { path: { pg_dump: own }, "in/a": both(own + 1, own + 1) },
    },
    "no pg_restore": {
      url,
      programs: archive,
      folders: { path: { pg_dump: own } },
    },
    "an older pg_restore": {
      url,
      programs: ["pg_restore"],
      folders: { path: reader(own - 1) },
    },
    "in the container": {
      ...shell,
      folders: { path: psql(own - 1) },
      docker: container,
    },
    "another server's container": {
      ...shell,
      folders: {},
      docker: { ...container, "exec*": say("7") },
    },
    "no container": { ...shell, folders: {}, docker: {} },
    "an archive of a standby": {
      url: urlOf(standby),
      folders: { path: reader(18), "in/a": reader(19) },
    },
    "an archive without a server": {
      url: "postgres://a:b@127.0.0.1:1/c",
      folders: { path: reader(12), "in/a": reader(19), "in/b": reader(18) },
    },
    "an archive without anything": {
      url: "postgres://a:b@127.0.0.1:1/c",
      folders: {},
    },
  });
  await stopEmbedded(dataDir);
  rmSync(dataDir, { recursive: true });

  const told = Object.entries(found).map(
    ([name, { refused, warned, ...tools }]) => {
      const taken = Object.values(tools).map(
        ({ command, major }) => `${command.replace(/^\d+\//, "")} ${major}`,
      );
      return [name, `${refused ?? taken.join(", ")}${warned && `, ${warned}`}`];
    },
  );
  const install = `install PostgreSQL's client programs, version ${own} or newer, and put them on the PATH: from apt.postgresql.org \`apt-get install postgresql-client-${own}\`, with Homebrew \`brew install postgresql@${own}\``;
  const refuse = (what: string) =>
    `CONFIGURATION\n2\n${what}, and the server is PostgreSQL ${own}\n${install}`;
  expect(Object.fromEntries(told)).toEqual({
    "its own on the PATH": `psql ${own}`,
    "its own elsewhere": `in/b/bin/psql ${own}`,
    "the next newer": `in/b/bin/psql ${own + 1}`,
    "a newer on the PATH": `psql ${own + 1}`,
    "the newest of older": `in/a/bin/psql ${own - 1}, Warning: psql is version ${own - 1}, and the server is PostgreSQL ${own}: some of its \\ commands may fail\n`,
    "an older pg_dump": refuse(
      `pg_dump is version ${own - 1}, pg_restore is version ${own - 1}`,
    ),
    "both from one folder": `in/a/bin/pg_dump ${own + 1}, in/a/bin/pg_restore ${own + 1}`,
    "no pg_restore": refuse("pg_restore is not installed"),
    "an older pg_restore": `pg_restore ${own - 1}`,
    "in the container": `docker exec --interactive c1 psql ${own}`,
    "another server's container": refuse("psql is not installed"),
    "no container": refuse("psql is not installed"),
    "an archive of a standby": "pg_restore 18",
    "an archive without a server": "in/a/bin/pg_restore 19",
    "an archive without anything":
      "UNREACHABLE\n1\nnothing listens on 127.0.0.1:1\nstart it with `bun run db:start`",
  });
  expect(found["in the container"].psql?.login).toEqual([
    ...["--username", address.user, "--dbname"],
    expect.stringMatching(/^dbname='it\\'s' .* application_name='tests'$/),
  ]);
});

test("programs are told the address in full, and nothing that the environment says of another", async ({
  address,
}) => {
  const { host, port, user, password = "", database } = address;
  const query = new URLSearchParams({
    sslmode: "disable",
    sslrootcert: "/a.pem",
    sslcert: "/b.pem",
    sslkey: "/b.key",
    sslnegotiation: "postgres",
    ssl_min_protocol_version: "TLSv1.2",
    ssl_max_protocol_version: "TLSv1.3",
    channel_binding: "disable",
    application_name: "mine",
    options: "-c a.b=1",
    connect_timeout: "7",
    keepalives: "0",
    keepalives_idle: "1",
    keepalives_interval: "2",
    keepalives_count: "4",
    tcp_user_timeout: "5",
  });
  const url = `postgres://${user}:${encodeURIComponent(password)}@127.0.0.1:1,${host}:${port}/${database}?${String(query).replaceAll("+", "%20")}`;
  const folders = { path: { psql: 99, pg_dump: 99, pg_restore: 99 } };

  const found = await find({
    psql: { url, folders, programs: ["psql"] },
    dump: { url, folders, programs: ["pg_dump", "pg_restore"] },
    usual: { url: urlOf(address), folders, programs: ["psql"] },
  });

  const told = ({ variables = {}, login }: Partial<Found> = {}): Record<
    string,
    unknown
  > => {
    const own = Object.entries(variables).filter(([name]) =>
      /^(PG|LC_)/.test(name),
    );
    return { ...Object.fromEntries(own), login };
  };
  const nowhere = "/nonexistent";
  const common = {
    PGHOST: host,
    PGPORT: String(port),
    PGUSER: user,
    PGPASSWORD: password,
    PGPASSFILE: nowhere,
    PGDATABASE: database,
    PGGSSENCMODE: "disable",
  };
  const whole = {
    ...common,
    PGSSLMODE: "disable",
    PGSSLROOTCERT: "/a.pem",
    PGSSLCERT: "/b.pem",
    PGSSLKEY: "/b.key",
    PGSSLNEGOTIATION: "postgres",
    PGSSLMINPROTOCOLVERSION: "TLSv1.2",
    PGSSLMAXPROTOCOLVERSION: "TLSv1.3",
    PGCHANNELBINDING: "disable",
    PGAPPNAME: "mine",
    PGOPTIONS: "-c a.b=1",
    login: [
      "--dbname",
      "dbname='it\\'s' connect_timeout='7' keepalives='0' keepalives_idle='1' keepalives_interval='2' keepalives_count='4' tcp_user_timeout='5' application_name='tests'",
    ],
  };
  expect(told(found.psql.psql)).toEqual(whole);
  expect(told(found.dump.pg_dump)).toEqual({ ...whole, LC_ALL: "C" });
  expect(told(found.dump.pg_restore)).toEqual({ ...whole, LC_ALL: "C" });
  expect(told(found.usual.psql)).toEqual({
    ...common,
    PGSSLMODE: address.sslmode,
    PGSSLROOTCERT: nowhere,
    PGSSLCERT: nowhere,
    PGSSLKEY: nowhere,
    login: [
      "--dbname",
      "dbname='it\\'s' connect_timeout='10' keepalives='1' keepalives_idle='30' keepalives_interval='10' keepalives_count='3' tcp_user_timeout='60000' application_name='tests'",
    ],
  });
});
