/**
 * Writes safetensors files (huggingface/safetensors, format section of its README), whole or not at all: temporary file, fsync, rename, fsync of the directory.
 * Tensors with larger elements come first and the header is padded to 8 bytes, so that every tensor is aligned to its elements, as that library does it.
 */
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';

/** Element types by the format's names, and their bytes. */
const ELEMENT_BYTES = { I64: 8, F32: 4, BF16: 2, F16: 2, U8: 1 } as const;

export type ElementType = keyof typeof ELEMENT_BYTES;

export interface TensorToWrite {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly number[];
  /** Fills `into` with the tensor's little-endian bytes from `offset` on. */
  readonly read: (offset: number, into: Uint8Array) => void;
}

const CHUNK_BYTES = 8 << 20;
const ALIGNMENT = 8;

/** Writes `tensors` to `path`, replacing what is there. `metadata` goes to the header's `__metadata__`. Throws the system's error. */
export function writeSafetensors(
  path: string,
  tensors: readonly TensorToWrite[],
  metadata: Readonly<Record<string, string>> = {},
): void {
  const ordered = [...tensors].sort((a, b) => ELEMENT_BYTES[b.type] - ELEMENT_BYTES[a.type]);
  const partial = `${path}.${process.pid}.part`;
  try {
    const file = openSync(partial, 'w');
    try {
      writeAll(file, header(ordered, metadata));
      for (const tensor of ordered) writeTensor(file, tensor);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(partial, path);
  } catch (error) {
    rmSync(partial, { force: true });
    throw error;
  }
  syncDirectory(dirname(path));
}

/** Makes names that were added to a directory durable. */
export function syncDirectory(path: string): void {
  const directory = openSync(path, 'r');
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

function header(tensors: readonly TensorToWrite[], metadata: Readonly<Record<string, string>>): Uint8Array {
  const entries: Record<string, unknown> = { __metadata__: metadata };
  let end = 0;
  for (const tensor of tensors) {
    const begin = end;
    end += tensorBytes(tensor);
    entries[tensor.name] = { dtype: tensor.type, shape: tensor.shape, data_offsets: [begin, end] };
  }
  const json = Buffer.from(JSON.stringify(entries));
  const length = Math.ceil(json.length / ALIGNMENT) * ALIGNMENT;
  const bytes = Buffer.alloc(8 + length, ' ');
  bytes.writeBigUInt64LE(BigInt(length));
  json.copy(bytes, 8);
  return bytes;
}

function writeTensor(file: number, tensor: TensorToWrite): void {
  const bytes = tensorBytes(tensor);
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, bytes));
  for (let done = 0; done < bytes; done += chunk.length) {
    const part = chunk.subarray(0, Math.min(chunk.length, bytes - done));
    tensor.read(done, part);
    writeAll(file, part);
  }
}

function tensorBytes({ type, shape }: TensorToWrite): number {
  return shape.reduce((product, length) => product * length, ELEMENT_BYTES[type]);
}

/** A write may take fewer bytes than it was given. */
function writeAll(file: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) done += writeSync(file, bytes, done);
}
