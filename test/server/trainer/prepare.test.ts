/** Preparing a base, from text to a model directory that loads, serves and is what it says. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { contentDigest } from '../../../codec/content-digest.js';
import { decodeMaskSet } from '../../../codec/decode.js';
import type { MaskSet } from '../../../codec/mask-set.js';
import { native } from '../../../kernels/index.js';
import { loadModel, type Model } from '../../../server/engine/model.js';
import { weightsInFiles } from '../../../server/engine/weight-files.js';
import { matricesOf, type DenseMatrix } from '../../../server/engine/weights.js';
import { PREPARE_DEFAULTS } from '../../../server/trainer/defaults.js';
import { codesOfSet } from '../../../server/trainer/nibbles.js';
import { oneShotMask } from '../../../server/trainer/one-shot.js';
import { runPrepare, type PrepareOptions } from '../../../server/trainer/prepare.js';
import type { PrepareFinished, PrepareRequest, PrepareSettings } from '../../../server/trainer/prepare-types.js';
import { TrainingStopped } from '../../../server/trainer/run-steps.js';
import type { TrainStep } from '../../../server/trainer/types.js';
import { TINY } from '../../tiny.js';
import { DOCUMENTS, losses } from './runs.js';

const folder = mkdtempSync(join(tmpdir(), 'maskserve-prepare-'));
const usage = native.usage();
let model: Model;
before(() => {
  model = loadModel(TINY, { threads: 2 });
});
after(() => {
  model.dispose();
  rmSync(folder, { recursive: true });
  assert.deepEqual(native.usage(), usage, 'every buffer is given back');
});

function request(given: Partial<PrepareSettings> = {}, force = false): PrepareRequest {
  const settings = {
    ...PREPARE_DEFAULTS,
    phases: [
      { klWeight: 1, steps: 2 },
      { klWeight: 0, steps: 2 },
    ],
    ...{ batch: 2, seq: 64, warmup: 1, learningRate: 1e-3, evaluateEvery: 2, evaluateWindows: 2 },
    ...given,
  };
  return { sources: [{ name: 'cats', documents: DOCUMENTS }], heldOut: [], settings, force };
}

interface Prepared {
  readonly steps: readonly TrainStep[];
  readonly finished: PrepareFinished;
}

async function prepare(
  wanted: PrepareRequest,
  options: PrepareOptions,
  onStep?: (step: TrainStep) => void,
): Promise<Prepared> {
  const steps: TrainStep[] = [];
  let finished: PrepareFinished | undefined;
  for await (const event of runPrepare(model, wanted, options)) {
    if (event.type === 'finished') finished = event;
    else if (event.type === 'step') {
      steps.push(event);
      onStep?.(event);
    }
  }
  assert.ok(finished);
  return { steps, finished };
}

/** Quicker than SparseGPT's, where it does not matter which. */
const magnitude = (): MaskSet => oneShotMask(model, { method: 'magnitude', windows: [], damp: 0.01 });

const generalOf = (directory: string): MaskSet =>
  decodeMaskSet(readFileSync(join(directory, 'masks', 'general.mask')), {
    context: { weights: weightsInFiles(directory) },
  });

function weightsOf(matrix: DenseMatrix): Uint16Array {
  const values = new Uint16Array(matrix.rows * matrix.cols);
  native.read(matrix.weight, 0, values);
  return values;
}

test('a prepared base is a model directory of its own, better on its text, with its mask and its history', async () => {
  const out = join(folder, 'prepared');
  const guard = { name: 'prose', documents: ['It was the best of times, it was the worst of times. '.repeat(20)] };
  const { steps, finished } = await prepare({ ...request(), heldOut: [guard] }, { out });
  assert.equal(steps.length, 4);
  assert.equal(steps[1]?.loss, steps[1]?.kl, 'KL first');
  assert.equal(steps[2]?.loss, steps[2]?.lm, 'then LM');
  const [cats, prose] = finished.heldOut;
  assert.ok(cats && cats.prepared < cats.start, JSON.stringify(finished.heldOut));
  assert.equal(prose?.guard, true);
  assert.deepEqual(readdirSync(folder), ['prepared'], 'no half-written directory is left');
  assert.deepEqual(readdirSync(out).sort(), [
    'config.json',
    'generation_config.json',
    'masks',
    'maskserve.json',
    'model.safetensors',
    'tokenizer.json',
    'tokenizer_config.json',
  ]);
  const about = JSON.parse(readFileSync(join(out, 'maskserve.json'), 'utf8')) as Record<string, unknown>;
  assert.deepEqual(about['preparedFrom'], { name: 'tiny', base: model.info.base });
  assert.equal(about['defaultTask'], 'general');
  const general = generalOf(out);
  assert.equal(about['general'], contentDigest(general));
  assert.equal(finished.general, contentDigest(general));
  const prepared = loadModel(out);
  try {
    assert.equal(prepared.info.base, general.base);
    assert.equal(prepared.info.base, finished.base);
    assert.notEqual(prepared.info.base, model.info.base);
    assert.equal(prepared.info.parameters, model.info.parameters);
  } finally {
    prepared.dispose();
  }
});

test('pruned positions keep the original values, kept ones move', async () => {
  const out = join(folder, 'values');
  await prepare(request(), { out, mask: magnitude() });
  const prepared = loadModel(out);
  try {
    const nibbles = codesOfSet(prepared, generalOf(out));
    let [moved, kept] = [0, 0];
    matricesOf(prepared.weights).forEach((matrix, index) => {
      const [now, was] = [weightsOf(matrix), weightsOf(matricesOf(model.weights)[index] as DenseMatrix)];
      const mask = nibbles.get(matrix.name) as Uint8Array;
      now.forEach((value, i) => {
        const group = i >> 2;
        const nibble = ((mask[group >> 1] as number) >> ((group & 1) * 4)) & 15;
        if ((nibble & 3) === (i & 3) || nibble >> 2 === (i & 3)) {
          kept++;
          if (value !== was[i]) moved++;
        } else if (value !== was[i]) {
          assert.fail(`pruned weight ${i} of ${matrix.name} changed from ${was[i]} to ${value}`);
        }
      });
    });
    assert.ok(moved > kept / 2, `${moved} of ${kept}`);
  } finally {
    prepared.dispose();
  }
});

test('a given mask is kept, and its weights start from the original ones: sparse fine-tuning', async () => {
  const mask = magnitude();
  const out = join(folder, 'tuned');
  const { finished } = await prepare(request({ phases: [{ klWeight: 0, steps: 4 }] }), { out, mask });
  assert.deepEqual(generalOf(out).masks, mask.masks);
  const [row] = finished.heldOut;
  assert.ok(row && row.prepared < row.start);
});

test('no steps write SparseGPT’s weight update, which beats its mask on the original weights', async () => {
  const out = join(folder, 'update');
  const { steps, finished } = await prepare(request({ phases: [] }), { out });
  assert.deepEqual(steps, []);
  const [row] = finished.heldOut;
  assert.ok(row);
  assert.ok(Math.abs(row.prepared / row.start - 1) < 1e-6, 'bf16 in, bf16 out');
  const untouched = await prepare(request({ phases: [] }), {
    out: join(folder, 'mask'),
    mask: { ...generalOf(out), base: model.info.base },
  });
  assert.ok(row.prepared < (untouched.finished.heldOut[0]?.prepared as number));
});

test('stopped and resumed, it is the run that was never stopped, to the last bit of its weights', async () => {
  const mask = magnitude();
  const whole = await prepare(request(), { out: join(folder, 'whole'), mask });
  const checkpoint = { directory: join(folder, 'checkpoint'), every: 0 };
  const controller = new AbortController();
  const out = join(folder, 'resumed');
  const first: TrainStep[] = [];
  const stopped = prepare(
    request(),
    { out, mask, signal: controller.signal, checkpoint: { ...checkpoint, resume: false } },
    (step) => {
      first.push(step);
      if (step.step === 3) controller.abort();
    },
  );
  await assert.rejects(stopped, TrainingStopped);
  assert.equal(existsSync(out), false);
  const resumed = await prepare(request(), { out, mask, checkpoint: { ...checkpoint, resume: true } });
  assert.deepEqual(losses([...first, ...resumed.steps]), losses(whole.steps));
  assert.deepEqual({ ...resumed.finished, seconds: 0 }, { ...whole.finished, seconds: 0 });
  for (const file of ['model.safetensors', 'masks/general.mask', 'maskserve.json']) {
    assert.ok(readFileSync(join(out, file)).equals(readFileSync(join(folder, 'whole', file))), file);
  }
  const changed = prepare(request({ learningRate: 2e-3 }), { out, mask, checkpoint: { ...checkpoint, resume: true } });
  await assert.rejects(changed, /can't resume from .*: learningRate was 0.001 and is now 0.002/);
});

test('a base that is worse than its start is not written unless forced', async () => {
  const out = join(folder, 'worse');
  const { finished } = await prepare(request({ learningRate: 0.3 }), { out, mask: magnitude() });
  assert.equal(finished.publishable, false);
  assert.equal(existsSync(out), false);
  await prepare(request({ learningRate: 0.3 }, true), { out, mask: magnitude() });
  assert.equal(existsSync(join(out, 'model.safetensors')), true);
});

test('layers kept dense stay as they are, byte for byte, and out of the mask', async () => {
  const out = join(folder, 'dense-ends');
  await prepare(request({ keepDense: ['first:1', 'last:1'] }, true), { out, mask: magnitude() });
  const prepared = loadModel(out);
  try {
    const [was, now] = [matricesOf(model.weights), matricesOf(prepared.weights)];
    const same = now.filter((matrix, i) =>
      Buffer.from(weightsOf(matrix).buffer).equals(Buffer.from(weightsOf(was[i] as DenseMatrix).buffer)),
    );
    assert.deepEqual([...new Set(same.map(({ name }) => name.split('.')[2]))], ['0', '5']);
    assert.equal(generalOf(out).masks.length, 4 * 7);
  } finally {
    prepared.dispose();
  }
});

test('a refined mask starts with the weights that SparseGPT’s update gives that mask, and so beats the mask alone', async () => {
  const out = join(folder, 'refined');
  const settings = { phases: [], keepDense: ['first:5'], refine: 2 };
  const { finished } = await prepare(request(settings, true), { out });
  const general = generalOf(out);
  const alone = await prepare(request({ ...settings, refine: 0 }, true), {
    out: join(folder, 'alone'),
    mask: { ...general, base: model.info.base },
  });
  const [refined, untouched] = [finished, alone.finished].map(({ heldOut }) => heldOut[0]?.start as number);
  assert.ok((refined as number) < (untouched as number), `${refined} against ${untouched}`);
  assert.match(readFileSync(join(out, 'maskserve.json'), 'utf8'), /"start": "sparsegpt-refined-update"/);
  await assert.rejects(
    prepare(request({ refine: 1 }), { out: join(folder, 'no'), mask: magnitude() }),
    /expected --refine without --mask/,
  );
});
