/** The op table on the GPU against the CPU reference: every output agrees. */
import { FORWARD } from '../kernels/op-cases/forward.js';
import { FUSED, NONFINITE } from '../kernels/op-cases/fused.js';
import { MASKS } from '../kernels/op-cases/masks.js';
import { assertAgree, outputsOf } from '../kernels/op-cases/op-case.js';
import { TRAINING } from '../kernels/op-cases/training.js';
import { gpuTest, runningOn } from './gpu.js';

for (const each of [...FORWARD, ...FUSED, ...NONFINITE, ...MASKS, ...TRAINING]) {
  gpuTest(each.name, () => {
    const expected = runningOn('cpu', () => outputsOf(each));
    const actual = runningOn('cuda', () => outputsOf(each));
    assertAgree(actual, expected, each.agreement, 'on the GPU');
  });
}
