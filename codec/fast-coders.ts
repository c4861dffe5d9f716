/**
 * Native coders for 2:4, where a program has them: the codec itself runs anywhere. What they give is bit for bit what the code here gives
 * (test/kernels/codec-*.test.ts), so nobody can tell but by the clock.
 */
import type { NativeCodec } from '../kernels/codec-types.js';

export type FastCoders = Pick<
  NativeCodec,
  | 'decodeMasks'
  | 'decodeCompressed'
  | 'decodeUniformAc'
  | 'decodePatches'
  | 'magnitudeMask'
  | 'applyChanges'
  | 'findChanges'
  | 'countSymbols'
  | 'encodeMasks'
  | 'encodePatches'
  | 'packSymbols'
  | 'unpackSymbols'
  | 'crc32c'
>;

let coders: FastCoders | undefined;

/** From here on readers and writers of this JavaScript thread use `fast`; undefined: none. */
export function useFastCoders(fast: FastCoders | undefined): void {
  coders = fast;
}

export function fastCoders(): FastCoders | undefined {
  return coders;
}

const packings = new WeakMap<Uint8Array, Uint8Array>();

/** Nibbles of a parent's symbols, which many children share: kept as long as the symbols are. Not to be written to. */
export function packedSymbols(fast: FastCoders, symbols: Uint8Array): Uint8Array {
  const known = packings.get(symbols);
  if (known !== undefined) return known;
  const nibbles = new Uint8Array(Math.ceil(symbols.length / 2));
  fast.packSymbols(nibbles, symbols);
  packings.set(symbols, nibbles);
  return nibbles;
}

/** Nibbles of `groups` groups → symbols. */
export function unpackedNibbles(fast: FastCoders, nibbles: Uint8Array, groups: number): Uint8Array {
  const symbols = new Uint8Array(groups);
  fast.unpackSymbols(symbols, nibbles);
  return symbols;
}
