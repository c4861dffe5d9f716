/** What a container carries: every mask of one task, in memory. */

/** Lower-case hex sha256, 64 characters. */
export type Digest = string;

/** The mask of one matrix. */
export interface Mask {
  /** Hugging Face parameter name, e.g. `model.layers.0.mlp.up_proj.weight`. */
  readonly name: string;
  /** Output rows N. */
  readonly rows: number;
  /** Input columns K, a multiple of m. */
  readonly cols: number;
  /** (rows · cols/m) pattern numbers in row-major order, one a byte: lexicographic order of kept positions (design §2). */
  readonly symbols: Uint8Array;
}

/** All masks of one task: immutable, for one set of frozen weights. */
export interface MaskSet {
  /** Kept weights of every m. 2:4 is what kernels run; 1:4 and 4:8 are stored. */
  readonly n: number;
  readonly m: number;
  /** Digest of the base weights (server/engine/base-digest.ts) that this set was made for. */
  readonly base: Digest;
  /** Content digest of the set it was transferred from or coded against. */
  readonly parent?: Digest;
  readonly masks: readonly Mask[];
}
