/** The model that masks are exchanged for, read from its files alone: configuration, tensors, and the linear layers that a mask may cover. */
import { closeSync, existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Digest } from '../../../codec/mask-set.js';
import { baseDigest } from '../../../server/engine/base-digest.js';
import { linearShapes } from '../../../server/engine/linear-shapes.js';
import { type ModelConfig, readModelConfig } from '../../../server/engine/model-config.js';
import { locateTensors, type TensorLocation } from '../../../server/engine/safetensors.js';
import { tensorReader } from '../../../server/trainer/save-model.js';
import { DEFAULT_MODEL } from '../package-root.js';
import { ELEMENT_BYTES, widen } from '../../../server/engine/elements.js';

/** One linear layer, w (rows, cols). */
export interface BaseMatrix {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly tensor: TensorLocation;
}

export interface BaseModel {
  readonly directory: string;
  readonly config: ModelConfig;
  readonly tensors: ReadonlyMap<string, TensorLocation>;
  /** In the order of the model. */
  readonly matrices: readonly BaseMatrix[];
  /** Reads all the weights, once for large models (base-digest.ts). */
  digest(): Digest;
}

/** Weights of a block: 16 MB as fp32. */
const BLOCK_WEIGHTS = 1 << 22;

/** Reads headers and checks shapes. Throws one line that names the file, field or tensor. */
export function openBase(directory: string = DEFAULT_MODEL): BaseModel {
  const path = resolve(directory);
  if (!existsSync(path)) throw new Error(`expected a model directory at ${path}, but there is none; check --model`);
  const config = readModelConfig(path);
  const tensors = locateTensors(path);
  const matrices = linearShapes(config).map(({ name, rows, cols }) => {
    return { name, rows, cols, tensor: tensorOfShape(tensors, path, name, rows, cols) };
  });
  let digest: Digest | undefined;
  return { directory: path, config, tensors, matrices, digest: () => (digest ??= baseDigest(tensors)) };
}

/** The tensor `name`. Throws if `directory` has none of a floating-point type, or one of another shape. */
export function tensorOfShape(
  tensors: ReadonlyMap<string, TensorLocation>,
  directory: string,
  name: string,
  rows: number,
  cols: number,
): TensorLocation {
  const tensor = tensors.get(name);
  const found = tensor === undefined ? 'none' : tensor.shape.join('x');
  if (tensor !== undefined && found === `${rows}x${cols}`) return tensor;
  throw new Error(
    `expected a bf16, fp16 or fp32 tensor ${name} of shape ${rows}x${cols} in ${directory}, but it has ${found}`,
  );
}

/** Open weight files. */
export class TensorReader {
  private readonly files = new Map<string, number>();

  /** Fills `into` with bytes of a tensor from `offset` on. */
  read(tensor: TensorLocation, offset: number, into: Uint8Array): void {
    tensorReader(tensor, this.files)(offset, into);
  }

  /** fp32 bit patterns of `count` elements from `first` on. */
  bits(tensor: TensorLocation, first: number, count: number): Uint32Array {
    const size = ELEMENT_BYTES[tensor.type];
    const bytes = new Uint8Array(count * size);
    this.read(tensor, first * size, bytes);
    const into = new Uint32Array(count);
    widen(tensor.type, bytes, into);
    return into;
  }

  close(): void {
    for (const file of this.files.values()) closeSync(file);
    this.files.clear();
  }
}

/** Cuts a matrix into blocks of whole groups of four: weights [first, first + count). */
export function* blocksOf({ rows, cols }: BaseMatrix): Generator<{ first: number; count: number }> {
  const weights = rows * cols;
  for (let first = 0; first < weights; first += BLOCK_WEIGHTS) {
    yield { first, count: Math.min(BLOCK_WEIGHTS, weights - first) };
  }
}
