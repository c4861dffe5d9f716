/**
 * safetensors (huggingface/safetensors, format section of its README): 8-byte little-endian header length, JSON header, raw data without
 * holes. Files are mapped by the kernels; only headers are read here. Every length is checked before it is used.
 */
import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { join } from 'node:path';
import type { DType } from '../../kernels/handle.js';

/** Where a tensor's bytes are. */
export interface TensorLocation {
  readonly name: string;
  readonly file: string;
  readonly type: DType;
  readonly shape: readonly number[];
  /** From the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

const HEADER_LIMIT = 100_000_000;
const TYPES: Readonly<Record<string, { type: DType; bytes: number }>> = {
  BF16: { type: 'bf16', bytes: 2 },
  F16: { type: 'f16', bytes: 2 },
  F32: { type: 'f32', bytes: 4 },
};

/**
 * Tensors of a model directory by name: from `model.safetensors`, or from the files that `model.safetensors.index.json` names. Tensors
 * of other element types are left out of the map (their absence is reported by who needs them).
 */
export function locateTensors(directory: string): Map<string, TensorLocation> {
  const tensors = new Map<string, TensorLocation>();
  for (const file of weightFiles(directory)) {
    for (const tensor of readHeader(file)) {
      if (tensors.has(tensor.name)) throw new Error(`tensor ${tensor.name} is in two files, the second is ${file}`);
      tensors.set(tensor.name, tensor);
    }
  }
  return tensors;
}

function weightFiles(directory: string): string[] {
  const index = join(directory, 'model.safetensors.index.json');
  const single = join(directory, 'model.safetensors');
  if (existsSync(single)) return [single];
  if (!existsSync(index)) throw new Error(`expected ${single} or ${index}, but neither exists`);
  const map = readWeightMap(index);
  const names = new Set(Object.values(map));
  return [...names].map((name) => {
    if (typeof name !== 'string' || name.includes('/') || name.includes('\\')) {
      throw new Error(`expected plain file names in weight_map of ${index} but received ${JSON.stringify(name)}`);
    }
    return join(directory, name);
  });
}

function readWeightMap(index: string): Record<string, unknown> {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(index, 'utf8'));
  } catch (cause) {
    throw new Error(`${index} is not valid JSON: ${(cause as Error).message}`, { cause });
  }
  const map = (json as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== 'object' || map === null) throw new Error(`expected an object "weight_map" in ${index}`);
  return map as Record<string, unknown>;
}

/** Reads and checks one file's header. */
export function readHeader(file: string): TensorLocation[] {
  const descriptor = openSync(file, 'r');
  try {
    const { size } = fstatSync(descriptor);
    const lengthBytes = Buffer.alloc(8);
    if (readSync(descriptor, lengthBytes, 0, 8, 0) !== 8)
      throw new Error(`${file} is too short for a safetensors file`);
    const length = Number(lengthBytes.readBigUInt64LE());
    if (length > HEADER_LIMIT || 8 + length > size) {
      throw new Error(`expected a safetensors header within ${size} bytes but ${file} announces ${length}`);
    }
    const header = Buffer.alloc(length);
    if (readSync(descriptor, header, 0, length, 8) !== length) throw new Error(`${file} ended inside its header`);
    return parseHeader(header.toString('utf8'), file, 8 + length, size);
  } finally {
    closeSync(descriptor);
  }
}

function parseHeader(text: string, file: string, dataStart: number, fileBytes: number): TensorLocation[] {
  let json: Record<string, unknown>;
  try {
    json = JSON.parse(text) as Record<string, unknown>;
  } catch (cause) {
    throw new Error(`the header of ${file} is not valid JSON: ${(cause as Error).message}`, { cause });
  }
  const tensors: TensorLocation[] = [];
  for (const [name, value] of Object.entries(json)) {
    if (name === '__metadata__') continue;
    const entry = (value ?? {}) as { dtype?: unknown; shape?: unknown; data_offsets?: unknown };
    if (typeof entry.dtype !== 'string') {
      throw new Error(`tensor ${name} in ${file}: expected a dtype but received ${JSON.stringify(value)}`);
    }
    const type = TYPES[String(entry.dtype)];
    if (!type) continue;
    const shape = wholeNumbers(entry.shape);
    const range = wholeNumbers(entry.data_offsets);
    const [begin, end] = range ?? [];
    const bytes = shape?.reduce((product, length) => product * length, type.bytes);
    if (!shape || begin === undefined || end === undefined || end - begin !== bytes || dataStart + end > fileBytes) {
      throw new Error(
        `tensor ${name} in ${file}: shape ${JSON.stringify(entry.shape)} and offsets ${JSON.stringify(entry.data_offsets)} don't fit its ${fileBytes} bytes`,
      );
    }
    tensors.push({ name, file, type: type.type, shape, offset: dataStart + begin, bytes });
  }
  return tensors;
}

function wholeNumbers(value: unknown): number[] | undefined {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && (n as number) >= 0)
    ? (value as number[])
    : undefined;
}
