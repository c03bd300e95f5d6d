// Where the database is: a file, or a server that speaks libSQL's protocol.
const { DATABASE_URL = "file:./local.db", DATABASE_AUTH_TOKEN } = process.env;

export const address = { url: DATABASE_URL, authToken: DATABASE_AUTH_TOKEN };

/** The path of the file; undefined when the database is on a server. */
export const file = DATABASE_URL.startsWith("file:")
  ? DATABASE_URL.slice("file:".length).replace(/\?.*/, "")
  : undefined;

/** The name of the database that --confirm takes: the file, or the server. */
export const name = file ?? new URL(DATABASE_URL).host;
