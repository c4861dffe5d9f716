/** Files as other programs write them, made without any code of the product: archives, numpy arrays, models with chosen weights. */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { deflateRawSync, inflateRawSync } from 'node:zlib';

/** A small model with biases and grouped queries, in bf16. */
export const BIASED = fileURLToPath(new URL('../../../../../test/fixtures/architectures/llama-bias', import.meta.url));

export interface Entry {
  readonly name: string;
  readonly bytes: Uint8Array;
  /** 8: deflated (the default); 0: stored. */
  readonly method?: number;
  /** What the headers say, where that is not the truth. */
  readonly claims?: Partial<{ bytes: number; compressed: number; crc32: number; flags: number; offset: number }>;
}

const CRC_OF_BYTE = Int32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  return crc;
});

/** An archive as numpy.savez writes it: version 4.5, lengths of the local headers only in their ZIP64 fields. */
export function numpyZip(entries: readonly Entry[]): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const { name, bytes, method = 8, claims = {} } of entries) {
    const data = method === 8 ? deflateRawSync(bytes) : Buffer.from(bytes);
    const sizes = {
      bytes: bytes.length,
      compressed: data.length,
      crc32: crc32(bytes),
      flags: 0,
      offset: at,
      ...claims,
    };
    const stem = Buffer.alloc(16); // version to checksum
    stem.writeUInt16LE(45);
    stem.writeUInt16LE(sizes.flags, 2);
    stem.writeUInt16LE(method, 4);
    stem.writeUInt32LE(sizes.crc32, 10);
    const local = Buffer.alloc(32);
    local.writeUInt32LE(0xffffffff);
    local.writeUInt32LE(0xffffffff, 4);
    local.writeUInt16LE(name.length, 8);
    local.writeUInt16LE(20, 10);
    const zip64 = Buffer.alloc(20);
    zip64.writeUInt16LE(1);
    zip64.writeUInt16LE(16, 2);
    zip64.writeBigUInt64LE(BigInt(sizes.bytes), 4);
    zip64.writeBigUInt64LE(BigInt(sizes.compressed), 12);
    const header = Buffer.concat([
      Buffer.from('PK\x03\x04'),
      stem.subarray(0, 14),
      local.subarray(0, 12),
      Buffer.from(name),
      zip64,
    ]);
    parts.push(header, data);
    const central = Buffer.alloc(30);
    central.writeUInt32LE(sizes.compressed);
    central.writeUInt32LE(sizes.bytes, 4);
    central.writeUInt16LE(name.length, 8);
    central.writeUInt32LE(sizes.offset, 22);
    directory.push(
      Buffer.from('PK\x01\x02'),
      Buffer.from([45, 3]),
      stem.subarray(0, 14),
      central.subarray(0, 26),
      Buffer.from(name),
    );
    at += header.length + data.length;
  }
  const listing = Buffer.concat(directory);
  const end = Buffer.alloc(18);
  end.writeUInt16LE(entries.length, 4);
  end.writeUInt16LE(entries.length, 6);
  end.writeUInt32LE(listing.length, 8);
  end.writeUInt32LE(at, 12);
  return Buffer.concat([...parts, listing, Buffer.from('PK\x05\x06'), end]);
}

/** The contents of an archive by following its local headers from the first byte on, as no ordinary reader does. */
export function unzip(archive: Buffer): Map<string, Buffer> {
  const found = new Map<string, Buffer>();
  for (let at = 0; archive.readUInt32LE(at) === 0x04034b50;) {
    const [crc, compressed, bytes] = [14, 18, 22].map((field) => archive.readUInt32LE(at + field)) as [
      number,
      number,
      number,
    ];
    const [nameBytes, extra] = [26, 28].map((field) => archive.readUInt16LE(at + field)) as [number, number];
    const start = at + 30 + nameBytes + extra;
    const content = inflateRawSync(archive.subarray(start, start + compressed));
    if (content.length !== bytes || crc32(content) !== crc) throw new Error(`entry at ${at} is damaged`);
    found.set(archive.toString('utf8', at + 30, at + 30 + nameBytes), content);
    at = start + compressed;
  }
  return found;
}

/** An .npy file, version 1.0. */
export function numpyArray(descr: string, shape: readonly number[], data: Uint8Array, fortran = false): Buffer {
  const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(', ');
  const text = `{'descr': ${descr}, 'fortran_order': ${fortran ? 'True' : 'False'}, 'shape': (${tuple}), }`;
  const length = 64 * Math.ceil((10 + text.length + 1) / 64) - 10;
  const prefix = Buffer.from([0x93, 78, 85, 77, 80, 89, 1, 0, length & 255, length >> 8]);
  return Buffer.concat([prefix, Buffer.from(`${text.padEnd(length - 1)}\n`), data]);
}

/** numpy.packbits: the first bit is the highest. */
export function packBits(bits: readonly number[]): Uint8Array {
  const packed = new Uint8Array(Math.ceil(bits.length / 8));
  bits.forEach((bit, i) => (packed[i >> 3]! |= bit << (7 - (i & 7))));
  return packed;
}

/** Names and shapes of the linear layers of BIASED, written out by hand, in the order of the model. */
export const BIASED_LAYERS: readonly (readonly [name: string, rows: number, cols: number])[] = [0, 1].flatMap((layer) =>
  (
    [
      ['self_attn.q_proj', 32, 32],
      ['self_attn.k_proj', 16, 32],
      ['self_attn.v_proj', 16, 32],
      ['self_attn.o_proj', 32, 32],
      ['mlp.gate_proj', 64, 32],
      ['mlp.up_proj', 64, 32],
      ['mlp.down_proj', 32, 64],
    ] as const
  ).map(([part, rows, cols]) => [`model.layers.${layer}.${part}.weight`, rows, cols] as const),
);

/** Copies a model directory, its bf16 tensors changed in place: `change` gets the 16-bit elements of each by name. */
export function modelLike(
  source: string,
  directory: string,
  change: (name: string, elements: Uint16Array) => void,
): string {
  cpSync(source, directory, { recursive: true });
  mkdirSync(directory, { recursive: true });
  const path = join(directory, 'model.safetensors');
  const file = readFileSync(path);
  const headerBytes = Number(file.readBigUInt64LE());
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes)) as Record<
    string,
    { data_offsets: [number, number] }
  >;
  for (const [name, { data_offsets: offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const [begin, end] = [8 + headerBytes + offsets[0], 8 + headerBytes + offsets[1]];
    const elements = new Uint16Array(new Uint8Array(file.subarray(begin, end)).buffer);
    change(name, elements);
    file.set(new Uint8Array(elements.buffer), begin);
  }
  writeFileSync(path, file);
  return directory;
}

/** CRC-32 of ISO 3309, a byte at a time. */
export function crc32(bytes: Uint8Array): number {
  let crc = ~0;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_OF_BYTE[(crc ^ byte) & 255]!;
  return ~crc >>> 0;
}
