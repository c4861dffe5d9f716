/** maskserve's own engine, dense or through a mask: the forward pass of server/engine/ as serving calls it. */
import { symbolsToNibbles } from '../../../codec/pattern.js';
import { native } from '../../../kernels/index.js';
import { KvCache } from '../../../server/engine/kv-cache.js';
import { CHUNK_TOKENS } from '../../../server/engine/llama.js';
import { loadModel, type Model } from '../../../server/engine/model.js';
import type { CompactedMatrix, TaskWeights } from '../../../server/engine/types.js';
import { randomMask } from '../random-mask.js';
import type { Engine } from './engine.js';
import type { EngineSettings } from './protocol.js';

/** Every process draws the same mask. */
export const MASK_SEED = 1;

export function openMaskserve(settings: EngineSettings): Engine {
  const { threads, sequences, positions, masked = false, precise = false } = settings;
  const model = loadModel(settings.model as string, { threads, maxContext: positions });
  native.setPrecision(precise ? 'f32' : 'bf16');
  const task = masked ? compacted(model) : null;
  const caches = Array.from({ length: sequences }, () => new KvCache(model.config, positions));
  let lastRow = 0;
  return {
    name: `maskserve ${masked ? '2:4' : 'dense'}, ${native.info().isa}`,
    reset: () => {
      for (const cache of caches) cache.length = 0;
    },
    feed: (batch) => {
      const steps = batch.every((ids) => ids.length === 1);
      if (steps) step(model, batch, caches, task);
      else batch.forEach((ids, sequence) => read(model, ids, caches[sequence] as KvCache, task));
      lastRow = steps ? batch.length - 1 : 0;
    },
    logits: () => {
      const logits = new Float32Array(model.config.vocab);
      native.read(model.forward.logits, lastRow * logits.byteLength, logits);
      return logits;
    },
  };
}

/** A prompt in chunks, the head for its last token alone. */
function read(model: Model, ids: Int32Array, cache: KvCache, task: TaskWeights | null): void {
  for (let start = 0; start < ids.length; start += CHUNK_TOKENS) {
    model.forward.run(ids.subarray(start, start + CHUNK_TOKENS), cache, task);
  }
  model.forward.head((ids.length - 1) % CHUNK_TOKENS, 1);
}

function step(model: Model, batch: readonly Int32Array[], caches: readonly KvCache[], task: TaskWeights | null): void {
  model.forward.decode(
    batch.map((ids, sequence) => ({ id: ids[0] as number, cache: caches[sequence] as KvCache, task })),
  );
}

function compacted(model: Model): TaskWeights {
  const matrices: Record<string, CompactedMatrix> = {};
  let bytes = 0;
  randomMask(model.info, MASK_SEED).masks.forEach(({ name, rows, cols, symbols }, index) => {
    const nibbles = symbolsToNibbles(symbols);
    const meta = native.alloc(nibbles.length);
    native.write(meta, 0, nibbles);
    const packed = native.alloc((rows * cols * 9) / 8);
    native.compress24(packed, model.info.maskable[index]!.weight, meta, rows, cols);
    native.free(meta);
    matrices[name] = { packed };
    bytes += native.byteLength(packed);
  });
  return { digest: '', matrices, bytes };
}
