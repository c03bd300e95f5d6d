// TLS options from `sslmode` and the related parameters, with libpq's meaning.
// https://www.postgresql.org/docs/current/libpq-ssl.html
import { existsSync, readFileSync, statSync } from "node:fs";
import { isIP } from "node:net";
import { checkServerIdentity, type ConnectionOptions } from "node:tls";
import { type DatabaseAddress, isLocal, misconfigured } from "./database-url";

/**
 * Returns the options of `tls.connect` for one host of an address; false when the
 * connection is not encrypted. With `prefer` and `allow`, the caller also tries
 * the other way.
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
  // With a named certificate authority, the certificate is checked in every mode.
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
    minVersion: settings.ssl_min_protocol_version,
    maxVersion: settings.ssl_max_protocol_version,
    // https://www.postgresql.org/docs/current/protocol-flow.html (SSL)
    ALPNProtocols: ["postgresql"],
  };
}

/** Finds the file of the system's certificate authorities; undefined when unknown. */
export function findSystemAuthorities(): string | undefined {
  const files = [
    process.env.SSL_CERT_FILE ?? "", // OpenSSL's own variable
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt", // Fedora
    "/etc/ssl/cert.pem", // macOS
  ];
  return files.find((file) => existsSync(file));
}

/** Reads the system's authorities: JavaScript would use its own, built-in list. */
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

/** Refuses a key that others may read, as libpq does. */
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
 * Returns the address in the form of node-postgres, postgres.js and drizzle-kit:
 * its first host only. `prefer` and `allow` become no TLS on this machine, and TLS
 * elsewhere.
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
