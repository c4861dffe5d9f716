/** Where the committed containers lie, and what the golden ones hold. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { CoderName } from '../../codec/coder.js';
import type { DecodeContext } from '../../codec/context.js';
import type { MaskSet } from '../../codec/mask-set.js';
import { randomChild, randomSet, randomWeights } from './random-sets.js';

/** From the compiled file, which is as deep in its output folder as the source is in the repository, plus one. */
const FIXTURES = new URL('../../../test/fixtures/', import.meta.url);
export const GOLDEN_FOLDER = fileURLToPath(new URL('golden/', FIXTURES));
export const CORRUPT_FOLDER = fileURLToPath(new URL('corrupt/', FIXTURES));
/** Frozen: no writer makes them any more. */
export const CORRUPT_1_FOLDER = fileURLToPath(new URL('corrupt-version-1/', FIXTURES));

export function readGolden(name: string): Uint8Array {
  return readFileSync(new URL(`golden/${name}`, FIXTURES));
}

export interface Golden {
  readonly file: string;
  readonly version: 1 | 2;
  readonly set: MaskSet;
  readonly context: DecodeContext;
  readonly chunkLog2: number;
  /** Undefined: what the encoder chooses. */
  readonly coder: CoderName | undefined;
}

const PARENT = '9a4e'.repeat(16);
const LAYER = {
  'model.layers.0.self_attn.q_proj.weight': [64, 128],
  'model.layers.0.mlp.up_proj.weight': [160, 128],
  'model.layers.0.mlp.down_proj.weight': [128, 160],
} as const;

const version1 = (file: string, set: MaskSet, chunkLog2 = 12): Golden => ({
  file,
  version: 1,
  set,
  context: {},
  chunkLog2,
  coder: 'uniform-ac',
});

/** One file of each kind. Their sets come from fixed seeds, so that the symbols need no second file. */
export const GOLDEN: readonly Golden[] = [
  version1('2-4.mask', randomSet(101, [2, 4], LAYER)),
  version1('2-4-with-parent.mask', randomSet(102, [2, 4], LAYER, PARENT)),
  version1('1-4.mask', randomSet(103, [1, 4], LAYER)),
  version1('1-4-with-parent.mask', randomSet(104, [1, 4], LAYER, PARENT)),
  version1('4-8.mask', randomSet(105, [4, 8], LAYER)),
  version1('4-8-with-parent.mask', randomSet(106, [4, 8], LAYER, PARENT)),
  version1('2-4-two-default-chunks.mask', randomSet(107, [2, 4], { w: [260, 1024] }), 16),
  version1('2-4-odd-groups.mask', randomSet(108, [2, 4], { w: [3, 4], v: [1, 12], u: [1, 4] }), 16),
  version1('2-4-constant.mask', constantSet()),
  ...(
    [
      [1, 4],
      [2, 4],
      [4, 8],
    ] as const
  ).flatMap(version2),
];

/** A child for each coder, in chunks that tensors share and that share tensors. */
function version2(pattern: readonly [n: number, m: number], index: number): Golden[] {
  const shapes = { ...LAYER, 'odd.weight': [3, 8] } as const;
  const parent = randomSet(200 + index, pattern, shapes);
  const set = randomChild(210 + index, parent, 300);
  const context = { parent, weights: randomWeights(220 + index, shapes) };
  const coders: readonly (CoderName | undefined)[] = [
    'uniform-ac',
    'uniform',
    'static',
    'parent',
    'weights',
    'scaled-weights',
    'parent+weights',
    'patch',
    'patch+weights',
    undefined,
  ];
  return coders.map((coder) => ({
    file: `2/${pattern.join('-')}-${coder ?? 'best'}.mask`,
    version: 2,
    set,
    context,
    chunkLog2: 12,
    coder,
  }));
}

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
