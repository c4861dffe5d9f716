/** Masks by matrix as nibbles, which is what learners and kernels read, and as the mask set that a container holds. */
import { contentDigest } from '../../codec/content-digest.js';
import type { Digest, Mask, MaskSet } from '../../codec/mask-set.js';
import { nibblesToSymbols, symbolsToNibbles } from '../../codec/pattern.js';
import type { Model } from '../engine/model.js';
import { matricesOf, type DenseMatrix } from '../engine/weights.js';

/** Nibbles of each matrix by name: (rows · cols / 8) bytes. */
export type NibblesByName = ReadonlyMap<string, Uint8Array>;

/** For whatever asks by matrix. */
export function byMatrix(nibbles: NibblesByName): (matrix: DenseMatrix) => Uint8Array {
  return ({ name }) => nibbles.get(name) as Uint8Array;
}

/** Copies the current mask of every masked matrix. */
export function gatherNibbles(masked: Model, nibblesOf: (matrix: DenseMatrix) => Uint8Array): NibblesByName {
  return new Map(matricesOf(masked.weights).map((matrix) => [matrix.name, nibblesOf(matrix)]));
}

/** `base`: the weights that the set is for. `parent`: the set that it was transferred from. */
export function maskSetOf(masked: Model, nibbles: NibblesByName, base: Digest, parent?: MaskSet): MaskSet {
  return {
    n: 2,
    m: 4,
    base,
    ...(parent ? { parent: contentDigest(parent) } : {}),
    masks: matricesOf(masked.weights).map(({ name, rows, cols }) => ({
      name,
      rows,
      cols,
      symbols: nibblesToSymbols(nibbles.get(name) as Uint8Array),
    })),
  };
}

/** The masks that `set` has for the masked layers. Throws one line when it is for other weights, not 2:4, or lacks a matrix. */
export function nibblesOfSet(masked: Model, set: MaskSet): NibblesByName {
  const { base } = masked.info;
  if (set.base !== base) {
    throw new Error(`expected a mask to start from for the base weights ${base}, but it is for ${set.base}`);
  }
  if (set.n !== 2 || set.m !== 4) throw new Error(`expected a 2:4 mask to start from, but it is ${set.n}:${set.m}`);
  const masks = new Map(set.masks.map((mask) => [mask.name, mask]));
  return new Map(
    matricesOf(masked.weights).map(({ name, rows, cols }) => {
      const mask: Mask | undefined = masks.get(name);
      if (mask?.rows === rows && mask.cols === cols) return [name, symbolsToNibbles(mask.symbols)];
      throw new Error(
        `expected the mask to start from to cover ${name} (${rows}x${cols}), but it does not; keep that dense by --keep-dense`,
      );
    }),
  );
}
