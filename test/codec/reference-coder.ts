/** The reference coder of `uniform-ac`: npm's arithmetic-coding by deep import, with a table of equal frequencies. Slow. */
import { createRequire } from 'node:module';

interface BitOutput {
  readonly buffer: Buffer;
}
interface Encoder {
  write(frequencies: unknown, symbol: number): void;
  finish(): void;
}
interface Decoder {
  read(frequencies: unknown): number;
}

const load = createRequire(import.meta.url);
const FrequencyTable = load('arithmetic-coding/src/frequency-table') as new (counts: number[]) => unknown;
const BitOutput = load('arithmetic-coding/src/bit-output-stream-buffer') as new () => BitOutput;
const BitInput = load('arithmetic-coding/src/bit-input-stream-buffer') as new (bytes: Buffer) => unknown;
const ArithmeticEncoder = load('arithmetic-coding/src/arithmetic-encoder') as new (
  b: number,
  out: BitOutput,
) => Encoder;
const ArithmeticDecoder = load('arithmetic-coding/src/arithmetic-decoder') as new (b: number, bits: unknown) => Decoder;

/** What the package itself uses; more would overflow its 32-bit shifts. */
const STATE_BITS = 31;

export function referenceEncode(symbols: Uint8Array, patterns: number): Uint8Array {
  const bits = new BitOutput();
  const encoder = new ArithmeticEncoder(STATE_BITS, bits);
  const frequencies = new FrequencyTable(new Array<number>(patterns).fill(1));
  for (const symbol of symbols) encoder.write(frequencies, symbol);
  encoder.finish();
  return new Uint8Array(bits.buffer);
}

export function referenceDecode(bytes: Uint8Array, patterns: number, count: number): Uint8Array {
  const decoder = new ArithmeticDecoder(STATE_BITS, new BitInput(Buffer.from(bytes)));
  const frequencies = new FrequencyTable(new Array<number>(patterns).fill(1));
  return Uint8Array.from({ length: count }, () => decoder.read(frequencies));
}
