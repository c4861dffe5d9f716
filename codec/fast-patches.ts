/** Patch chunks through native coders: FORMAT.md §9. */
import { CHUNK_OK } from '../kernels/codec-types.js';
import type { ChunkCoding } from './dense-chunk.js';
import type { NativeInputs } from './decoder-inputs.js';
import type { FastCoders } from './fast-coders.js';
import type { FrequencyTables } from './frequency-table.js';
import type { TensorEntry } from './layout.js';
import type { Model } from './models.js';
import type { Changes } from './patch-chunk.js';
import { NIBBLE_OF_SYMBOL } from './pattern.js';

/** Changes that no chunk has. */
const WHOLE_CHUNK = 2 ** 40;
const SYMBOL_OF_NIBBLE = Uint8Array.from({ length: 16 }, (_, nibble) => Math.max(0, NIBBLE_OF_SYMBOL.indexOf(nibble)));

export type PatchCoding = Pick<ChunkCoding, 'tensors' | 'models'> & {
  readonly inputs: (tensor: number) => NativeInputs;
};

/**
 * The changes of each tensor of a patch chunk whose bytes are what was written; undefined if they are not sound (`decodePatchChunk` then says
 * why), or if the chunk's tensors have different coders, whose gap tables differ too: native code takes one.
 */
export function decodePatchFast(
  fast: FastCoders,
  chunk: Uint8Array,
  indices: readonly number[],
  { tensors, models, inputs }: PatchCoding,
): Changes[] | undefined {
  const [first] = new Set(indices.map((index) => (tensors[index] as TensorEntry).coder));
  if (first === undefined || indices.some((index) => tensors[index]?.coder !== first)) return undefined;
  const coded = indices.map((index) => {
    const { coder, groups, cols, changes } = tensors[index] as TensorEntry;
    return {
      coder: coder.id,
      groups,
      cols,
      changes,
      cum: (models.get(coder) as Model).tables.cum,
      ...inputs(index),
      positions: new Uint32Array(changes),
      codes: new Uint8Array(changes),
    };
  });
  const { single } = models.get(first) as Model;
  const statuses = new Int32Array(1);
  const chunks = { lengths: Uint32Array.of(chunk.length), checksums: Uint32Array.of(fast.crc32c(chunk)), statuses };
  fast.decodePatches(coded, WHOLE_CHUNK, (single as FrequencyTables).cum, { payload: chunk, ...chunks });
  if (statuses[0] !== CHUNK_OK) return undefined;
  return coded.map(({ positions, codes }) => ({
    groups: positions,
    symbols: codes.map((code) => SYMBOL_OF_NIBBLE[code] ?? 0),
  }));
}
