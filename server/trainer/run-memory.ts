/** What a run takes of the memory that its ops work in, known before any of it is allocated, and refused in one line where it can't be had. */
import { totalmem } from 'node:os';
import { native } from '../../kernels/index.js';
import { DeviceFull, mebibytes, WORKING_BYTES } from '../engine/device-budget.js';
import { kvCacheBytes } from '../engine/kv-cache.js';
import type { Model } from '../engine/model.js';
import { matricesOf } from '../engine/weights.js';
import { maskedParameters } from './kept-dense.js';
import { passBytes } from './pass-buffers.js';

const F32 = 4;
const BF16 = 2;

export interface RunShape {
  readonly batch: number;
  readonly seq: number;
}

export interface RunNeeds {
  readonly shape: RunShape;
  /** Of what is learned, for each weight under the mask. */
  readonly bytesPerWeight: number;
  /** Before anything is learned: statistics of the layers' inputs. */
  readonly startBytes: number;
  /** Activations that may be kept. */
  readonly activationBytes: number;
  /** Merged, or loaded. */
  readonly teachers: number;
  /** Loaded beside student and teachers. */
  readonly models: number;
}

/**
 * Throws one line when the run can't be held, before anything of it is allocated: more than this machine has; on a GPU DeviceFull, more than is free there.
 * `deviceBytes`: the most that run and model may take of a GPU; all that is free unless given.
 */
export function checkMemory(model: Model, masked: Model, needs: RunNeeds, deviceBytes = Infinity): void {
  if (native.info().device === null) refuseOnHost(model, masked, needs);
  else refuseOnDevice(model, masked, needs, deviceBytes);
}

/** Files are mapped, and memory is the system's to swap: what counts is what can't be had at all. */
function refuseOnHost(model: Model, masked: Model, needs: RunNeeds): void {
  const { learned, activations } = memoryOf(model, masked, needs);
  const needed = learned + activations + needs.teachers * BF16 * maskedParameters(masked);
  if (needed <= totalmem()) return;
  const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  throw new Error(
    `expected ${gib(needed)} of memory for this run (${gib(activations)} of activations, ${needs.bytesPerWeight.toFixed(1)} bytes for each weight under the mask), but the machine has ${gib(totalmem())}; lower --batch, --seq or --activation-bytes, or keep layers dense`,
  );
}

function refuseOnDevice(model: Model, masked: Model, needs: RunNeeds, deviceBytes: number): void {
  const { loaded, learned, activations, looks, rounded } = memoryOf(model, masked, needs);
  const models = loaded + (needs.teachers + needs.models) * BF16 * model.weights.parameters;
  const steps = learned + activations + looks;
  const needed = models + Math.max(needs.startBytes, steps) + WORKING_BYTES + rounded;
  const available = Math.min(deviceBytes, native.memory().freeBytes + loaded);
  if (needed <= available) return;
  throw new DeviceFull(
    `expected ${mebibytes(needed)} of GPU memory for this run (${mebibytes(models)} of weights, ${mebibytes(learned)} for what is learned, ` +
      `${mebibytes(activations)} of activations), but ${mebibytes(available)} are free for it on ${native.info().device ?? ''}`,
    'lower --batch, --seq or --activation-bytes, keep layers dense, or use --backend cpu',
  );
}

export interface RunMemory {
  /** What loadModel put on a GPU. */
  readonly loaded: number;
  readonly learned: number;
  readonly activations: number;
  /** The mask as it will be served, and a window's keys and values. */
  readonly looks: number;
  /** Activations and gradients of a product in bf16. */
  readonly rounded: number;
}

export function memoryOf(model: Model, masked: Model, { shape, bytesPerWeight, activationBytes }: RunNeeds): RunMemory {
  const { config, weights, forward } = model;
  const { batch, seq } = shape;
  const sizes = matricesOf(masked.weights).map(({ rows, cols }) => ({
    weights: rows * cols,
    served: Math.max(rows * cols * BF16, cols % 8 === 0 ? native.packedBytes(rows, cols) : 0),
  }));
  const sum = (of: (size: (typeof sizes)[number]) => number): number =>
    sizes.reduce((total, one) => total + of(one), 0);
  const widest = Math.max(config.hidden, config.ffn, config.heads * config.headDim);
  return {
    loaded: weights.parameters * BF16 + forward.bytes,
    learned: sum((size) => size.weights) * bytesPerWeight + Math.max(...sizes.map((size) => size.weights)) * F32,
    activations: passBytes(config, { batch, tokens: seq, activationBytes }),
    looks: sum(({ served }) => served) + kvCacheBytes(config, seq, 'f32'),
    rounded: 2 * batch * seq * widest * BF16,
  };
}
