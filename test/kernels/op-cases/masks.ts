/** 2:4 forms, masks from scores, and sampling: what is chosen is the same to the bit. */
import { native, NO_BUFFER } from '../../../kernels/index.js';
import { floats, metadata, weights } from '../numbers.js';
import { FP32, opCase, type OpCase } from './op-case.js';

const [N, K] = [24, 136];

export const MASKS: readonly OpCase[] = [
  opCase('masks select, come back from compacted weights, and keep gradients', 'bits', (scope, next) => {
    const [w, values] = [scope.put(weights(next, N * K)), scope.put(floats(next, N * K))];
    const meta = scope.put(metadata(next, (N * K) / 8));
    const [packed, back] = [scope.room(native.packedBytes(N, K)), scope.room((N * K) / 8)];
    const [selected, rounded] = [scope.room(N * K * 2), scope.room(N * K * 2)];
    native.compress24(packed, w, meta, N, K);
    native.nibbles24(back, packed, N, K);
    native.select24(selected, w, meta, N, K);
    native.select24F32(rounded, values, meta, N, K);
    native.keep24F32(values, meta, N, K);
    return {
      back: scope.bytes(back, (N * K) / 8),
      selected: scope.words(selected, N * K),
      rounded: scope.words(rounded, N * K),
      kept: scope.floats(values, N * K),
    };
  }),
  opCase('masks from magnitudes, scaled magnitudes and scores', 'bits', (scope, next) => {
    const w = scope.put(weights(next, N * K));
    const scale = scope.put(floats(next, K).map(Math.abs));
    const metas = [0, 1, 2].map(() => scope.room((N * K) / 8)) as [typeof w, typeof w, typeof w];
    const symbols = scope.room(N);
    native.scoreMask24(metas[0], w, NO_BUFFER, N, K);
    native.scoreMask24(metas[1], w, scale, N, K);
    native.topTwo(metas[2], scope.put(floats(next, N * K)), (N * K) / 4);
    native.argmaxPatterns(symbols, scope.put(floats(next, N * 6)), N, 6);
    const [magnitude, scaled, best] = metas.map((meta) => scope.bytes(meta, (N * K) / 8));
    return { magnitude: magnitude!, scaled: scaled!, best: best!, symbols: scope.bytes(symbols, N) };
  }),
  opCase('sums of squares and Gram matrices', FP32, (scope, next) => {
    const tokens = 19;
    const x = scope.put(floats(next, tokens * K));
    const [sums, gram] = [scope.room(K * 8), scope.room(K * K * 8)];
    native.sumSquares(sums, x, tokens, K);
    native.gram(gram, x, tokens, K);
    return {
      sums: scope.doubles(sums, K),
      gram: scope.doubles(gram, K * K),
      all: Float64Array.of(native.sumOfSquares(x, tokens * K)),
    };
  }),
  opCase('tokens are drawn, and the likeliest named', 'bits', (scope, next) => {
    const [rows, vocab] = [10, 1000];
    const logits = scope.put(floats(next, rows * vocab).map((x) => 6 * x));
    const settings = Float64Array.from([0.01, 0.3, 0.55, 0.8, 0.999].flatMap((u) => [1, 0, 1, u, 0.7, 40, 0.9, u]));
    const counts = Int32Array.from({ length: rows }, (_, row) => (row % 3 === 0 ? 2 : 0));
    const deltas = Float32Array.of(3, -3, 9, 9, 9, -9, 2, 1);
    const drawn = new Int32Array(rows);
    native.sample(logits, vocab, settings, counts, Int32Array.of(7, 900, 1, 2, 3, 4, 5, 6), deltas, drawn);
    const ids = new Int32Array(12);
    native.topLogprobs(logits, 0, vocab, ids, new Float64Array(12));
    return { drawn, likeliest: Int32Array.of(native.argmax(logits, 1, vocab)), ids };
  }),
  opCase('log-probabilities of named tokens', 1e-9, (scope, next) => {
    const vocab = 1000;
    const out = new Float64Array(3);
    native.logprobs(scope.put(floats(next, vocab)), 0, vocab, Int32Array.of(0, 999, 5), out);
    return { out };
  }),
];
