/** Text of other domains in the batch: where it comes from, and what its share of the loss is. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { loadModel } from '../../../server/engine/model.js';
import { guardSequences, readRunText } from '../../../server/trainer/run-text.js';
import { denseWeights } from '../../../server/trainer/layer-pass.js';
import { TrainingPass } from '../../../server/trainer/training-pass.js';
import { matricesOf } from '../../../server/engine/weights.js';
import { native } from '../../../kernels/index.js';
import { TINY } from '../../tiny.js';
import { DOCUMENTS, request, run, settings } from './runs.js';

const model = loadModel(TINY, { threads: 2 });
after(() => model.dispose());

const OTHER = Array.from({ length: 40 }, (_, i) => `const value${i} = compute(${i}, ${i * 7});\n`.repeat(12));
const sources = [{ name: 'cats', documents: DOCUMENTS }];
const guards = [{ name: 'code', documents: OTHER }];

test('guards have their share of a step, at least one sequence, and never all', () => {
  assert.equal(guardSequences({ batch: 8, guardShare: 0.25 }), 2);
  assert.equal(guardSequences({ batch: 16, guardShare: 0.01 }), 1);
  assert.equal(guardSequences({ batch: 4, guardShare: 0.9 }), 3);
  assert.equal(guardSequences({ batch: 8, guardShare: 0 }), 0);
  assert.equal(guardSequences({ batch: 8 }), 0);
});

test('guards are trained on but for their held-out part, and only looked at without a share', () => {
  const shared = readRunText(model, { sources, guards }, settings({ guardShare: 0.25 }));
  assert.equal(shared.guardStreams.length, 1);
  assert.equal(shared.streams.length, 1);
  const trained = (shared.guardStreams[0] as Int32Array).join();
  const [, guard] = shared.heldOut;
  assert.ok(guard?.guard);
  assert.ok(
    guard.windows.every((ids) => !trained.includes(ids.join())),
    'what is scored was not trained on',
  );
  const looked = readRunText(model, { sources, guards }, settings({ guardShare: 0 }));
  assert.equal(looked.guardStreams.length, 0);
  assert.notEqual(looked.digest, shared.digest);
});

test('each share of a batch has its own loss: the gradient is that of the parts, row by row', () => {
  const [tokens, sequences] = [16, 3];
  const rows = tokens * sequences;
  const ids = Int32Array.from({ length: rows }, (_, i) => (i * 523 + 11) % 4096);
  const targets = Int32Array.from({ length: rows }, (_, i) => (i * 71 + 5) % 4096);
  const pass = new TrainingPass(model, { batch: sequences, tokens, activationBytes: Infinity });
  const matrix = matricesOf(model.weights)[0];
  assert.ok(matrix);
  const gradient = (weights: readonly (readonly [number, number])[]): { loss: number; dw: Float32Array } => {
    const dw = new Float32Array(matrix.rows * matrix.cols);
    pass.teach(ids, model.weights);
    const shares = weights.map(([share, klWeight]) => ({ rows: share * tokens, klWeight }));
    const { loss } = pass.step(ids, targets, shares, denseWeights, ({ name }, handle) => {
      if (name === matrix.name) native.read(handle, 0, dw);
    });
    return { loss, dw };
  };
  native.setPrecision('f32');
  try {
    const all = gradient([[3, 0]]);
    assert.deepEqual(gradient([[1, 0], [2, 0]]).dw, all.dw, 'where the loss is the same, parts make no difference'); // prettier-ignore
    const mixed = gradient([[2, 0], [1, 1]]); // prettier-ignore
    assert.ok(mixed.loss < all.loss * 0.8, 'KL to itself is 0: the last sequence adds nothing');
    assert.ok(mixed.dw.some((value) => value !== 0));
    assert.notDeepEqual(mixed.dw, all.dw);
  } finally {
    native.setPrecision('bf16');
    pass.dispose();
  }
});

test('a mask that is guarded is better on the guard than one that is not', async () => {
  const constants = { steps: 24, learningRate: 6e-3, batch: 4 } as const;
  const wanted = (guardShare: number) => request({ ...constants, guardShare }, { guards, force: true });
  const free = await run(model, wanted(0));
  const guarded = await run(model, wanted(0.5));
  const onGuard = ({ finished }: typeof free): number => finished.heldOut.find(({ guard }) => guard)?.mask ?? NaN;
  assert.ok(onGuard(guarded) < onGuard(free), `${onGuard(guarded)} and ${onGuard(free)}`);
});
