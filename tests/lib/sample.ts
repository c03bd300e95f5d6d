// Sets how much a test run does of the long sweeps: a sample, or everything with ALL=1,
// as in CI.

export const isWhole = Boolean(process.env.ALL);

/** The seed of random choices; RANDOM_SEED=<number> sets it. */
export const seed = Number(
  process.env.RANDOM_SEED ?? (isWhole ? 1 : Date.now() % 1000),
);

/** How many processes do at once what only one may do. */
export const CROWD = isWhole ? 20 : 3;

/** Returns everything, or one of every `part` in a row, by the seed. */
export function sampleOf<T>(all: T[], part: number): T[] {
  return isWhole
    ? all
    : all.filter((_one, index) => index % part === seed % part);
}

/**
 * Returns `register` for tests of which one of about `part` is run, by their sentences
 * and the seed, where the files of the run are a sample; where not, each is run.
 */
export function oneOf<F extends (...args: never[]) => void>(
  part: number,
  register: F,
): F {
  const choose = (...args: never[]) => {
    const place = Bun.hash.crc32(String(args[0]));
    if (!process.env.TESTS_SAMPLED || place % part === seed % part)
      register(...args);
  };
  return choose as F;
}
