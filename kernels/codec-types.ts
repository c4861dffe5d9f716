/**
 * The mask codec's fast paths, for 2:4: the coders of codec/FORMAT.md §7–§9 over whole containers, chunks in parallel on the calling thread's
 * pool. Masks are canonical nibbles, two groups a byte. Every result is bit for bit that of codec/. Callers have read and checked the
 * container's tables; a chunk's bytes may be anything, and what became of it is a status. Arguments are checked: a TypeError or RangeError
 * names the function and the argument.
 */
import type { Handle } from './handle.js';

/** One matrix to be coded. What its coder does not need may be left out. */
export interface CodedTensor {
  /** Id of FORMAT.md §7. */
  readonly coder: number;
  /** rows · cols / 4 */
  readonly groups: number;
  readonly cols: number;
  /** Boundaries of its coder's tables, (contexts, 7): symbol s of table c has the slots [cum[7c + s], cum[7c + s + 1]). `uniform`: one table. */
  readonly cum?: Uint16Array;
  /** (rows, cols) bf16, a buffer or the words themselves */
  readonly weights?: Handle | Uint16Array;
  /** (cols): 16 · (t − 32), FORMAT.md §8.3 */
  readonly scales?: Int16Array;
  /** ⌈groups / 2⌉ nibble bytes */
  readonly parent?: Handle | Uint8Array;
  /** ⌈groups / 2⌉ nibble bytes: read by encoders, written by decoders (left out: decoded, not kept) */
  readonly mask?: Handle | Uint8Array;
}

/** A tensor with a patch coder and at least one change: read by encoders, written by decoders. */
export interface PatchedTensor extends CodedTensor {
  readonly changes: number;
  /** Changed groups, ascending. (changes) */
  readonly positions: Uint32Array;
  /** Their new nibbles. (changes) */
  readonly codes: Uint8Array;
  /** Read by decoders in place of `parent`: its matrix as compress24 wrote it, of which only changed groups are read. cols: a multiple of 8. */
  readonly packedParent?: Handle;
}

/** A tensor to be decoded to what compress24 would make of its mask and weights. cols: a multiple of 64. */
export interface CompressedTensor extends CodedTensor {
  readonly weights: Handle | Uint16Array;
  /** (rows · cols · 9/8) bytes, written */
  readonly packed: Handle;
}

/** What became of a chunk. */
export const CHUNK_OK = 0;
/** FORMAT.md `chunk-checksum` */
export const CHUNK_CHECKSUM = 1;
/** FORMAT.md `symbol-overrun` */
export const CHUNK_OVERRUN = 2;
/** FORMAT.md `patch-position` */
export const CHUNK_POSITION = 3;

/** Chunks that follow one another in `payload`. */
export interface CodedChunks {
  readonly payload: Uint8Array;
  readonly lengths: Uint32Array;
  readonly checksums: Uint32Array;
  /** Out: one of CHUNK_… for each. */
  readonly statuses: Int32Array;
}

/** Chunks that follow one another in an open file. Bytes that it does not have, or does not give, count as zeros: their checksum tells. */
export interface FileChunks extends Omit<CodedChunks, 'payload'> {
  readonly file: { readonly descriptor: number; readonly offset: number };
}

export interface NativeCodec {
  /**
   * Decodes chunks of `chunkSteps` steps each, from `firstStep` on, of the sequence of all steps of `tensors` (coders 2–7, in the order of the
   * table: §8.2; those that the chunks hold something of are enough). Where masks, weights and parents are buffers of a GPU, it decodes there. What of a tensor's mask lies in chunks with other statuses than CHUNK_OK must not be used.
   */
  decodeMasks(tensors: readonly CodedTensor[], chunkSteps: number, firstStep: number, chunks: CodedChunks): void;
  /**
   * The same, from chunks to compacted matrices: a chunk's nibbles are in memory only until its weights are picked. What lies in chunks with
   * other statuses than CHUNK_OK is undefined. Returns what share of its time went into compacting, 0 to 1. However many tensors there are,
   * the memory that it works in is bounded.
   */
  decodeCompressed(
    tensors: readonly CompressedTensor[],
    chunkSteps: number,
    firstStep: number,
    chunks: CodedChunks | FileChunks,
  ): number;
  /**
   * Encodes as many chunks as `lengths` has elements, from `firstStep` on of the sequence of all steps of `tensors` (as decodeMasks), into `out`, one
   * after the other; returns their bytes. `out` has room for 128 bytes a chunk and 64 a step; `lengths` and `checksums` are filled. Throws RangeError
   * where a nibble is no pattern or has frequency 0.
   */
  encodeMasks(
    tensors: readonly CodedTensor[],
    chunkSteps: number,
    firstStep: number,
    out: Uint8Array,
    lengths: Uint32Array,
    checksums: Uint32Array,
  ): number;
  /** counts (contexts, 8) += how often the tensor's mask has each coded symbol in each context of its coder. */
  countSymbols(tensor: CodedTensor, counts: Uint32Array): void;
  /** mask ← coder 10: the two largest magnitudes of each group. */
  magnitudeMask(tensor: CodedTensor): void;
  /**
   * Decodes patch chunks (§9): whole tensors until a chunk has `fullChunk` changes. `gaps` (65): boundaries of the gap table, which tensors of
   * one coder share: those of `patch` and `patch+weights` are not decoded in one call.
   */
  decodePatches(tensors: readonly PatchedTensor[], fullChunk: number, gaps: Uint16Array, chunks: CodedChunks): void;
  /** As encodeMasks; `out` has room for 32 bytes a chunk and 10 a change. */
  encodePatches(
    tensors: readonly PatchedTensor[],
    fullChunk: number,
    gaps: Uint16Array,
    out: Uint8Array,
    lengths: Uint32Array,
    checksums: Uint32Array,
  ): number;
  /** mask ← parent with codes[i] at group positions[i]; `mask` may be `parent`. Throws on a position beyond `groups`. */
  applyChanges(mask: Uint8Array, parent: Uint8Array, groups: number, positions: Uint32Array, codes: Uint8Array): void;
  /** Where mask differs from parent: fills positions and codes, which have room for `groups`; returns how often. */
  findChanges(mask: Uint8Array, parent: Uint8Array, groups: number, positions: Uint32Array, codes: Uint8Array): number;
  /** The chunk of scales (§8.3) → 16 · (t − 32) of every column in order. Returns its status. */
  decodeScales(chunk: Uint8Array, checksum: number, starts: Uint16Array, scales: Int16Array): number;
  /** All chunks of a tensor with coder 1, each of `chunkSymbols` groups but the last. */
  decodeUniformAc(tensor: CodedTensor, chunkSymbols: number, chunks: CodedChunks): void;
  /** CRC-32C (RFC 3720) of bytes. */
  crc32c(bytes: Uint8Array): number;
  /** nibbles ← pattern numbers, one a byte. False where one is above 5. */
  packSymbols(nibbles: Uint8Array, symbols: Uint8Array): boolean;
  /** symbols (groups) ← nibbles. False where one is no pattern, or the nibble after an odd last one is not 0. */
  unpackSymbols(symbols: Uint8Array, nibbles: Uint8Array): boolean;
}
