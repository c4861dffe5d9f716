/**
 * Run by parity.test.ts with MASKSERVE_ISA set: every case on one thread and on three, which must give the same bits; prints the outputs and which
 * ops were called, as JSON.
 */
import { native } from '../../../kernels/index.js';
import { FORWARD } from './forward.js';
import { FUSED, NONFINITE } from './fused.js';
import { MASKS } from './masks.js';
import { assertAgree, outputsOf, type OpCase } from './op-case.js';
import { PRUNING } from './pruning.js';
import { TRAINING } from './training.js';
import { packed, type ParityRun } from './parity-run.js';

const called = new Set<string>();
const table = native as unknown as Record<string, unknown>;
for (const [name, op] of Object.entries(table)) {
  if (typeof op !== 'function') continue;
  table[name] = (...args: unknown[]): unknown => {
    called.add(name);
    return (op as (...args: unknown[]) => unknown)(...args);
  };
}

function run(each: OpCase): ParityRun['cases'][number] {
  const [one, three] = [1, 3].map((threads) => {
    native.setThreads(threads);
    return outputsOf(each);
  }) as [ReturnType<typeof outputsOf>, ReturnType<typeof outputsOf>];
  assertAgree(three, one, 'bits', `on three threads in "${each.name}"`);
  return { name: each.name, agreement: each.agreement, outputs: packed(one) };
}

const cases = [...FORWARD, ...FUSED, ...NONFINITE, ...MASKS, ...TRAINING, ...PRUNING].map(run);
console.log(JSON.stringify({ cases, called: [...called] } satisfies ParityRun));
