/** The content digest of what the second decoder reads. */
import { createHash } from 'node:crypto';
import type { SimpleContainer, SimpleTensor } from './simple-container.js';

/** FORMAT.md §10. */
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

function sha256(...parts: Buffer[]): Buffer {
  return createHash('sha256').update(Buffer.concat(parts)).digest();
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
