/**
 * `uniform-ac`: the arithmetic coder of npm's `arithmetic-coding` 1.2.3 (after Project Nayuki) with P equally likely symbols,
 * bit for bit; normative in FORMAT.md §7.1.
 *
 * The reference moves one bit at a time. Here all doublings of a symbol are made at once:
 *
 * - `low` and `high` share their top bit n times in a row exactly if clz32(low ^ high) − 1 = n (31 bits of state). Then come
 *   u underflow steps: bits 29, 28, … of low are 1 and those of high 0, so u is the number of leading ones of
 *   (low & ~high) << 2. An underflow step leaves low's top bit 0 and high's 1, so no further shift can follow.
 * - A doubling maps x to 2x − c with the same c for low, high and code. So offset = code − low only doubles, and the decoder
 *   never needs code itself.
 * - After `pending` = p underflows, the next n shifted bits are: low's top bit t, p times its complement, n − 1 more bits.
 *   As a number that is ((2^p − 1) << (n − 1)) + (low >>> (31 − n)), of n + p bits: t = 1 carries into the ones.
 * - range · s / P rounded down is computed as (range · s + ½) · (1 / P) in doubles: range · s < 2^38 is exact, the quotient is at
 *   least 1 / 140 away from any integer, and the rounding error is below 2^31 · 2^−51.
 * - The interval keeps more than 2^29 values, so a symbol narrows it to at least 2^29 / 70 > 2^22 and n + u is at most 9.
 */

/** P the coder has length bounds for → b, a lower bound of 1000 · log2 P (FORMAT.md §7.1). */
const MILLIBITS: Readonly<Record<number, number>> = { 4: 2000, 6: 2584, 70: 6129 };

const STATE_MASK = 0x7fffffff;
const HALF = 0x40000000;
const LOW_MASK = 0x3fffffff;

/** Fewest bytes that a chunk of `symbols` symbols has: the encoder fills up to it. */
export function minBytes(symbols: number, patterns: number): number {
  return Math.max(1, Math.floor((symbols * MILLIBITS[patterns]!) / 8000) - 8);
}

/** More bytes than this the encoder never writes. */
export function maxBytes(symbols: number, patterns: number): number {
  return Math.floor((symbols * (MILLIBITS[patterns]! + 1)) / 8000) + 2;
}

/**
 * Encodes symbols (each below `patterns`) as one chunk into `out` at `at`, where maxBytes must have room. Returns the number
 * of bytes written.
 */
export function encodeUniform(symbols: Uint8Array, patterns: number, out: Uint8Array, at: number): number {
  const inverse = 1 / patterns;
  let low = 0;
  let high = STATE_MASK;
  let pending = 0;
  let bits = 0; // the last bits written; `filled` of them are not in `out` yet
  let filled = 0; // < 8 between symbols
  let end = at;
  for (let i = 0; i < symbols.length; i++) {
    const symbol = symbols[i]!;
    const range = high - low + 1;
    high = (low + (((range * (symbol + 1) + 0.5) * inverse) | 0) - 1) | 0;
    low = (low + (((range * symbol + 0.5) * inverse) | 0)) | 0;
    const n = Math.clz32(low ^ high) - 1;
    if (n > 0) {
      if (pending <= 14) {
        bits = (bits << (n + pending)) | ((((1 << pending) - 1) << (n - 1)) + (low >>> (31 - n)));
        filled += n + pending;
      } else {
        // Too long for 32 bits and very rare: the top bit and all but a few complements go out eight at a time.
        const complements = low >>> 30 === 1 ? 0 : 0xff;
        bits = (bits << 8) | (complements ^ 0x80);
        out[end++] = bits >>> filled;
        for (pending -= 7; pending >= 8; pending -= 8) {
          bits = (bits << 8) | complements;
          out[end++] = bits >>> filled;
        }
        const rest = ((complements & ((1 << pending) - 1)) << (n - 1)) | ((low >>> (31 - n)) & ((1 << (n - 1)) - 1));
        bits = (bits << (pending + n - 1)) | rest;
        filled += pending + n - 1;
      }
      pending = 0;
      while (filled >= 8) out[end++] = bits >>> (filled -= 8);
      low = (low << n) & STATE_MASK;
      high = ((high << n) & STATE_MASK) | ((1 << n) - 1);
    }
    const u = Math.clz32(~((low & ~high) << 2));
    pending += u;
    low = (low << u) & LOW_MASK;
    high = ((high << u) & LOW_MASK) | HALF | ((1 << u) - 1);
  }
  out[end++] = ((bits << 1) | 1) << (7 - filled);
  const least = at + minBytes(symbols.length, patterns);
  while (end < least) out[end++] = 0;
  return end - at;
}

/**
 * Decodes one chunk into all of `out`. Any bytes decode to symbols below `patterns`; the result says whether the chunk is exactly what
 * encodeUniform writes for them (FORMAT.md §7.1, "The end is strict"). If it is false, `out` must not be used.
 */
export function decodeUniform(chunk: Uint8Array, patterns: number, out: Uint8Array): boolean {
  const inverse = 1 / patterns;
  const length = chunk.length;
  let low = 0;
  let high = STATE_MASK;
  let pending = 0;
  let next = 4; // byte to be read next; beyond the chunk bits are 0
  let bits = firstWord(chunk); // its last `left` bits are not consumed yet
  let left = 1;
  let offset = bits >>> 1; // code − low
  for (let i = 0; i < out.length; i++) {
    const range = high - low + 1;
    const symbol = (((offset + 1) * patterns - 1) / range) | 0;
    const below = ((range * symbol + 0.5) * inverse) | 0;
    out[i] = symbol;
    high = (low + (((range * (symbol + 1) + 0.5) * inverse) | 0) - 1) | 0;
    low = (low + below) | 0;
    const n = Math.clz32(low ^ high) - 1;
    low = (low << n) & STATE_MASK;
    high = ((high << n) & STATE_MASK) | ((1 << n) - 1);
    const u = Math.clz32(~((low & ~high) << 2));
    low = (low << u) & LOW_MASK;
    high = ((high << u) & LOW_MASK) | HALF | ((1 << u) - 1);
    pending = n > 0 ? u : pending + u;
    const doublings = n + u;
    if (left < doublings) {
      bits = (bits << 16) | (next < length ? chunk[next]! << 8 : 0) | (next + 1 < length ? chunk[next + 1]! : 0);
      next += 2;
      left += 16;
    }
    left -= doublings;
    offset = ((offset - below) << doublings) | ((bits >>> left) & ((1 << doublings) - 1));
  }
  // 31 bits of `code` are ahead of those that the encoder has shifted out or still holds as pending. Shifted and pending bits together
  // are more than 8 · minBytes − 31, so whatever the chunk has up to minBytes was read, and must be what follows the last symbol: 100…
  const written = next * 8 - left - 31 - pending;
  const expected = Math.max(minBytes(out.length, patterns), (written + 8) >> 3);
  return length === expected && low + offset === HALF;
}

/** The first four bytes, big-endian, zeros beyond the end. */
function firstWord(chunk: Uint8Array): number {
  return ((chunk[0] ?? 0) << 24) | ((chunk[1] ?? 0) << 16) | ((chunk[2] ?? 0) << 8) | (chunk[3] ?? 0);
}
