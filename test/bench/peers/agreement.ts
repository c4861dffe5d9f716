/** Whether two engines compute the same model: their logits after a prompt and after each of a few steps. */

/** ‖a − b‖ / ‖b − mean(b)‖ over all rows. */
export function distance(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  let [apart, spread] = [0, 0];
  b.forEach((expected, row) => {
    const found = a[row];
    if (found?.length !== expected.length)
      throw new Error(
        `expected ${b.length} rows of ${expected.length} logits but received ${a.length} of ${found?.length}`,
      );
    const mean = expected.reduce((sum, value) => sum + value, 0) / expected.length;
    for (let i = 0; i < expected.length; i++) {
      apart += ((found[i] as number) - (expected[i] as number)) ** 2;
      spread += ((expected[i] as number) - mean) ** 2;
    }
  });
  return Math.sqrt(apart / spread);
}

/** Nearer than this share of the logits' standard deviation, two tokens are a tie, and either may be the likeliest. */
const TIE = 0.05;

/** In how many rows of `b` the likeliest token of `a` is the likeliest too. */
export function sameGreedy(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  return b.filter((expected, row) => {
    const chosen = best(a[row] as Float32Array);
    const lost = (expected[best(expected)] as number) - (expected[chosen] as number);
    return lost <= TIE * deviation(expected);
  }).length;
}

function best(logits: Float32Array): number {
  return logits.reduce((at, value, i) => (value > (logits[at] as number) ? i : at), 0);
}

function deviation(logits: Float32Array): number {
  const mean = logits.reduce((sum, value) => sum + value, 0) / logits.length;
  return Math.sqrt(logits.reduce((sum, value) => sum + (value - mean) ** 2, 0) / logits.length);
}
