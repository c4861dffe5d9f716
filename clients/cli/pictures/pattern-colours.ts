/** Which colour stands for which pattern, and the legend that says so. */
import { patternTable } from '../../../codec/pattern.js';
import { type Colour, SIX_COLOURS } from './colours.js';

export interface PatternColours {
  /** Index into `colours` and `labels`, by symbol. */
  readonly colourOfSymbol: Uint8Array;
  readonly colours: readonly Colour[];
  readonly labels: readonly string[];
}

/**
 * A colour for each pattern where six are enough (2:4, 1:4), labelled with its kept positions, e.g. `1100`. The 70 patterns of 4:8
 * are coloured by how many are kept of the first four weights and of the last: `1 + 3 kept`.
 */
export function patternColours(n: number, m: number): PatternColours {
  const { masks, count } = patternTable(n, m);
  if (count <= SIX_COLOURS.length) {
    return {
      colourOfSymbol: Uint8Array.from(masks, (_, symbol) => symbol),
      colours: SIX_COLOURS.slice(0, count),
      labels: Array.from(masks, (mask) => bits(mask, m)),
    };
  }
  const half = m / 2;
  const keptFirst = masks.map((mask) => bits(mask, half).replaceAll('0', '').length);
  return {
    colourOfSymbol: keptFirst,
    colours: SIX_COLOURS.slice(0, n + 1),
    labels: Array.from({ length: n + 1 }, (_, kept) => `${kept} + ${n - kept} kept`),
  };
}

/** Position 0 first. */
function bits(mask: number, length: number): string {
  return Array.from({ length }, (_, position) => (mask >> position) & 1).join('');
}
