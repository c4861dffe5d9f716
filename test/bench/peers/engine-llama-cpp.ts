/**
 * llama.cpp, by the addon that node-llama-cpp publishes for this platform: its batches are called directly, without node-llama-cpp's queue. Flash
 * attention, fp16 keys and values, micro-batches of 512, the best of its CPU libraries, as `llama-server` has by default.
 */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type { Engine } from './engine.js';
import { LLAMA_BINARIES } from './installed.js';
import type { EngineSettings } from './protocol.js';

const BATCH_TOKENS = 512;
const LOG_ERRORS = 2;

/** node-llama-cpp 3.22's AddonTypes.d.ts, as much of it as is used here. */
interface Addon {
  loadBackends(directory: string): void;
  setLogger(logger: (level: number, message: string) => void): void;
  setLoggerLogLevel(level: number): void;
  init(): Promise<void>;
  systemInfo(): string;
  AddonModel: new (path: string, options: object) => AddonModel;
  AddonContext: new (model: AddonModel, options: object) => AddonContext;
  AddonSampler: new (model: AddonModel) => AddonSampler;
}
interface AddonModel {
  init(): Promise<boolean>;
  getModelDescription(): string;
}
interface AddonContext {
  init(): Promise<boolean>;
  initBatch(tokens: number): void;
  /** Which of `tokens` get logits is said by index; returns their places in the batch. */
  addToBatch(sequence: number, position: number, tokens: Uint32Array, logits: Uint32Array): Uint32Array;
  decodeBatch(): Promise<void>;
  disposeSequence(sequence: number): void;
  sampleToken(
    place: number,
    sampler: AddonSampler,
    probabilities: boolean,
    confidence: boolean,
    logits: boolean,
    totalWeight: boolean,
  ): Promise<[token: number, p: unknown, confidence: unknown, logits: (number | undefined)[]]>;
}
interface AddonSampler {
  applyConfig(options: { temperature: number }): void;
}

export async function openLlamaCpp(settings: EngineSettings): Promise<Engine> {
  const { threads, sequences, positions, vocab } = settings;
  const addon = createRequire(import.meta.url)(join(LLAMA_BINARIES, 'llama-addon.node')) as Addon;
  addon.setLoggerLogLevel(LOG_ERRORS);
  addon.setLogger((_, message) => void process.stderr.write(message));
  addon.loadBackends(LLAMA_BINARIES);
  await addon.init();
  const model = new addon.AddonModel(settings.model as string, { addonExports: addon, gpuLayers: 0, useMmap: true });
  if (!(await model.init())) throw new Error(`llama.cpp can't load ${settings.model}`);
  const context = new addon.AddonContext(model, {
    contextSize: sequences * positions,
    batchSize: BATCH_TOKENS,
    sequences,
    flashAttention: true,
    threads,
    performanceTracking: false,
  });
  if (!(await context.init())) throw new Error(`llama.cpp has no memory for ${sequences} × ${positions} positions`);
  const sampler = new addon.AddonSampler(model);
  sampler.applyConfig({ temperature: 0 });
  const lengths = new Array<number>(sequences).fill(0);
  let place = 0;

  /** Sequences from `first`, at most BATCH_TOKENS tokens together. */
  async function decode(batch: readonly Int32Array[], first: number): Promise<void> {
    context.initBatch(batch.reduce((sum, ids) => sum + ids.length, 0));
    batch.forEach((ids, i) => {
      const sequence = first + i;
      const position = lengths[sequence] as number;
      const [at = 0] = context.addToBatch(sequence, position, Uint32Array.from(ids), Uint32Array.of(ids.length - 1));
      place = at;
      lengths[sequence] = position + ids.length;
    });
    await context.decodeBatch();
  }

  return {
    name: `llama.cpp, ${model.getModelDescription()}, ${extensions(addon.systemInfo())}`,
    reset: () => {
      for (let sequence = 0; sequence < sequences; sequence++) context.disposeSequence(sequence);
      lengths.fill(0);
    },
    feed: async (batch) => {
      const each = Math.max(1, Math.floor(BATCH_TOKENS / (batch[0] as Int32Array).length));
      for (let first = 0; first < batch.length; first += each) await decode(batch.slice(first, first + each), first);
    },
    logits: async () => {
      const [, , , pairs] = await context.sampleToken(place, sampler, false, false, true, false);
      const logits = new Float32Array(vocab);
      for (let i = 0; i < pairs.length; i += 2) logits[pairs[i] as number] = pairs[i + 1] as number;
      return logits;
    },
  };
}

/** "… | AVX512_BF16 = 1 | …" → the ones that matter here. */
function extensions(systemInfo: string): string {
  const names = ['AVX2', 'AVX512', 'AVX512_BF16', 'AMX_INT8', 'LLAMAFILE', 'REPACK'];
  return names.filter((name) => systemInfo.includes(` ${name} = 1`)).join(' ');
}
