/** numpy's array files (numpy.lib.format, versions 1.0 to 3.0): the arrays of bytes and of booleans that hold masks. */

export interface ByteArray {
  readonly type: 'u1' | 'b1';
  readonly shape: readonly number[];
  /** Row-major. */
  readonly data: Uint8Array;
}

const MAGIC = Buffer.from('\x93NUMPY', 'latin1');
const ALIGNMENT = 64;
/** More than any header of such an array takes. */
export const NPY_HEADER_LIMIT = 1 << 16;

/** Throws what is wrong, without saying where: expected, received. */
export function parseNpy(bytes: Uint8Array): ByteArray {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const major = file[MAGIC.length];
  const prefix = major === 1 ? 10 : 12;
  if (file.length < prefix || !file.subarray(0, MAGIC.length).equals(MAGIC))
    throw new Error('expected a numpy array (.npy)');
  if (major === undefined || major < 1 || major > 3)
    throw new Error(`expected version 1, 2 or 3 of .npy, but it is ${major}`);
  const length = major === 1 ? file.readUInt16LE(8) : file.readUInt32LE(8);
  if (prefix + length > file.length || length > NPY_HEADER_LIMIT)
    throw new Error(`its .npy header of ${length} bytes is damaged`);
  const { type, shape } = parseHeader(file.toString('utf8', prefix, prefix + length));
  const data = file.subarray(prefix + length);
  const expected = shape.reduce((product, count) => product * count, 1);
  if (data.length !== expected)
    throw new Error(`expected ${expected} bytes for its shape (${shape.join(', ')}), but it has ${data.length}`);
  return { type, shape, data };
}

/** A one-dimensional uint8 array as `numpy.save` writes it. */
export function npyOfBytes(data: Uint8Array): Buffer {
  const dictionary = `{'descr': '|u1', 'fortran_order': False, 'shape': (${data.length},), }`;
  const prefix = MAGIC.length + 4;
  const length = Math.ceil((prefix + dictionary.length + 1) / ALIGNMENT) * ALIGNMENT - prefix;
  const header = Buffer.alloc(prefix);
  MAGIC.copy(header);
  header.writeUInt8(1, MAGIC.length);
  header.writeUInt16LE(length, MAGIC.length + 2);
  return Buffer.concat([header, Buffer.from(`${dictionary.padEnd(length - 1)}\n`), data]);
}

/** A Python dictionary of three keys, in any order. */
function parseHeader(text: string): Pick<ByteArray, 'type' | 'shape'> {
  const type = /'descr'\s*:\s*'[|<>=]?(u1|b1|\?)'/.exec(text)?.[1];
  if (type === undefined) {
    const other = /'descr'\s*:\s*('[^']*'|\[)/.exec(text)?.[1] ?? 'nothing';
    throw new Error(`expected bytes ('|u1', from numpy.packbits) or booleans ('|b1'), but its type is ${other}`);
  }
  const shape = /'shape'\s*:\s*\(\s*((?:\d+\s*,\s*)*(?:\d+)?)\s*\)/.exec(text)?.[1];
  const fortran = /'fortran_order'\s*:\s*(True|False)/.exec(text)?.[1];
  if (shape === undefined || fortran === undefined)
    throw new Error(`its .npy header is damaged: ${text.trim().slice(0, 100)}`);
  const lengths = shape
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
    .map(Number);
  if (fortran === 'True' && lengths.length > 1) {
    throw new Error(
      "expected a row-major array, but it is column-major ('fortran_order': True): save it through numpy.ascontiguousarray",
    );
  }
  return { type: type === 'u1' ? 'u1' : 'b1', shape: lengths };
}
