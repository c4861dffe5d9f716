/**
 * MaskLLM's published masks (NVlabs/MaskLLM, tool_compress_mask.py): an .npz with an entry `PARAMETER.mask` for each matrix, the uint8
 * array of numpy.packbits over the row-major mask: 1 = kept, the first weight in the highest bit, shapes left to the checkpoint.
 */
import { type BaseMatrix, type BaseModel, TensorReader } from './base-model.js';
import { checkColumns, type Imported, maskOfKeptBits, type OnMatrix } from './imported.js';
import { type Completion, noGroups, refuseDefects } from './kept-bits.js';
import { NPY_HEADER_LIMIT, parseNpy } from './npy.js';
import { type ZipEntry, ZipReader } from './zip-reader.js';

/** Kept bits of a half byte of packbits: the highest bit is position 0. */
const REVERSED = Uint8Array.from({ length: 16 }, (_, bits) =>
  [0, 1, 2, 3].reduce((sum, i) => sum | (((bits >> i) & 1) << (3 - i)), 0),
);

/** Reads `path` for `base`. Throws one line that names file, entry and defect. */
export function importNpz(path: string, base: BaseModel, completion: Completion, onMatrix: OnMatrix): Imported {
  if (/\.(pt|pth|bin)$/.test(path)) refusePickle(path);
  const zip = new ZipReader(path);
  const reader = new TensorReader();
  try {
    const entries = entriesByMatrix(path, zip.entries, base);
    const counts = noGroups();
    const covered = base.matrices.filter(({ name }) => entries.has(name));
    const masks = covered.map((matrix, index) => {
      onMatrix(index, covered.length);
      const kept = keptBits(path, zip, entries.get(matrix.name) as ZipEntry, matrix);
      return maskOfKeptBits(matrix, kept, reader, completion, counts);
    });
    refuseDefects(path, counts);
    const dense = base.matrices.filter(({ name }) => !entries.has(name)).map(({ name }) => name);
    return { masks, dense, counts };
  } finally {
    zip.close();
    reader.close();
  }
}

/** Pickles are programs, so they are not read: neither torch's archives nor its older files. */
function refusePickle(path: string): never {
  throw new Error(
    `${path}: expected an .npz, but this is a file of torch.save: write it anew through numpy.savez_compressed(FILE, **{name: numpy.packbits(mask)})`,
  );
}

/** Entries by the parameter that they mask. */
function entriesByMatrix(path: string, entries: readonly ZipEntry[], base: BaseModel): Map<string, ZipEntry> {
  const names = new Set(base.matrices.map(({ name }) => name));
  const found = new Map<string, ZipEntry>();
  for (const entry of entries) {
    if (/(^|\/)data\.pkl$/.test(entry.name)) refusePickle(path);
    const name = entry.name.replace(/(\.mask)?\.npy$/, '');
    if (name === entry.name || !names.has(name)) {
      throw new Error(
        `${path}: expected entries such as ${base.matrices[0]?.name}.mask.npy, but it has ${entry.name}, which is no linear layer of ${base.directory}; check --model`,
      );
    }
    if (found.has(name)) throw new Error(`${path}: expected one mask for ${name}, but it has two`);
    found.set(name, entry);
  }
  if (found.size === 0) throw new Error(`${path}: expected masks, but the archive is empty`);
  return found;
}

/** Bit i of byte g: whether group g keeps its position i. (groups) */
function keptBits(path: string, zip: ZipReader, entry: ZipEntry, matrix: BaseMatrix): Uint8Array {
  const { name, rows, cols } = matrix;
  checkColumns(matrix);
  const weights = rows * cols;
  const bytes = zip.read(entry, weights + NPY_HEADER_LIMIT);
  try {
    const { type, data } = parseNpy(bytes);
    if (type === 'u1' && weights % 8 === 0 && data.length === weights / 8) return fromPackedBits(data);
    if (type === 'b1' && data.length === weights) return fromBooleans(data);
    throw new Error(
      `expected ${weights / 8} bytes of numpy.packbits, or ${weights} booleans, for its shape ${rows}x${cols}, but it has ${data.length} ${type === 'u1' ? 'bytes' : 'booleans'}`,
    );
  } catch (cause) {
    throw new Error(`${path}: ${name}: ${(cause as Error).message}`, { cause });
  }
}

function fromPackedBits(packed: Uint8Array): Uint8Array {
  const kept = new Uint8Array(packed.length * 2);
  for (let i = 0; i < packed.length; i++) {
    kept[2 * i] = REVERSED[packed[i]! >> 4]!;
    kept[2 * i + 1] = REVERSED[packed[i]! & 15]!;
  }
  return kept;
}

/** Older dumps: a byte for each weight. */
function fromBooleans(mask: Uint8Array): Uint8Array {
  const kept = new Uint8Array(mask.length / 4);
  for (let i = 0; i < mask.length; i++) if (mask[i] !== 0) kept[i >> 2]! |= 1 << (i & 3);
  return kept;
}
