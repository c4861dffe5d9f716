/** One model, measured as it is served: load, publish a mask, switch to it cold and warm, prefill and decode. */
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { encodeMaskSet } from '../../codec/encode.js';
import { native } from '../../kernels/index.js';
import { loadModel, type Model } from '../../server/engine/model.js';
import { openDiskRegistry } from '../../server/store/disk-registry.js';
import { createResidency } from '../../server/store/residency.js';
import { measureForward, median, type ForwardFigures, type ForwardSettings } from './forward.js';
import { randomMask } from './random-mask.js';

/** Cold switches are short: so many for each run of the forward pass. */
const COLD_RUNS = 4;

export interface ServingFigures extends ForwardFigures {
  readonly model: string;
  readonly parameters: number;
  readonly maskedParameters: number;
  readonly settings: ForwardSettings;
  readonly loadMs: number;
  readonly containerBytes: number;
  readonly bitsPerParameter: number;
  readonly taskBytes: number;
  /** Bytes of the compacted matrices over those of the dense ones: 9/16. */
  readonly taskShare: number;
  /** Container in the page cache → resident, least of several runs. */
  readonly coldSwitchMs: number;
  /** Copying the dense matrices once, into memory that is there, in turns with the cold switches. */
  readonly denseCopyMs: number;
  readonly warmSwitchMs: number;
}

export async function measureServing(
  directory: string,
  options: { readonly runs: number; readonly threads: number; readonly scratch: string },
): Promise<ServingFigures> {
  const started = performance.now();
  const model = loadModel(directory, { threads: options.threads });
  const loadMs = performance.now() - started;
  try {
    return { ...(await measureLoaded(model, options)), loadMs };
  } finally {
    model.dispose();
  }
}

async function measureLoaded(
  model: Model,
  options: { readonly runs: number; readonly threads: number; readonly scratch: string },
): Promise<Omit<ServingFigures, 'loadMs'>> {
  const maskedParameters = model.info.maskable.reduce((sum, { rows, cols }) => sum + rows * cols, 0);
  const settings: ForwardSettings = {
    prefillTokens: Math.min(512, model.info.contextLength),
    promptTokens: 64,
    decodeTokens: 64,
    runs: options.runs,
  };
  const registry = await openDiskRegistry({
    directory: join(options.scratch, `store-${model.info.name}`),
    model: model.info,
  });
  const residency = createResidency({
    budgetBytes: 2 ** 40,
    model: model.info,
    registry,
    loaderThreads: options.threads,
  });
  try {
    const container = encodeMaskSet(randomMask(model.info, 1));
    const { record } = await registry.publish('random', Readable.from([container]), { maxBytes: container.length });
    const copyDense = denseCopier(model.info.maskable);
    const coldSwitches: number[] = [];
    const denseCopies: number[] = [];
    for (let run = 0; run < COLD_RUNS * options.runs; run++) {
      denseCopies.push(copyDense());
      residency.evict(record.digest);
      coldSwitches.push(await switchMs());
    }
    const warmSwitches: number[] = [];
    for (let run = 0; run < 100; run++) warmSwitches.push(await switchMs());
    const lease = await residency.acquire(record.digest);
    const forward = measureForward(model, lease.weights, settings);
    const taskBytes = lease.weights.bytes;
    lease.release();
    return {
      model: model.info.name,
      parameters: model.info.parameters,
      maskedParameters,
      settings,
      containerBytes: container.length,
      bitsPerParameter: (container.length * 8) / maskedParameters,
      taskBytes,
      taskShare: taskBytes / (maskedParameters * 2),
      coldSwitchMs: Math.min(...coldSwitches),
      denseCopyMs: Math.min(...denseCopies),
      warmSwitchMs: median(warmSwitches),
      ...forward,
    };

    async function switchMs(): Promise<number> {
      const started = performance.now();
      const held = await residency.acquire(record.digest);
      const elapsed = performance.now() - started;
      held.release();
      return elapsed;
    }
  } finally {
    await residency.close();
    await registry.close();
  }
}

/** Milliseconds of a copy of the dense matrices into an array that has been written before. */
function denseCopier(maskable: Model['info']['maskable']): () => number {
  const into = new Uint8Array(maskable.reduce((sum, { rows, cols }) => sum + rows * cols * 2, 0)).fill(1);
  return () => {
    const started = performance.now();
    let at = 0;
    for (const { rows, cols, weight } of maskable) {
      native.read(weight, 0, into.subarray(at, (at += rows * cols * 2)));
    }
    return performance.now() - started;
  };
}
