// How a connection is encrypted and what it checks: `sslmode` and its like, as
// libpq means them. https://www.postgresql.org/docs/current/libpq-ssl.html
import { existsSync, readFileSync, statSync } from "node:fs";
import { isIP } from "node:net";
import { checkServerIdentity, type ConnectionOptions } from "node:tls";
import { type DatabaseAddress, isLocal, misconfigured } from "./database-url";

/**
 * The options of `tls.connect` for one host of an address; false where the
 * connection is not encrypted. With `prefer` and `allow` libpq also tries the
 * other way, which is left to the caller.
 *
 * @throws like `readEnv` when a file cannot be read.
 */
export function tlsOptions(
  address: DatabaseAddress,
  host = address.host,
): ConnectionOptions | false {
  const { sslmode, sslrootcert, settings = {} } = address;
  if (sslmode === "disable" || host.startsWith("/")) return false;
  const { sslcert, sslkey } = settings;
  if (sslkey) refuseOpenKey(address, sslkey);
  // A certificate authority that is named is asked in every mode.
  const isChecked = sslmode.startsWith("verify") || sslrootcert !== undefined;
  const authorities =
    sslrootcert && sslrootcert !== "system"
      ? readFile(address, "sslrootcert", sslrootcert)
      : isChecked && readSystemAuthorities();
  return {
    rejectUnauthorized: isChecked,
    ...(authorities && { ca: authorities }),
    ...(sslcert && { cert: readFile(address, "sslcert", sslcert) }),
    ...(sslkey && { key: readFile(address, "sslkey", sslkey) }),
    ...(!isIP(host) && { servername: host }),
    checkServerIdentity: (_, certificate) =>
      sslmode === "verify-full"
        ? checkServerIdentity(host, certificate)
        : undefined,
    ...(settings.ssl_min_protocol_version && {
      minVersion: settings.ssl_min_protocol_version,
    }),
    ...(settings.ssl_max_protocol_version && {
      maxVersion: settings.ssl_max_protocol_version,
    }),
    // https://www.postgresql.org/docs/current/protocol-flow.html (SSL)
    ALPNProtocols: ["postgresql"],
  };
}

/** The file of the system's certificate authorities; undefined where none is known. */
export function findSystemAuthorities(): string | undefined {
  const files = [
    process.env.SSL_CERT_FILE ?? "", // OpenSSL's own variable
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt", // Fedora
    "/etc/ssl/cert.pem", // macOS
  ];
  return files.find((file) => existsSync(file));
}

/** Without it JavaScript trusts the authorities that it brings along itself. */
function readSystemAuthorities(): string | undefined {
  const file = findSystemAuthorities();
  return file && readFileSync(file, "utf8");
}

function readFile(
  { variable }: DatabaseAddress,
  name: string,
  file: string,
): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw misconfigured(
      `the ${name} of ${variable} cannot be read: ${(error as Error).message}`,
      `set \`${name}\` to a file in PEM form`,
    );
  }
}

/** libpq uses no key that others may read. */
function refuseOpenKey({ variable }: DatabaseAddress, file: string): void {
  const status = statSync(file, { throwIfNoEntry: false });
  const others = status?.uid === 0 ? 0o027 : 0o077;
  if (status && status.mode & others)
    throw misconfigured(
      `the sslkey of ${variable} can be read by others`,
      `run \`chmod 600\` on the file of the key`,
    );
}

/**
 * The address as node-postgres, postgres.js and drizzle-kit take it: its first
 * host, and of the two ways to connect that `prefer` leaves open the plain one on
 * this machine, the encrypted one elsewhere.
 *
 * @throws like `tlsOptions`.
 */
export function connectionOptions(address: DatabaseAddress) {
  const { host, port, user, database, sslmode } = address;
  const password = address.password || undefined; // drizzle-kit refuses an empty one
  const isOpen = sslmode === "prefer" || sslmode === "allow";
  const ssl = isOpen && isLocal(address) ? false : tlsOptions(address);
  return { host, port, user, password, database, ssl };
}
