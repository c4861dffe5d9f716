/**
 * What depends on n:m. 2:4 is what kernels run and servers serve; 1:4 and 4:8 are learned and scored as masked dense weights, by plain loops. A mask is kept in canonical codes
 * (codec/pattern.ts): nibbles for 2:4, a symbol a byte else.
 */
import { native, type Handle } from '../../kernels/index.js';
import { nibblesToSymbols, patternTable, symbolsToNibbles, type PatternTable } from '../../codec/pattern.js';
import type { Model } from '../engine/model.js';
import type { DenseMatrix } from '../engine/weights.js';
import type { MaskPattern } from './types.js';

export const TWO_OF_FOUR = patternTable(2, 4);

export const MASK_PATTERNS: readonly MaskPattern[] = ['2:4', '1:4', '4:8'];

/** A model, what of it is masked, and how. */
export interface MaskedModel extends Model {
  /** Undefined: 2:4. */
  readonly pattern?: PatternTable;
}

export function patternOf({ pattern }: MaskedModel): PatternTable {
  return pattern ?? TWO_OF_FOUR;
}

/** Undefined: 2:4. */
export function patternNamed(name: MaskPattern | undefined): PatternTable {
  const [n, m] = (name ?? '2:4').split(':').map(Number) as [number, number];
  return patternTable(n, m);
}

/** Whether kernels run it. */
export function isTwoOfFour({ n, m }: Pick<PatternTable, 'n' | 'm'>): boolean {
  return n === 2 && m === 4;
}

export function codesOf(pattern: PatternTable, symbols: Uint8Array): Uint8Array {
  return isTwoOfFour(pattern) ? symbolsToNibbles(symbols) : symbols;
}

export function symbolsOf(pattern: PatternTable, codes: Uint8Array): Uint8Array {
  return isTwoOfFour(pattern) ? nibblesToSymbols(codes) : codes;
}

/** symbols (groups) ← the n largest of each m scores (ties: lower position), from group `first` on. */
export function bestPatterns(pattern: PatternTable, scores: Float32Array, symbols: Uint8Array, first = 0): void {
  const { n, m, symbolOfMask } = pattern;
  for (let group = 0; group < scores.length / m; group++) {
    let mask = 0;
    for (let round = 0; round < n; round++) {
      let best = -1;
      for (let j = 0; j < m; j++) {
        if ((mask >> j) & 1) continue;
        if (best < 0 || (scores[group * m + j] as number) > (scores[group * m + best] as number)) best = j;
      }
      mask |= 1 << best;
    }
    symbols[first + group] = symbolOfMask[mask] as number;
  }
}

/** out (rows, cols) bf16 ← the weights that `symbols` keep, +0 elsewhere. `weight`: others (rows, cols) bf16 than the matrix's own. */
export function maskDense(
  pattern: PatternTable,
  out: Handle,
  matrix: Pick<DenseMatrix, 'weight' | 'rows' | 'cols'>,
  symbols: Uint8Array,
  weight: Handle = matrix.weight,
): void {
  const { m, masks } = pattern;
  const bits = new Uint16Array(matrix.rows * matrix.cols);
  native.read(weight, 0, bits);
  symbols.forEach((symbol, group) => {
    const mask = masks[symbol] as number;
    for (let j = 0; j < m; j++) if (((mask >> j) & 1) === 0) bits[group * m + j] = 0;
  });
  native.write(out, 0, bits);
}
