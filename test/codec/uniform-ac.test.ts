import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { decodeUniform, encodeUniform, maxBytes, minBytes } from '../../codec/uniform-ac.js';
import { randomIntegers, randomSymbols } from './random-sets.js';
import { referenceDecode, referenceEncode } from './reference-coder.js';

const PATTERN_COUNTS = [4, 6, 70];
/** With 4 patterns every interval is a power of two at a multiple of itself: none straddles the middle, no bit is ever pending. */
const STRADDLING_COUNTS = [6, 70];

describe('uniform-ac writes the bytes of the reference coder, and each decoder reads them', () => {
  for (const patterns of PATTERN_COUNTS) {
    it(`for every short sequence of ${patterns} symbols`, () => {
      for (let first = 0; first < patterns; first++) {
        agree(Uint8Array.of(first), patterns);
        for (let second = 0; second < patterns; second++) {
          agree(Uint8Array.of(first, second), patterns);
          agree(Uint8Array.of(second, first, (first + second) % patterns), patterns);
        }
      }
    });

    it(`for runs of one of ${patterns} symbols`, () => {
      for (let symbol = 0; symbol < patterns; symbol += patterns === 70 ? 23 : 1) {
        for (const length of [4, 31, 32, 33, 1000]) agree(new Uint8Array(length).fill(symbol), patterns);
      }
    });

    it(`for random sequences of ${patterns} symbols and every length up to 200, and some longer`, () => {
      for (let length = 4; length <= 200; length++) agree(randomSymbols(length, length, patterns), patterns);
      for (const length of [4096, 20_011, 65_536]) agree(randomSymbols(length, length, patterns), patterns);
    });
  }

  for (const patterns of STRADDLING_COUNTS) {
    it(`for long runs of pending bits among ${patterns} symbols, resolved either way`, () => {
      for (let target = 1; target <= 60; target++) {
        const straddling = straddle(target, patterns, target);
        for (const last of [0, patterns - 1]) {
          agree(Uint8Array.of(...straddling, last), patterns);
          agree(Uint8Array.of(...straddling, last, ...randomSymbols(target, 90, patterns)), patterns);
        }
      }
    });

    it(`filled up with zero bytes to the least length when ${patterns} symbols leave more bits pending than that`, () => {
      const symbols = straddle(7, patterns, 500);
      const bytes = encoded(symbols, patterns);
      const reference = referenceEncode(symbols, patterns);
      assert.equal(bytes.length, minBytes(symbols.length, patterns));
      assert.ok(reference.length < bytes.length);
      assert.deepEqual(bytes.subarray(0, reference.length), reference);
      assert.ok(bytes.subarray(reference.length).every((byte) => byte === 0));
      assert.deepEqual(decoded(bytes, patterns, symbols.length), symbols);
      assert.deepEqual(referenceDecode(bytes, patterns, symbols.length), symbols);
      for (let at = 0; at < bytes.length; at++) acceptsOnlyItself(flip(bytes, at, at % 8), patterns, symbols.length);
    });
  }
});

describe('uniform-ac has one chunk for a sequence', () => {
  for (const patterns of PATTERN_COUNTS) {
    it(`of ${patterns} symbols: whatever else is accepted for its length encodes to itself`, () => {
      const random = randomIntegers(patterns);
      let accepted = 0;
      for (let i = 0; i < 20_000; i++) {
        const count = 1 + random(12);
        const bytes = randomSymbols(i, 1 + random(maxBytes(count, patterns)), 256);
        // Half of them with an end that looks right, as hardly any would be accepted otherwise.
        if (random(2) === 0) bytes[bytes.length - 1] = [0x80, 0x40, 0xc0, 0x20, 0xa0][random(5)]!;
        accepted += acceptsOnlyItself(bytes, patterns, count) ? 1 : 0;
      }
      assert.ok(accepted > 100, `${accepted} accepted`);
    });

    it(`of ${patterns} symbols: a flipped bit, a lost or an added byte is refused or is another sequence`, () => {
      const symbols = randomSymbols(11, 300, patterns);
      const bytes = encoded(symbols, patterns);
      const variants = [...bytes.keys()].flatMap((at) => [0, 1, 2, 3, 4, 5, 6, 7].map((bit) => flip(bytes, at, bit)));
      variants.push(bytes.subarray(0, -1), bytes.subarray(0, -2), bytes.subarray(1), Uint8Array.of(...bytes, 0));
      for (const variant of variants) acceptsOnlyItself(variant, patterns, 300);
      for (const count of [200, 250, 350, 400]) assert.equal(accepts(bytes, patterns, count), false);
      assert.equal(accepts(Uint8Array.of(...bytes, 0), patterns, 300), false);
      assert.equal(accepts(new Uint8Array(0), patterns, 1), false);
    });
  }

  it('of a length between the bounds of the format', () => {
    for (const patterns of PATTERN_COUNTS) {
      for (const length of [1, 2, 3, 5, 8, 13, 100, 4096, 65_536, 2 ** 20]) {
        for (const symbols of [randomSymbols(length, length, patterns), new Uint8Array(length).fill(patterns - 1)]) {
          const bytes = encoded(symbols, patterns).length;
          assert.ok(bytes >= minBytes(length, patterns) && bytes <= maxBytes(length, patterns), `${length}: ${bytes}`);
        }
      }
    }
  });
});

function agree(symbols: Uint8Array, patterns: number): void {
  const bytes = encoded(symbols, patterns);
  assert.deepEqual(bytes, referenceEncode(symbols, patterns));
  assert.deepEqual(decoded(bytes, patterns, symbols.length), symbols);
  assert.deepEqual(referenceDecode(bytes, patterns, symbols.length), symbols);
}

/** Encodes into the middle of a larger buffer, whose other bytes must stay untouched. */
function encoded(symbols: Uint8Array, patterns: number): Uint8Array {
  const room = maxBytes(symbols.length, patterns);
  const out = new Uint8Array(room + 6).fill(0xee);
  const bytes = encodeUniform(symbols, patterns, out, 3);
  assert.ok(bytes <= room);
  assert.ok([...out.subarray(0, 3), ...out.subarray(3 + bytes)].every((byte) => byte === 0xee));
  return out.slice(3, 3 + bytes);
}

function decoded(bytes: Uint8Array, patterns: number, count: number): Uint8Array {
  const symbols = new Uint8Array(count);
  assert.equal(decodeUniform(bytes, patterns, symbols), true);
  return symbols;
}

function accepts(bytes: Uint8Array, patterns: number, count: number): boolean {
  return decodeUniform(bytes, patterns, new Uint8Array(count));
}

/** Whether the chunk is accepted; if so it must be what its symbols encode to. */
function acceptsOnlyItself(bytes: Uint8Array, patterns: number, count: number): boolean {
  const symbols = new Uint8Array(count);
  if (!decodeUniform(bytes, patterns, symbols)) return false;
  assert.deepEqual(encoded(symbols, patterns), new Uint8Array(bytes));
  return true;
}

function flip(bytes: Uint8Array, at: number, bit: number): Uint8Array {
  const changed = bytes.slice();
  changed[at]! ^= 1 << bit;
  return changed;
}

/**
 * A sequence after which at least `bits` bits are pending: some random symbols, then always the one whose interval holds the
 * middle of the state, following FORMAT.md §7.1 literally.
 */
function straddle(seed: number, patterns: number, bits: number): Uint8Array {
  const half = 2 ** 30;
  for (let attempt = 0; attempt < 100; attempt++) {
    const symbols = [...randomSymbols(seed * 100 + attempt, 20, patterns)];
    let [low, high, pending] = [0, 2 ** 31 - 1, 0];
    for (let i = 0; i < 20 || pending < bits; i++) {
      const range = high - low + 1;
      const middle = Math.floor(((half - low + 1) * patterns - 1) / range);
      const symbol = i < symbols.length ? symbols[i]! : middle;
      if (i >= symbols.length) symbols.push(middle);
      high = low + Math.floor((range * (symbol + 1)) / patterns) - 1;
      low = low + Math.floor((range * symbol) / patterns);
      if (i >= 20 && (low >= half || high < half)) break; // a border at the middle: nothing straddles it
      while (high < half || low >= half) {
        low = (low % half) * 2;
        high = (high % half) * 2 + 1;
        pending = 0;
      }
      while (low >= half / 2 && high < half * 1.5) {
        low = low * 2 - half;
        high = high * 2 - half + 1;
        pending++;
      }
    }
    if (pending >= bits) return Uint8Array.from(symbols);
  }
  throw new Error(`no sequence of ${patterns} symbols leaves ${bits} bits pending`);
}
