/** Decoding several sequences in one step: dense, compacted, patched and coded tasks side by side, bit for bit as each by itself. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { symbolsToNibbles } from '../../../codec/pattern.js';
import { native, type Handle, type KvType } from '../../../kernels/index.js';
import { KvCache, kvCacheBytes } from '../../../server/engine/kv-cache.js';
import { loadModel } from '../../../server/engine/model.js';
import type { CompactedMatrix, MaskableMatrix, TaskWeights } from '../../../server/engine/types.js';
import { onEveryIsa } from '../../kernels/every-isa.js';
import { assertSameBits, changed, random, relativeError, type Random } from '../../kernels/numbers.js';
import { TINY } from '../../tiny.js';

const PROMPT = Int32Array.of(5, 77, 1301, 9, 250);
const STEPS = 4;

onEveryIsa(import.meta.url, (isa) => {
  const model = loadModel(TINY, { maxContext: 64 });
  const owned: Handle[] = [];
  const next = random(11);
  const parentMasks = masksOf(next);
  const childMasks = new Map([...parentMasks].map(([name, meta]) => [name, changed(next, meta, 0.02)]));
  const parent = compacted(parentMasks);
  const tasks: Readonly<Record<string, TaskWeights | null>> = {
    dense: null,
    parent,
    child: patched(parent, childMasks),
    other: compacted(masksOf(next)),
    coded: coded(masksOf(next)),
    // Covers some of the matrices only: the others are dense.
    partly: coded(new Map([...masksOf(next)].slice(0, 9))),
  };
  after(() => {
    for (const handle of owned) native.free(handle);
    model.dispose();
    assert.deepEqual(native.usage(), { buffers: 0, bytes: 0, mappedBytes: 0 });
  });

  for (const type of ['f32', 'bf16'] as const) {
    test(`a batch of all kinds of tasks gives each the logits that it has by itself, from ${type} caches`, () => {
      const alone = Object.entries(tasks).map(([name, task]) => ({ name, logits: decode([task], type)[0]! }));
      const [forwards, backwards] = [Object.values(tasks), Object.values(tasks).reverse()];
      for (const batch of [forwards, backwards, [...forwards, ...backwards]]) {
        decode(batch, type).forEach((logits, row) => {
          const task = alone[Object.values(tasks).indexOf(batch[row] as TaskWeights | null)]!;
          assertSameBits(logits, task.logits, `${task.name} in row ${row} of ${batch.length}`);
        });
      }
    });

    test(`decode gives the same bits as run of one token at a time, from ${type} caches`, () => {
      for (const [name, task] of Object.entries(tasks)) {
        assertSameBits(decode([task], type)[0]!, runOneByOne(task, type), name);
      }
    });
  }

  test('a short prompt goes through panels of a compacted copy, to rounding, and decoding after it does not', () => {
    const prompt = Int32Array.from({ length: 40 }, (_, i) => 3 + 7 * i);
    native.setPrecision('f32');
    const before = decode([tasks['parent']!, null])[0]!;
    const [together, apart] = [[prompt], Array.from(prompt, (id) => Int32Array.of(id))].map((chunks) => {
      const cache = new KvCache(model.config, prompt.length);
      for (const chunk of chunks) model.forward.run(chunk, cache, tasks['parent']!);
      model.forward.head(chunks.length === 1 ? prompt.length - 1 : 0, 1);
      cache.dispose();
      return logitsOf(0);
    });
    assertSameBits(decode([tasks['parent']!, null])[0]!, before, 'decoding is as before');
    native.setPrecision('bf16');
    const error = relativeError(together!, apart!);
    // Without shuffles by data there are no such panels.
    assert.equal(error > 0, isa !== 'scalar');
    assert.ok(error < 1e-5, String(error));
  });

  test('bf16 caches take half the memory and change logits by the rounding of keys and values', () => {
    native.setPrecision('f32');
    const [narrow, wide] = (['bf16', 'f32'] as const).map((type) => decode([null], type)[0]!);
    native.setPrecision('bf16');
    const error = relativeError(narrow!, wide!);
    assert.ok(error > 1e-5 && error < 1e-2, String(error));
    assert.equal(2 * kvCacheBytes(model.config, 7, 'bf16'), kvCacheBytes(model.config, 7, 'f32'));
  });

  test('caches of both types in one batch are refused', () => {
    const caches = (['bf16', 'f32'] as const).map((type) => new KvCache(model.config, 1, type));
    assert.throws(
      () => model.forward.decode(caches.map((cache) => ({ id: 1, cache, task: null }))),
      /expected caches of one type in a batch/,
    );
    for (const cache of caches) cache.dispose();
  });

  test('a patched task computes what its mask, compacted, computes, to the rounding of a forward pass', () => {
    native.setPrecision('f32');
    const error = relativeError(runOneByOne(tasks['child']!), runOneByOne(compacted(childMasks)));
    native.setPrecision('bf16');
    assert.ok(error > 0 && error < 1e-5, String(error));
  });

  test('a coded task computes what its mask, compacted, computes, to the rounding of a forward pass', () => {
    native.setPrecision('f32');
    const masks = masksOf(next);
    const error = relativeError(runOneByOne(coded(masks)), runOneByOne(compacted(masks)));
    native.setPrecision('bf16');
    assert.ok(error < 1e-5, String(error));
  });

  test('a sequence whose cache is full is refused before anything is computed', () => {
    const cache = new KvCache(model.config, 1);
    cache.length = 1;
    assert.throws(() => model.forward.decode([{ id: 1, cache, task: null }]), /RangeError|one of them full/);
    assert.throws(() => model.forward.decode([]), /received 0/);
    cache.dispose();
  });

  /** Logits of each row's last token: the prompt by itself, then STEPS tokens together. */
  function decode(batch: readonly (TaskWeights | null)[], type: KvType = 'f32'): Float32Array[] {
    const caches = batch.map(() => new KvCache(model.config, PROMPT.length + STEPS, type));
    batch.forEach((task, row) => model.forward.run(PROMPT, caches[row]!, task));
    for (let step = 0; step < STEPS; step++) {
      model.forward.decode(batch.map((task, row) => ({ id: 40 + step, cache: caches[row]!, task })));
    }
    for (const cache of caches) cache.dispose();
    return batch.map((_, row) => logitsOf(row));
  }

  function runOneByOne(task: TaskWeights | null, type: KvType = 'f32'): Float32Array {
    const cache = new KvCache(model.config, PROMPT.length + STEPS, type);
    model.forward.run(PROMPT, cache, task);
    for (let step = 0; step < STEPS; step++) model.forward.run(Int32Array.of(40 + step), cache, task);
    model.forward.head(0, 1);
    cache.dispose();
    return logitsOf(0);
  }

  function logitsOf(row: number): Float32Array {
    const logits = new Float32Array(model.config.vocab);
    native.read(model.forward.logits, row * logits.byteLength, logits);
    return logits;
  }

  function masksOf(of: Random): Map<string, Uint8Array> {
    return new Map(
      model.info.maskable.map(({ name, rows, cols }) => {
        const symbols = Uint8Array.from({ length: (rows * cols) / 4 }, () => Math.floor(of() * 6));
        return [name, symbolsToNibbles(symbols)];
      }),
    );
  }

  function keep(handle: Handle): Handle {
    owned.push(handle);
    return handle;
  }

  /** Of every covered matrix, what `make` makes of its metadata. */
  function each<T>(
    masks: ReadonlyMap<string, Uint8Array>,
    make: (matrix: MaskableMatrix, meta: Handle) => T,
  ): Record<string, T> {
    const made: Record<string, T> = {};
    for (const matrix of model.info.maskable) {
      const nibbles = masks.get(matrix.name);
      if (!nibbles) continue;
      const meta = native.alloc(nibbles.length);
      native.write(meta, 0, nibbles);
      made[matrix.name] = make(matrix, meta);
      native.free(meta);
    }
    return made;
  }

  function compacted(masks: ReadonlyMap<string, Uint8Array>): TaskWeights {
    const matrices = each(masks, ({ rows, cols, weight }, meta): CompactedMatrix => {
      const packed = keep(native.alloc((rows * cols * 9) / 8));
      native.compress24(packed, weight, meta, rows, cols);
      return { packed };
    });
    return { digest: '', matrices, bytes: 0 };
  }

  function patched(of: TaskWeights, masks: ReadonlyMap<string, Uint8Array>): TaskWeights {
    const patches = each(masks, ({ name, rows, cols, weight }, meta) => {
      const { packed } = of.matrices[name] as CompactedMatrix;
      const patch = keep(native.alloc(native.patchBytes24(packed, meta, rows, cols)));
      native.buildPatch24(patch, packed, weight, meta, rows, cols);
      return patch;
    });
    return { digest: '', matrices: of.matrices, patches, bytes: 0 };
  }

  function coded(masks: ReadonlyMap<string, Uint8Array>): TaskWeights {
    const codes = each(masks, ({ rows, cols }, meta) => {
      const handle = keep(native.alloc((rows * cols) / 8));
      native.codes24(handle, meta, rows, cols);
      return handle;
    });
    return { digest: '', matrices: {}, codes, bytes: 0 };
  }
});
