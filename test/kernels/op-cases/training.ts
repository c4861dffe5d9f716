/** The op table's training pass. */
import { native, NO_BUFFER } from '../../../kernels/index.js';
import { floats, weights, type Random } from '../numbers.js';
import type { Scope } from '../scope.js';
import { BF16, FP32, opCase, type OpCase, type Outputs } from './op-case.js';

export const TRAINING: readonly OpCase[] = [
  ...(['f32', 'bf16'] as const).map((precision) => {
    const agreement = precision === 'f32' ? FP32 : BF16;
    return opCase(`linear and its two gradients in ${precision}`, agreement, layerAndGradients, precision);
  }),
  opCase('gradients of rmsnorm, rope and silu', FP32, (scope, next) => {
    const [batch, tokens, heads, hd] = [2, 5, 2, 16];
    const dim = heads * hd;
    const n = batch * tokens * dim;
    const put = (count: number) => scope.put(floats(next, count));
    const [dx, dgain, dy, x, gain] = [put(n), put(dim), put(n), put(n), put(dim)];
    const [dgate, dup] = [scope.room(n * 4), scope.room(n * 4)];
    native.rmsnormBackward(dx, dgain, dy, x, gain, batch * tokens, dim, 1e-5);
    native.siluMulBackward(dgate, dup, dy, x, dx, n);
    native.ropeBatch(x, put((tokens * hd) / 2), put((tokens * hd) / 2), batch, tokens, heads, hd, true);
    return {
      dx: scope.floats(dx, n),
      dgain: scope.floats(dgain, dim),
      dgate: scope.floats(dgate, n),
      dup: scope.floats(dup, n),
      rotated: scope.floats(x, n),
    };
  }),
  opCase('attention over whole sequences, and its gradients', FP32, (scope, next) => {
    const [batch, tokens, heads, kvHeads, hd] = [2, 13, 4, 2, 16];
    const [many, few] = [batch * tokens * heads * hd, batch * tokens * kvHeads * hd];
    const put = (count: number) => scope.put(floats(next, count));
    const [q, k, v, dout] = [put(many), put(few), put(few), put(many)];
    const [out, lse] = [scope.room(many * 4), scope.room(batch * heads * tokens * 4)];
    const [dq, dk, dv] = [scope.room(many * 4), scope.room(few * 4), scope.room(few * 4)];
    native.attentionForward(out, lse, q, k, v, batch, tokens, heads, kvHeads, hd, 0.25, 0);
    native.attentionBackward(dq, dk, dv, dout, out, lse, q, k, v, batch, tokens, heads, kvHeads, hd, 0.25, 0);
    return {
      out: scope.floats(out, many),
      dq: scope.floats(dq, many),
      dk: scope.floats(dk, few),
      dv: scope.floats(dv, few),
    };
  }),
  opCase('loss against targets and a teacher', FP32, (scope, next) => {
    const [rows, vocab] = [6, 300];
    const [logits, teacher] = [scope.put(floats(next, rows * vocab)), scope.put(floats(next, rows * vocab))];
    const targets = Int32Array.of(0, 299, 7, 7, 100, 3);
    const { lm, kl } = native.lossBackward(logits, teacher, targets, rows, vocab, 0.5, rows);
    return { gradient: scope.floats(logits, rows * vocab), loss: Float64Array.of(lm, kl) };
  }),
  opCase('Gumbel-softmax masks from the same counters, and their gradients', FP32, (scope, next) => {
    const groups = 512;
    const w = scope.put(weights(next, groups * 4));
    const logits = scope.put(floats(next, groups * 6));
    const [out, dlogits] = [scope.room(groups * 16), scope.room(groups * 24)];
    const squares = native.gumbelMask(out, 'f32', w, logits, NO_BUFFER, 2, 4, groups, 100, 3, 11, 5, 2);
    const dw = scope.put(floats(next, groups * 4));
    native.gumbelMaskBackward(dlogits, dw, w, logits, NO_BUFFER, 2, 4, groups, 100, 3, 11, 5, 2, 1e-4);
    return {
      out: scope.floats(out, groups * 4),
      dlogits: scope.floats(dlogits, groups * 6),
      squares: Float64Array.of(squares),
    };
  }),
  opCase('AdamW, with and without a threshold, and elementwise products', FP32, (scope, next) => {
    const n = 1000;
    const put = () => scope.put(floats(next, n));
    const [p, g, m, v] = [put(), put(), put(), scope.put(floats(next, n).map(Math.abs))];
    const settings = { learningRate: 0.01, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0.1, step: 3 };
    native.adamw(p, g, m, v, n, { ...settings, gradientScale: 0.5, threshold: 0, curvature: 0 });
    native.adamw(p, g, m, v, n, { ...settings, gradientScale: 1, threshold: 0.3, curvature: 0.1 });
    native.mulBf16(g, g, scope.put(weights(next, n)), n);
    native.scaleBy(g, 0.7, n);
    return { p: scope.floats(p, n), m: scope.floats(m, n), v: scope.floats(v, n), g: scope.floats(g, n) };
  }),
];

function layerAndGradients(scope: Scope, next: Random): Outputs {
  const [rows, n, k] = [21, 40, 72];
  const [x, dy] = [scope.put(floats(next, rows * k)), scope.put(floats(next, rows * n))];
  const w = scope.put(weights(next, n * k));
  const [y, dx, dw] = [scope.room(rows * n * 4), scope.put(floats(next, rows * k)), scope.room(n * k * 4)];
  native.linear(y, x, w, 'bf16', rows, n, k);
  native.linearBackwardInput(dx, dy, w, 'bf16', rows, n, k, true);
  native.linearBackwardWeight(dw, dy, x, rows, n, k, false);
  return { y: scope.floats(y, rows * n), dx: scope.floats(dx, rows * k), dw: scope.floats(dw, n * k) };
}
