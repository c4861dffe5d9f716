/** Version 1 in the second decoder. */
import { decodeArithmetic } from './simple-arithmetic.js';
import type { SimpleContainer, SimpleTensor } from './simple-container.js';

/** FORMAT.md §14. */
export function decodeVersion1(bytes: Buffer): SimpleContainer {
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
      symbols.push(...decodeArithmetic(bytes.subarray(payload, payload + length), patterns, count));
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
