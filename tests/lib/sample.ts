// How much of the long sweeps a run of the tests takes: a sample, or with ALL=1,
// as in CI, all of it.

export const isWhole = Boolean(process.env.ALL);

/** Where random choices begin; RANDOM_SEED=<number> chooses it. */
export const seed = Number(
  process.env.RANDOM_SEED ?? (isWhole ? 1 : Date.now() % 1000),
);

/** How many do at once what only one may do. */
export const CROWD = isWhole ? 20 : 6;
