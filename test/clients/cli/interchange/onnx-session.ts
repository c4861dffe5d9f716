/** Runs an exported model in onnxruntime, the independent engine. */
import { join } from 'node:path';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { MODEL_FILE } from '../../../../clients/cli/interchange/onnx/onnx-export.js';
import type { ModelConfig } from '../../../../server/engine/model-config.js';

/** Keys and values of the layers by the names that the model takes them under. */
export type Past = Readonly<Record<string, Tensor>>;

export interface Step {
  /** (B, T, V), or (B, 1, V) */
  readonly logits: Float32Array;
  readonly dims: readonly number[];
  readonly past: Past;
}

export async function openSession(directory: string): Promise<InferenceSession> {
  return InferenceSession.create(join(directory, MODEL_FILE), {
    executionProviders: ['cpu'],
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
  });
}

/** One call with sequences of the same length (B, T). */
export async function run(session: InferenceSession, batch: readonly (readonly number[])[], past: Past): Promise<Step> {
  const ids = BigInt64Array.from(batch.flat(), BigInt);
  const input_ids = new Tensor('int64', ids, [batch.length, batch[0]?.length ?? 0]);
  const { logits, ...present } = await session.run({ input_ids, ...past });
  if (logits === undefined) throw new Error('the model has no output "logits"');
  const entries = Object.entries(present).map(([name, value]) => [name.replace('present', 'past_key_values'), value]);
  return {
    logits: logits.data as Float32Array,
    dims: logits.dims,
    past: Object.fromEntries(entries) as Past,
  };
}

/** Nothing has been seen: (B, KV, 0, hd) for every layer. */
export function emptyPast({ layers, kvHeads, headDim }: ModelConfig, sequences = 1): Past {
  const nothing = (): Tensor => new Tensor('float32', new Float32Array(0), [sequences, kvHeads, 0, headDim]);
  const names = Array.from({ length: layers }, (_, layer) =>
    ['key', 'value'].map((what) => `past_key_values.${layer}.${what}`),
  );
  return Object.fromEntries(names.flat().map((name) => [name, nothing()]));
}

/** The largest difference between two sets of logits. */
export function largestDifference(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) throw new Error(`expected ${b.length} logits, got ${a.length}`);
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs((a[i] as number) - (b[i] as number));
    if (!(difference <= largest)) largest = difference; // NaN counts as the largest
  }
  return largest;
}
