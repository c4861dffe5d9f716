/** A masked model as a Hugging Face checkpoint: zeros in place, or in compressed-tensors' legacy 2:4 layout. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { patternTable } from '../../../codec/pattern.js';
import type { TensorLocation } from '../../../server/engine/safetensors.js';
import { type TensorToWrite, writeSafetensors } from '../../../server/engine/safetensors-writer.js';
import { copyCompanions, ELEMENT_NAMES, saveFile, type ReadWeights } from '../../../server/trainer/save-model.js';
import { type BaseModel, TensorReader } from './base-model.js';
import type { ChosenMask } from './chosen-mask.js';
import { keptReader, maskedReader } from './masked-weights.js';

/** Bit i of a half byte is set where the symbol keeps position i: packed lowest bit first. */
const { masks: KEPT_BITS } = patternTable(2, 4);
const COMPRESSED_FORMAT = 'sparse-24-bitmask';

/** Called with the bytes read so far, of all. */
export type OnBytes = (done: number, of: number) => void;

/** Fills `directory` with the model, its pruned weights +0 and everything else byte for byte. Durable when it returns. */
export function exportDense(directory: string, base: BaseModel, mask: ChosenMask, onBytes: OnBytes): void {
  writeModel(directory, base, mask, onBytes, (tensor, read) => {
    const { name, type, shape } = tensor;
    const masked = maskedReader(type, read, () => mask.symbols(name));
    return [{ name, type: ELEMENT_NAMES[type], shape, read: masked }];
  });
}

/**
 * Fills `directory` with the model as compressed-tensors ≤ 0.14 stores it (sparse_24_bitmask.py): for a masked `X.weight` its kept
 * values `X.compressed` (rows, cols/2), `X.bitmask` (rows, ⌈cols/8⌉), the first column in the lowest bit, and `X.shape`. Later releases,
 * and vLLM from 0.19 on, no longer read it. Durable when it returns.
 */
export function exportBitmask(directory: string, base: BaseModel, mask: ChosenMask, onBytes: OnBytes): void {
  writeModel(directory, base, mask, onBytes, ({ name, type, shape }, read) => {
    const [rows, cols] = shape as [number, number];
    const symbols = (): Uint8Array => mask.symbols(name);
    const prefix = name.replace(/\.weight$/, '');
    return [
      {
        name: `${prefix}.compressed`,
        type: ELEMENT_NAMES[type],
        shape: [rows, cols / 2],
        read: keptReader(type, read, symbols),
      },
      { name: `${prefix}.bitmask`, type: 'U8', shape: [rows, Math.ceil(cols / 8)], read: bitmaskReader(cols, symbols) },
      { name: `${prefix}.shape`, type: 'I64', shape: [2, 1], read: numbersReader(rows, cols) },
    ];
  });
  saveFile(directory, 'config.json', `${JSON.stringify(compressedConfig(base, mask), null, 2)}\n`);
}

/** Writes the weights, the masked ones as `write` says, and copies what else the model has. */
function writeModel(
  directory: string,
  { directory: original, tensors }: BaseModel,
  mask: ChosenMask,
  onBytes: OnBytes,
  write: (tensor: TensorLocation, read: ReadWeights) => TensorToWrite[],
): void {
  const reader = new TensorReader();
  const total = [...tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  let done = 0;
  try {
    const written = [...tensors.values()].flatMap((tensor) => {
      const { name, type, shape } = tensor;
      const read: ReadWeights = (offset, into) => {
        onBytes((done += into.length), total);
        reader.read(tensor, offset, into);
      };
      return mask.covers(name) ? write(tensor, read) : [{ name, type: ELEMENT_NAMES[type], shape, read }];
    });
    writeSafetensors(join(directory, 'model.safetensors'), written, {
      format: 'pt', // transformers asks for it
      maskserve_base: mask.summary.base,
      maskserve_mask: mask.digest,
    });
  } finally {
    reader.close();
  }
  copyCompanions(directory, original);
}

/** Rows are padded to whole bytes with zeros. */
function bitmaskReader(cols: number, symbols: () => Uint8Array): ReadWeights {
  const rowGroups = cols / 4;
  const rowBytes = Math.ceil(rowGroups / 2);
  return (offset, into) => {
    const mask = symbols();
    for (let i = 0; i < into.length; i++) {
      const row = Math.floor((offset + i) / rowBytes);
      const inRow = 2 * ((offset + i) % rowBytes);
      const group = row * rowGroups + inRow;
      const high = inRow + 1 < rowGroups ? KEPT_BITS[mask[group + 1]!]! << 4 : 0;
      into[i] = KEPT_BITS[mask[group]!]! | high;
    }
  };
}

function numbersReader(...values: number[]): ReadWeights {
  const bytes = new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
  return (offset, into) => into.set(bytes.subarray(offset, offset + into.length));
}

/** config.json with what ModelCompressor.update_config writes for such a model. */
function compressedConfig({ directory, tensors, matrices }: BaseModel, { summary, covers }: ChosenMask): object {
  const config = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8')) as Record<string, unknown>;
  const weights = [...tensors.values()].reduce(
    (sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1),
    0,
  );
  const dense = matrices.filter(({ name }) => !covers(name)).map(({ name }) => name.replace(/\.weight$/, ''));
  return {
    ...config,
    quantization_config: {
      quant_method: 'compressed-tensors',
      sparsity_config: {
        format: COMPRESSED_FORMAT,
        global_sparsity: summary.parameters / 2 / weights,
        ignore: [...dense, 'lm_head'],
        registry_requires_subclass: false,
        sparsity_structure: '2:4',
        targets: ['Linear'],
      },
    },
  };
}
