/** The low-rank learner: its weights are W + s·B·A, its gradients those of the loss, and it learns. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { native, type Handle } from '../../../kernels/index.js';
import { loadModel, type Model } from '../../../server/engine/model.js';
import { Random } from '../../../server/engine/random.js';
import { matricesOf, type DenseMatrix } from '../../../server/engine/weights.js';
import { normal } from '../../../server/trainer/gumbel.js';
import type { EffectiveWeight } from '../../../server/trainer/layer-pass.js';
import { Lora } from '../../../server/trainer/lora.js';
import { mergedWeights, type LoraPair } from '../../../server/trainer/lora-merge.js';
import type { Parameter } from '../../../server/trainer/optimizer.js';
import { TrainingPass } from '../../../server/trainer/training-pass.js';
import { TINY } from '../../tiny.js';

const usage = native.usage();
let model: Model;
before(() => {
  model = loadModel(TINY, { threads: 2 });
  native.setPrecision('f32');
});
after(() => {
  native.setPrecision('bf16');
  model.dispose();
  assert.deepEqual(native.usage(), usage, 'every buffer is given back');
});

const SETTINGS = { rank: 4, scaling: 2, seed: 7 };

function floats(handle: Handle, count: number): Float32Array {
  const values = new Float32Array(count);
  native.read(handle, 0, values);
  return values;
}

function bf16(handle: Handle, count: number): Float64Array {
  const halves = new Uint16Array(count);
  native.read(handle, 0, halves);
  const bits = Uint32Array.from(halves, (half) => half << 16);
  return Float64Array.from(new Float32Array(bits.buffer));
}

/** A learner whose B is not zero any more. */
function moved(): Lora {
  const lora = new Lora(model.weights, SETTINGS);
  const random = new Random(3);
  for (const { name, values, count } of lora.parameters) {
    if (name.endsWith('lora_B'))
      native.write(
        values,
        0,
        Float32Array.from({ length: count }, () => normal(random) / 50),
      );
  }
  return lora;
}

/** W + s·B·A in fp64. */
function product(matrix: DenseMatrix, a: ArrayLike<number>, b: ArrayLike<number>, scaling: number): Float64Array {
  const { rows, cols, weight } = matrix;
  const rank = a.length / cols;
  const merged = bf16(weight, rows * cols);
  for (let i = 0; i < rows; i++) {
    for (let r = 0; r < rank; r++) {
      const factor = scaling * (b[i * rank + r] as number);
      for (let j = 0; j < cols; j++) (merged[i * cols + j] as number) += factor * (a[r * cols + j] as number);
    }
  }
  return merged;
}

function parameter(lora: Lora, name: string): Parameter {
  return lora.parameters.find((candidate) => candidate.name === name) as Parameter;
}

/** Rounding to bf16, and what fp32 sums lose before it. */
const ROUNDING = 2 ** -8 * 1.001;

test('at the start the model is what it is: B is zero, A has the variance 1/cols', () => {
  const lora = new Lora(model.weights, SETTINGS);
  try {
    assert.equal(lora.prepare(), 0);
    for (const matrix of matricesOf(model.weights)) {
      const { rows, cols } = matrix;
      assert.deepEqual(bf16(lora.weight(matrix).weight, rows * cols), bf16(matrix.weight, rows * cols));
      const a = floats(parameter(lora, `${matrix.name}.lora_A`).values, 4 * cols);
      const variance = a.reduce((sum, value) => sum + value * value, 0) / a.length;
      assert.ok(Math.abs(variance * cols - 1) < 0.2, `${matrix.name}: ${variance * cols}`);
    }
    const weights = matricesOf(model.weights).reduce((sum, { rows, cols }) => sum + rows * cols, 0);
    const learned = lora.parameters.reduce((sum, { count }) => sum + count, 0);
    const largest = Math.max(...matricesOf(model.weights).map(({ rows, cols }) => (rows * cols + rows * 4) * 4));
    const excess = lora.bytes - 2 * weights - 16 * learned;
    assert.ok(excess > 0 && excess <= largest, `2 bytes a weight, 16 a parameter, scratch of a matrix: ${excess}`);
  } finally {
    lora.dispose();
  }
});

test('effective weights are W + s·B·A, computed in fp64 here, rounded to bf16; a merged adapter has the same bits', () => {
  const lora = moved();
  try {
    lora.prepare();
    const adapter = lora.adapter();
    const merged = mergedWeights(model.weights, adapter);
    try {
      assert.equal(merged.bytes, 2 * 4_423_680);
      matricesOf(model.weights).forEach((matrix, index) => {
        const { name, rows, cols } = matrix;
        if (!/layers\.[05]\./.test(name)) return;
        const pair = adapter.get(name);
        assert.ok(pair);
        const expected = product(matrix, pair.a, pair.b, 2);
        const came = bf16(lora.weight(matrix).weight, rows * cols);
        expected.forEach((value, i) => {
          const error = Math.abs((came[i] as number) - value);
          assert.ok(error <= ROUNDING * Math.abs(value) + 1e-7, `${name}[${i}]: ${value}, ${came[i] ?? ''}`);
        });
        const again = matricesOf(merged.weights)[index] as DenseMatrix;
        assert.deepEqual(bf16(again.weight, rows * cols), came);
      });
      assert.equal(merged.weights.embedding, model.weights.embedding, 'the rest is shared');
    } finally {
      merged.dispose();
    }
  } finally {
    lora.dispose();
  }
});

/** Effective weights in f32, so that differences are not lost in bf16. */
class Wide {
  private readonly handles = new Map(
    matricesOf(model.weights).map(({ name, rows, cols }) => [name, native.alloc(rows * cols * 4)]),
  );

  readonly weightsOf = ({ name }: DenseMatrix): EffectiveWeight => ({ weight: this.of(name), type: 'f32' });

  fill(matrix: DenseMatrix, pair: LoraPair | undefined): void {
    assert.ok(pair);
    native.write(this.of(matrix.name), 0, Float32Array.from(product(matrix, pair.a, pair.b, pair.scaling)));
  }

  dispose(): void {
    for (const handle of this.handles.values()) native.free(handle);
  }

  private of(name: string): Handle {
    return this.handles.get(name) as Handle;
  }
}

test('gradients of A and B are those of the loss, by finite differences', () => {
  const lora = moved();
  const pass = new TrainingPass(model, { batch: 2, tokens: 16, activationBytes: Infinity });
  const wide = new Wide();
  try {
    const random = new Random(5);
    const draw = (): Int32Array => Int32Array.from({ length: 32 }, () => Math.floor(random.uniform() * 4096));
    const [ids, targets] = [draw(), draw()];
    const adapter = lora.adapter();
    for (const matrix of matricesOf(model.weights)) wide.fill(matrix, adapter.get(matrix.name));
    pass.step(ids, targets, [{ rows: ids.length, klWeight: 0 }], wide.weightsOf, (matrix, dw) =>
      lora.accept(matrix, dw),
    );
    for (const matrix of matricesOf(model.weights)) {
      const { name } = matrix;
      if (!/0\.self_attn\.k|5\.mlp\.down/.test(name)) continue;
      for (const part of ['lora_A', 'lora_B']) {
        const { values, gradients, count } = parameter(lora, `${name}.${part}`);
        const [at, gradient] = [floats(values, count), floats(gradients, count)];
        // along the gradient itself: its norm is the slope
        const norm = Math.hypot(...gradient);
        const step = 0.02 / norm;
        const shifted = (sign: number): number => {
          native.write(
            values,
            0,
            at.map((value, i) => value + ((sign * step) / norm) * (gradient[i] as number)),
          );
          wide.fill(matrix, lora.adapter().get(name));
          return pass.step(ids, targets, [{ rows: ids.length, klWeight: 0 }], wide.weightsOf, () => undefined).loss;
        };
        const slope = (shifted(1) - shifted(-1)) / (2 * step);
        native.write(values, 0, at);
        wide.fill(matrix, adapter.get(name));
        assert.ok(Math.abs(slope / norm - 1) < 0.02, `${name}.${part}: slope ${slope}, norm ${norm}`);
      }
    }
  } finally {
    wide.dispose();
    pass.dispose();
    lora.dispose();
  }
});
