/** What a run will take, as it is computed before anything is allocated, against what it holds when it starts. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { loadModel } from '../../../server/engine/model.js';
import { matricesOf } from '../../../server/engine/weights.js';
import { ACTIVATION_BYTES } from '../../../server/trainer/defaults.js';
import { maskedLayersOf } from '../../../server/trainer/kept-dense.js';
import { learnerBytesPerWeight } from '../../../server/trainer/run-learner.js';
import { memoryOf } from '../../../server/trainer/run-memory.js';
import { runTraining } from '../../../server/trainer/run.js';
import type { MaskTrainingSettings, TrainStarted } from '../../../server/trainer/types.js';
import { writeSmallModel } from '../../gpu/small-model.js';
import { request, settings } from './runs.js';

const folder = mkdtempSync(join(tmpdir(), 'maskserve-run-memory-'));
writeSmallModel(folder, 64);
const model = loadModel(folder, { threads: 1 });
after(() => {
  model.dispose();
  rmSync(folder, { recursive: true });
});

async function startedWith(given: Partial<MaskTrainingSettings>, activationBytes: number): Promise<TrainStarted> {
  const events = runTraining(model, request({ seq: 16, evaluateWindows: 1, ...given }), { activationBytes });
  const first = await events.next();
  await events.return(undefined as never);
  assert.ok(first.done !== true && first.value.type === 'started');
  return first.value;
}

const CASES: readonly (readonly [string, Partial<MaskTrainingSettings>, number])[] = [
  ['straight-through scores', {}, ACTIVATION_BYTES],
  ['scores that are priced, of some layers', { rate: 0.1, keepDense: ['last:1'] }, ACTIVATION_BYTES],
  ['logits, with layers recomputed', { method: 'gumbel' }, 0],
];
for (const [name, given, activationBytes] of CASES) {
  test(`a run says beforehand what it will hold: ${name}`, async () => {
    const shape = settings({ seq: 16, ...given });
    const masked = maskedLayersOf(model, shape.keepDense);
    const needs = { shape, bytesPerWeight: learnerBytesPerWeight(shape), startBytes: 0, teachers: 0, models: 0 };
    const said = memoryOf(model, masked, { ...needs, activationBytes });
    const { memory, backend } = await startedWith(given, activationBytes);
    assert.equal(said.activations, memory.activationBytes);
    const largest = 4 * Math.max(...matricesOf(masked.weights).map(({ rows, cols }) => rows * cols));
    assert.ok(memory.learnerBytes <= said.learned && said.learned <= memory.learnerBytes + largest);
    assert.deepEqual([memory.recomputes, backend], [activationBytes === 0, 'cpu']);
  });
}
