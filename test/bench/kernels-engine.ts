/** Decoding in the engine: one sequence dense and masked; four sequences of four masks; eight of eight patches of one parent. */
import { symbolsToNibbles } from '../../codec/pattern.js';
import { native, type Handle } from '../../kernels/index.js';
import { KvCache } from '../../server/engine/kv-cache.js';
import { loadModel, type Model } from '../../server/engine/model.js';
import { Random } from '../../server/engine/random.js';
import type { MaskableMatrix, TaskWeights } from '../../server/engine/types.js';
import { CHURN } from './kernels-layer.js';
import { alternate } from './pairs.js';
import { swapped } from './swapped-mask.js';

export interface EngineFigures {
  readonly model: string;
  readonly threads: number;
  /** Tokens a second of one sequence. */
  readonly dense: number;
  readonly masked: number;
  readonly maskedOverDense: number;
  /** Four sequences of four unrelated masks in one pass, over one after another through compacted copies. */
  readonly multiMaskOverSingly: number;
  /** Eight sequences of eight patches, over the same eight through the parent. */
  readonly patchedOverParent: number;
  /** Bytes of a patch of 1.5% over those of a compacted copy. */
  readonly patchShare: number;
}

const PROMPT = 32;
const TOKENS = 16;

export function measureEngine(directory: string, settings: { threads: number; runs: number }): EngineFigures {
  const model = loadModel(directory, { threads: settings.threads, maxContext: 256 });
  const random = new Random(7);
  const parentMask = maskOf(model, random);
  const parent = compacted(model, parentMask);
  const others = [1, 2, 3].map(() => maskOf(model, random));
  const singly = [parent, ...others.map((mask) => compacted(model, mask))];
  const together = [parentMask, ...others].map((mask) => coded(model, mask));
  const children = Array.from({ length: 8 }, () => patched(model, parent, parentMask, random));
  const pairs = alternate(
    {
      dense: () => decode(model, [null]),
      masked: () => decode(model, [parent]),
      singly: () => singly.forEach((task) => decode(model, [task])),
      multiMask: () => decode(model, together),
      parent: () =>
        decode(
          model,
          children.map(() => parent),
        ),
      patched: () => decode(model, children),
    },
    settings.runs,
  );
  const figures = {
    model: model.info.name,
    threads: native.info().threads,
    dense: (TOKENS / pairs.ms.dense) * 1000,
    masked: (TOKENS / pairs.ms.masked) * 1000,
    maskedOverDense: pairs.faster('masked', 'dense'),
    multiMaskOverSingly: pairs.faster('multiMask', 'singly'),
    patchedOverParent: pairs.faster('patched', 'parent'),
    patchShare: (children[0] as TaskWeights).bytes / parent.bytes,
  };
  for (const task of [...singly, ...together, ...children.map(({ patches }) => ({ patches }))]) free(task);
  model.dispose();
  return figures;
}

/** TOKENS tokens of each task's sequence, with PROMPT positions of its cache behind them. */
function decode(model: Model, tasks: readonly (TaskWeights | null)[]): void {
  const caches = tasks.map(() => new KvCache(model.config, PROMPT + TOKENS));
  for (const cache of caches) cache.length = PROMPT;
  for (let token = 0; token < TOKENS; token++) {
    model.forward.decode(tasks.map((task, row) => ({ id: 5 + token, cache: caches[row] as KvCache, task })));
  }
  for (const cache of caches) cache.dispose();
}

function maskOf(model: Model, random: Random): Map<string, Uint8Array> {
  return new Map(
    model.info.maskable.map(({ name, rows, cols }) => {
      const symbols = Uint8Array.from({ length: (rows * cols) / 4 }, () => Math.floor(random.uniform() * 6));
      return [name, symbolsToNibbles(symbols)];
    }),
  );
}

function compacted(model: Model, masks: ReadonlyMap<string, Uint8Array>): TaskWeights {
  const packed = each(model, masks, ({ rows, cols, weight }, meta) => {
    const handle = native.alloc((rows * cols * 9) / 8);
    native.compress24(handle, weight, meta, rows, cols);
    return handle;
  });
  const matrices = Object.fromEntries(Object.entries(packed).map(([name, handle]) => [name, { packed: handle }]));
  return { digest: '', matrices, bytes: bytesOf(packed) };
}

function coded(model: Model, masks: ReadonlyMap<string, Uint8Array>): TaskWeights {
  const codes = each(model, masks, ({ rows, cols }, meta) => {
    const handle = native.alloc((rows * cols) / 8);
    native.codes24(handle, meta, rows, cols);
    return handle;
  });
  return { digest: '', matrices: {}, codes, bytes: bytesOf(codes) };
}

function patched(
  model: Model,
  parent: TaskWeights,
  masks: ReadonlyMap<string, Uint8Array>,
  random: Random,
): TaskWeights {
  const children = new Map([...masks].map(([name, nibbles]) => [name, swapped(nibbles, CHURN, random)]));
  const patches = each(model, children, ({ name, rows, cols, weight }, meta) => {
    const packed = parent.matrices[name]?.packed as Handle;
    const handle = native.alloc(native.patchBytes24(packed, meta, rows, cols));
    native.buildPatch24(handle, packed, weight, meta, rows, cols);
    return handle;
  });
  return { digest: '', matrices: parent.matrices, patches, bytes: bytesOf(patches) };
}

/** Of every matrix, what `make` makes of its metadata. */
function each(
  model: Model,
  masks: ReadonlyMap<string, Uint8Array>,
  make: (matrix: MaskableMatrix, meta: Handle) => Handle,
): Record<string, Handle> {
  const made: Record<string, Handle> = {};
  for (const matrix of model.info.maskable) {
    const nibbles = masks.get(matrix.name) as Uint8Array;
    const meta = native.alloc(nibbles.length);
    native.write(meta, 0, nibbles);
    made[matrix.name] = make(matrix, meta);
    native.free(meta);
  }
  return made;
}

function bytesOf(handles: Readonly<Record<string, Handle>>): number {
  return Object.values(handles).reduce((sum, handle) => sum + native.byteLength(handle), 0);
}

function free({ matrices = {}, codes = {}, patches = {} }: Partial<TaskWeights>): void {
  for (const { packed } of Object.values(matrices)) native.free(packed);
  for (const handle of [...Object.values(codes), ...Object.values(patches)]) native.free(handle);
}
