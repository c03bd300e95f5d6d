// A lock between processes: the file lock that SQLite takes. The operating system
// releases it when the process ends, however it ends.
import { Database } from "bun:sqlite";

const POLL_MS = 50;

/**
 * Runs `work` while holding the lock on a file; waits for as long as another
 * process holds it.
 *
 * @param onWait called once, if it has to wait.
 * @throws what `work` throws, and an error when the file cannot be opened.
 */
export async function withFileLock<T>(
  file: string,
  work: () => Promise<T>,
  onWait = () => {},
): Promise<T> {
  using lock = new Database(file, { create: true });
  for (let attempt = 1; !tryLock(lock); attempt += 1) {
    if (attempt === 1) onWait();
    await Bun.sleep(POLL_MS);
  }
  return await work();
}

function tryLock(lock: Database): boolean {
  try {
    lock.run("pragma journal_mode = memory"); // works on a full disk
    lock.run("begin exclusive");
    return true;
  } catch (error) {
    if ((error as { code?: string }).code === "SQLITE_BUSY") return false;
    throw error;
  }
}
