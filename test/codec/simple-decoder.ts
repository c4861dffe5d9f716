/**
 * A second decoder, written from codec/FORMAT.md alone and as plainly as it allows: a bit at a time, in big integers, sharing no
 * code with codec/. For valid containers only; it checks little and allocates freely.
 */
import { createHash } from 'node:crypto';

export interface SimpleTensor {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly symbols: number[];
}

export interface SimpleContainer {
  readonly n: number;
  readonly m: number;
  readonly base: string;
  readonly content: string;
  readonly parent: string | undefined;
  readonly tensors: SimpleTensor[];
}

export function simpleDecode(file: Uint8Array): SimpleContainer {
  const bytes = Buffer.from(file);
  const [n, m, chunkSymbols] = [bytes[12]!, bytes[13]!, 2 ** bytes[14]!];
  const [tensorCount, tableBytes, chunkCount] = [16, 20, 24].map((at) => bytes.readUInt32LE(at)) as [
    number,
    number,
    number,
  ];
  const patterns = n === 1 ? 4 : n === 2 ? 6 : 70;
  let entry = 144;
  let index = 144 + tableBytes;
  let payload = index + 8 * chunkCount;
  const tensors: SimpleTensor[] = [];
  for (let t = 0; t < tensorCount; t++) {
    const [nameBytes, rows, cols] = [bytes[entry]!, bytes.readUInt32LE(entry + 4), bytes.readUInt32LE(entry + 8)];
    const name = bytes.toString('latin1', entry + 16, entry + 16 + nameBytes);
    const symbols: number[] = [];
    const groups = (rows * cols) / m;
    while (symbols.length < groups) {
      const length = bytes.readUInt32LE(index);
      const count = Math.min(chunkSymbols, groups - symbols.length);
      symbols.push(...decodeChunk(bytes.subarray(payload, payload + length), patterns, count));
      index += 8;
      payload += length;
    }
    tensors.push({ name, rows, cols, symbols });
    entry += 16 + nameBytes + bytes.readUInt16LE(entry + 2);
  }
  return {
    n,
    m,
    base: bytes.toString('hex', 40, 72),
    content: bytes.toString('hex', 72, 104),
    parent: bytes[10]! & 1 ? bytes.toString('hex', 104, 136) : undefined,
    tensors,
  };
}

/** FORMAT.md §8. */
export function simpleContentDigest({ n, m, base, tensors }: Omit<SimpleContainer, 'content' | 'parent'>): string {
  const byName = tensors.map((tensor) => [Buffer.from(tensor.name), tensorDigest(tensor, n)] as const);
  byName.sort(([a], [b]) => Buffer.compare(a, b));
  return sha256(
    Buffer.from('maskserve content 1\n'),
    Buffer.from(base, 'hex'),
    Buffer.from([n, m]),
    u32(tensors.length),
    ...byName.map(([, digest]) => digest),
  ).toString('hex');
}

function tensorDigest({ name, rows, cols, symbols }: SimpleTensor, n: number): Buffer {
  const codes = n === 2 ? nibbles(symbols) : Buffer.from(symbols);
  return sha256(Buffer.from([name.length]), Buffer.from(name), u32(rows), u32(cols), codes);
}

/** FORMAT.md §2. */
function nibbles(symbols: readonly number[]): Buffer {
  const code = [4, 8, 12, 9, 13, 14];
  const packed = Buffer.alloc(Math.ceil(symbols.length / 2));
  symbols.forEach((symbol, i) => (packed[i >> 1]! += code[symbol]! * (i % 2 === 0 ? 1 : 16)));
  return packed;
}

/** FORMAT.md §7.1. */
function decodeChunk(chunk: Uint8Array, patterns: number, count: number): number[] {
  const [P, quarter, half, full] = [BigInt(patterns), 1n << 29n, 1n << 30n, 1n << 31n];
  let position = 0;
  const nextBit = (): bigint => {
    const byte = chunk[position >> 3] ?? 0;
    return BigInt((byte >> (7 - (position++ & 7))) & 1);
  };
  let [low, high, code] = [0n, full - 1n, 0n];
  for (let i = 0; i < 31; i++) code = 2n * code + nextBit();
  const symbols: number[] = [];
  for (let i = 0; i < count; i++) {
    const range = high - low + 1n;
    const s = ((code - low + 1n) * P - 1n) / range;
    symbols.push(Number(s));
    high = low + (range * (s + 1n)) / P - 1n;
    low = low + (range * s) / P;
    for (;;) {
      const shift =
        high < half ? 0n : low >= half ? half : low >= quarter && high < half + quarter ? quarter : undefined;
      if (shift === undefined) break;
      low = 2n * (low - shift);
      high = 2n * (high - shift) + 1n;
      code = 2n * (code - shift) + nextBit();
    }
  }
  return symbols;
}

function sha256(...parts: Buffer[]): Buffer {
  return createHash('sha256').update(Buffer.concat(parts)).digest();
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
