/** A model directory with other weights in some of its matrices: Hugging Face's files, bf16 where they are new, every other tensor byte for byte. */
import { closeSync, copyFileSync, fsyncSync, mkdirSync, openSync, readdirSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { locateTensors, type TensorLocation } from '../engine/safetensors.js';
import { syncDirectory, writeSafetensors, type ElementType, type TensorToWrite } from '../engine/safetensors-writer.js';

/** Configuration, tokenizer, licence: what a model is besides its weights. Cards and indices describe the original's files and stay behind. */
const COMPANIONS = /^(.*\.json|tokenizer\.model|.*\.jinja|merges\.txt|vocab\.txt|LICEN[CS]E.*)$/;
const LEFT_BEHIND = /^(.*\.index\.json|maskserve\.json)$/;
/** What the format calls the element types. */
export const ELEMENT_NAMES: Readonly<Record<TensorLocation['type'], ElementType>> = {
  bf16: 'BF16',
  f16: 'F16',
  f32: 'F32',
};

/** Fills `into` with bytes of a tensor from `offset` on. */
export type ReadWeights = (offset: number, into: Uint8Array) => void;

/**
 * Writes `model.safetensors` and the original's companions into `directory`, which must exist. `replaced`: new weights by tensor name, of the original's
 * shapes. Durable when it returns.
 */
export function saveModel(directory: string, original: string, replaced: ReadonlyMap<string, ReadWeights>): void {
  const files = new Map<string, number>();
  try {
    const tensors = [...locateTensors(original).values()].map((tensor): TensorToWrite => {
      const { name, shape } = tensor;
      const read = replaced.get(name);
      return read
        ? { name, type: 'BF16', shape, read }
        : { name, type: ELEMENT_NAMES[tensor.type], shape, read: tensorReader(tensor, files) };
    });
    writeSafetensors(join(directory, 'model.safetensors'), tensors, { format: 'pt' });
  } finally {
    for (const file of files.values()) closeSync(file);
  }
  copyCompanions(directory, original);
}

/** Copies what a model is besides its weights from the directory `original`. Durable when it returns. */
export function copyCompanions(directory: string, original: string): void {
  for (const name of readdirSync(original)) {
    if (!COMPANIONS.test(name) || LEFT_BEHIND.test(name)) continue;
    copyFileSync(join(original, name), join(directory, name));
    sync(join(directory, name));
  }
  syncDirectory(directory);
}

/** Writes a file into a directory, making it if need be. Durable when it returns. */
export function saveFile(directory: string, name: string, content: string | Uint8Array): void {
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, name), content);
  sync(join(directory, name));
  syncDirectory(directory);
}

/** Reads a tensor's bytes from its file, which is opened into `files` (descriptors by path) for the caller to close. */
export function tensorReader({ file, offset }: TensorLocation, files: Map<string, number>): ReadWeights {
  return (from, into) => {
    const open = files.get(file) ?? openSync(file, 'r');
    files.set(file, open);
    for (let done = 0; done < into.length;) {
      const got = readSync(open, into, done, into.length - done, offset + from + done);
      if (got === 0) throw new Error(`${file} ended inside a tensor`);
      done += got;
    }
  };
}

function sync(path: string): void {
  const file = openSync(path, 'r');
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
