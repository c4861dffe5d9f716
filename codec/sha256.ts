/**
 * sha256 (FIPS 180-4) wherever the codec runs: Node's own where there is Node, else this one, so that nothing of the decoder imports
 * what a browser lacks.
 */

export interface Sha256 {
  update(bytes: Uint8Array): unknown;
  digest(): Uint8Array;
}

const BLOCK = 64;

const crypto = typeof process === 'undefined' ? undefined : process.getBuiltinModule?.('node:crypto');

export function sha256(): Sha256 {
  return crypto === undefined ? new PortableSha256() : crypto.createHash('sha256');
}

/** The first `count` primes' roots: fractional parts of √p and ∛p in 32 bits are the constants of the standard. */
function fractions(count: number, root: (prime: number) => number): Uint32Array {
  const constants = new Uint32Array(count);
  for (let found = 0, candidate = 2; found < count; candidate++) {
    let prime = true;
    for (let divisor = 2; divisor * divisor <= candidate; divisor++) prime &&= candidate % divisor !== 0;
    if (prime) constants[found++] = (root(candidate) % 1) * 2 ** 32;
  }
  return constants;
}

const INITIAL = fractions(8, Math.sqrt);
const ROUNDS = fractions(64, Math.cbrt);

export class PortableSha256 implements Sha256 {
  private readonly state = INITIAL.slice();
  private readonly block = new Uint8Array(BLOCK);
  private readonly view = new DataView(this.block.buffer);
  private readonly words = new Int32Array(64);
  private filled = 0;
  private length = 0;

  update(bytes: Uint8Array): this {
    this.length += bytes.length;
    for (let at = 0; at < bytes.length;) {
      const taken = Math.min(BLOCK - this.filled, bytes.length - at);
      this.block.set(bytes.subarray(at, at + taken), this.filled);
      at += taken;
      this.filled += taken;
      if (this.filled === BLOCK) this.compress();
    }
    return this;
  }

  digest(): Uint8Array {
    const bits = this.length * 8;
    const padding = new Uint8Array((this.filled < 56 ? 56 : 120) - this.filled);
    padding[0] = 0x80;
    this.update(padding);
    const length = new Uint8Array(8);
    new DataView(length.buffer).setUint32(0, Math.floor(bits / 2 ** 32));
    new DataView(length.buffer).setUint32(4, bits % 2 ** 32);
    this.update(length);
    const digest = new Uint8Array(32);
    this.state.forEach((word, i) => new DataView(digest.buffer).setUint32(4 * i, word));
    return digest;
  }

  private compress(): void {
    const { words, state } = this;
    for (let i = 0; i < 16; i++) words[i] = this.view.getInt32(4 * i);
    for (let i = 16; i < 64; i++) {
      const [a, b] = [words[i - 15]!, words[i - 2]!];
      const low = turn(a, 7) ^ turn(a, 18) ^ (a >>> 3);
      const high = turn(b, 17) ^ turn(b, 19) ^ (b >>> 10);
      words[i] = (words[i - 16]! + low + words[i - 7]! + high) | 0;
    }
    let [a, b, c, d, e, f, g, h] = state as unknown as [number, number, number, number, number, number, number, number];
    for (let i = 0; i < 64; i++) {
      const choice = (e & f) ^ (~e & g);
      const first = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + choice + ROUNDS[i]! + words[i]!) | 0;
      const second = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => (state[i] = state[i]! + word));
    this.filled = 0;
  }
}

function turn(word: number, bits: number): number {
  return (word >>> bits) | (word << (32 - bits));
}
