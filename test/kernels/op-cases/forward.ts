/** The op table's forward pass. */
import { NO_BUFFER, native, type Handle, type KvType } from '../../../kernels/index.js';
import { changed, floats, metadata, weights, type Random } from '../numbers.js';
import type { Scope } from '../scope.js';
import { BF16, FP32, opCase, type OpCase, type Outputs } from './op-case.js';

/** T, N, K: one token, tails, a tile of mma.sp, more than one, and shapes that no tile divides. */
const SHAPES: readonly (readonly [number, number, number])[] = [
  [1, 9, 64],
  [3, 33, 136],
  [4, 16, 512],
  [9, 24, 256],
  [16, 48, 128],
  [40, 32, 192],
];

/** No second and third product. */
const ALONE = [NO_BUFFER, NO_BUFFER, 0, NO_BUFFER, NO_BUFFER, 0] as const;

export const FORWARD: readonly OpCase[] = [
  opCase('embed copies rows', 'bits', (scope, next) => {
    const out = scope.room(3 * 40 * 4);
    native.embed(out, scope.put(weights(next, 10 * 40)), Int32Array.of(9, 0, 4), 10, 40);
    return { out: scope.floats(out, 120) };
  }),
  opCase('rmsnorm, silu, sums and biases', FP32, (scope, next) => {
    const [rows, dim] = [5, 96];
    const n = rows * dim;
    const [x, y] = [scope.put(floats(next, n)), scope.put(floats(next, n))];
    const row = scope.put(floats(next, dim));
    const [normed, gated] = [scope.room(n * 4), scope.room(n * 4)];
    native.rmsnorm(normed, x, row, rows, dim, 1e-5);
    native.siluMul(gated, x, y, n);
    native.add(x, y, n);
    native.addBias(y, row, rows, dim);
    return {
      normed: scope.floats(normed, n),
      gated: scope.floats(gated, n),
      sum: scope.floats(x, n),
      biased: scope.floats(y, n),
    };
  }),
  opCase('weights of every type are converted, to nearest even', 'bits', (scope, next) => {
    const n = 77;
    const [words, wide] = [scope.put(floats(next, n)), scope.room(n * 4)];
    const narrow = scope.room(n * 2);
    native.toBf16(narrow, words, 'f32', n);
    native.toF32(wide, narrow, 'bf16', n);
    return { narrow: scope.words(narrow, n), wide: scope.floats(wide, n) };
  }),
  ...(['f32', 'bf16'] as const).flatMap((type) => [
    ...[0, 5].map((window) =>
      opCase(`attention over a cache of ${type}, window ${window}`, FP32, (scope, next) =>
        attended(scope, next, type, window),
      ),
    ),
    opCase(`attendRows: a token of each of three sequences, caches of ${type}`, FP32, (scope, next) =>
      attendedRows(scope, next, type),
    ),
  ]),
  ...(['f32', 'bf16'] as const).flatMap((precision) =>
    SHAPES.map(([tokens, n, k]) =>
      opCase(
        `products of ${tokens} tokens with ${n} × ${k} weights in ${precision}: dense, 2:4, patched, masked, fused`,
        precision === 'f32' ? FP32 : BF16,
        (scope, next) => products(scope, next, tokens, n, k),
        precision,
      ),
    ),
  ),
];

/** A cache of `n` random elements. */
function cacheOf(scope: Scope, next: Random, type: KvType, n: number): Handle {
  const values = scope.put(floats(next, n));
  if (type === 'f32') return values;
  const cache = scope.room(n * 2);
  native.toBf16(cache, values, 'f32', n);
  return cache;
}

function attended(scope: Scope, next: Random, type: KvType, window: number): Outputs {
  const [start, tokens, heads, kvHeads, hd, capacity] = [6, 4, 4, 2, 32, 16];
  const q = scope.put(floats(next, tokens * heads * hd));
  const x = scope.put(floats(next, tokens * kvHeads * hd));
  const [cos, sin] = [scope.put(floats(next, (capacity * hd) / 2)), scope.put(floats(next, (capacity * hd) / 2))];
  const caches = [0, 1].map(() => cacheOf(scope, next, type, kvHeads * capacity * hd)) as [Handle, Handle];
  const out = scope.room(tokens * heads * hd * 4);
  native.rope(q, cos, sin, start, tokens, heads, hd);
  for (const cache of caches) native.kvWrite(cache, x, start, tokens, kvHeads, hd, capacity, type);
  native.attention(out, q, ...caches, start, tokens, heads, kvHeads, hd, capacity, hd ** -0.5, window, type);
  return { out: scope.floats(out, tokens * heads * hd), cache: scope.bytes(caches[0], native.byteLength(caches[0])) };
}

function attendedRows(scope: Scope, next: Random, type: KvType): Outputs {
  const [rows, heads, kvHeads, hd] = [3, 4, 2, 32];
  const capacities = Int32Array.of(16, 300, 8);
  const put = (n: number): Handle => scope.put(floats(next, n));
  const [q, k, v] = [put(rows * heads * hd), put(rows * kvHeads * hd), put(rows * kvHeads * hd)];
  const [cos, sin] = [put(150 * hd), put(150 * hd)];
  const caches = (): Float64Array =>
    Float64Array.from(capacities, (capacity) => cacheOf(scope, next, type, kvHeads * capacity * hd));
  const out = scope.room(rows * heads * hd * 4);
  const positions = Int32Array.of(0, 280, 7);
  native.attendRows(
    out,
    q,
    k,
    v,
    cos,
    sin,
    caches(),
    caches(),
    positions,
    capacities,
    heads,
    kvHeads,
    hd,
    0.2,
    0,
    type,
  );
  return { out: scope.floats(out, rows * heads * hd), k: scope.floats(k, rows * kvHeads * hd) };
}

function products(scope: Scope, next: Random, tokens: number, n: number, k: number): Outputs {
  const x = scope.put(floats(next, tokens * k));
  const w = scope.put(weights(next, n * k));
  const nibbles = metadata(next, (n * k) / 8);
  const meta = scope.put(nibbles);
  const mask = changed(next, nibbles, 0.1);
  const child = scope.put(mask);
  const packed = scope.room(native.packedBytes(n, k));
  native.compress24(packed, w, meta, n, k);
  const patch = scope.room(native.patchBytes24(packed, child, n, k));
  native.buildPatch24(patch, packed, w, child, n, k);
  const changes = [...changesOf(nibbles, mask)];
  const groups = Uint32Array.from(changes, ({ group }) => group);
  const swapped = Uint8Array.from(changes, ({ nibble }) => nibble);
  const listed = scope.room(native.changesBytes24(packed, groups, swapped, n, k));
  native.buildChanges24(listed, packed, w, groups, swapped, n, k);
  const codes = scope.room((n * k) / 8);
  native.codes24(codes, child, n, k);
  const product = (multiply: (y: Handle) => void): Float32Array => {
    const y = scope.room(tokens * n * 4);
    multiply(y);
    return scope.floats(y, tokens * n);
  };
  const everyOther = (patch: Handle) =>
    Float64Array.from({ length: tokens }, (_, t) => (t % 2 === 0 ? patch : NO_BUFFER));
  const masks = Float64Array.from({ length: tokens }, (_, t) => [codes, packed, NO_BUFFER][t % 3] as Handle);
  return {
    dense: product((y) => native.matmul(y, x, w, tokens, n, k)),
    sparse: product((y) => native.matmul24(y, x, packed, tokens, n, k)),
    patched: product((y) => native.matmul24Patched(y, x, packed, everyOther(patch), tokens, n, k)),
    listed: product((y) => native.matmul24Patched(y, x, packed, everyOther(listed), tokens, n, k)),
    masked: product((y) => native.matmulMasked(y, x, w, masks, tokens, n, k)),
    fused: product((y) => native.matmulFused(x, tokens, k, y, w, n, ...ALONE)),
    sparseFused: product((y) => native.matmul24Fused(x, tokens, k, y, packed, n, ...ALONE, everyOther(patch), 8)),
  };
}

/** The groups where two masks differ, and the second's nibbles there. */
function* changesOf(from: Uint8Array, to: Uint8Array): Generator<{ readonly group: number; readonly nibble: number }> {
  for (let group = 0; group < 2 * to.length; group++) {
    const at = (mask: Uint8Array): number => ((mask[group >> 1] as number) >> (4 * (group & 1))) & 15;
    if (at(from) !== at(to)) yield { group, nibble: at(to) };
  }
}
