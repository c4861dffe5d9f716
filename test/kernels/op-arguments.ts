/** The ops' arguments: their names, kinds and least sizes, of a small call that is right. */
import type { Scope } from './scope.js';

/** `out` and `inout` are written; `optional` may be 0; `bytes` is the least an op accepts. */
export type Argument =
  | {
      readonly name: string;
      readonly kind: 'in' | 'out' | 'optional' | 'optionalOut';
      readonly bytes: number;
      readonly align: number;
    }
  | { readonly name: string; readonly kind: 'count' | 'index' | 'number'; readonly value: number }
  | { readonly name: string; readonly kind: 'array'; readonly value: ArrayBufferView }
  | { readonly name: string; readonly kind: 'text'; readonly value: string };

const input = (name: string, bytes: number, align = 4): Argument => ({ name, kind: 'in', bytes, align });
const out = (name: string, bytes: number, align = 4): Argument => ({ name, kind: 'out', bytes, align });
const count = (name: string, value: number): Argument => ({ name, kind: 'count', value });
const index = (name: string, value: number): Argument => ({ name, kind: 'index', value });
const number = (name: string, value: number): Argument => ({ name, kind: 'number', value });
const ids = { name: 'ids', kind: 'array', value: Int32Array.of(1, 2, 3) } as const;
const type = { name: 'type', kind: 'text', value: 'f32' } as const;

/** temperature, topK, topP and uniform of three rows. */
export const SETTINGS = Float64Array.of(1, 2, 0.5, 0.5, 1, 2, 0.5, 0.5, 1, 2, 0.5, 0.5);

/** Three of (KV, capacity, hd). */
function caches(scope: Scope): Float64Array {
  return Float64Array.from([1, 2, 3], () => scope.room(2 * 8 * 6 * 4));
}

/** Of x (2, 16) and matrices of 3, 1 and 2 rows, each of `rowBytes`. */
function fusedProducts(rowBytes: number): readonly Argument[] {
  return [
    input('x', 128),
    count('tokens', 2),
    count('k', 16),
    out('y0', 24),
    input('w0', 3 * rowBytes, 2),
    count('n0', 3),
    { name: 'y1', kind: 'optionalOut', bytes: 8, align: 4 },
    input('w1', rowBytes, 2),
    count('n1', 1),
    { name: 'y2', kind: 'optionalOut', bytes: 16, align: 4 },
    input('w2', 2 * rowBytes, 2),
    count('n2', 2),
  ];
}

/** A call of each op that is right, argument by argument. T 2, N 3, K 16, V 5, H 4, KV 2, hd 6, capacity 8. */
export function rightCalls(scope: Scope): Readonly<Record<string, readonly Argument[]>> {
  return {
    toBf16: [out('out', 10, 2), input('input', 20, 1), type, count('n', 5)],
    toF32: [out('out', 20), input('input', 20, 1), type, count('n', 5)],
    embed: [out('out', 3 * 16 * 4), input('table', 5 * 16 * 2, 2), ids, count('vocab', 5), count('dim', 16)],
    rmsnorm: [
      out('out', 128),
      input('x', 128),
      input('gain', 64),
      count('rows', 2),
      count('dim', 16),
      number('eps', 1e-5),
    ],
    rope: [
      out('x', 2 * 4 * 6 * 4),
      input('cos', 5 * 3 * 4),
      input('sin', 5 * 3 * 4),
      index('start', 3),
      count('tokens', 2),
      count('heads', 4),
      count('headDim', 6),
    ],
    kvWrite: [
      out('cache', 2 * 8 * 6 * 4),
      input('x', 2 * 2 * 6 * 4),
      index('start', 3),
      count('tokens', 2),
      count('kvHeads', 2),
      count('headDim', 6),
      count('capacity', 8),
      type,
    ],
    attention: [
      out('out', 2 * 4 * 6 * 4),
      input('q', 2 * 4 * 6 * 4),
      input('kCache', 2 * 8 * 6 * 4),
      input('vCache', 2 * 8 * 6 * 4),
      index('start', 3),
      count('tokens', 2),
      count('heads', 4),
      count('kvHeads', 2),
      count('headDim', 6),
      count('capacity', 8),
      number('scale', 0.5),
      index('window', 0),
      type,
    ],
    attendRows: [
      out('out', 3 * 4 * 6 * 4),
      out('q', 3 * 4 * 6 * 4),
      out('k', 3 * 2 * 6 * 4),
      input('v', 3 * 2 * 6 * 4),
      input('cos', 5 * 3 * 4),
      input('sin', 5 * 3 * 4),
      { name: 'keys', kind: 'array', value: caches(scope) },
      { name: 'values', kind: 'array', value: caches(scope) },
      { name: 'positions', kind: 'array', value: Int32Array.of(0, 4, 2) },
      { name: 'capacities', kind: 'array', value: Int32Array.of(8, 8, 8) },
      count('heads', 4),
      count('kvHeads', 2),
      count('headDim', 6),
      number('scale', 0.5),
      index('window', 3),
      type,
    ],
    siluMul: [out('out', 20), input('gate', 20), input('up', 20), count('n', 5)],
    add: [out('x', 20), input('y', 20), count('n', 5)],
    addBias: [out('x', 40), input('bias', 20), count('rows', 2), count('n', 5)],
    matmul: [out('y', 24), input('x', 128), input('w', 96, 2), count('tokens', 2), count('n', 3), count('k', 16)],
    matmul24: [
      out('y', 24),
      input('x', 128),
      input('packed', 54, 2),
      count('tokens', 2),
      count('n', 3),
      count('k', 16),
    ],
    matmul24Patched: [
      out('y', 36),
      input('x', 192),
      input('packed', 54, 2),
      { name: 'patches', kind: 'array', value: new Float64Array(3) },
      count('tokens', 3),
      count('n', 3),
      count('k', 16),
    ],
    matmulFused: fusedProducts(32),
    matmul24Fused: [
      ...fusedProducts(18),
      { name: 'patches', kind: 'array', value: new Float64Array(0) },
      count('panelTokens', 2),
    ],
    matmulMasked: [
      out('y', 36),
      input('x', 192),
      input('w', 96, 2),
      { name: 'masks', kind: 'array', value: new Float64Array(3) },
      count('tokens', 3),
      count('n', 3),
      count('k', 16),
    ],
    argmax: [input('logits', 40), index('row', 1), count('vocab', 5)],
    sample: [
      out('logits', 60),
      count('vocab', 5),
      { name: 'settings', kind: 'array', value: SETTINGS },
      { name: 'counts', kind: 'array', value: Int32Array.of(2, 0, 1) },
      ids,
      { name: 'deltas', kind: 'array', value: new Float32Array(3) },
      { name: 'tokens', kind: 'array', value: new Int32Array(3) },
    ],
    logprobs: [
      input('logits', 40),
      index('row', 1),
      count('vocab', 5),
      ids,
      { name: 'out', kind: 'array', value: new Float64Array(3) },
    ],
    topLogprobs: [
      input('logits', 40),
      index('row', 1),
      count('vocab', 5),
      ids,
      { name: 'out', kind: 'array', value: new Float64Array(3) },
    ],
    scoreMask24: [
      out('meta', 6, 1),
      input('w', 96, 2),
      { name: 'scale', kind: 'optional', bytes: 64, align: 4 },
      count('n', 3),
      count('k', 16),
    ],
    sumSquares: [out('sums', 128, 8), input('x', 128), count('tokens', 2), count('k', 16)],
    gram: [out('gram', 2048, 8), input('x', 128), count('tokens', 2), count('k', 16)],
    sparsegpt24: [
      out('meta', 6, 1),
      { name: 'updated', kind: 'optionalOut', bytes: 96, align: 2 },
      input('w', 96, 2),
      input('gram', 2048, 8),
      count('tokens', 2),
      count('n', 3),
      count('k', 16),
      number('damp', 0.01),
    ],
    compress24: [out('packed', 54, 2), input('w', 96, 2), input('meta', 6, 1), count('n', 3), count('k', 16)],
    nibbles24: [out('meta', 6, 1), input('packed', 54, 2), count('n', 3), count('k', 16)],
    codes24: [out('codes', 6, 1), input('meta', 6, 1), count('n', 3), count('k', 16)],
    patchBytes24: [input('packed', 54, 2), input('meta', 6, 1), count('n', 3), count('k', 16)],
    buildPatch24: [
      out('patch', 96),
      input('packed', 54, 2),
      input('w', 96, 2),
      input('meta', 6, 1),
      count('n', 3),
      count('k', 16),
    ],
    select24: [out('out', 96, 2), input('w', 96, 2), input('meta', 6, 1), count('n', 3), count('k', 16)],
  };
}
