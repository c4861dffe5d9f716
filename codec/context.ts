/** What a container cannot carry and its decoder may need: the parent's masks, the frozen weights. FORMAT.md §7. */
import type { Handle } from '../kernels/handle.js';
import type { Digest, MaskSet } from './mask-set.js';

/** What a container needs to be decoded: known from its tables alone. */
export interface Needs {
  /** Content digest of the parent; undefined if the set decodes without one (even if it has one). */
  readonly parent: Digest | undefined;
  readonly weights: boolean;
}

/** bf16 bit patterns of a frozen matrix, row-major (rows · cols); undefined if the base has none of that name. */
export type WeightsLookup = (name: string) => Uint16Array | undefined;

export interface DecodeContext {
  /** The set whose content digest the container names as its parent. */
  readonly parent?: MaskSet;
  readonly weights?: WeightsLookup;
  /** The same for native coders, which take it in place of a copy: buffers of exactly this matrix, undefined where there is none. */
  readonly buffers?: NativeBuffers;
}

export interface NativeBuffers {
  /** (rows, cols) bf16 */
  readonly weights?: (matrix: MatrixShape) => Handle | undefined;
  /** `parent`'s matrix as compress24 wrote it: of a patch, only the changed groups are then read of the parent. */
  readonly packedParent?: (matrix: MatrixShape) => Handle | undefined;
}

export interface MatrixShape {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
}

/** The changed groups of one tensor against its parent. */
export interface TensorPatch {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  /** Indices of the groups that differ, ascending. (changes) */
  readonly groups: Uint32Array;
  /** Their new canonical codes, one a byte: the nibble for 2:4, else the symbol (FORMAT.md §2). (changes) */
  readonly codes: Uint8Array;
}
