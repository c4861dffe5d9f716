/** A model small enough to publish masks for by the hundred, and containers for it. Same seed, same bytes. */
import { createHash } from 'node:crypto';
import { encodeMaskSet } from '../../../codec/encode.js';
import type { Digest } from '../../../codec/mask-set.js';
import { NO_BUFFER } from '../../../kernels/handle.js';
import type { MaskableMatrix, ModelInfo } from '../../../server/engine/types.js';

export interface Shape {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
}

export const BASE: Digest = 'ba5e'.repeat(16);

export const MATRICES: readonly Shape[] = [
  { name: 'model.layers.0.self_attn.q_proj.weight', rows: 32, cols: 32 },
  { name: 'model.layers.0.mlp.up_proj.weight', rows: 64, cols: 32 },
  { name: 'model.layers.0.mlp.down_proj.weight', rows: 32, cols: 64 },
];

/** A model that nobody computes with: what the registry needs to know of one. */
export function sampleModel(matrices: readonly Shape[] = MATRICES): Pick<ModelInfo, 'name' | 'base' | 'maskable'> {
  const maskable: MaskableMatrix[] = matrices.map((matrix) => ({ ...matrix, weight: NO_BUFFER }));
  return { name: 'sample', base: BASE, maskable };
}

export interface ContainerOptions {
  readonly base?: Digest;
  readonly matrices?: readonly Shape[];
  readonly n?: number;
  readonly m?: number;
  readonly parent?: Digest;
}

const made = new Map<string, Uint8Array>();

/** A copy each time, of bytes that are encoded once. */
export function sampleContainer(seed: number, options: ContainerOptions = {}): Uint8Array {
  const key = JSON.stringify([seed, options]);
  const bytes = made.get(key) ?? encodeSample(seed, options);
  made.set(key, bytes);
  return bytes.slice();
}

function encodeSample(seed: number, options: ContainerOptions): Uint8Array {
  const { base = BASE, matrices = MATRICES, n = 2, m = 4, parent } = options;
  const random = randomFrom(seed);
  const patterns = m === 8 ? 70 : n === 1 ? 4 : 6;
  const masks = matrices.map(({ name, rows, cols }) => {
    const symbols = Uint8Array.from({ length: (rows * cols) / m }, () => Math.floor(random() * patterns));
    return { name, rows, cols, symbols };
  });
  return encodeMaskSet({ n, m, base, masks, ...(parent === undefined ? {} : { parent }) });
}

export function digestOf(bytes: Uint8Array): Digest {
  return createHash('sha256').update(bytes).digest('hex');
}

/** mulberry32: uniform in [0, 1). */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
