/**
 * One layer too large for any cache, decoded in every form, in a process of its own: the instruction set is chosen when the addon is loaded.
 * `node kernels-layer.js '{"rows":…,"cols":…,"threads":…,"runs":…}'` prints LayerFigures as JSON.
 */
import { pathToFileURL } from 'node:url';
import { symbolsToNibbles } from '../../codec/pattern.js';
import { native, type BackendInfo, type Handle } from '../../kernels/index.js';
import { Random } from '../../server/engine/random.js';
import { alternate } from './pairs.js';
import { swapped } from './swapped-mask.js';

export interface LayerSettings {
  readonly rows: number;
  readonly cols: number;
  /** 0: all. */
  readonly threads: number;
  readonly runs: number;
}

export interface LayerFigures {
  readonly isa: BackendInfo['isa'];
  readonly threads: number;
  readonly denseBytes: number;
  /** GB/s of memory: plainly read, and by each product for one token. */
  readonly readRate: number;
  readonly denseRate: number;
  readonly sparseRate: number;
  /** Speed of the dense product over plain reading, and of the 2:4 product over the dense one. */
  readonly denseOfRead: number;
  readonly sparseOverDense: number;
  /** Speed of one pass for four tokens of four unrelated masks over four compacted products. */
  readonly multiMaskOverSingly: number;
  /** Speed of eight tokens through eight patches of 1.5% over the same eight through the parent. */
  readonly patchedOverParent: number;
  /** Bytes of such a patch over those of the compacted copy. */
  readonly patchShare: number;
  /** What calling an op costs, microseconds: the smallest `add`, on one thread. */
  readonly callUs: number;
}

const MASKS = 4;
const PATCHES = 8;
export const CHURN = 0.015;
const CALLS = 100_000;

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  console.log(JSON.stringify(measureLayer(JSON.parse(process.argv[2] ?? '') as LayerSettings)));
}

function measureLayer({ rows, cols, threads, runs }: LayerSettings): LayerFigures {
  native.setThreads(threads);
  const random = new Random(1);
  const weights = randomWeights(random, rows * cols);
  const nibbles = symbolsToNibbles(
    Uint8Array.from({ length: (rows * cols) / 4 }, () => Math.floor(random.uniform() * 6)),
  );
  const meta = holding(nibbles);
  const packed = native.alloc((rows * cols * 9) / 8);
  native.compress24(packed, weights, meta, rows, cols);
  const x = holding(Float32Array.from({ length: PATCHES * cols }, () => random.uniform() * 2 - 1));
  const y = native.alloc(PATCHES * rows * 4);
  const patches = new Float64Array(PATCHES);
  for (let t = 0; t < PATCHES; t++) {
    native.write(meta, 0, swapped(nibbles, CHURN, random));
    patches[t] = native.alloc(native.patchBytes24(packed, meta, rows, cols));
    native.buildPatch24(patches[t] as Handle, packed, weights, meta, rows, cols);
  }
  const masks = new Float64Array(MASKS);
  for (let t = 0; t < MASKS; t++) {
    // The same mask further along: as unrelated as another, and made in no time.
    const along = 4099 * t;
    native.write(meta, 0, nibbles.subarray(along));
    native.write(meta, nibbles.length - along, nibbles.subarray(0, along));
    masks[t] = native.alloc((rows * cols) / 8);
    native.codes24(masks[t] as Handle, meta, rows, cols);
  }
  const tokens = Array.from({ length: MASKS }, (_, t) => native.view(x, t * cols * 4, cols * 4));
  const pairs = alternate(
    {
      read: () => void native.readThrough(weights),
      dense: () => native.matmul(y, x, weights, 1, rows, cols),
      sparse: () => native.matmul24(y, x, packed, 1, rows, cols),
      singly: () => tokens.forEach((token) => native.matmul24(y, token, packed, 1, rows, cols)),
      multiMask: () => native.matmulMasked(y, x, weights, masks, MASKS, rows, cols),
      parent: () => native.matmul24(y, x, packed, PATCHES, rows, cols),
      patched: () => native.matmul24Patched(y, x, packed, patches, PATCHES, rows, cols),
    },
    runs,
  );
  const denseBytes = rows * cols * 2;
  const rate = (bytes: number, ms: number): number => bytes / ms / 1e6;
  return {
    isa: native.info().isa,
    threads: native.info().threads,
    denseBytes,
    readRate: rate(denseBytes, pairs.ms.read),
    denseRate: rate(denseBytes, pairs.ms.dense),
    sparseRate: rate((denseBytes * 9) / 16, pairs.ms.sparse),
    denseOfRead: pairs.faster('dense', 'read'),
    sparseOverDense: pairs.faster('sparse', 'dense'),
    multiMaskOverSingly: pairs.faster('multiMask', 'singly'),
    patchedOverParent: pairs.faster('patched', 'parent'),
    patchShare: native.byteLength(patches[0] as Handle) / native.byteLength(packed),
    callUs: callMicroseconds(),
  };
}

function callMicroseconds(): number {
  const [a, b] = [native.alloc(4), native.alloc(4)];
  const call = alternate(
    { add: () => repeat(CALLS, () => native.add(a, b, 1)), nothing: () => repeat(CALLS, () => a) },
    9,
  );
  return ((call.ms.add - call.ms.nothing) * 1000) / CALLS;
}

function repeat(times: number, body: () => void): void {
  for (let i = 0; i < times; i++) body();
}

/** bf16 of some 2⁻⁶, either sign. */
function randomWeights(random: Random, count: number): Handle {
  const chunk = Uint16Array.from({ length: 1 << 20 }, () => 0x3c00 | (Math.floor(random.uniform() * 2 ** 16) & 0x81ff));
  const handle = native.alloc(count * 2);
  for (let i = 0; i < count; i += chunk.length)
    native.write(handle, i * 2, chunk.subarray(0, Math.min(chunk.length, count - i)));
  return handle;
}

function holding(array: ArrayBufferView): Handle {
  const handle = native.alloc(array.byteLength);
  native.write(handle, 0, array);
  return handle;
}
