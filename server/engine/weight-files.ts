/**
 * The frozen weights as the codec wants them, straight from a model's files: what the engine would hold, without loading the model or the
 * kernels. For a model that is loaded, `frozenWeights` of the store reads its memory.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import type { WeightsLookup } from '../../codec/context.js';
import { roundToBf16, widen } from './elements.js';
import { locateTensors, type TensorLocation } from './safetensors.js';

/**
 * bf16 bit patterns of the matrices of a model directory, each read when it is asked for; the last one is remembered, for a decoder asks
 * once a chunk. fp16 and fp32 tensors are rounded as the engine rounds them. The directory's headers are read at the first question.
 * Throws one line if they, or a tensor, can't be read.
 */
export function weightsInFiles(directory: string): WeightsLookup {
  let tensors: ReadonlyMap<string, TensorLocation> | undefined;
  let last: { readonly name: string; readonly bits: Uint16Array } | undefined;
  return (name) => {
    if (last?.name === name) return last.bits;
    tensors ??= locateTensors(directory);
    const tensor = tensors.get(name);
    if (tensor === undefined) return undefined;
    last = { name, bits: bitsOf(tensor) };
    return last.bits;
  };
}

function bitsOf(tensor: TensorLocation): Uint16Array {
  const bytes = readTensor(tensor);
  if (tensor.type === 'bf16') return new Uint16Array(bytes.buffer);
  const widened = new Uint32Array(tensor.shape.reduce((product, length) => product * length, 1));
  widen(tensor.type, bytes, widened);
  return roundToBf16(widened);
}

function readTensor({ name, file, offset, bytes }: TensorLocation): Uint8Array<ArrayBuffer> {
  const into = new Uint8Array(bytes);
  const descriptor = openSync(file, 'r');
  try {
    for (let done = 0; done < bytes;) {
      const got = readSync(descriptor, into, done, bytes - done, offset + done);
      if (got === 0) throw new Error(`${file} ended inside tensor ${name}`);
      done += got;
    }
  } finally {
    closeSync(descriptor);
  }
  return into;
}
