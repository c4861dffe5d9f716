/** Tests of compaction straight from chunks, whatever the memory that tasks are in. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeMaskSet } from '../../../codec/decode.js';
import { encodeMaskSet } from '../../../codec/encode.js';
import { nibblesToSymbols } from '../../../codec/pattern.js';
import { native } from '../../../kernels/index.js';
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
}

function magnitudes<T extends { readonly symbols: Uint8Array }>(mask: T, weights: Uint16Array): T {
  const nibbles = new Uint8Array(weights.length / 8);
  native.magnitudeMask({ coder: 10, groups: weights.length / 4, cols: weights.length, weights, mask: nibbles });
  return { ...mask, symbols: nibblesToSymbols(nibbles, weights.length / 4) };
}
