/**
 * Ten steps of mask learning on a committed miniature, against the PyTorch yardstick's own (test/fixtures/trainer/make.py): same weights, batches, logits and noise. The
 * trainer's own loop runs, with the yardstick's batches in place of drawn ones.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { nibblesToSymbols, symbolsToNibbles } from '../../../codec/pattern.js';
import { native, type Handle } from '../../../kernels/index.js';
import { loadModel, type Model } from '../../../server/engine/model.js';
import { matricesOf, type DenseMatrix } from '../../../server/engine/weights.js';
import { Buffers } from '../../../server/trainer/activations.js';
import { maskTrainingDefaults } from '../../../server/trainer/defaults.js';
import { Gumbel } from '../../../server/trainer/gumbel.js';
import type { Learner } from '../../../server/trainer/learner.js';
import { optimizerOf, scheduleOf } from '../../../server/trainer/run-learner.js';
import { StraightThrough } from '../../../server/trainer/straight-through.js';
import { Training, type StepReport } from '../../../server/trainer/training.js';
import type { TrainMethod } from '../../../server/trainer/types.js';
import { onEveryIsa } from '../../kernels/every-isa.js';
import { TensorFile } from '../../model/tensor-file.js';

type Precision = 'bf16' | 'f32';
type Patterns = Readonly<Record<string, string>>;

interface Learned {
  readonly loss: readonly number[];
  readonly bf16Loss: readonly number[];
  readonly gradientNorm: readonly number[];
  readonly mask: Patterns;
}

interface GumbelSteps extends Learned {
  readonly settings: { readonly lr: number; readonly lam: number };
  readonly learningRate: readonly number[];
  readonly norm2: readonly number[];
  readonly regularisation: readonly number[];
}

interface StraightThroughSteps extends Learned {
  readonly settings: { readonly kl: number; readonly lr: number; readonly margin: number };
}

interface Expected {
  readonly tokens: number;
  readonly batch: number;
  readonly names: readonly string[];
  readonly noiseDigest: string;
  readonly rows: readonly (readonly (readonly number[])[])[];
  readonly prior: Patterns;
  readonly gumbel: GumbelSteps;
  readonly ste: Readonly<Record<'kl' | 'mix', StraightThroughSteps>>;
}

const FOLDER = fileURLToPath(new URL('../../../../test/fixtures/trainer/miniature', import.meta.url));
const expected = JSON.parse(readFileSync(join(FOLDER, 'expected.json'), 'utf8')) as Expected;
const tensors = new TensorFile(join(FOLDER, 'steps.safetensors'));
const STEPS = expected.rows.length;
const GUMBEL = expected.gumbel;
const PATTERNS = 6;
/** Adam's ε of the stored steps. */
const EPSILON: Readonly<Record<TrainMethod, number>> = { ste: 1e-8, gumbel: 1e-5 };
/** The matrix whose last logits are stored. */
const FOLLOWED = 'model.layers.0.self_attn.k_proj.weight';

/** Nats by which a loss may differ. Measured: 1.5e-7 in fp32; 5.5e-4 in bf16, where the yardstick's own autocast is 1.0e-3 from its fp32. */
const LOSS = 1e-3;
/** Soft masks are continuous, so nothing but rounding may show; a straight-through mask may flip on it. */
const SOFT_LOSS = 1e-5;
/** Relative errors of the first step's dπ, each tensor by itself. Measured: 7.3e-7 and 5.8e-3. */
const GRADIENT = { f32: 1e-4, bf16: 2e-2 } as const;
/** Share of the groups that may end with another pattern. Measured: none of 3840 in fp32, three in bf16. */
const FLIPPED = { f32: 1e-3, bf16: 3e-3 } as const;

onEveryIsa(import.meta.url, () => {
  const usage = native.usage();
  const buffers = new Buffers();
  let model: Model;
  before(() => {
    model = loadModel(FOLDER, { threads: 1 });
  });
  after(() => {
    model.dispose();
    buffers.dispose();
    assert.deepEqual(native.usage(), usage, 'every buffer is given back');
  });

  it('uses the noise that the yardstick used, to the bit', () => {
    const digest = createHash('sha256');
    for (let step = 0; step < STEPS; step++) {
      expected.names.forEach((name, index) => {
        digest.update(noise(step, index, (expected.prior[name] as string).length * PATTERNS));
      });
    }
    assert.equal(digest.digest('hex'), expected.noiseDigest);
  });

  describe('ten steps of the paper’s method on the miniature', () => {
    for (const precision of ['f32', 'bf16'] as const) {
      it(`have the yardstick’s losses, first gradients and final mask in ${precision}`, (t) => {
        const outcome = learn(model, precision, gumbel(model, precision, buffers), 'gumbel', 0, GUMBEL.settings.lr);
        const errors = [...outcome.gradients].map(([name, ours]) =>
          relativeError(ours, tensors.floats(`grad.${name}`)),
        );
        const losses = largestDifference(lmLosses(outcome), GUMBEL.loss);
        t.diagnostic(`${precision}: losses ${losses.toExponential(1)}, dπ ${Math.max(...errors).toExponential(1)}`);
        assert.ok(losses <= LOSS, `losses ${lmLosses(outcome).join(' ')}, expected ${GUMBEL.loss.join(' ')}`);
        assert.equal(errors.length, expected.names.length);
        assert.ok(Math.max(...errors) <= GRADIENT[precision], `gradients ${errors.join(' ')}`);
        assertMask(outcome, GUMBEL.mask, FLIPPED[precision]);
      });
    }

    it('differ by rounding alone in fp32: losses, their norm term, learning rates, gradient norms and the last logits', () => {
      const outcome = learn(model, 'f32', gumbel(model, 'f32', buffers), 'gumbel', 0, GUMBEL.settings.lr);
      const { reports, logits } = outcome;
      assert.ok(largestDifference(lmLosses(outcome), GUMBEL.loss) <= SOFT_LOSS);
      const terms = reports.map(({ lm, loss }) => lm - loss);
      const theirTerms = GUMBEL.norm2.map((norm2, step) => norm2 * (GUMBEL.regularisation[step] as number));
      assert.ok(largestDifference(terms, theirTerms) <= 1e-6, `λ‖W⊙M̃‖² ${terms.join(' ')}`);
      const rates = reports.map(({ learningRate }) => learningRate);
      assert.ok(largestDifference(rates, GUMBEL.learningRate) <= 1e-12, `learning rates ${rates.join(' ')}`);
      assertNorms(outcome, GUMBEL);
      const error = relativeError(logits.get(FOLLOWED) as Float32Array, tensors.floats(`after.${FOLLOWED}`));
      assert.ok(error <= 1e-5, `logits of ${FOLLOWED}: ${error}`);
    });
  });

  for (const loss of ['kl', 'mix'] as const) {
    describe(`ten straight-through steps with --loss ${loss} on the miniature`, () => {
      for (const precision of ['f32', 'bf16'] as const) {
        it(`have the yardstick’s losses and final mask in ${precision}`, (t) => {
          const { settings, ...theirs } = expected.ste[loss];
          const learner = new StraightThrough(model.weights, prior, settings.margin, { momentum: true });
          const outcome = learn(model, precision, learner, 'ste', settings.kl, settings.lr);
          const losses = outcome.reports.map((report) => report.loss);
          const difference = largestDifference(losses, theirs.loss);
          t.diagnostic(`${loss}, ${precision}: losses ${difference.toExponential(1)}`);
          assert.ok(difference <= LOSS, `losses ${losses.join(' ')}, expected ${theirs.loss.join(' ')}`);
          assertMask(outcome, theirs.mask, FLIPPED[precision]);
          if (precision === 'f32') assertNorms(outcome, theirs);
        });
      }
    });
  }
});

interface Outcome {
  readonly reports: readonly StepReport[];
  /** Of the first step. */
  readonly gradients: ReadonlyMap<string, Float32Array>;
  /** After the last. */
  readonly logits: ReadonlyMap<string, Float32Array>;
  readonly mask: Patterns;
}

/** Runs the trainer's loop over the stored batches with the method's default optimizer but for ε, with the yardstick's momentum and without curvature, and its default schedule, and frees the learner. */
function learn(
  model: Model,
  precision: Precision,
  learner: Learner,
  method: TrainMethod,
  kl: number,
  learningRate: number,
): Outcome {
  native.setPrecision(precision);
  const yardstick = { steps: STEPS, epsilon: EPSILON[method], beta1: 0.9, curvature: 0 };
  const defaults = { ...maskTrainingDefaults(method, false), ...yardstick };
  const training = new Training(model, learner, inOrder(expected.rows), {
    batch: expected.batch,
    tokens: expected.tokens,
    activationBytes: Infinity,
    schedule: scheduleOf(defaults),
    learningRate,
    optimizer: optimizerOf(defaults),
    klWeight: () => kl,
    seed: 0,
  });
  try {
    const reports = [training.step()];
    const gradients = readParameters(learner, 'gradients');
    while (!training.finished) reports.push(training.step());
    const mask = matricesOf(model.weights).map((matrix) => {
      return [matrix.name, nibblesToSymbols(learner.nibbles(matrix)).join('')] as const;
    });
    return { reports, gradients, logits: readParameters(learner, 'values'), mask: Object.fromEntries(mask) };
  } finally {
    training.dispose();
    learner.dispose();
    native.setPrecision('bf16');
  }
}

/** Streams of which every draw is the next row, which has one place to start at: the stored batches, whatever is drawn. */
function inOrder(steps: Expected['rows']): readonly Int32Array[] {
  const rows = steps.flat().map((row) => Int32Array.from(row));
  return new Proxy<readonly Int32Array[]>([], { get: (_, key) => (key === 'length' ? 1 : rows.shift()) });
}

function readParameters(learner: Learner, what: 'gradients' | 'values'): ReadonlyMap<string, Float32Array> {
  return new Map(
    learner.parameters.map((parameter) => {
      const values = new Float32Array(parameter.count);
      native.read(parameter[what], 0, values);
      return [parameter.name, values];
    }),
  );
}

/** The paper's defaults, with the stored λ, logits and noise. */
function gumbel(model: Model, type: Precision, buffers: Buffers): Gumbel {
  const { sigma, priorStrength, scale, temperature } = maskTrainingDefaults('gumbel', false);
  const handles = new Map<string, Handle>();
  return new Gumbel(model.weights, undefined, {
    sigma,
    momentum: true,
    priorStrength,
    scale,
    temperature,
    regularisation: GUMBEL.settings.lam,
    seed: 0,
    type,
    logits: ({ name }) => tensors.floats(`logits.${name}`),
    noise: ({ name, rows, cols }, step) => {
      const count = ((rows * cols) / 4) * PATTERNS;
      const handle = handles.get(name) ?? buffers.f32(count);
      handles.set(name, handle);
      native.write(handle, 0, noise(step, expected.names.indexOf(name), count));
      return handle;
    },
  });
}

/** As make.py's docstring says. */
function noise(step: number, index: number, count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, element) => {
    let x = element + 2 ** 16 * (index + 16 * step);
    x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
    x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
    x ^= x >>> 16;
    return -Math.log(-Math.log((2 * (x >>> 10) + 1) / 2 ** 23));
  });
}

function prior({ name }: DenseMatrix): Uint8Array {
  return symbolsToNibbles(Uint8Array.from(expected.prior[name] as string, Number));
}

function lmLosses({ reports }: Outcome): number[] {
  return reports.map(({ lm }) => lm);
}

function assertNorms({ reports }: Outcome, { gradientNorm }: Learned): void {
  const ratios = gradientNorm.map((norm, step) => (reports[step]?.gradientNorm as number) / norm);
  assert.ok(
    ratios.every((ratio) => Math.abs(ratio - 1) <= 1e-3),
    `gradient norms are ${ratios.join(' ')} times theirs`,
  );
}

function assertMask({ mask }: Outcome, theirs: Patterns, share: number): void {
  const text = (patterns: Patterns): string => expected.names.map((name) => patterns[name] ?? '').join('');
  const [a, b] = [text(mask), text(theirs)];
  assert.equal(a.length, b.length);
  const flipped = [...b].filter((symbol, group) => symbol !== a[group]).length;
  assert.ok(flipped <= share * b.length, `${flipped} of ${b.length} groups differ`);
  const learned = [...text(expected.prior)].filter((symbol, group) => symbol !== b[group]).length;
  assert.ok(learned > 5 * share * b.length, 'the mask to compare with is far from its prior');
}

function largestDifference(a: readonly number[], b: readonly number[]): number {
  assert.equal(a.length, b.length);
  return Math.max(...b.map((value, i) => Math.abs((a[i] as number) - value)));
}

/** ‖a − b‖ / ‖b‖ */
function relativeError(a: Float32Array, b: Float32Array): number {
  assert.equal(a.length, b.length);
  let [difference, norm] = [0, 0];
  b.forEach((value, i) => {
    difference += ((a[i] as number) - value) ** 2;
    norm += value ** 2;
  });
  return Math.sqrt(difference / norm);
}
