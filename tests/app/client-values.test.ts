// What the client stores and reads, for every type of drizzle, does not depend
// on the zone of the process, and is what postgres.js stored and read.
import { expect, test as bunTest } from "bun:test";
import { join } from "node:path";
import { root } from "../../src/env";
import { encodeValues } from "../../src/infrastructure/database/values";
import { testDatabase as test } from "../lib/database";

const script = "tests/lib/every-type.ts";

for (const TZ of ["UTC", "Europe/Berlin"])
  test(`every type is stored and read in ${TZ}`, "empty", async (database) => {
    const expected = await Bun.file(
      join(root, "tests/lib/every-type.json"),
    ).json();

    const { stdout, stderr } = await database.run(script, { TZ });

    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toEqual(expected);
  });

bunTest("more parameters than the protocol can count are refused", () => {
  const most = Array.from({ length: 65_535 }, () => 1);

  expect(encodeValues(most)).toHaveLength(65_535);
  expect(() => encodeValues([...most, 1])).toThrow(
    "a statement has 65536 parameters, and may have 65535",
  );
});
