/** The entropy coders of the format by their id: FORMAT.md §7. */
import { decodeUniform, encodeUniform, maxBytes, minBytes } from './uniform-ac.js';

/** Codes the symbols of one chunk without regard to other chunks. */
export interface Coder {
  readonly id: number;
  readonly name: string;
  /** Length of the coder data in the tensor table. */
  readonly coderDataBytes: number;
  /** Chunks of a tensor of `symbols` symbols. */
  chunkCount(symbols: number, chunkSymbols: number): number;
  /** Bounds of a chunk's length, which a reader checks before it allocates anything for the chunk's symbols. */
  minBytes(symbols: number, patterns: number): number;
  maxBytes(symbols: number, patterns: number): number;
  /** Writes a chunk at `at`, where maxBytes has room; returns its length. All symbols are below `patterns`. */
  encode(symbols: Uint8Array, patterns: number, out: Uint8Array, at: number): number;
  /** Fills `out`; false if the chunk is not exactly what `encode` writes for those symbols. Never throws. */
  decode(chunk: Uint8Array, patterns: number, out: Uint8Array): boolean;
}

export const UNIFORM_AC: Coder = {
  id: 1,
  name: 'uniform-ac',
  coderDataBytes: 0,
  chunkCount: (symbols, chunkSymbols) => Math.ceil(symbols / chunkSymbols),
  minBytes,
  maxBytes,
  encode: encodeUniform,
  decode: decodeUniform,
};

const CODERS: ReadonlyMap<number, Coder> = new Map([[UNIFORM_AC.id, UNIFORM_AC]]);

export function coderById(id: number): Coder | undefined {
  return CODERS.get(id);
}

/** For sentences: `1 (uniform-ac)`. */
export function knownCoders(): string {
  return [...CODERS.values()].map((coder) => `${coder.id} (${coder.name})`).join(', ');
}
