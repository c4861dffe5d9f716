/** The comparison as tables for a terminal. */
import { DENSE, MASKED } from './contenders.js';
import type { LayerFigures } from './layer-peers.js';
import { MEASURES, type ModelFigures } from './model-peers.js';

/** Issue 6: decoding one sequence. */
const BAR = 1.3;
const BAR_OWN_DENSE = 1.4;

export function modelTable({ model, threads, clock, contenders, absent }: ModelFigures, hasBars: boolean): string {
  const row = (label: string, cells: readonly string[]): string =>
    `  ${label.padEnd(30)}${cells.map((cell) => cell.padStart(20)).join('')}`;
  return [
    `\n${model}, ${threadsOf(threads)}: tokens/s${clock === 'cpu' ? ' of CPU time' : ''}`,
    row('', MEASURES),
    ...contenders.map(({ label, rates }) =>
      row(
        label,
        MEASURES.map((what) => rates[what].toFixed(what.startsWith('decode') ? 1 : 0)),
      ),
    ),
    `  2:4 as a multiple of`,
    ...contenders
      .filter(({ label }) => label !== MASKED)
      .map(({ label, maskedOver }) =>
        row(
          label,
          MEASURES.map((what) => `${maskedOver[what].toFixed(2)}×`),
        ),
      ),
    ...(hasBars ? bars(contenders) : []),
    `  the same model? distance of the logits from fp32's, alone and as one of eight; likeliest tokens`,
    ...contenders.map(
      ({ label, distance, sameGreedy, engine }) =>
        `  ${label.padEnd(30)}${distance.map((apart) => apart.toFixed(5).padStart(10)).join('')}${`${sameGreedy} of 18`.padStart(12)}   ${engine}`,
    ),
    ...absent.map(({ label, reason }) => `  ${label.padEnd(30)}skipped: ${reason}`),
  ].join('\n');
}

function bars(contenders: ModelFigures['contenders']): string[] {
  return contenders
    .filter(({ label }) => label !== MASKED)
    .map(({ label, maskedOver }) => {
      const bar = label === DENSE ? BAR_OWN_DENSE : BAR;
      const reached = maskedOver['decode 1'];
      return `  decode 1, 2:4 ÷ ${label}: ${reached.toFixed(2)}× (bar ≥ ${bar.toFixed(2)}${reached >= bar ? ', reached' : ', NOT reached'})`;
    });
}

export function layerTable(figures: readonly LayerFigures[]): string {
  const lines = figures.map(({ rows, cols, tokens, threads, contenders }) => {
    const cells = contenders.map(
      ({ label, ms, maskedOver }) =>
        `${label} ${ms.toFixed(ms < 10 ? 3 : 1)} ms${label === MASKED ? '' : ` (2:4 ${maskedOver.toFixed(2)}×)`}`,
    );
    return `  ${`${rows}×${cols}`.padEnd(12)}${`T ${tokens}`.padEnd(7)}${threadsOf(threads).padEnd(12)}${cells.join(' · ')}`;
  });
  return ['\nsingle layers, weights read from memory', ...lines].join('\n');
}

function threadsOf(threads: number): string {
  return threads === 1 ? 'one thread' : `${threads} threads`;
}
