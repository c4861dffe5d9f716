/**
 * Native coders for 2:4, where a program has them: the codec itself runs anywhere. What they give is bit for bit what the code here gives
 * (test/kernels/codec-*.test.ts), so nobody can tell but by the clock.
 */
import type { NativeCodec } from '../kernels/codec-types.js';

export type FastCoders = Pick<
  NativeCodec,
  | 'decodeMasks'
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
