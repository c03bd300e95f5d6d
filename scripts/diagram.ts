// bun run db:diagram: writes docs/SCHEMA.md from schema.ts, a Mermaid entity
// diagram and a table for each table. Needs no database.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { root } from "../src/env";
import { jsonFlag, readOptions } from "./lib/options";
import { print, printJson, refusal } from "./lib/report";
import { diagramFile, drawDiagram, isDiagram } from "./schema/mermaid";

const usage = `bun run db:diagram [flags]

Writes ${diagramFile} from schema.ts: a Mermaid diagram and a table for each table.`;

readOptions(usage, {
  ...jsonFlag,
});

const { describeSchema } = await import("./schema/describe-schema");
const path = join(root, diagramFile);
const page = drawDiagram(await describeSchema(""));
const old = existsSync(path) ? readFileSync(path, "utf8") : undefined;
if (old !== undefined && !isDiagram(old))
  throw refusal(`${diagramFile} is not a page that db:diagram has written`, {
    hint: `move it, or delete it, and run \`bun run db:diagram\` again`,
  });
const isCurrent = old === page;
if (isCurrent) print(`Nothing to write: ${diagramFile} is current`);
else {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, page);
  print(`Wrote: ${diagramFile}`);
}
printJson({ file: diagramFile, written: !isCurrent });
