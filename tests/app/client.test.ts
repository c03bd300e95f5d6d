// The application's client, imported as an application does.
import { expect } from "bun:test";
import { spawn } from "bun";
import { urlOf } from "../lib/command";
import { testDatabase as test } from "../lib/database";
import { findFreePort } from "../lib/ports";
import { copyApplication } from "../lib/project";

const barrel = 'from "@/infrastructure/database"';

test(
  "connects with the first query, not with the import",
  "empty",
  async (database) => {
    using project = copyApplication();
    project.write(
      "app.ts",
      `import { db, users } ${barrel};\nconsole.log(typeof db, typeof users);\n`,
    );
    const DATABASE_URL = `postgres://u:p@127.0.0.1:${await findFreePort()}/app`;

    const outcome = await database.run(
      "app.ts",
      { DATABASE_URL },
      project.folder,
    );

    expect(outcome).toEqual({
      exitCode: 0,
      stdout: "object object\n",
      stderr: "",
    });
  },
);

test(
  "reads and writes with types, and lets the process end once it is closed",
  "migrated",
  async (database) => {
    using project = copyApplication();
    project.write(
      "app.ts",
      `import { closeDatabase, db, type NewUser, users } ${barrel};
const ada: NewUser = { name: "Ada", email: "ada@example.com" };
await db.insert(users).values(ada);
const find = (client: Pick<typeof db, "query">) =>
  client.query.users.findMany({ with: { members: true } });
for (const found of [await find(db), await db.transaction(find)])
  console.log(found[0]?.name, found[0]?.members.length);
await closeDatabase();
setTimeout(() => process.exit(9), 10_000).unref();
`,
    );

    // Variables of libpq, which pg would read as well.
    const others = {
      PGHOST: "192.0.2.1",
      PGPORT: "1",
      PGOPTIONS: "-c nonsense=1",
      PGREPLICATION: "database",
      PGSSLMODE: "verify-full",
      PGSSLNEGOTIATION: "nonsense",
      // Nor does the process wait for a limit.
      DATABASE_ACQUIRE_TIMEOUT: "60s",
      DATABASE_STATEMENT_TIMEOUT: "60s",
      DATABASE_CONNECT_TIMEOUT: "60s",
    };

    const outcome = await database.run("app.ts", others, project.folder);

    expect(outcome).toEqual({
      exitCode: 0,
      stdout: "Ada 0\nAda 0\n",
      stderr: "",
    });
  },
);

test(
  "reads from a replica and writes to the primary",
  "migrated",
  async (database) => {
    using project = copyApplication();
    const replica = `${database.name}_replica`;
    await database.sql.unsafe(`create database ${replica}`);
    const url = urlOf({ ...database.address, database: replica });
    await database.run("db:migrate", {
      DATABASE_URL: url,
      DATABASE_URL_UNPOOLED: url,
    });
    project.write(
      "app.ts",
      `import { closeDatabase, db, tenants } ${barrel};
await db.insert(tenants).values({ name: "A", slug: "a" });
const read = (client: Pick<typeof db, "select">) => client.select().from(tenants);
console.log((await read(db)).length, (await db.transaction(read)).length);
const related = (client: Pick<typeof db, "query">) => client.query.tenants.findMany();
console.log((await related(db)).length, (await related(db.$primary)).length);
await closeDatabase();
setTimeout(() => process.exit(9), 10_000).unref();
`,
    );

    const outcome = await database.run(
      "app.ts",
      { DATABASE_REPLICA_URLS: url },
      project.folder,
    );

    expect(outcome).toEqual({ exitCode: 0, stdout: "0 1\n0 1\n", stderr: "" });
  },
);

test(
  "reads answers that came while the process was suspended",
  "empty",
  async (database) => {
    using project = copyApplication();
    project.write(
      "app.ts",
      `import { closeDatabase, db } ${barrel};
const ask = () => db.execute("select pg_sleep(0.3)");
const askAtOnce = () => Promise.all([ask(), ask(), ask()]);
await askAtOnce();
const answers = askAtOnce();
await new Promise((resolve) => setImmediate(resolve));
console.log("sent");
console.log((await answers).length);
await closeDatabase();
`,
    );
    const child = database.start(
      "app.ts",
      { DATABASE_STATEMENT_TIMEOUT: "1s" },
      project.folder,
    );

    let output = "";
    for await (const chunk of child.stdout) {
      output += Buffer.from(chunk).toString();
      if (output !== "sent\n") continue;
      child.kill("SIGSTOP");
      await Bun.sleep(2500); // longer than the limit and its grace
      child.kill("SIGCONT");
    }

    expect(output).toBe("sent\n3\n");
  },
);

test("keeps its pool across hot reloads", "empty", async ({ url }) => {
  using project = copyApplication();
  const app = (version: number) =>
    project.write(
      "app.ts",
      `import { db } ${barrel};
const [row] = await db.execute("select pg_backend_pid() as pid");
console.log(${version}, row?.pid);
`,
    );
  app(1);
  const child = spawn([process.execPath, "--hot", "app.ts"], {
    cwd: project.folder,
    env: { PATH: process.env.PATH, DATABASE_URL: url },
    stdout: "pipe",
    stderr: "inherit",
  });

  const pids: string[] = [];
  let output = "";
  for await (const chunk of child.stdout) {
    output += Buffer.from(chunk).toString();
    const line = new RegExp(`^${pids.length + 1} (\\d+)\\n`, "m").exec(output);
    if (!line?.[1]) continue;
    pids.push(line[1]);
    if (pids.length === 3) break;
    app(pids.length + 1);
  }
  child.kill();
  await child.exited;

  expect(new Set(pids).size).toBe(1);
});
