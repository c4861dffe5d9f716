/** A matrix's bytes with zeros where a mask prunes, or only those that it keeps. */
import type { DType } from '../../../kernels/handle.js';
import type { ReadWeights } from '../../../server/trainer/save-model.js';
import { patternTable } from '../../../codec/pattern.js';
import { ELEMENT_BYTES } from '../../../server/engine/elements.js';

/** The two positions that each 2:4 symbol keeps and the two that it prunes: [symbol · 2], [symbol · 2 + 1]. */
const KEPT = Uint8Array.from(patternTable(2, 4).positions.flat());
const PRUNED = Uint8Array.from(
  patternTable(2, 4).positions.flatMap((kept) => [0, 1, 2, 3].filter((i) => !kept.includes(i))),
);

/**
 * Reads a matrix of `type` with +0 at pruned positions; kept weights come bit for bit. Both offset and length of what is read must be
 * whole groups. `symbols` is called for each read: (rows · cols/4).
 */
export function maskedReader(type: DType, read: ReadWeights, symbols: () => Uint8Array): ReadWeights {
  const groupBytes = 4 * ELEMENT_BYTES[type];
  return (offset, into) => {
    read(offset, into);
    const mask = symbols();
    const elements = elementsOf(type, into);
    const firstGroup = wholeGroups(offset, groupBytes);
    const groups = wholeGroups(into.length, groupBytes);
    for (let g = 0; g < groups; g++) {
      const symbol = 2 * mask[firstGroup + g]!;
      elements[4 * g + PRUNED[symbol]!] = 0;
      elements[4 * g + PRUNED[symbol + 1]!] = 0;
    }
  };
}

/** Reads the kept weights alone, row-major (rows, cols/2), in the order of their positions. */
export function keptReader(type: DType, read: ReadWeights, symbols: () => Uint8Array): ReadWeights {
  const keptBytes = 2 * ELEMENT_BYTES[type];
  return (offset, into) => {
    const mask = symbols();
    const dense = new Uint8Array(2 * into.length);
    read(2 * offset, dense);
    const [from, to] = [elementsOf(type, dense), elementsOf(type, into)];
    const firstGroup = wholeGroups(offset, keptBytes);
    const groups = wholeGroups(into.length, keptBytes);
    for (let g = 0; g < groups; g++) {
      const symbol = 2 * mask[firstGroup + g]!;
      to[2 * g] = from[4 * g + KEPT[symbol]!]!;
      to[2 * g + 1] = from[4 * g + KEPT[symbol + 1]!]!;
    }
  };
}

function elementsOf(type: DType, { buffer, byteOffset, length }: Uint8Array): Uint16Array | Uint32Array {
  const count = length / ELEMENT_BYTES[type];
  return type === 'f32' ? new Uint32Array(buffer, byteOffset, count) : new Uint16Array(buffer, byteOffset, count);
}

function wholeGroups(bytes: number, groupBytes: number): number {
  if (bytes % groupBytes !== 0)
    throw new RangeError(`expected a multiple of ${groupBytes} bytes, but received ${bytes}`);
  return bytes / groupBytes;
}
