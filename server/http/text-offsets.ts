/**
 * Where each token's text begins in a choice's text, counted in Unicode characters (what Python's strings index by). Tokens that cut a character share it: the
 * offset is that of the first whole character after them. Tokens without text of their own (special ones) have no length.
 */
import { tokenBytes } from './logprobs.js';
import type { TokenLogprob } from '../engine/types.js';

const SPACE = 0x20;

export class TextOffsets {
  private characters = 0;

  /** `silent`: ids whose label is not part of the text. */
  constructor(private readonly silent: ReadonlySet<number>) {}

  /** Tokens of an echoed prompt, found again in its text: what the tokenizer added has no place there. */
  prompt(tokens: readonly TokenLogprob[], text: string): number[] {
    const whole = Buffer.from(text);
    let at = 0;
    const offsets = tokens.map((token) => {
      const offset = this.characters;
      const bytes = matching(tokenBytes(token.text), whole, at);
      at += bytes.length;
      this.characters += startsIn(bytes);
      return offset;
    });
    this.characters = startsIn(whole);
    return offsets;
  }

  /** Generated tokens: their text follows, character by character. */
  generated(tokens: readonly TokenLogprob[]): number[] {
    return tokens.map((token) => {
      const offset = this.characters;
      if (!this.silent.has(token.id)) this.characters += startsIn(tokenBytes(token.text));
      return offset;
    });
  }
}

const NOTHING = Buffer.alloc(0);

/** The token's bytes as they stand at `at`: whole, without the space that SentencePiece puts before a text, or none. */
function matching(bytes: Buffer, whole: Buffer, at: number): Buffer {
  const standsThere = (part: Buffer): boolean => whole.subarray(at, at + part.length).equals(part);
  if (standsThere(bytes)) return bytes;
  const bare = bytes[0] === SPACE ? bytes.subarray(1) : NOTHING;
  return standsThere(bare) ? bare : NOTHING;
}

/** Characters that begin in these bytes: all bytes but UTF-8's continuations 10xxxxxx. */
function startsIn(bytes: Buffer): number {
  let count = 0;
  for (const byte of bytes) if ((byte & 0xc0) !== 0x80) count++;
  return count;
}
