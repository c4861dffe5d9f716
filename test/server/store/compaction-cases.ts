/** Tests of compaction straight from chunks, whatever the memory that tasks are in. */
import assert from 'node:assert/strict';
import { closeSync, openSync, statSync, truncateSync } from 'node:fs';
import { test } from 'node:test';
import { ContainerReader, decodeMaskSet } from '../../../codec/decode.js';
import { encodeMaskSet } from '../../../codec/encode.js';
import { fileSource } from '../../../codec/file-source.js';
import { nibblesToSymbols } from '../../../codec/pattern.js';
import { native } from '../../../kernels/index.js';
import { packedBytesOf } from '../../../server/engine/types.js';
import { frozenWeights } from '../../../server/store/frozen-weights.js';
import { createLoader } from '../../../server/store/loader.js';
import type { LoaderFixture } from './loader-fixture.js';
import { compactedBytes, nativeModel, readPacked } from './native-model.js';
import { sampleContainer } from './sample-masks.js';

/** Whole blocks of 64 columns: these are compacted straight from their chunks, which matrices and layers share. */
const WHOLE_BLOCKS = [0, 1, 2].flatMap((layer) => [
  { name: `model.layers.${layer}.self_attn.q_proj.weight`, rows: 17, cols: 64 },
  { name: `model.layers.${layer}.mlp.up_proj.weight`, rows: 129, cols: 192 },
  { name: `model.layers.${layer}.mlp.down_proj.weight`, rows: 64, cols: 576 },
]);

export function compactionCases(fixture: LoaderFixture): void {
  for (const coder of [undefined, 'uniform', 'weights', 'scaled-weights', 'uniform-ac', 'magnitude'] as const) {
    test(`matrices of whole blocks, coded by ${coder ?? 'whatever is smallest'}, hold exactly the kept weights`, async () => {
      const blocks = nativeModel(WHOLE_BLOCKS);
      const loader = createLoader(blocks, { threads: 2 });
      const weights = frozenWeights(blocks.maskable);
      const set = decodeMaskSet(sampleContainer(3, { matrices: WHOLE_BLOCKS }));
      const masks = coder === 'magnitude' ? set.masks.map((mask) => magnitudes(mask, weights(mask.name)!)) : set.masks;
      const container = encodeMaskSet(
        { ...set, masks },
        { context: { weights }, chunkLog2: 12, ...(coder === undefined ? {} : { coder }) },
      );
      const task = await loader.load('d', await fixture.fileOf(container));
      for (const { name, symbols } of masks) {
        assert.deepEqual(readPacked(task.matrices[name]!), compactedBytes(blocks, name, symbols), name);
      }
      loader.free(task);
      await loader.close();
      blocks.dispose();
    });
  }

  test('of the chunks that are damaged the first is named, and nothing stays of what was made', async () => {
    const blocks = nativeModel(WHOLE_BLOCKS);
    const loader = createLoader(blocks, { threads: 2 });
    const before = native.usage();
    const whole = encodeMaskSet(decodeMaskSet(sampleContainer(3, { matrices: WHOLE_BLOCKS })), CHUNKS);
    const damaged = whole.slice();
    for (const share of [0.6, 0.8]) damaged[Math.floor(damaged.length * share)]! ^= 4;
    const message = /expected chunk \d+ to have the checksum \d+, got \d+/.exec(refusalOf(damaged))?.[0];
    await assert.rejects(loader.load('d', await fixture.fileOf(damaged)), (error: Error) =>
      error.message.includes(message ?? 'a chunk'),
    );
    assert.deepEqual(native.usage(), before);
    loader.free(await loader.load('w', await fixture.fileOf(whole)));
    await loader.close();
    blocks.dispose();
  });

  test('a file that is cut off while it is read is one that was cut off', async () => {
    const blocks = nativeModel(WHOLE_BLOCKS);
    const set = decodeMaskSet(sampleContainer(3, { matrices: WHOLE_BLOCKS }));
    const path = await fixture.fileOf(encodeMaskSet(set, CHUNKS));
    const fd = openSync(path, 'r');
    const packed = blocks.maskable.map((matrix) => native.alloc(packedBytesOf(matrix)));
    try {
      const reader = new ContainerReader(fileSource(fd));
      const compaction = reader.compaction((index) => ({
        weights: blocks.maskable[index]!.weight,
        packed: packed[index]!,
      }));
      truncateSync(path, Math.floor(statSync(path).size / 2));
      assert.throws(() => compaction?.upTo([packed.length - 1]), { code: 'truncated' });
    } finally {
      closeSync(fd);
      packed.forEach((buffer) => native.free(buffer));
      blocks.dispose();
    }
  });
}

/** Chunks that many share a batch of, and that there are many batches of. */
const CHUNKS = { coder: 'uniform', chunkLog2: 12 } as const;

function refusalOf(container: Uint8Array): string {
  try {
    new ContainerReader(container).check();
  } catch (error) {
    return (error as Error).message;
  }
  return 'none';
}

function magnitudes<T extends { readonly symbols: Uint8Array }>(mask: T, weights: Uint16Array): T {
  const nibbles = new Uint8Array(weights.length / 8);
  native.magnitudeMask({ coder: 10, groups: weights.length / 4, cols: weights.length, weights, mask: nibbles });
  return { ...mask, symbols: nibblesToSymbols(nibbles, weights.length / 4) };
}
