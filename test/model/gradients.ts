/**
 * Compares one MaskLLM step with the PyTorch yardstick: loss and every gradient of the mask logits.
 *
 *     python maskllm_torch.py step --out step.safetensors
 *     npm run build && node dist/test/model/gradients.js step.safetensors [--precision bf16|f32] [--model DIR]
 *
 * Exits with 1 when a gradient's relative error exceeds 2e-2 (bf16) or 1e-4 (f32).
 */
import { parseArgs } from 'node:util';
import { native, type Handle } from '../../kernels/index.js';
import { loadModel } from '../../server/engine/model.js';
import type { DenseMatrix } from '../../server/engine/weights.js';
import { Gumbel } from '../../server/trainer/gumbel.js';
import { TrainingPass } from '../../server/trainer/training-pass.js';
import { TINY } from '../tiny.js';
import { TensorFile } from './tensor-file.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { model: { type: 'string', default: TINY }, precision: { type: 'string', default: 'bf16' } },
});
const LIMITS = { bf16: 2e-2, f32: 1e-4 };
const precision = values.precision === 'f32' ? 'f32' : 'bf16';
const file = positionals[0];
if (!file) throw new Error('expected the file that `maskllm_torch.py step --out FILE` wrote');

const model = loadModel(values.model);
native.setPrecision(precision);
const dump = new TensorFile(file);
const ids = dump.integers('tokens');
const targets = dump.integers('targets');

const noise = new Map<string, Handle>();
const learner = new Gumbel(model.weights, undefined, {
  sigma: 0.01,
  momentum: true,
  priorStrength: 3,
  scale: [100, 500],
  temperature: [4, 0.05],
  regularisation: 1e-5,
  seed: 0,
  type: precision,
  logits: (matrix) => dump.floats(`logits.${matrix.name}`),
  noise: noiseOf,
});
const pass = new TrainingPass(model, { batch: ids.length / 256, tokens: 256, activationBytes: Infinity });
learner.prepare(0, 100);
const { lm } = pass.step(
  ids,
  targets,
  [{ rows: ids.length, klWeight: 0 }],
  (matrix) => learner.weight(matrix),
  (matrix, dw) => learner.accept(matrix, dw),
);

const expectedLoss = dump.floats('loss')[0] as number;
console.log(`loss ${lm.toFixed(6)}, yardstick ${expectedLoss.toFixed(6)}`);
let worst = { name: '', error: 0 };
for (const { name, gradients, count } of learner.parameters) {
  const ours = new Float32Array(count);
  native.read(gradients, 0, ours);
  const error = relativeError(ours, dump.floats(`grad.${name}`));
  if (error > worst.error) worst = { name, error };
}
console.log(
  `worst gradient of ${learner.parameters.length}: ${worst.name}, relative error ${worst.error.toExponential(2)}`,
);
if (worst.error > LIMITS[precision] || Math.abs(lm - expectedLoss) > 1e-2) process.exitCode = 1;

function noiseOf(matrix: DenseMatrix): Handle {
  const known = noise.get(matrix.name);
  if (known !== undefined) return known;
  const drawn = dump.floats(`noise.${matrix.name}`);
  const handle = native.alloc(drawn.byteLength);
  native.write(handle, 0, drawn);
  noise.set(matrix.name, handle);
  return handle;
}

/** ‖a − b‖ / ‖b‖ */
function relativeError(a: Float32Array, b: Float32Array): number {
  let [difference, norm] = [0, 0];
  b.forEach((expected, i) => {
    difference += ((a[i] as number) - expected) ** 2;
    norm += expected ** 2;
  });
  return Math.sqrt(difference / norm);
}
