/** Where a mask starts: SparseGPT, whose statistics are gathered on the GPU and whose arithmetic is the host's; and the mask's perplexity, through the kernels that will serve it. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { native, type BackendName, type Handle } from '../../kernels/index.js';
import { loadModel, type Model } from '../../server/engine/model.js';
import { matricesOf } from '../../server/engine/weights.js';
import { freeTask, maskedTask, streamPerplexity } from '../../server/trainer/masked-perplexity.js';
import { byMatrix, codesOfSet } from '../../server/trainer/nibbles.js';
import { oneShotMask } from '../../server/trainer/one-shot.js';
import { writeRandomModel } from '../bench/random-model.js';
import { gpuTest, runningOn } from './gpu.js';

const VOCAB = 96;
const WINDOW = 40;
/** Of the groups: where two weights score alike, rounding decides. */
const MOST_CHANGED = 0.02;

const folder = mkdtempSync(join(tmpdir(), 'maskserve-gpu-priors-'));
after(() => rmSync(folder, { recursive: true }));
writeRandomModel(folder, { hidden: 64, layers: 1, heads: 4, kvHeads: 2, ffn: 128, vocab: VOCAB, context: 64 });
const stream = Int32Array.from({ length: 4 * WINDOW + 1 }, (_, i) => (i * i * 7 + i) % VOCAB);

interface Start {
  /** One a group, all matrices in a row. */
  readonly symbols: Uint8Array;
  /** Share of the weights that the update changed. */
  readonly updated: number;
  readonly perplexity: number;
}

function sparseGpt(backend: BackendName): Start {
  return runningOn(backend, () => {
    const model = loadModel(folder);
    const updates = new Map<string, Handle>();
    try {
      const windows = [0, 1, 2, 3].map((i) => stream.subarray(i * WINDOW, (i + 1) * WINDOW));
      const set = oneShotMask(model, {
        method: 'sparsegpt',
        windows,
        damp: 0.01,
        updated: ({ name, rows, cols }) => {
          const buffer = native.alloc(rows * cols * 2);
          updates.set(name, buffer);
          return buffer;
        },
      });
      const task = maskedTask(model, byMatrix(codesOfSet(model, set)));
      const perplexity = streamPerplexity(model, stream, WINDOW, 2, task);
      freeTask(task);
      const symbols = Uint8Array.from(set.masks.flatMap((mask) => [...mask.symbols]));
      return { symbols, updated: changedShare(model, updates), perplexity };
    } finally {
      for (const buffer of updates.values()) native.free(buffer);
      model.dispose();
    }
  });
}

function changedShare(model: Model, updates: ReadonlyMap<string, Handle>): number {
  let [changed, all] = [0, 0];
  for (const { name, rows, cols, weight } of matricesOf(model.weights)) {
    const [before, now] = [new Uint16Array(rows * cols), new Uint16Array(rows * cols)];
    native.read(weight, 0, before);
    native.read(updates.get(name) as Handle, 0, now);
    changed += now.filter((bits, i) => bits !== before[i]).length;
    all += now.length;
  }
  return changed / all;
}

gpuTest('SparseGPT prunes a model on the GPU as it does one on the CPU, and the mask scores alike', () => {
  const [expected, actual] = [sparseGpt('cpu'), sparseGpt('cuda')];
  const differing = actual.symbols.filter((symbol, group) => symbol !== expected.symbols[group]).length;
  assert.equal(actual.symbols.length, expected.symbols.length);
  assert.ok(differing < MOST_CHANGED * expected.symbols.length, `${differing} of ${expected.symbols.length} groups`);
  assert.ok(expected.updated > 0.5, 'pruned weights are zero, and most others make up for them');
  assert.ok(Math.abs(actual.updated - expected.updated) < 0.01, `${actual.updated} of the weights updated`);
  const apart = Math.abs(actual.perplexity / expected.perplexity - 1);
  assert.ok(apart < 0.01, `perplexity ${actual.perplexity}, on the CPU ${expected.perplexity}`);
});
