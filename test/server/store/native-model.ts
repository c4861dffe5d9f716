/** A model with real, random dense weights in native buffers, where this thread's ops are: enough of one to compact tasks from. */
import assert from 'node:assert/strict';
import { symbolsToNibbles } from '../../../codec/pattern.js';
import { native } from '../../../kernels/index.js';
import type { CompactedMatrix, MaskableMatrix, ModelInfo } from '../../../server/engine/types.js';
import { BASE, MATRICES, randomFrom, type Shape } from './sample-masks.js';

export interface NativeModel extends Pick<ModelInfo, 'name' | 'base' | 'maskable' | 'backend'> {
  dispose(): void;
}

export function nativeModel(shapes: readonly Shape[] = MATRICES): NativeModel {
  const random = randomFrom(5);
  const maskable = shapes.map(({ name, rows, cols }): MaskableMatrix => {
    const bits = Uint16Array.from({ length: rows * cols }, () => Math.floor(random() * 0x7f00));
    const weight = native.alloc(bits.byteLength);
    native.write(weight, 0, bits);
    return { name, rows, cols, weight, packedBytes: native.packedBytes(rows, cols) };
  });
  return {
    name: 'native',
    base: BASE,
    maskable,
    backend: native.info().backend,
    dispose: () => maskable.forEach(({ weight }) => native.free(weight)),
  };
}

/** What a task's matrix must be: the model's dense matrix `name`, compacted under symbols (rows · cols/4). */
export function compactedBytes({ maskable }: NativeModel, name: string, symbols: Uint8Array): Uint8Array {
  const matrix = maskable.find((each) => each.name === name);
  assert.ok(matrix, name);
  const { rows, cols, weight } = matrix;
  const [meta, packed] = [native.alloc((rows * cols) / 8), native.alloc(native.packedBytes(rows, cols))];
  native.write(meta, 0, symbolsToNibbles(symbols));
  native.compress24(packed, weight, meta, rows, cols);
  const bytes = readPacked({ packed });
  native.free(meta);
  native.free(packed);
  return bytes;
}

export function readPacked({ packed }: CompactedMatrix): Uint8Array {
  const into = new Uint8Array(native.byteLength(packed));
  native.read(packed, 0, into);
  return into;
}
