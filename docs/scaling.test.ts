// The two migrations of docs/SCALING.md that partition builds, as they stand there, with
// writes at each stage and the way back: `bun run test:recipes`.
import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../src/env";
import { migrations, ownMigrations } from "../tests/lib/migrations";
import { test } from "../tests/lib/test";

/** The page, without an index that the fixture does not have. */
const page = readFileSync(join(root, "docs/SCALING.md"), "utf8").replace(
  /^.*queued_idx.*\n/gm,
  "",
);
const [, beside = "", swap = ""] = page.split(/^### \d\. /m);
const readBlocks = (markdown: string, language: string) =>
  [
    ...markdown.matchAll(
      new RegExp(`^\`\`\`${language}\\n([^]*?)^\`\`\``, "gm"),
    ),
  ].map(([, body = ""]) => body);

test(
  "partitions builds by tenant while it is written to, and goes back",
  "seeded",
  async ({ run, sql, change, project }) => {
    const nameFile = (stage: number, name: string) =>
      `${migrations}/${String(ownMigrations.length + stage).padStart(4, "0")}_${name}`;
    const write = (stage: number, name: string, markdown: string) => {
      const [up = "", down = ""] = readBlocks(markdown, "sql");
      project.write(`${nameFile(stage, name)}.sql`, up);
      project.write(`${nameFile(stage, name)}.down.sql`, down);
    };
    const succeed = async (command: string) => {
      const { exitCode, stdout, stderr } = await run(command);
      expect({ command, exitCode, stdout, stderr }).toMatchObject({
        exitCode: 0,
      });
      return stdout;
    };
    /** Inserts, changes and deletes a row; returns how many rows the two tables do not share. */
    const useBoth = async (other: string) => {
      await sql`insert into builds (tenant_id, number, name, repository)
        select tenant_id, max(number) + 1, 'new', 'r' from builds group by tenant_id`;
      await sql`update builds set name = 'changed', tenant_id = (select max(id::text)::uuid from tenants)
        where id in (select id from builds where name = 'old' order by number limit 2)`;
      await sql`delete from builds where id in (select id from builds where name = 'old' order by number limit 1)`;
      await sql`delete from tenants where id = (
        select id from tenants where slug like 'tenant-%' order by slug limit 1)`;
      const differences = await sql.unsafe(
        `(table builds except table ${other}) union all (table ${other} except table builds)`,
      );
      return differences.length;
    };
    await sql`insert into tenants (name, slug) select 't', 'tenant-' || i from generate_series(10, 49) as i`;
    await sql`
      insert into builds (tenant_id, number, name, repository)
      select id, i + 1000 * row_number() over (), 'old', 'r' from tenants, generate_series(1, 10) as i`;

    await succeed("db:generate --custom partition");
    write(0, "partition", beside);
    await succeed("db:migrate");
    const filled = await useBoth("builds_partitioned");

    for (const diff of readBlocks(swap, "diff")) {
      const side = (omitted: string) =>
        diff
          .trimEnd()
          .split("\n")
          .filter((line) => line[0] !== omitted)
          .map((line) => line.slice(1))
          .join("\n");
      change(side("+"), side("-"));
    }
    await succeed("db:generate swap");
    write(1, "swap", swap);
    const checked = await succeed("db:check");
    await succeed("db:migrate");
    const swapped = await useBoth("builds_unpartitioned");
    const [plan] = await sql`
      select relkind, (select count(*)::int from pg_inherits where inhparent = class.oid) as parts
      from pg_class as class where relname = 'builds'`;
    const current = await succeed("db:check");
    const pushed = await succeed("db:push --dry-run");
    await succeed("db:rollback");
    const back = await useBoth("builds_partitioned");

    expect([filled, swapped, back]).toEqual([0, 0, 0]);
    expect(plan).toEqual({ relkind: "p", parts: 16 });
    expect(checked).toContain("Checked: 0 errors");
    expect(current).toContain("Checked: 0 errors");
    expect(`${checked}${current}`).not.toContain("lint");
    expect(pushed).toContain(
      "Nothing to push: what differs is left unchanged in ",
    );
  },
);
