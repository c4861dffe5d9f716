/** Products of LLaMA-2-7B's matrices on a GPU: one token and prompts, dense and 2:4, over more memory than any cache holds. */
import { symbolsToNibbles } from '../../codec/pattern.js';
import { native, type Handle } from '../../kernels/index.js';
import { Random } from '../../server/engine/random.js';
import { median } from './forward.js';

export interface LayerShape {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  /** How many a block of the model has. */
  readonly count: number;
}

/** One of LLaMA-2-7B's 32 blocks (arXiv 2307.09288): 202 M weights. */
export const BLOCK: readonly LayerShape[] = [
  { name: 'q, k, v, o', rows: 4096, cols: 4096, count: 4 },
  { name: 'gate, up', rows: 11008, cols: 4096, count: 2 },
  { name: 'down', rows: 4096, cols: 11008, count: 1 },
];

export interface ProductFigures {
  readonly shape: string;
  readonly tokens: number;
  /** Tokens of the cuBLASLt product: it is given none of fewer than BLASLT_TOKENS, which read the weights once as one does. */
  readonly cublasLtTokens: number;
  /** Medians, microseconds of one product, rounding of activations included: `matmul` as it serves, cuBLASLt, and `matmul24`. */
  readonly denseUs: number;
  readonly cublasLtUs: number | null;
  readonly sparseUs: number;
  readonly sparseOverDense: number;
  readonly sparseOverCublasLt: number | null;
}

/** Bytes of dense weights that one round reads at least: several times any GPU's L2 cache. */
const ROUND_BYTES = 512 * 2 ** 20;

export interface ProductSettings {
  readonly tokens: number;
  readonly runs: number;
  /** Whether cuBLASLt was found. */
  readonly cublasLt: boolean;
}

/**
 * Random weights and masks; ways take turns round by round, a round goes through all copies once. Of one token a round is recorded and replayed,
 * as decoding steps are: calls from JavaScript take as long as the products do.
 */
export function measureProduct(
  shape: LayerShape,
  { tokens, runs, cublasLt }: ProductSettings,
  roundBytes = ROUND_BYTES,
): ProductFigures {
  const { rows, cols } = shape;
  const buffers = layerCopies(shape, Math.max(2, Math.ceil(roundBytes / (rows * cols * 2))));
  const x = native.alloc(Math.max(tokens, BLASLT_TOKENS) * cols * 4);
  const y = native.alloc(Math.max(tokens, BLASLT_TOKENS) * rows * 4);
  try {
    native.write(x, 0, randomFloats(tokens * cols));
    const ways = {
      dense: () => buffers.forEach(({ weights }) => native.matmul(y, x, weights, tokens, rows, cols)),
      sparse: () => buffers.forEach(({ packed }) => native.matmul24(y, x, packed, tokens, rows, cols)),
      blaslt: () =>
        buffers.forEach(({ weights }) => native.matmul(y, x, weights, Math.max(tokens, BLASLT_TOKENS), rows, cols)),
    };
    const asked = cublasLt ? ways : { dense: ways.dense, sparse: ways.sparse };
    const us = timed(asked, { runs, calls: buffers.length, recorded: tokens === 1 });
    const cublasLtUs = cublasLt ? (us['blaslt'] as number) : null;
    const [denseUs, sparseUs] = [us['dense'] as number, us['sparse'] as number];
    return {
      shape: `${shape.name} ${rows} × ${cols}`,
      tokens,
      cublasLtTokens: Math.max(tokens, BLASLT_TOKENS),
      denseUs,
      cublasLtUs,
      sparseUs,
      sparseOverDense: denseUs / sparseUs,
      sparseOverCublasLt: cublasLtUs === null ? null : cublasLtUs / sparseUs,
    };
  } finally {
    for (const handle of [x, y, ...buffers.flatMap(({ weights, packed }) => [weights, packed])]) native.free(handle);
  }
}

/** The fewest tokens that `matmul` gives to cuBLASLt (kernels/cuda/launch.h: beyond kGemvTokens): it reads the weights once, as one token does. */
export const BLASLT_TOKENS = 5;

interface LayerCopy {
  readonly weights: Handle;
  readonly packed: Handle;
}

function layerCopies({ rows, cols }: LayerShape, copies: number): LayerCopy[] {
  const meta = native.alloc((rows * cols) / 8);
  native.write(meta, 0, randomNibbles(rows * cols, 1));
  try {
    return Array.from({ length: copies }, () => {
      const weights = randomWeights(rows * cols);
      const packed = native.alloc(native.packedBytes(rows, cols));
      native.compress24(packed, weights, meta, rows, cols);
      return { weights, packed };
    });
  } finally {
    native.free(meta);
  }
}

interface TimedRounds {
  readonly runs: number;
  /** In one round. */
  readonly calls: number;
  readonly recorded: boolean;
}

/** Microseconds of one call, by way: two uncounted rounds of each, in which algorithms are searched, then medians of alternating ones. */
function timed(
  ways: Readonly<Record<string, () => void>>,
  { runs, calls, recorded }: TimedRounds,
): Record<string, number> {
  for (const way of Object.values(ways)) way();
  const rounds = Object.entries(ways).map(([name, way]) => ({ name, ...(recorded ? recordedRound(way) : plain(way)) }));
  const times = new Map(rounds.map(({ name }): [string, number[]] => [name, []]));
  for (let run = -1; run < runs; run++) {
    for (const { name, round } of rounds) {
      const us = (synchronizedMs(round) * 1000) / calls;
      if (run >= 0) times.get(name)!.push(us);
    }
  }
  for (const { end } of rounds) end();
  return Object.fromEntries([...times].map(([name, list]) => [name, median(list)]));
}

interface Round {
  readonly round: () => void;
  readonly end: () => void;
}

function plain(round: () => void): Round {
  return { round, end: () => undefined };
}

const NO_ROWS = new Int32Array(0);
const NO_CACHES = new Float64Array(0);

/** `way` as one graph. Throws where it can't be recorded. */
function recordedRound(way: () => void): Round {
  if (!native.beginRecording()) return plain(way);
  try {
    way();
  } catch {
    // endRecording then has none
  }
  const recording = native.endRecording();
  if (recording === 0) throw new Error('expected products that can be recorded');
  const replayed = (): boolean => native.replay(recording, NO_ROWS, NO_CACHES, NO_ROWS, NO_ROWS, 1, NO_CACHES, NO_ROWS);
  return {
    round: () => {
      if (!replayed()) throw new Error('expected a recording that can be replayed');
    },
    end: () => native.freeRecording(recording),
  };
}

/** Milliseconds until the device has done all that `body` asked for. */
export function synchronizedMs(body: () => void): number {
  native.synchronize();
  const started = performance.now();
  body();
  native.synchronize();
  return performance.now() - started;
}

/** Canonical nibbles of random patterns for so many weights. */
export function randomNibbles(count: number, seed: number): Uint8Array {
  const random = new Random(seed);
  const pool = symbolsToNibbles(Uint8Array.from({ length: 2 ** 17 }, () => Math.floor(random.uniform() * 6)));
  const nibbles = new Uint8Array(count / 8);
  for (let at = 0; at < nibbles.length; at += pool.length) {
    nibbles.set(pool.subarray(0, Math.min(pool.length, nibbles.length - at)), at);
  }
  return nibbles;
}

/** bf16 of some 2⁻⁶, either sign. */
export function randomWeights(count: number): Handle {
  const random = new Random(2);
  const pool = Uint16Array.from({ length: 2 ** 20 }, () => 0x3c00 | (Math.floor(random.uniform() * 2 ** 16) & 0x81ff));
  const handle = native.alloc(count * 2);
  for (let at = 0; at < count; at += pool.length) {
    native.write(handle, at * 2, pool.subarray(0, Math.min(pool.length, count - at)));
  }
  return handle;
}

function randomFloats(count: number): Float32Array {
  const random = new Random(3);
  return Float32Array.from({ length: count }, () => random.uniform() * 2 - 1);
}
