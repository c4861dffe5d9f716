/** Weights for the codec from files alone: what the engine holds once it has loaded them, whatever their type. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { roundToBf16 } from '../../../server/engine/elements.js';
import { loadModel } from '../../../server/engine/model.js';
import { weightsInFiles } from '../../../server/engine/weight-files.js';
import { frozenWeights } from '../../../server/store/frozen-weights.js';

const FIXTURES = fileURLToPath(new URL('../../../../test/fixtures/architectures/', import.meta.url));

for (const name of ['llama-sharded', 'llama-f16', 'llama-f32']) {
  test(`${name}: the bits of every matrix are those of the loaded model`, () => {
    const model = loadModel(FIXTURES + name, { threads: 1 });
    try {
      const [files, memory] = [weightsInFiles(FIXTURES + name), frozenWeights(model.info.maskable)];
      for (const { name: matrix } of model.info.maskable) assert.deepEqual(files(matrix), memory(matrix), matrix);
      assert.equal(files('no.such.weight'), undefined);
    } finally {
      model.dispose();
    }
  });
}

test('rounding is to the nearest, ties to even; infinities and NaN stay what they are', () => {
  const floats = [0x3f808000, 0x3f818000, 0x3f808001, 0xbf807fff, 0x7f7fffff, 0xff800000, 0x7f800001, 0x00008000];
  const rounded = [0x3f80, 0x3f82, 0x3f81, 0xbf80, 0x7f80, 0xff80, 0x7fc0, 0x0000];
  assert.deepEqual([...roundToBf16(Uint32Array.from(floats))], rounded);
});
