/** onnxruntime on a model that `maskctl export --format onnx --logits last` wrote: fp32, keys and values handed back at every step. */
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { join } from 'node:path';
import { MODEL_FILE } from '../../../clients/cli/interchange/onnx/onnx-export.js';
import type { Engine } from './engine.js';
import type { EngineSettings } from './protocol.js';
import { sessionOptions } from './session-options.js';

type Past = Record<string, Tensor>;

export async function openOnnxRuntime(settings: EngineSettings): Promise<Engine> {
  const { layers, kvHeads, headDim, vocab } = settings;
  const session = await InferenceSession.create(
    join(settings.model as string, MODEL_FILE),
    sessionOptions(settings.threads),
  );
  const names = Array.from({ length: layers }, (_, layer) => [`${layer}.key`, `${layer}.value`]).flat();
  const empty = (sequences: number): Past => {
    const nothing = (): Tensor => new Tensor('float32', new Float32Array(0), [sequences, kvHeads, 0, headDim]);
    return Object.fromEntries(names.map((name) => [`past_key_values.${name}`, nothing()]));
  };
  let past: Past | undefined;
  let last: Tensor | undefined;
  return {
    name: 'onnxruntime, fp32',
    reset: () => {
      past = undefined;
    },
    feed: async (batch) => {
      const length = (batch[0] as Int32Array).length;
      const ids = BigInt64Array.from(
        batch.flatMap((sequence) => [...sequence]),
        BigInt,
      );
      const { logits, ...present } = await session.run({
        input_ids: new Tensor('int64', ids, [batch.length, length]),
        ...(past ?? empty(batch.length)),
      });
      last = logits;
      past = Object.fromEntries(names.map((name) => [`past_key_values.${name}`, present[`present.${name}`] as Tensor]));
    },
    logits: () => (last as Tensor).data.slice(-vocab) as Float32Array,
  };
}
