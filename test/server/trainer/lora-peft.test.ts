/** PEFT's folders: read as PEFT reads them, merged as PEFT merges them, refused by the field where we can't. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { native, type DType, type Handle } from '../../../kernels/index.js';
import { loadModel, type Model } from '../../../server/engine/model.js';
import { Random } from '../../../server/engine/random.js';
import { readHeader } from '../../../server/engine/safetensors.js';
import { writeSafetensors, type ElementType, type TensorToWrite } from '../../../server/engine/safetensors-writer.js';
import { matricesOf, type DenseMatrix } from '../../../server/engine/weights.js';
import { normal } from '../../../server/trainer/gumbel.js';
import { mergedWeights } from '../../../server/trainer/lora-merge.js';
import { loraDigest, readLora, writeLora } from '../../../server/trainer/lora-peft.js';
import { TINY } from '../../tiny.js';

const folder = mkdtempSync(join(tmpdir(), 'maskserve-lora-'));
const usage = native.usage();
let model: Model;
before(() => {
  model = loadModel(TINY, { threads: 1 });
});
after(() => {
  model.dispose();
  rmSync(folder, { recursive: true });
  assert.deepEqual(native.usage(), usage, 'every buffer is given back');
});

const CONFIG = { peft_type: 'LORA', r: 2, lora_alpha: 16, target_modules: ['q_proj', 'v_proj'], bias: 'none' };
const Q = 'base_model.model.model.layers.1.self_attn.q_proj';
const V = 'base_model.model.model.layers.1.self_attn.v_proj';

interface Tensor {
  readonly shape: readonly number[];
  readonly type: ElementType;
  readonly bytes: Uint8Array;
  /** As they are stored. */
  readonly values: Float64Array;
}

/** Seeded values of the type's precision. */
function tensor(shape: readonly number[], type: ElementType, seed: number): Tensor {
  const random = new Random(seed);
  const count = shape.reduce((product, length) => product * length, 1);
  const wide = Float32Array.from({ length: count }, () => normal(random) / 8);
  if (type === 'F32') return { shape, type, bytes: new Uint8Array(wide.buffer), values: Float64Array.from(wide) };
  const halves = Uint16Array.from(wide, type === 'BF16' ? truncated : half);
  const values = Float64Array.from(halves, type === 'BF16' ? fromBf16 : fromHalf);
  return { shape, type, bytes: new Uint8Array(halves.buffer), values };
}

function truncated(value: number): number {
  return (new Uint32Array(Float32Array.of(value).buffer)[0] as number) >>> 16;
}

function fromBf16(bits: number): number {
  return new Float32Array(Uint32Array.of(bits << 16).buffer)[0] as number;
}

/** IEEE binary16, cut; the values here are normal numbers or become zero. */
function half(value: number): number {
  const exponent = Math.floor(Math.log2(Math.abs(value)));
  if (value === 0 || exponent < -14) return 0;
  const fraction = Math.floor((Math.abs(value) / 2 ** exponent - 1) * 1024);
  return (value < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | fraction;
}

function fromHalf(bits: number): number {
  if ((bits & 0x7fff) === 0) return 0;
  return (bits & 0x8000 ? -1 : 1) * 2 ** (((bits >> 10) & 31) - 15) * (1 + (bits & 1023) / 1024);
}

/** q and v of layer 1: (256, 256) and (128, 256) in models/tiny. */
function pairs(type: ElementType, rank = 2): Record<string, Tensor> {
  const [q, v] = [matrixOf(Q), matrixOf(V)];
  return {
    [`${Q}.lora_A.weight`]: tensor([rank, q.cols], type, 1),
    [`${Q}.lora_B.weight`]: tensor([q.rows, rank], type, 2),
    [`${V}.lora_A.weight`]: tensor([2, v.cols], type, 3),
    [`${V}.lora_B.weight`]: tensor([v.rows, 2], type, 4),
  };
}

function matrixOf(prefix: string): DenseMatrix {
  const name = `${prefix.slice('base_model.model.'.length)}.weight`;
  return matricesOf(model.weights).find((matrix) => matrix.name === name) as DenseMatrix;
}

let folders = 0;
function adapterFolder(config: object, tensors: Readonly<Record<string, Tensor>>): string {
  const directory = join(folder, `adapter-${folders++}`);
  mkdirSync(directory);
  writeFileSync(join(directory, 'adapter_config.json'), JSON.stringify(config));
  const entries = Object.entries(tensors).map(([name, { shape, type, bytes }]): TensorToWrite => {
    return { name, type, shape, read: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)) };
  });
  writeSafetensors(join(directory, 'adapter_model.safetensors'), entries, { format: 'pt' });
  return directory;
}

function bf16(handle: Handle, count: number): Float64Array {
  const halves = new Uint16Array(count);
  native.read(handle, 0, halves);
  return Float64Array.from(halves, fromBf16);
}

/** The merged matrix against W + s·B·A in fp64, to the rounding of the sum to bf16 and an error of each term: of its operands, where the CPU multiplies bf16. */
function checkMerge(
  prefix: string,
  came: Handle,
  tensors: Readonly<Record<string, Tensor>>,
  scaling: number,
  termError: number,
): void {
  const { rows, cols, weight } = matrixOf(prefix);
  const [a, b] = [tensors[`${prefix}.lora_A.weight`], tensors[`${prefix}.lora_B.weight`]];
  assert.ok(a && b);
  const [w, merged, rank] = [bf16(weight, rows * cols), bf16(came, rows * cols), a.shape[0] as number];
  let adapted = 0;
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) {
      let [delta, size] = [0, 0];
      for (let r = 0; r < rank; r++) {
        const term = scaling * (b.values[i * rank + r] as number) * (a.values[r * cols + j] as number);
        [delta, size] = [delta + term, size + Math.abs(term)];
      }
      const [expected, at] = [(w[i * cols + j] as number) + delta, i * cols + j];
      const error = Math.abs((merged[at] as number) - expected);
      assert.ok(error <= 2 ** -8 * Math.abs(expected) + termError * size, `${prefix}[${i}, ${j}]: ${expected}`);
      if (Math.abs(delta) > 0.05) adapted++;
    }
  }
  assert.ok(adapted > (rows * cols) / 20, 'the adapter is large enough to be seen');
}

const EXACT = 2 ** -20;
for (const [type, precision, termError] of [
  ['F32', 'f32', EXACT],
  ['F32', 'bf16', 2 ** -6.9],
  ['BF16', 'bf16', EXACT],
  ['F16', 'f32', EXACT],
] satisfies [ElementType, DType, number][]) {
  test(`an adapter of q and v in ${type} is merged as W + α/r·B·A in precision ${precision}, every other matrix is shared`, (t) => {
    native.setPrecision(precision);
    t.after(() => native.setPrecision('bf16'));
    const tensors = pairs(type);
    const directory = adapterFolder(CONFIG, tensors);
    const merged = mergedWeights(model.weights, readLora(directory, model.weights));
    try {
      const layer = merged.weights.layers[1];
      assert.ok(layer);
      checkMerge(Q, layer.q.weight, tensors, 8, termError);
      checkMerge(V, layer.v.weight, tensors, 8, termError);
      const shared = matricesOf(merged.weights).filter(
        ({ weight }, i) => weight === (matricesOf(model.weights)[i] as DenseMatrix).weight,
      );
      assert.equal(shared.length, 6 * 7 - 2);
      const [q, v] = [matrixOf(Q), matrixOf(V)];
      assert.equal(merged.bytes, 2 * (q.rows * q.cols + v.rows * v.cols));
    } finally {
      merged.dispose();
    }
  });
}

test('rank-stabilised scaling, and ranks and alphas by module pattern, as PEFT applies them', () => {
  const config = {
    ...CONFIG,
    use_rslora: true,
    rank_pattern: { 'layers.1.self_attn.q_proj': 4 },
    alpha_pattern: { '.*\\.1\\..*q_proj': 6, k_proj: 99 },
  };
  const adapter = readLora(adapterFolder(config, pairs('F32', 4)), model.weights);
  const scalings = [...adapter].map(([name, { rank, scaling }]) => [name.split('.')[4], rank, scaling]);
  assert.deepEqual(scalings, [
    ['q_proj', 4, 3],
    ['v_proj', 2, 16 / Math.sqrt(2)],
  ]);
});

test('what was written is read back to the same numbers, and is laid out as PEFT expects it', () => {
  const source = readLora(adapterFolder(CONFIG, pairs('F32')), model.weights);
  const directory = join(folder, 'written', 'deep');
  writeLora(directory, source, 'models/tiny');
  assert.deepEqual(readLora(directory, model.weights), source);
  const config = JSON.parse(readFileSync(join(directory, 'adapter_config.json'), 'utf8')) as Record<string, unknown>;
  assert.deepEqual(
    [
      config['peft_type'],
      config['r'],
      config['lora_alpha'],
      config['target_modules'],
      config['base_model_name_or_path'],
    ],
    ['LORA', 2, 16, ['q_proj', 'v_proj'], 'models/tiny'],
  );
  const shapes = readHeader(join(directory, 'adapter_model.safetensors')).map(({ name, shape }) => [name, shape]);
  assert.deepEqual(Object.fromEntries(shapes)[`${Q}.lora_A.weight`], [2, 256]);
});

test('the digest tells adapters apart, by tensors and by configuration', () => {
  const [one, same] = [adapterFolder(CONFIG, pairs('F32')), adapterFolder(CONFIG, pairs('F32'))];
  assert.equal(loraDigest(one), loraDigest(same));
  assert.notEqual(loraDigest(one), loraDigest(adapterFolder({ ...CONFIG, lora_alpha: 8 }, pairs('F32'))));
  assert.notEqual(loraDigest(one), loraDigest(adapterFolder(CONFIG, pairs('BF16'))));
});

test('an adapter that is more than low-rank pairs of this model is refused by what it has', () => {
  const good = pairs('F32');
  const { [`${V}.lora_B.weight`]: partner, ...halved } = good;
  assert.ok(partner);
  const strange = 'base_model.model.lm_head.lora_A.weight';
  const cases: [object, Record<string, Tensor>, RegExp][] = [
    [{ ...CONFIG, use_dora: true }, good, /expected use_dora to be false, but .*adapter_config.json has true/],
    [{ ...CONFIG, bias: 'all' }, good, /expected bias to be "none", but .* has "all"/],
    [
      { ...CONFIG, modules_to_save: ['lm_head'] },
      good,
      /expected modules_to_save to be empty, but .* has \["lm_head"\]/,
    ],
    [{ ...CONFIG, peft_type: 'IA3' }, good, /expected peft_type to be "LORA", but .* has "IA3"/],
    [
      { ...CONFIG, init_lora_weights: 'pissa_niter_4' },
      good,
      /expected init_lora_weights to be one that leaves the base/,
    ],
    [{ ...CONFIG, r: 0 }, good, /expected r to be a positive whole number, but .* has 0/],
    [{ ...CONFIG, lora_alpha: '16' }, good, /expected lora_alpha to be a number, but .* has "16"/],
    [{ ...CONFIG, alpha_pattern: { '(': 1 } }, good, /expected alpha_pattern to be .* a regular expression/],
    [{ ...CONFIG, r: 3 }, good, /expected .*q_proj.lora_A.weight to have shape 3x256 \(rank 3\), but .* has 2x256/],
    [CONFIG, halved, /expected .*v_proj.lora_B.weight in .*, but it has only its partner/],
    [
      CONFIG,
      { ...good, [strange]: partner },
      /has base_model.model.lm_head.lora_A.weight, which is lora_A or lora_B of no/,
    ],
    [
      { ...CONFIG, target_modules: ['q_proj', 'k_proj'] },
      good,
      /has k_proj among target_modules, but .* no .* tensors of it/,
    ],
  ];
  for (const [config, tensors, message] of cases) {
    assert.throws(() => readLora(adapterFolder(config, tensors), model.weights), message);
  }
  const bare = join(folder, 'bare');
  mkdirSync(bare);
  writeFileSync(join(bare, 'adapter_config.json'), JSON.stringify(CONFIG));
  assert.throws(() => readLora(bare, model.weights), /expected adapter_model.safetensors beside .*save the adapter by/);
  writeFileSync(join(bare, 'adapter_config.json'), '[]');
  assert.throws(() => readLora(bare, model.weights), /expected a JSON object in/);
});
