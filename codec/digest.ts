/** Digests as the format stores them (32 bytes) and as everything else names them (64 hexadecimal digits). */
import { CodecError } from './errors.js';
import type { Digest } from './mask-set.js';

export const DIGEST_BYTES = 32;

const DIGEST = /^[0-9a-f]{64}$/;

/** The 32 bytes of a digest. Throws CodecError `bad-digest`, naming the field, if it is not 64 lower-case hexadecimal digits. */
export function digestToBytes(digest: Digest, field: string): Uint8Array {
  if (!DIGEST.test(digest)) {
    throw new CodecError(
      'bad-digest',
      `expected ${field} to be a sha256 in 64 lower-case hexadecimal digits, got ${JSON.stringify(digest).slice(0, 80)}`,
    );
  }
  return Uint8Array.from({ length: DIGEST_BYTES }, (_, i) => Number.parseInt(digest.slice(2 * i, 2 * i + 2), 16));
}

/** The digest that 32 bytes name. */
export function bytesToDigest(bytes: Uint8Array): Digest {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Bytes of a string whose characters are all ASCII. */
export function asciiBytes(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}
