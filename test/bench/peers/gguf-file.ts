/** Writes a GGUF file, version 3 (ggml-org/ggml, docs/gguf.md): metadata, tensor table, then the tensors, each at a multiple of 32 bytes. */
import { closeSync, openSync, writeSync } from 'node:fs';

const VERSION = 3;
const ALIGNMENT = 32;

/** gguf_metadata_value_type */
const VALUE_TYPE = { uint32: 4, float32: 6, string: 8 } as const;

/** ggml_type, and how many bytes so many elements take. */
export const TENSOR_TYPE = {
  f32: { code: 0, bytes: (elements: number) => elements * 4 },
  q8_0: { code: 8, bytes: (elements: number) => (elements / 32) * 34 },
  bf16: { code: 30, bytes: (elements: number) => elements * 2 },
} as const;
export type TensorType = keyof typeof TENSOR_TYPE;

export interface GgufValue {
  readonly key: string;
  readonly type: keyof typeof VALUE_TYPE;
  readonly value: number | string;
}

export interface GgufTensor {
  readonly name: string;
  /** Slowest first, as in safetensors; the file has them the other way round. */
  readonly shape: readonly number[];
  readonly type: TensorType;
  /** All its bytes, called once when its turn comes. */
  readonly read: () => Uint8Array;
}

export function writeGguf(path: string, metadata: readonly GgufValue[], tensors: readonly GgufTensor[]): void {
  const file = openSync(path, 'wx');
  try {
    let position = append(file, header(metadata, tensors), 0);
    for (const tensor of tensors) {
      const bytes = tensor.read();
      const expected = sizeOf(tensor);
      if (bytes.length !== expected)
        throw new Error(`expected ${expected} bytes of ${tensor.name} but received ${bytes.length}`);
      position = append(file, bytes, position);
    }
  } finally {
    closeSync(file);
  }
}

function header(metadata: readonly GgufValue[], tensors: readonly GgufTensor[]): Uint8Array {
  let offset = 0;
  const table = tensors.map((tensor) => {
    const { name, shape, type } = tensor;
    const entry = [
      text(name),
      uint32(shape.length),
      ...[...shape].reverse().map(uint64),
      uint32(TENSOR_TYPE[type].code),
      uint64(offset),
    ];
    offset = aligned(offset + sizeOf(tensor));
    return Buffer.concat(entry);
  });
  const values = metadata.map(({ key, type, value }) =>
    Buffer.concat([text(key), uint32(VALUE_TYPE[type]), encoded(type, value)]),
  );
  return Buffer.concat([
    Buffer.from('GGUF'),
    uint32(VERSION),
    uint64(tensors.length),
    uint64(metadata.length),
    ...values,
    ...table,
  ]);
}

function sizeOf({ shape, type }: GgufTensor): number {
  return TENSOR_TYPE[type].bytes(shape.reduce((product, length) => product * length, 1));
}

function encoded(type: GgufValue['type'], value: number | string): Uint8Array {
  if (type === 'string') return text(String(value));
  if (type === 'uint32') return uint32(Number(value));
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(Number(value));
  return bytes;
}

function text(value: string): Uint8Array {
  const bytes = Buffer.from(value);
  return Buffer.concat([uint64(bytes.length), bytes]);
}

function uint32(value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function uint64(value: number): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function aligned(offset: number): number {
  return Math.ceil(offset / ALIGNMENT) * ALIGNMENT;
}

/** Returns where the next part begins; the gap before it reads as zeros. */
function append(file: number, bytes: Uint8Array, position: number): number {
  for (let done = 0; done < bytes.length;) done += writeSync(file, bytes, done, bytes.length - done, position + done);
  return aligned(position + bytes.length);
}
