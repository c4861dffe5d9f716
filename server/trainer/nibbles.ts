/** Masks by matrix in canonical codes (for 2:4 nibbles, which is what kernels read), and as the mask set that a container holds. */
import { contentDigest } from '../../codec/content-digest.js';
import type { Digest, Mask, MaskSet } from '../../codec/mask-set.js';
import type { Model } from '../engine/model.js';
import { matricesOf, type DenseMatrix } from '../engine/weights.js';
import { codesOf, patternOf, symbolsOf, type MaskedModel } from './n-of-m.js';

/** Canonical codes of each matrix by name: nibbles, (rows · cols / 8) bytes, for 2:4; a symbol a byte else. */
export type CodesByName = ReadonlyMap<string, Uint8Array>;
/** Of 2:4. */
export type NibblesByName = CodesByName;

/** For whatever asks by matrix. */
export function byMatrix(codes: CodesByName): (matrix: DenseMatrix) => Uint8Array {
  return ({ name }) => codes.get(name) as Uint8Array;
}

/** Copies the current mask of every masked matrix. */
export function gatherCodes(masked: Model, codesIn: (matrix: DenseMatrix) => Uint8Array): CodesByName {
  return new Map(matricesOf(masked.weights).map((matrix) => [matrix.name, codesIn(matrix)]));
}

/** `base`: the weights that the set is for. `parent`: the set that it was transferred from. */
export function maskSetOf(masked: MaskedModel, codes: CodesByName, base: Digest, parent?: MaskSet): MaskSet {
  const pattern = patternOf(masked);
  return {
    n: pattern.n,
    m: pattern.m,
    base,
    ...(parent ? { parent: contentDigest(parent) } : {}),
    masks: matricesOf(masked.weights).map(({ name, rows, cols }) => ({
      name,
      rows,
      cols,
      symbols: symbolsOf(pattern, codes.get(name) as Uint8Array),
    })),
  };
}

/** The masks that `set` has for what is masked. Throws one line when it is for other weights, another n:m, or lacks a matrix. */
export function codesOfSet(masked: MaskedModel, set: MaskSet): CodesByName {
  const { base } = masked.info;
  const pattern = patternOf(masked);
  if (set.base !== base) {
    throw new Error(`expected a mask to start from for the base weights ${base}, but it is for ${set.base}`);
  }
  if (set.n !== pattern.n || set.m !== pattern.m) {
    throw new Error(`expected a ${pattern.n}:${pattern.m} mask to start from, but it is ${set.n}:${set.m}`);
  }
  const masks = new Map(set.masks.map((mask) => [mask.name, mask]));
  return new Map(
    matricesOf(masked.weights).map(({ name, rows, cols }) => {
      const mask: Mask | undefined = masks.get(name);
      if (mask?.rows === rows && mask.cols === cols) return [name, codesOf(pattern, mask.symbols)];
      throw new Error(
        `expected the mask to start from to cover ${name} (${rows}x${cols}), but it does not; keep that dense by --keep-dense`,
      );
    }),
  );
}
