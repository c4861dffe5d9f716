/** A model with real, random dense weights in native buffers: enough of one to compact tasks from. */
import { native } from '../../../kernels/index.js';
import type { CompactedMatrix, MaskableMatrix, ModelInfo } from '../../../server/engine/types.js';
import { BASE, MATRICES, randomFrom, type Shape } from './sample-masks.js';

export interface NativeModel extends Pick<ModelInfo, 'name' | 'base' | 'maskable'> {
  /** (rows, cols) bf16 bits of each matrix, by name. */
  readonly dense: ReadonlyMap<string, Uint16Array>;
  dispose(): void;
}

export function nativeModel(shapes: readonly Shape[] = MATRICES): NativeModel {
  const random = randomFrom(5);
  const dense = new Map<string, Uint16Array>();
  const maskable = shapes.map(({ name, rows, cols }): MaskableMatrix => {
    const bits = Uint16Array.from({ length: rows * cols }, () => Math.floor(random() * 0x7f00));
    dense.set(name, bits);
    const weight = native.alloc(bits.byteLength);
    native.write(weight, 0, bits);
    return { name, rows, cols, weight };
  });
  return {
    name: 'native',
    base: BASE,
    maskable,
    dense,
    dispose: () => maskable.forEach(({ weight }) => native.free(weight)),
  };
}

/** The kept weights of `dense` under symbols (rows · cols/4), in position order: what compress24 must write. (rows · cols/2) */
export function keptWeights(dense: Uint16Array, symbols: Uint8Array): Uint16Array {
  const positions = [
    [0, 1],
    [0, 2],
    [0, 3],
    [1, 2],
    [1, 3],
    [2, 3],
  ] as const;
  const kept = new Uint16Array(symbols.length * 2);
  symbols.forEach((symbol, group) => {
    const [first, second] = positions[symbol as 0 | 1 | 2 | 3 | 4 | 5];
    kept[2 * group] = dense[4 * group + first]!;
    kept[2 * group + 1] = dense[4 * group + second]!;
  });
  return kept;
}

export function readValues({ values }: CompactedMatrix): Uint16Array {
  const into = new Uint16Array(native.byteLength(values) / 2);
  native.read(values, 0, into);
  return into;
}
