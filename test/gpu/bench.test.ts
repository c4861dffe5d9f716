/** The benchmarks of whole answers and of training run to their end on a GPU, and leave nothing there. */
import assert from 'node:assert/strict';
import { native } from '../../kernels/index.js';
import { measureProduct } from '../bench/gpu-layers.js';
import { generationTable, measureGeneration } from '../bench/gpu-generation.js';
import { gpuTrainingLine, measureGpuTraining } from '../bench/gpu-training.js';
import { gpuTest, runningOn } from './gpu.js';

const SHAPE = { layers: 2, hidden: 64, ffn: 128, heads: 4, kvHeads: 4, headDim: 16, vocab: 96 };

gpuTest('whole answers are timed dense and 2:4, and their memory is given back', () => {
  const before = native.usage();
  const figures = runningOn('cuda', () => measureGeneration(true, SHAPE, [[5, 6]]));
  assert.deepEqual(native.usage(), before);
  const [{ inputTokens, outputTokens, denseTokensPerSecond, cublasLtTokensPerSecond, sparseTokensPerSecond }] =
    figures as [(typeof figures)[0]];
  assert.deepEqual([inputTokens, outputTokens], [5, 6]);
  assert.ok(denseTokensPerSecond > 0 && sparseTokensPerSecond > 0);
  assert.ok(cublasLtTokensPerSecond! > 0);
  assert.match(
    generationTable(figures),
    /5 in, +6 out: dense [\d.]+ · 2:4 [\d.]+ tokens\/s · [\d.]+× · [\d.]+× cuBLASLt's/,
  );
});

gpuTest('products of one token are timed as they are replayed, those of a prompt as they are called', () => {
  const before = native.usage();
  for (const tokens of [1, 6]) {
    const settings = { tokens, runs: 2, cublasLt: true };
    const figures = runningOn('cuda', () =>
      measureProduct({ name: 'small', rows: 32, cols: 64, count: 1 }, settings, 32 * 64 * 2 * 3),
    );
    assert.equal(figures.cublasLtTokens, Math.max(tokens, 5));
    for (const us of [figures.denseUs, figures.cublasLtUs!, figures.sparseUs]) assert.ok(us > 0);
  }
  assert.deepEqual(native.usage(), before);
});

gpuTest('training is timed beside PyTorch, or with the reason why not', () => {
  const model = { layers: 1, hidden: 64, ffn: 128, heads: 4, kvHeads: 2, vocab: 96, context: 16 };
  const figures = measureGpuTraining({ model, batch: 1, seq: 16, warmup: 1, timed: 1 });
  assert.ok(figures.tokensPerSecond > 0 && figures.nativeBytes > 0);
  const line = gpuTrainingLine(figures);
  assert.match(line, /training 1 layers of 64, 1 × 16 tokens a step: \d+ tokens\/s/);
  assert.match(line, /PyTorch skipped: .+|PyTorch \S+ \d+ · ours\/PyTorch [\d.]+×/);
});
