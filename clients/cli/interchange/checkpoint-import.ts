/**
 * A Hugging Face checkpoint whose linear weights are already 2:4 → masks for the base that it was pruned from: kept where it is not zero.
 * Kept values must be the base's own, because a mask can only choose among those.
 */
import { resolve } from 'node:path';
import type { Mask } from '../../../codec/mask-set.js';
import { locateTensors, type TensorLocation } from '../../../server/engine/safetensors.js';
import { type BaseMatrix, type BaseModel, blocksOf, tensorOfShape, TensorReader } from './base-model.js';
import { checkColumns, type Imported, maskOfKeptBits, type OnMatrix } from './imported.js';
import { addCounts, type Completion, noGroups, refuseDefects } from './kept-bits.js';

/** Weights that are neither 0 nor the base's, and the first of them. */
interface Differences {
  count: number;
  first: string | undefined;
}

/** Reads the checkpoint in `directory` for `base`. Throws one line: not 2:4, other values than the base's, tensors missing. */
export function importCheckpoint(
  directory: string,
  base: BaseModel,
  completion: Completion,
  onMatrix: OnMatrix,
): Imported {
  const tensors = locateTensors(resolve(directory));
  const reader = new TensorReader();
  const differences: Differences = { count: 0, first: undefined };
  const counts = noGroups();
  const masks: Mask[] = [];
  const dense: string[] = [];
  try {
    base.matrices.forEach((matrix, index) => {
      onMatrix(index, base.matrices.length);
      checkColumns(matrix);
      const { kept, identical } = compare(matrix, sparseTensor(tensors, directory, matrix), reader, differences);
      const own = noGroups();
      const mask = maskOfKeptBits(matrix, kept, reader, completion, own);
      if (identical && own.tooMany > 0) {
        dense.push(matrix.name); // the layer was not pruned
      } else {
        masks.push(mask);
        addCounts(counts, own);
      }
    });
  } finally {
    reader.close();
  }
  refuseDefects(directory, counts);
  refuseDifferences(directory, base, differences);
  if (masks.length === 0)
    throw new Error(
      `${directory}: expected linear weights that are 2:4, but all are those of ${base.directory}: nothing is pruned`,
    );
  return { masks, dense, counts };
}

function sparseTensor(
  tensors: ReadonlyMap<string, TensorLocation>,
  directory: string,
  { name, rows, cols }: BaseMatrix,
): TensorLocation {
  if (tensors.has(name.replace(/\.weight$/, '.compressed'))) {
    throw new Error(
      `${directory}: expected plain weights with zeros in place, but ${name} is stored compressed (compressed-tensors); save the model uncompressed first`,
    );
  }
  return tensorOfShape(tensors, directory, name, rows, cols);
}

/** Kept bits of every group, and whether all weights are the base's. */
function compare(
  matrix: BaseMatrix,
  sparse: TensorLocation,
  reader: TensorReader,
  differences: Differences,
): { kept: Uint8Array; identical: boolean } {
  const { name, rows, cols, tensor } = matrix;
  const kept = new Uint8Array((rows * cols) / 4);
  let pruned = 0;
  for (const { first, count } of blocksOf(matrix)) {
    const theirs = reader.bits(sparse, first, count);
    const ours = reader.bits(tensor, first, count);
    for (let i = 0; i < count; i++) {
      if (theirs[i]! << 1 === 0) {
        if (ours[i]! << 1 !== 0) pruned++; // either zero is a pruned weight
        continue;
      }
      kept[(first + i) >> 2]! |= 1 << (i & 3);
      if (theirs[i] === ours[i]) continue;
      differences.count++;
      differences.first ??= `${name}, row ${Math.floor((first + i) / cols)}, column ${(first + i) % cols}: ${asFloat(theirs[i]!)} for ${asFloat(ours[i]!)}`;
    }
  }
  return { kept, identical: pruned === 0 };
}

function refuseDifferences(directory: string, base: BaseModel, { count, first }: Differences): void {
  if (count === 0) return;
  throw new Error(
    `${directory}: ${count} kept weights differ from those of ${base.directory}, the first in ${first}; a mask can't change weights: ` +
      'check --model, or, if pruning updated them, import the checkpoint for itself (--model and source the same)',
  );
}

function asFloat(bits: number): number {
  return new Float32Array(Uint32Array.of(bits).buffer)[0]!;
}
