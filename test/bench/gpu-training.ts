/**
 * Training on a GPU at TinyLlama's shape, 1.1 B parameters with random weights: MaskLLM's step (Gumbel-softmax masks, LM loss, Adam on the logits), beside PyTorch's of
 * the same shape, batch and method (gpu_torch.py) where a Python with torch and CUDA is there.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LLAMA_1100M, writeRandomModel, type RandomShape } from './random-model.js';
import { runTraining } from './train.js';

export interface TrainingShape {
  readonly model: RandomShape;
  readonly batch: number;
  readonly seq: number;
  readonly warmup: number;
  readonly timed: number;
}

const LLAMA_1B: TrainingShape = { model: LLAMA_1100M, batch: 8, seq: 1024, warmup: 2, timed: 5 };

export interface GpuTrainingFigures {
  readonly parameters: string;
  readonly batch: number;
  readonly seq: number;
  readonly tokensPerSecond: number;
  /** Buffers of activations, parameters and optimizer. */
  readonly nativeBytes: number;
  readonly torch: TorchTraining | { readonly skipped: string };
}

interface TorchTraining {
  readonly version: string;
  readonly device: string;
  readonly tokensPerSecond: number;
  /** ours / PyTorch's */
  readonly ratio: number;
}

/** A Python with torch: MASKSERVE_YARDSTICK, as the other benchmarks take it, or the one on the PATH. */
const PYTHON = process.env['MASKSERVE_YARDSTICK'] ?? 'python3';
const SCRIPT = fileURLToPath(new URL('../../../test/bench/gpu_torch.py', import.meta.url));

export function measureGpuTraining(shape: TrainingShape = LLAMA_1B): GpuTrainingFigures {
  const { model, ...run } = shape;
  const folder = mkdtempSync(join(tmpdir(), 'maskserve-bench-train-'));
  try {
    writeRandomModel(folder, model);
    const ours = runTraining({ backend: 'cuda', model: folder, method: 'gumbel', loss: 'lm', threads: 0, ...run });
    const { tokensPerSecond, nativeBytes } = ours;
    const name = `${model.layers} layers of ${model.hidden}`;
    const { batch, seq } = shape;
    return { parameters: name, batch, seq, tokensPerSecond, nativeBytes, torch: torchTraining(shape, tokensPerSecond) };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function torchTraining(shape: TrainingShape, ours: number): GpuTrainingFigures['torch'] {
  const { error, status, stdout, stderr } = spawnSync(PYTHON, ['-B', SCRIPT, JSON.stringify(shape)], {
    encoding: 'utf8',
  });
  if (error) return { skipped: `${PYTHON} did not start: ${error.message}` };
  if (status !== 0) return { skipped: stderr.trim().split('\n').at(-1) ?? `${PYTHON} ended with ${status}` };
  const figures = JSON.parse(stdout) as Omit<TorchTraining, 'ratio'>;
  return { ...figures, ratio: ours / figures.tokensPerSecond };
}

export function gpuTrainingLine(figures: GpuTrainingFigures): string {
  const { parameters, batch, seq, tokensPerSecond, nativeBytes, torch } = figures;
  const own = `  training ${parameters}, ${batch} × ${seq} tokens a step: ${tokensPerSecond.toFixed(0)} tokens/s in ${(nativeBytes / 2 ** 30).toFixed(1)} GiB`;
  if ('skipped' in torch) return `${own} · PyTorch skipped: ${torch.skipped}`;
  return `${own} · PyTorch ${torch.version} ${torch.tokensPerSecond.toFixed(0)} · ours/PyTorch ${torch.ratio.toFixed(2)}×`;
}
