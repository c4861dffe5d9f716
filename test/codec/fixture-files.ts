/** Where the committed containers lie, and what the golden ones hold. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { MaskSet } from '../../codec/mask-set.js';
import { randomSet } from './random-sets.js';

/** From the compiled file, which is as deep in its output folder as the source is in the repository, plus one. */
const FIXTURES = new URL('../../../test/fixtures/', import.meta.url);
export const GOLDEN_FOLDER = fileURLToPath(new URL('golden/', FIXTURES));
export const CORRUPT_FOLDER = fileURLToPath(new URL('corrupt/', FIXTURES));

export function readGolden(name: string): Uint8Array {
  return readFileSync(new URL(`golden/${name}`, FIXTURES));
}

export interface Golden {
  readonly file: string;
  readonly set: MaskSet;
  readonly chunkLog2: number;
}

const PARENT = '9a4e'.repeat(16);
const LAYER = {
  'model.layers.0.self_attn.q_proj.weight': [64, 128],
  'model.layers.0.mlp.up_proj.weight': [160, 128],
  'model.layers.0.mlp.down_proj.weight': [128, 160],
} as const;

/** One file of each kind. Their sets come from fixed seeds, so that the symbols need no second file. */
export const GOLDEN: readonly Golden[] = [
  { file: '2-4.mask', set: randomSet(101, [2, 4], LAYER), chunkLog2: 12 },
  { file: '2-4-with-parent.mask', set: randomSet(102, [2, 4], LAYER, PARENT), chunkLog2: 12 },
  { file: '1-4.mask', set: randomSet(103, [1, 4], LAYER), chunkLog2: 12 },
  { file: '1-4-with-parent.mask', set: randomSet(104, [1, 4], LAYER, PARENT), chunkLog2: 12 },
  { file: '4-8.mask', set: randomSet(105, [4, 8], LAYER), chunkLog2: 12 },
  { file: '4-8-with-parent.mask', set: randomSet(106, [4, 8], LAYER, PARENT), chunkLog2: 12 },
  { file: '2-4-two-default-chunks.mask', set: randomSet(107, [2, 4], { w: [260, 1024] }), chunkLog2: 16 },
  { file: '2-4-odd-groups.mask', set: randomSet(108, [2, 4], { w: [3, 4], v: [1, 12], u: [1, 4] }), chunkLog2: 16 },
  { file: '2-4-constant.mask', set: constantSet(), chunkLog2: 12 },
];

/** All kinds of runs: a tensor for each symbol. */
function constantSet(): MaskSet {
  const masks = [0, 1, 2, 3, 4, 5].map((symbol) => ({
    name: `all.${symbol}`,
    rows: 32,
    cols: 520,
    symbols: new Uint8Array(32 * 130).fill(symbol),
  }));
  return { n: 2, m: 4, base: 'c0'.repeat(32), masks };
}
