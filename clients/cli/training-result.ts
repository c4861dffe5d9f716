/** How a mask that was learned does on held-out text. */
import type { TrainFinished } from '../../server/trainer/types.js';
import { printLine, printTable } from './output.js';
import { percent, relative } from './training-report.js';

/** Perplexity on held-out text: dense, prior, this mask. */
export function printResult({ heldOut, changed, bitsPerParameter, step }: TrainFinished): void {
  printLine('');
  printTable(
    ['HELD-OUT TEXT', 'DENSE', 'PRIOR', 'THIS MASK', ''],
    heldOut.map(({ source, guard, dense, prior, mask }) => [
      guard ? `${source} (guard)` : source,
      ...[dense, prior, mask].map((perplexity) => perplexity.toFixed(2)),
      relative(mask, prior),
    ]),
    ['DENSE', 'PRIOR', 'THIS MASK', ''],
  );
  printLine(
    `${percent(changed)} of the groups changed, ${bitsPerParameter.toFixed(4)} bit per parameter given the prior (mask of step ${step})`,
  );
  if (changed === 0) printLine('nothing was learned: the mask is its prior; give it more --steps, or a higher --lr');
}
