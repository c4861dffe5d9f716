/** A mask of random patterns over every matrix of a model: as large and as slow to load as a learned one. */
import type { MaskSet } from '../../codec/mask-set.js';
import { Random } from '../../server/engine/random.js';
import type { ModelInfo } from '../../server/engine/types.js';

export function randomMask(model: ModelInfo, seed: number): MaskSet {
  const random = new Random(seed);
  const masks = model.maskable.map(({ name, rows, cols }) => ({
    name,
    rows,
    cols,
    symbols: Uint8Array.from({ length: (rows * cols) / 4 }, () => Math.floor(random.uniform() * 6)),
  }));
  return { n: 2, m: 4, base: model.base, masks };
}
