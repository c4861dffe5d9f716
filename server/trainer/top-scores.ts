/** The hard mask of the n largest of every m scores of a matrix: by kernels for 2:4, by plain loops for the patterns that no kernel runs (1:4, 4:8). */
import { native, type Handle } from '../../kernels/index.js';
import type { PatternTable } from '../../codec/pattern.js';
import type { DenseMatrix } from '../engine/weights.js';
import type { Buffers } from './activations.js';
import { bestPatterns, isTwoOfFour, maskDense, symbolsOf } from './n-of-m.js';
import type { Parameter } from './optimizer.js';

export interface TopScores {
  /** Canonical codes of the mask. */
  codes(): Uint8Array;
  /** masked (rows, cols) bf16 ← the matrix under the mask. */
  select(masked: Handle): void;
}

/** Bytes a weight that a mask needs beside its scores: 2:4 a nibble a group, the others nothing. */
export function topScoresBytesPerWeight(pattern: PatternTable): number {
  return isTwoOfFour(pattern) ? 1 / 8 : 0;
}

/** `scores`: (groups, m). */
export function topScoresOf(
  buffers: Buffers,
  pattern: PatternTable,
  matrix: DenseMatrix,
  { values, count }: Parameter,
): TopScores {
  return isTwoOfFour(pattern)
    ? topTwoOfFour(buffers.alloc(count / 8), matrix, values, count)
    : topByLoops(pattern, matrix, values, count);
}

/** `meta`: (rows, cols/8) nibbles. */
function topTwoOfFour(meta: Handle, { weight, rows, cols }: DenseMatrix, scores: Handle, count: number): TopScores {
  const find = (): void => native.topTwo(meta, scores, count / 4);
  return {
    codes(): Uint8Array {
      find();
      const nibbles = new Uint8Array(count / 8);
      native.read(meta, 0, nibbles);
      return nibbles;
    },
    select(masked): void {
      find();
      native.select24(masked, weight, meta, rows, cols);
    },
  };
}

function topByLoops(pattern: PatternTable, matrix: DenseMatrix, scores: Handle, count: number): TopScores {
  const symbols = (): Uint8Array => {
    const values = new Float32Array(count);
    native.read(scores, 0, values);
    const found = new Uint8Array(count / pattern.m);
    bestPatterns(pattern, values, found);
    return found;
  };
  return {
    codes: symbols,
    select: (masked) => maskDense(pattern, masked, matrix, symbols()),
  };
}

/** (groups, m) scores of the mask that `codes` are: +margin where kept, −margin where pruned. */
export function scoresOfMask(pattern: PatternTable, codes: Uint8Array, margin: number): Float32Array {
  const { m, positions } = pattern;
  const symbols = symbolsOf(pattern, codes);
  const scores = new Float32Array(symbols.length * m).fill(-margin);
  symbols.forEach((symbol, group) => {
    for (const position of positions[symbol] as readonly number[]) scores[group * m + position] = margin;
  });
  return scores;
}
