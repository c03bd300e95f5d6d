// Quotes names, strings and bodies for SQL that is built as text.

/** Quotes one identifier. postgres.js' own helper would split it at a dot. */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** Quotes a string, whatever `standard_conforming_strings` is set to. */
export function quoteLiteral(text: string): string {
  const quoted = `'${text.replaceAll("'", "''").replaceAll("\\", "\\\\")}'`;
  return text.includes("\\") ? ` E${quoted}` : quoted;
}

/** Quotes the body of a function or of a DO block: with `$$`, or with a tag where it contains that. */
export function quoteBody(body: string): string {
  let tag = "$$";
  for (let count = 1; body.includes(tag); count += 1) tag = `$body${count}$`;
  return tag + body + tag;
}
