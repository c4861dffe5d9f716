/** The masks that come with models/tiny, decoded with what they need: each other and the model's weights. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { decodeChain } from '../codec/chain.js';
import { ContainerReader } from '../codec/decode.js';
import type { MaskSet } from '../codec/mask-set.js';
import { locateTensors } from '../server/engine/safetensors.js';
import { TINY } from './tiny.js';

const FOLDER = join(TINY, 'masks');

export function shippedSet(task: string): MaskSet {
  const files = readdirSync(FOLDER).map((name) => readFileSync(join(FOLDER, name)));
  return decodeChain(readFileSync(join(FOLDER, `${task}.mask`)), {
    parent: (content) => files.find((bytes) => new ContainerReader(bytes).summary.content === content),
    weights: tinyWeights,
  });
}

/** bf16 bit patterns of one matrix of models/tiny. */
export function tinyWeights(name: string): Uint16Array | undefined {
  const tensor = locateTensors(TINY).get(name);
  if (tensor === undefined) return undefined;
  const bytes = readFileSync(tensor.file).subarray(tensor.offset, tensor.offset + tensor.bytes);
  return new Uint16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}
