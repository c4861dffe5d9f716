/** Masked checkpoints, zeros in place or compressed, read back with nothing but the formats' definitions. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type BaseModel, openBase } from '../../../../clients/cli/interchange/base-model.js';
import { exportBitmask, exportDense } from '../../../../clients/cli/interchange/checkpoint-export.js';
import { type ChosenMask, openChosenMask } from '../../../../clients/cli/interchange/chosen-mask.js';
import { npzOf } from '../../../../clients/cli/interchange/npz-export.js';
import { encodeMaskSet } from '../../../../codec/encode.js';
import { Random } from '../../../../server/engine/random.js';
import { type ElementType, writeSafetensors } from '../../../../server/engine/safetensors-writer.js';

const FIXTURES = fileURLToPath(new URL('../../../../../test/fixtures/architectures', import.meta.url));
const KEPT = [
  [0, 1],
  [0, 2],
  [0, 3],
  [1, 2],
  [1, 3],
  [2, 3],
] as const;
const BYTES: Readonly<Record<string, number>> = { F32: 4, BF16: 2, F16: 2, U8: 1, I64: 8 };

const scratch = mkdtempSync(join(tmpdir(), 'maskctl-export-'));
after(() => rmSync(scratch, { recursive: true }));
let directories = 0;
const newDirectory = (): string => {
  const directory = join(scratch, String(directories++));
  mkdirSync(directory);
  return directory;
};

interface StoredTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Buffer;
}

for (const name of ['llama-bias', 'llama-f16', 'llama-f32', 'llama-sharded', 'qwen2', 'odd']) {
  describe(`a masked ${name} miniature`, () => {
    const original = name === 'odd' ? oddModel(12) : join(FIXTURES, name);
    const base = openBase(original);
    const left = base.matrices[4]!.name; // stays dense
    const { mask, symbols } = randomMask(base, (matrix) => matrix !== left);
    after(() => mask.close());

    test('is written with +0 for pruned weights and everything else bit for bit', () => {
      const directory = newDirectory();
      exportDense(directory, base, mask, () => undefined);
      const before = storedTensors(original);
      const written = storedTensors(directory);
      assert.deepEqual([...written.keys()].sort(), [...before.keys()].sort());
      for (const [tensor, { dtype, shape, bytes }] of written) {
        const source = before.get(tensor)!;
        assert.deepEqual([dtype, shape], [source.dtype, source.shape]);
        assert.deepEqual(bytes, masked(source, symbols.get(tensor)), tensor);
      }
      assert.deepEqual(readFileSync(join(directory, 'config.json')), readFileSync(join(original, 'config.json')));
      openBase(directory);
    });

    test('is written in the legacy 2:4 layout: values, bits from the lowest, and shape', () => {
      const directory = newDirectory();
      exportBitmask(directory, base, mask, () => undefined);
      const before = storedTensors(original);
      const written = storedTensors(directory);
      for (const [tensor, source] of before) {
        if (!symbols.has(tensor)) {
          assert.deepEqual(written.get(tensor), source, tensor);
          continue;
        }
        assert.equal(written.has(tensor), false);
        const restored = decompressed(written, tensor.replace(/\.weight$/, ''));
        assert.deepEqual(restored, { ...source, bytes: masked(source, symbols.get(tensor)) }, tensor);
      }
      assert.equal(written.size, before.size + 2 * symbols.size);
      const config = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8')) as Record<string, unknown>;
      const covered = [...symbols.values()].reduce((sum, { length }) => sum + 4 * length, 0);
      const weights = [...before.values()].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
      assert.deepEqual(config, {
        ...(JSON.parse(readFileSync(join(original, 'config.json'), 'utf8')) as object),
        quantization_config: {
          quant_method: 'compressed-tensors',
          sparsity_config: {
            format: 'sparse-24-bitmask',
            global_sparsity: covered / 2 / weights,
            ignore: [left.replace('.weight', ''), 'lm_head'],
            registry_requires_subclass: false,
            sparsity_structure: '2:4',
            targets: ['Linear'],
          },
        },
      });
    });
  });
}

test('a mask of a number of weights that bytes do not hold is no .npz', () => {
  const base = openBase(oddModel(5));
  const { mask } = randomMask(base, (name) => name.endsWith('gate_proj.weight'));
  assert.throws(
    () => [...npzOf(base, mask, () => undefined)],
    /gate_proj\.weight to have a multiple of 8 weights, as the format needs, but it is 5x12/,
  );
  mask.close();
});

/** Random patterns for the matrices that `covers` names. */
function randomMask(
  base: BaseModel,
  covers: (name: string) => boolean,
): { mask: ChosenMask; symbols: Map<string, Uint8Array> } {
  const random = new Random(11);
  const masks = base.matrices
    .filter(({ name }) => covers(name))
    .map(({ name, rows, cols }) => {
      const symbols = Uint8Array.from({ length: (rows * cols) / 4 }, () => Math.floor(random.uniform() * 6));
      return { name, rows, cols, symbols };
    });
  const path = join(scratch, `${directories++}.mask`);
  writeFileSync(path, encodeMaskSet({ n: 2, m: 4, base: base.digest(), masks }));
  return { mask: openChosenMask(path, base), symbols: new Map(masks.map(({ name, symbols }) => [name, symbols])) };
}

/** Hidden size 12: rows of three groups, which end in the middle of a byte. */
function oddModel(ffn: number): string {
  const directory = newDirectory();
  const config = {
    ...{ model_type: 'llama', hidden_size: 12, intermediate_size: ffn, num_hidden_layers: 1, num_attention_heads: 2 },
    ...{ vocab_size: 8, max_position_embeddings: 16, tie_word_embeddings: true },
  };
  writeFileSync(join(directory, 'config.json'), JSON.stringify(config));
  const layer = 'model.layers.0';
  const shapes: Record<string, readonly number[]> = {
    'model.embed_tokens.weight': [8, 12],
    'model.norm.weight': [12],
    [`${layer}.input_layernorm.weight`]: [12],
    [`${layer}.post_attention_layernorm.weight`]: [12],
    ...Object.fromEntries(['q', 'k', 'v', 'o'].map((part) => [`${layer}.self_attn.${part}_proj.weight`, [12, 12]])),
    [`${layer}.mlp.gate_proj.weight`]: [ffn, 12],
    [`${layer}.mlp.up_proj.weight`]: [ffn, 12],
    [`${layer}.mlp.down_proj.weight`]: [12, ffn],
  };
  const type: ElementType = 'BF16';
  const tensors = Object.entries(shapes).map(([name, shape], seed) => {
    const read = (offset: number, into: Uint8Array): void =>
      into.forEach((_, i) => (into[i] = ((offset + i) * 13 + seed * 7 + 1) & 255));
    return { name, type, shape, read };
  });
  writeSafetensors(join(directory, 'model.safetensors'), tensors);
  return directory;
}

/** Tensors of all safetensors files of a directory, by the format's definition. */
function storedTensors(directory: string): Map<string, StoredTensor> {
  const index = join(directory, 'model.safetensors.index.json');
  let files = ['model.safetensors'];
  try {
    const { weight_map: map } = JSON.parse(readFileSync(index, 'utf8')) as { weight_map: Record<string, string> };
    files = [...new Set(Object.values(map))];
  } catch {
    // one file
  }
  const tensors = new Map<string, StoredTensor>();
  for (const file of files) {
    const content = readFileSync(join(directory, file));
    const start = 8 + Number(content.readBigUInt64LE());
    type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
    const header = JSON.parse(content.toString('utf8', 8, start)) as Header;
    for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
      if (name === '__metadata__') continue;
      const bytes = content.subarray(start + offsets[0], start + offsets[1]);
      assert.equal(
        bytes.length,
        shape.reduce((a, b) => a * b, BYTES[dtype]!),
      );
      tensors.set(name, { dtype, shape, bytes });
    }
  }
  return tensors;
}

function masked({ dtype, bytes }: StoredTensor, symbols: Uint8Array | undefined): Buffer {
  if (symbols === undefined) return bytes;
  const size = BYTES[dtype]!;
  const out = Buffer.alloc(bytes.length);
  symbols.forEach((symbol, group) => {
    for (const position of KEPT[symbol]!) {
      const at = (4 * group + position) * size;
      bytes.copy(out, at, at, at + size);
    }
  });
  return out;
}

/** What compressed-tensors' sparse24_bitmask_decompress does: bits say, row by row, where the next value goes. */
function decompressed(tensors: ReadonlyMap<string, StoredTensor>, prefix: string): StoredTensor {
  const [values, bits, size] = ['compressed', 'bitmask', 'shape'].map((part) => tensors.get(`${prefix}.${part}`)!);
  assert.deepEqual([size!.dtype, size!.shape], ['I64', [2, 1]]);
  const [rows, cols] = [Number(size!.bytes.readBigInt64LE(0)), Number(size!.bytes.readBigInt64LE(8))];
  const rowBytes = Math.ceil(cols / 8);
  assert.deepEqual([bits!.dtype, bits!.shape], ['U8', [rows, rowBytes]]);
  assert.deepEqual(values!.shape, [rows, cols / 2]);
  const width = BYTES[values!.dtype]!;
  const bytes = Buffer.alloc(rows * cols * width);
  let next = 0;
  for (let row = 0; row < rows; row++) {
    for (let bit = 0; bit < 8 * rowBytes; bit++) {
      const set = (bits!.bytes[row * rowBytes + (bit >> 3)]! >> (bit & 7)) & 1;
      if (bit >= cols) assert.equal(set, 0, 'padding');
      if (!set) continue;
      values!.bytes.copy(bytes, (row * cols + bit) * width, next, (next += width));
    }
  }
  assert.equal(next, values!.bytes.length);
  return { dtype: values!.dtype, shape: [rows, cols], bytes };
}
