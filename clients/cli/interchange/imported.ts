/** What an import makes of a foreign mask: symbols of the matrices that it covers, and what had to be done to its groups. */
import type { Mask } from '../../../codec/mask-set.js';
import { type BaseMatrix, blocksOf, type TensorReader } from './base-model.js';
import { completeGroups, type Completion, type GroupCounts } from './kept-bits.js';

export interface Imported {
  readonly masks: readonly Mask[];
  /** Matrices that the source leaves dense. */
  readonly dense: readonly string[];
  readonly counts: GroupCounts;
}

/** Called with the matrices done, of all, and the name of the next. */
export type OnMatrix = (done: number, of: number) => void;

/** The mask of a matrix from all its kept bits (groups); the base is read where groups need completing. */
export function maskOfKeptBits(
  matrix: BaseMatrix,
  kept: Uint8Array,
  reader: TensorReader,
  completion: Completion,
  counts: GroupCounts,
): Mask {
  const { name, rows, cols, tensor } = matrix;
  const symbols = new Uint8Array(kept.length);
  for (const { first, count } of blocksOf(matrix)) {
    const firstGroup = first / 4;
    const end = firstGroup + count / 4;
    const groups = {
      name,
      cols,
      kept: kept.subarray(firstGroup, end),
      firstGroup,
      base: () => reader.bits(tensor, first, count),
    };
    completeGroups(groups, completion, symbols.subarray(firstGroup, end), counts);
  }
  return { name, rows, cols, symbols };
}

/** Groups run along the columns. */
export function checkColumns({ name, cols }: BaseMatrix): void {
  if (cols % 4 !== 0) throw new Error(`expected the columns of ${name} to be a multiple of 4, but it has ${cols}`);
}
