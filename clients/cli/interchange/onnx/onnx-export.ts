/** A model, dense or masked, as ONNX in fp32: `model.onnx`, the graph, and `model.onnx_data`, the weights, which one protobuf message could not hold. */
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { TensorLocation } from '../../../../server/engine/safetensors.js';
import { copyCompanions, saveFile, type ReadWeights } from '../../../../server/trainer/save-model.js';
import { packageVersion } from '../../package-root.js';
import { type BaseModel, TensorReader } from '../base-model.js';
import type { OnBytes } from '../checkpoint-export.js';
import type { ChosenMask } from '../chosen-mask.js';
import { ELEMENT_BYTES, widen } from '../../../../server/engine/elements.js';
import { maskedReader } from '../masked-weights.js';
import { type GraphOptions, llamaGraph } from './llama-graph.js';
import { type ExternalTensor, modelProto, type OnnxGraph } from './model-proto.js';

export const MODEL_FILE = 'model.onnx';
export const DATA_FILE = 'model.onnx_data';

/** Runtimes map the file: every tensor starts a page. */
const PAGE_BYTES = 4096;
const CHUNK_WEIGHTS = 1 << 20;
const F32_BYTES = 4;

/** Fills `directory`. `mask`: undefined for the dense model. Throws if the files lack a tensor that the graph uses. Durable when it returns. */
export function exportOnnx(
  directory: string,
  base: BaseModel,
  mask: ChosenMask | undefined,
  options: GraphOptions,
  onBytes: OnBytes,
): void {
  const graph = llamaGraph(base.config, options);
  const tensors = weightsOf(graph, base);
  const external = place(tensors);
  writeData(join(directory, DATA_FILE), tensors, external, mask, onBytes);
  const metadata = { maskserve_base: base.digest(), ...(mask ? { maskserve_mask: mask.digest } : {}) };
  const notes = { producer: 'maskserve', version: packageVersion(), metadata };
  copyCompanions(directory, base.directory);
  saveFile(directory, MODEL_FILE, modelProto(graph, external, DATA_FILE, notes));
}

/** The tensors that the graph takes from the files: what no node, input or constant makes. */
function weightsOf({ nodes, inputs, constants }: OnnxGraph, { tensors, directory }: BaseModel): TensorLocation[] {
  const made = new Set([
    ...nodes.flatMap(({ outputs }) => outputs),
    ...[...inputs, ...constants].map(({ name }) => name),
  ]);
  const used = new Set(nodes.flatMap((node) => node.inputs).filter((name) => !made.has(name)));
  return [...used].map((name) => {
    const tensor = tensors.get(name);
    if (tensor === undefined)
      throw new Error(`expected a bf16, fp16 or fp32 tensor ${name} in ${directory}, but it has none`);
    return tensor;
  });
}

function place(tensors: readonly TensorLocation[]): ExternalTensor[] {
  let offset = 0;
  return tensors.map(({ name, shape, type, bytes }) => {
    const length = (bytes / ELEMENT_BYTES[type]) * F32_BYTES;
    const placed = { name, shape, offset, length };
    offset = Math.ceil((offset + length) / PAGE_BYTES) * PAGE_BYTES;
    return placed;
  });
}

function writeData(
  path: string,
  tensors: readonly TensorLocation[],
  external: readonly ExternalTensor[],
  mask: ChosenMask | undefined,
  onBytes: OnBytes,
): void {
  const reader = new TensorReader();
  const last = external.at(-1);
  const total = last === undefined ? 0 : last.offset + last.length;
  const file = openSync(path, 'wx');
  try {
    tensors.forEach((tensor, i) => {
      const { name, type } = tensor;
      const { offset, length } = external[i] as ExternalTensor;
      const plain: ReadWeights = (at, into) => reader.read(tensor, at, into);
      const read = mask?.covers(name) ? maskedReader(type, plain, () => mask.symbols(name)) : plain;
      for (const { first, bytes } of widened(type, length / F32_BYTES, read)) {
        writeAt(file, bytes, offset + first * F32_BYTES);
        onBytes(offset + first * F32_BYTES, total);
      }
    });
    fsyncSync(file);
  } finally {
    closeSync(file);
    reader.close();
  }
}

/** fp32 bytes of a tensor, `first` its first element of each part. */
function* widened(
  type: TensorLocation['type'],
  weights: number,
  read: ReadWeights,
): Generator<{ first: number; bytes: Uint8Array }, void, undefined> {
  for (let first = 0; first < weights; first += CHUNK_WEIGHTS) {
    const count = Math.min(CHUNK_WEIGHTS, weights - first);
    const narrow = new Uint8Array(count * ELEMENT_BYTES[type]);
    read(first * ELEMENT_BYTES[type], narrow);
    const wide = new Uint32Array(count);
    widen(type, narrow, wide);
    yield { first, bytes: new Uint8Array(wide.buffer) };
  }
}

/** A write may take fewer bytes than it was given. */
function writeAt(file: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length;) done += writeSync(file, bytes, done, bytes.length - done, position + done);
}
