/** One linear layer by maskserve's kernels, dense or 2:4. */
import { native, NO_BUFFER, type Handle } from '../../../kernels/index.js';
import { panelTokensByRule } from '../../../server/engine/panel-tokens.js';
import { milliseconds } from './clock.js';
import type { Layers } from './engine.js';
import { COMPUTE_BOUND_TOKENS, type EngineSettings, LAYER_BYTES, type LayerRequest } from './protocol.js';

/** No second and third product, no patches. */
const ALONE = [NO_BUFFER, NO_BUFFER, 0, NO_BUFFER, NO_BUFFER, 0, new Float64Array(0)] as const;

/** Copies of a layer, each in the form that is measured. */
interface Copies {
  readonly rows: number;
  readonly cols: number;
  readonly weights: readonly Handle[];
}

export function openLayers({ threads, clock, masked = false }: EngineSettings): Layers {
  native.setThreads(threads);
  let copies: Copies = { rows: 0, cols: 0, weights: [] };
  return {
    name: `maskserve ${masked ? '2:4' : 'dense'}, ${native.info().isa}`,
    measure: ({ rows, cols, tokens }: LayerRequest) => {
      if (copies.rows !== rows || copies.cols !== cols) {
        copies.weights.forEach((handle) => native.free(handle));
        copies = { rows, cols, weights: make(rows, cols, masked) };
      }
      const [x, y] = [native.alloc(tokens * cols * 4), native.alloc(tokens * rows * 4)];
      native.write(
        x,
        0,
        Float32Array.from({ length: tokens * cols }, (_, i) => ((i * 37) % 101) / 101 - 0.5),
      );
      const product = (weight: Handle): void => {
        if (masked) native.matmul24Fused(x, tokens, cols, y, weight, rows, ...ALONE, panelTokensByRule(rows, cols));
        else native.matmul(y, x, weight, tokens, rows, cols);
      };
      product(copies.weights[0] as Handle);
      const used = copies.weights.slice(0, tokens >= COMPUTE_BOUND_TOKENS ? 1 : copies.weights.length);
      const started = milliseconds(clock);
      used.forEach(product);
      const ms = (milliseconds(clock) - started) / used.length;
      native.free(x);
      native.free(y);
      return ms;
    },
  };
}

function make(rows: number, cols: number, masked: boolean): Handle[] {
  const dense = (): Handle => {
    const handle = native.alloc(rows * cols * 2);
    // bf16 of some 2⁻⁶, either sign, without a multiplication that could be left out.
    const chunk = Uint16Array.from({ length: cols * 16 }, (_, i) => 0x3c00 | (Math.imul(i, 40503) & 0x81ff));
    for (let row = 0; row < rows; row += 16)
      native.write(handle, row * cols * 2, chunk.subarray(0, Math.min(16, rows - row) * cols));
    return handle;
  };
  const count = Math.max(1, Math.ceil(LAYER_BYTES / (rows * cols * 2)));
  return Array.from({ length: count }, () => (masked ? compacted(dense(), rows, cols) : dense()));
}

/** Every group keeps two of its four, in one of six ways that follow one another without a period of a tile. */
function compacted(weights: Handle, rows: number, cols: number): Handle {
  const pairs = [0x4, 0x8, 0xc, 0x9, 0xd, 0xe]; // idx0 | idx1 << 2
  const nibbles = Uint8Array.from({ length: (rows * cols) / 8 }, (_, i) => {
    const of = (group: number): number => pairs[(Math.imul(group, 2654435761) >>> 16) % 6] as number;
    return of(2 * i) | (of(2 * i + 1) << 4);
  });
  const [meta, packed] = [native.alloc(nibbles.length), native.alloc((rows * cols * 9) / 8)];
  native.write(meta, 0, nibbles);
  native.compress24(packed, weights, meta, rows, cols);
  native.free(meta);
  native.free(weights);
  return packed;
}
