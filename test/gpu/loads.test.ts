/** Containers become tasks in the GPU's memory there: the loader's tests, with model and tasks on the device. */
import { test } from 'node:test';
import { compactionCases } from '../server/store/compaction-cases.js';
import { loaderFixture } from '../server/store/loader-fixture.js';
import { patchingCases } from '../server/store/patching-cases.js';
import { noGpu } from './gpu.js';

if (noGpu === false) {
  const fixture = loaderFixture('cuda');
  compactionCases(fixture);
  patchingCases(fixture);
} else {
  test('containers are decoded and compacted on the GPU', { skip: noGpu }, () => undefined);
}
