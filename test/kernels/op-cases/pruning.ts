/** What a GPU leaves to the host. */
import { native } from '../../../kernels/index.js';
import { floats, weights } from '../numbers.js';
import { FP32, opCase, type OpCase } from './op-case.js';

export const PRUNING: readonly OpCase[] = [
  opCase('SparseGPT: its mask and its weights', FP32, (scope, next) => {
    const [tokens, n, k] = [96, 21, 136];
    const gram = scope.room(k * k * 8);
    native.gram(gram, scope.put(floats(next, tokens * k)), tokens, k);
    const [meta, updated] = [scope.room((n * k) / 8), scope.room(n * k * 2)];
    native.sparsegpt24(meta, updated, scope.put(weights(next, n * k)), gram, tokens, n, k, 0.01);
    const wide = scope.room(n * k * 4);
    native.toF32(wide, updated, 'bf16', n * k);
    return { meta: scope.bytes(meta, (n * k) / 8), updated: scope.floats(wide, n * k) };
  }),
];
