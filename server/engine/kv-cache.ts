/** Keys and values of one sequence: per layer two (KV, capacity, hd) buffers of bf16 or fp32, allocated once, freed with the sequence. */
import { native, type Handle, type KvType } from '../../kernels/index.js';
import type { ModelConfig } from './model-config.js';

/** As the weights are. */
export const DEFAULT_KV_TYPE: KvType = 'bf16';

const BYTES_PER_VALUE: Readonly<Record<KvType, number>> = { bf16: 2, f32: 4 };

/** Bytes that a cache for `capacity` positions takes. */
export function kvCacheBytes(config: ModelConfig, capacity: number, type: KvType): number {
  return config.layers * 2 * config.kvHeads * capacity * config.headDim * BYTES_PER_VALUE[type];
}

export class KvCache {
  /** Positions filled so far. */
  length = 0;
  readonly keys: readonly Handle[];
  readonly values: readonly Handle[];
  /** All of them: keys and values of a layer after those of the one before. */
  readonly buffer: Handle;

  constructor(
    config: ModelConfig,
    readonly capacity: number,
    readonly type: KvType = 'f32',
  ) {
    const bytes = kvCacheBytes(config, capacity, type);
    const part = bytes / (config.layers * 2);
    this.buffer = native.alloc(bytes);
    const views = Array.from({ length: config.layers * 2 }, (_, i) => native.view(this.buffer, i * part, part));
    this.keys = views.filter((_, i) => i % 2 === 0);
    this.values = views.filter((_, i) => i % 2 === 1);
  }

  dispose(): void {
    for (const view of [...this.keys, ...this.values]) native.free(view);
    native.free(this.buffer);
  }
}
