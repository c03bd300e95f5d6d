// Names and strings inside SQL that is put together as text.

/** Quotes an identifier. postgres.js' own helper takes a dot for a schema's. */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** Quotes a string, whatever the server takes a backslash for. */
export function quoteLiteral(text: string): string {
  const quoted = `'${text.replaceAll("'", "''").replaceAll("\\", "\\\\")}'`;
  return text.includes("\\") ? ` E${quoted}` : quoted;
}
