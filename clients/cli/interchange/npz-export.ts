/** A mask set as MaskLLM publishes its masks (npz-import.ts has the format). */
import { patternTable } from '../../../codec/pattern.js';
import type { BaseModel } from './base-model.js';
import type { ChosenMask } from './chosen-mask.js';
import type { OnMatrix } from './imported.js';
import { npyOfBytes } from './npy.js';
import { zipArchive } from './zip-writer.js';

/** Half a byte of packbits for each symbol: the highest bit is position 0. */
const PACKED = Uint8Array.from(patternTable(2, 4).positions, (kept) =>
  kept.reduce((bits, position) => bits | (8 >> position), 0),
);

/** The archive's bytes, a matrix at a time. */
export function npzOf(base: BaseModel, mask: ChosenMask, onMatrix: OnMatrix): Generator<Uint8Array, void, undefined> {
  return zipArchive(entries(base, mask, onMatrix));
}

function* entries(
  base: BaseModel,
  mask: ChosenMask,
  onMatrix: OnMatrix,
): Generator<{ name: string; bytes: Uint8Array }, void, undefined> {
  const covered = base.matrices.filter(({ name }) => mask.covers(name));
  for (const [index, { name, rows, cols }] of covered.entries()) {
    onMatrix(index, covered.length);
    if ((rows * cols) % 8 !== 0) {
      throw new Error(
        `expected ${name} to have a multiple of 8 weights, as the format needs, but it is ${rows}x${cols}`,
      );
    }
    yield { name: `${name}.mask.npy`, bytes: npyOfBytes(packBits(mask.symbols(name))) };
  }
}

function packBits(symbols: Uint8Array): Uint8Array {
  const packed = new Uint8Array(symbols.length / 2);
  for (let i = 0; i < packed.length; i++) packed[i] = (PACKED[symbols[2 * i]!]! << 4) | PACKED[symbols[2 * i + 1]!]!;
  return packed;
}
