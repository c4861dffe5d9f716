/** Mask containers decoded on the GPU: bit for bit what the CPU decodes. */
import assert from 'node:assert/strict';
import type { CoderName } from '../../codec/coder.js';
import { encodeDense } from '../../codec/dense-chunk.js';
import { fastCoders, useFastCoders } from '../../codec/fast-coders.js';
import { symbolsToNibbles } from '../../codec/pattern.js';
import { native, type CodedChunks, type CodedTensor, type Handle } from '../../kernels/index.js';
import { codingOf, plansOf, randomCase, tensorOf } from '../kernels/codec-cases.js';
import { random } from '../kernels/numbers.js';
import { scoped, type Scope } from '../kernels/scope.js';
import { shippedSet } from '../shipped-masks.js';
import { gpuTest, runningOn } from './gpu.js';

const CODERS: readonly CoderName[] = ['uniform', 'static', 'parent', 'weights', 'scaled-weights', 'parent+weights'];
const SHAPES: readonly (readonly [number, number])[] = [
  [64, 256],
  [33, 100],
  [1, 4],
  [45, 576],
  [7, 12],
];

for (const coder of CODERS) {
  gpuTest(`${coder}: chunks decode on the GPU to the mask that was encoded`, () => {
    const next = random(5);
    const cases = SHAPES.map(([rows, cols]) => randomCase(next, coder, rows, cols));
    const coding = codingOf(cases);
    const encoded = plansOf(cases).flatMap((plan) =>
      plan.kind !== 'dense'
        ? []
        : [
            encodeDense(plan.lanes, plan.pieces, coding, ({ tensor, first, count }) =>
              cases[tensor]!.symbols.subarray(first, first + count),
            ),
          ],
    );
    const chunks: CodedChunks = {
      payload: new Uint8Array(Buffer.concat(encoded)),
      lengths: Uint32Array.from(encoded, ({ length }) => length),
      checksums: Uint32Array.from(encoded, (chunk) => native.crc32c(chunk)),
      statuses: new Int32Array(encoded.length).fill(-1),
    };
    const masks = cases.map(({ entry }) => new Uint8Array(Math.ceil(entry.groups / 2)));
    const tensors = cases.map((one, i) => tensorOf(one, coding, masks[i]!));
    runningOn('cuda', () => decodeOnDevice(tensors, 128, 0, chunks));
    assert.ok(chunks.statuses.every((status) => status === 0));
    cases.forEach(({ symbols }, i) => assert.deepEqual(masks[i], symbolsToNibbles(symbols), `tensor ${i}`));
  });
}

gpuTest('the general mask of models/tiny decodes on the GPU to the symbols that the CPU reads', () => {
  const expected = shippedSet('general');
  const cpu = fastCoders();
  let decoded = 0;
  useFastCoders({
    ...native,
    decodeMasks: (tensors, steps, first, chunks) => {
      decoded++;
      runningOn('cuda', () => decodeOnDevice(tensors, steps, first, chunks));
    },
  });
  try {
    assert.deepEqual(shippedSet('general'), expected);
  } finally {
    useFastCoders(cpu);
  }
  assert.ok(decoded > 0, 'expected the container to have chunks that the GPU decodes');
});

/** decodeMasks with masks, weights and parents in device memory; the masks come back to where they were wanted. */
function decodeOnDevice(tensors: readonly CodedTensor[], steps: number, first: number, chunks: CodedChunks): void {
  scoped((scope) => {
    const moved = tensors.map((tensor) => ({
      ...tensor,
      ...(tensor.weights === undefined ? {} : { weights: onDevice(scope, tensor.weights) }),
      ...(tensor.parent === undefined ? {} : { parent: onDevice(scope, tensor.parent) }),
      // Chunks of earlier calls have filled a part of it.
      ...(tensor.mask === undefined ? {} : { mask: onDevice(scope, tensor.mask) }),
    }));
    native.decodeMasks(moved, steps, first, chunks);
    tensors.forEach(({ mask }, i) => {
      if (mask instanceof Uint8Array) native.read(moved[i]!.mask as Handle, 0, mask);
    });
  });
}

function onDevice(scope: Scope, data: Handle | Uint8Array | Uint16Array): Handle {
  return typeof data === 'number' ? scope.put(wordsOf(data)) : scope.put(data);
}

function wordsOf(buffer: Handle): Uint8Array {
  const bytes = new Uint8Array(native.byteLength(buffer));
  native.read(buffer, 0, bytes);
  return bytes;
}
